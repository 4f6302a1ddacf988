//! Times all-reduce of one size on a live communicator; all ranks call it alike, and each gets the slowest rank's
//! median.

use std::time::Instant;

use crate::buffer::{BufMut, Op};
use crate::communicator::Communicator;
use crate::error::Error;

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

/// Runs `iterations` sums of `bytes` (rounded up to whole `f32`) after three for warming up.
///
/// Each rank rewrites its buffer before each operation, untimed: without that, lines never change owner and the
/// figures flatter.
pub fn bench_all_reduce(comm: &dyn Communicator, bytes: usize, iterations: usize) -> Result<BenchRow, Error> {
    const WARM_UP: usize = 3;
    let mut buffer = vec![0f32; bytes.div_ceil(4)];
    let mut times = Vec::with_capacity(iterations.max(1));
    for iteration in 0..iterations.max(1) + WARM_UP {
        buffer.fill(1.0);
        comm.barrier()?;
        let started = Instant::now();
        comm.all_reduce(BufMut::from(&mut buffer), Op::Sum)?;
        if iteration >= WARM_UP {
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    comm.all_reduce(BufMut::from(&mut times), Op::Max)?;
    times.sort_by(f64::total_cmp);
    let quantile = |tenths: usize| times[(times.len() - 1) * tenths / 10];
    let median_us = times[times.len() / 2];
    let bytes = buffer.len() * 4;
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
