//! Times all-reduce of one size on a live communicator; all ranks call it alike, and each gets the slowest rank's
//! times.

use std::time::Instant;

use crate::buffer::{BufMut, Op};
use crate::communicator::Communicator;
use crate::error::Error;
use crate::shared::CommBuf;

/// One line of a benchmark table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BenchRow {
    /// Bytes of the buffer on each rank.
    pub bytes: usize,
    /// Median time of one operation, in microseconds, each operation counted at its slowest rank.
    pub median_us: f64,
    /// The tenth of the operations that were faster took at most this, in microseconds.
    pub p10_us: f64,
    /// Nine tenths of the operations took at most this, in microseconds.
    pub p90_us: f64,
    /// Bytes over median time, in 10^9 bytes per second.
    pub algbw_gbps: f64,
    /// `algbw` times 2(n-1)/n: what the busiest link carries, comparable between numbers of ranks.
    pub busbw_gbps: f64,
}

/// Where the buffer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Any memory of the caller's.
    Caller,
    /// [`Communicator::alloc`].
    Alloc,
}

/// Below this, operations are timed back to back, as one cannot see a microsecond between two barriers.
const REWRITTEN_BYTES_MIN: usize = 64 << 10;
const WARM_UP: usize = 3;
/// Of one measurement.
const ITERATIONS_MAX: usize = 2_000;

/// Runs `iterations` sums of `bytes` (rounded up to whole `f32`) after three for warming up.
///
/// From 64 KiB on each rank rewrites its buffer before each operation, untimed: without that, lines never change owner
/// and the figures flatter.
pub fn bench_all_reduce(comm: &dyn Communicator, bytes: usize, iterations: usize) -> Result<BenchRow, Error> {
    measure(comm, &mut CommBuf::private(bytes.next_multiple_of(4)), iterations.max(1))
}

/// As [`bench_all_reduce`], as often as it can be done in `seconds`, and with a buffer of either kind.
pub fn bench_all_reduce_of(
    comm: &dyn Communicator,
    bytes: usize,
    seconds: f64,
    source: Source,
) -> Result<BenchRow, Error> {
    let bytes = bytes.next_multiple_of(4);
    let mut buffer = match source {
        Source::Caller => CommBuf::private(bytes),
        Source::Alloc => comm.alloc(bytes)?,
    };
    // Pages are touched and the way is warm before the number is set, by the slowest rank.
    measure(comm, &mut buffer, 1)?;
    let once = measure(comm, &mut buffer, 3)?.median_us;
    let rewriting = bytes as f64 / 5e3;
    let iterations = (seconds * 1e6 / (once + rewriting)) as usize;
    measure(comm, &mut buffer, iterations.clamp(3, ITERATIONS_MAX))
}

fn measure(comm: &dyn Communicator, buffer: &mut CommBuf, iterations: usize) -> Result<BenchRow, Error> {
    let bytes = buffer.elements::<f32>().len() * 4;
    let rewritten = bytes >= REWRITTEN_BYTES_MIN;
    let mut times = Vec::with_capacity(iterations);
    buffer.elements_mut::<f32>().fill(0.0);
    comm.barrier()?;
    for iteration in 0..iterations + WARM_UP {
        if rewritten {
            buffer.elements_mut::<f32>().fill(1.0);
            comm.barrier()?;
        }
        let started = Instant::now();
        comm.all_reduce(buffer.as_buf_mut::<f32>(), Op::Sum)?;
        if iteration >= WARM_UP {
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    comm.all_reduce(BufMut::from(&mut times), Op::Max)?;
    times.sort_by(f64::total_cmp);
    let quantile = |tenths: usize| times[(times.len() - 1) * tenths / 10];
    let median_us = times[times.len() / 2];
    let algbw_gbps = bytes as f64 / (median_us * 1e3);
    let world = f64::from(comm.world_size());
    Ok(BenchRow {
        bytes,
        median_us,
        p10_us: quantile(1),
        p90_us: quantile(9),
        algbw_gbps,
        busbw_gbps: algbw_gbps * 2.0 * (world - 1.0) / world,
    })
}
