//! Times all-reduce of one size on a live communicator, and checks its results; all ranks call it alike, and each gets the
//! slowest rank's times.

use std::time::Instant;

use half::{bf16, f16};

use crate::buffer::{BufMut, DType, Element, Op};
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
    /// Elements of a sum of small whole numbers that were not exact, over all ranks.
    pub wrong: u64,
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

/// What sums of few small whole numbers are exact in.
trait Small: Element + PartialEq {
    fn of(value: u16) -> Self;
}

macro_rules! small {
    ($($type:ty: $of:expr),*) => { $(impl Small for $type { fn of(value: u16) -> Self { $of(value) } })* };
}
small!(f32: f32::from, f64: f64::from, i32: i32::from, i64: i64::from,
    f16: |value| f16::from_f32(f32::from(value)), bf16: |value| bf16::from_f32(f32::from(value)));

/// Runs `iterations` sums of `bytes` (rounded up to whole `f32`) after three for warming up.
///
/// From 64 KiB on each rank rewrites its buffer before each operation, untimed: without that, lines never change owner
/// and the figures flatter.
pub fn bench_all_reduce(comm: &dyn Communicator, bytes: usize, iterations: usize) -> Result<BenchRow, Error> {
    measure::<f32>(comm, &mut CommBuf::private(bytes.next_multiple_of(4)), iterations.max(1))
}

/// As [`bench_all_reduce`], as often as it can be done in `seconds`, with a buffer of either kind and elements of any type.
pub fn bench_all_reduce_of(
    comm: &dyn Communicator,
    bytes: usize,
    seconds: f64,
    source: Source,
    dtype: DType,
) -> Result<BenchRow, Error> {
    match dtype {
        DType::F32 => bench::<f32>(comm, bytes, seconds, source),
        DType::F64 => bench::<f64>(comm, bytes, seconds, source),
        DType::F16 => bench::<f16>(comm, bytes, seconds, source),
        DType::BF16 => bench::<bf16>(comm, bytes, seconds, source),
        DType::I32 => bench::<i32>(comm, bytes, seconds, source),
        DType::I64 => bench::<i64>(comm, bytes, seconds, source),
    }
}

fn bench<T: Small>(comm: &dyn Communicator, bytes: usize, seconds: f64, source: Source) -> Result<BenchRow, Error> {
    let bytes = bytes.next_multiple_of(size_of::<T>());
    let mut buffer = match source {
        Source::Caller => CommBuf::private(bytes),
        Source::Alloc => comm.alloc(bytes)?,
    };
    // Pages are touched and the way is warm before the number is set, by the slowest rank.
    measure::<T>(comm, &mut buffer, 1)?;
    let once = measure::<T>(comm, &mut buffer, 3)?.median_us;
    let rewriting = bytes as f64 / 5e3;
    let iterations = (seconds * 1e6 / (once + rewriting)) as usize;
    measure::<T>(comm, &mut buffer, iterations.clamp(3, ITERATIONS_MAX))
}

fn measure<T: Small>(comm: &dyn Communicator, buffer: &mut CommBuf, iterations: usize) -> Result<BenchRow, Error> {
    let bytes = size_of_val(buffer.elements::<T>());
    let rewritten = bytes >= REWRITTEN_BYTES_MIN;
    let mut times = Vec::with_capacity(iterations);
    buffer.elements_mut::<T>().fill(T::of(0));
    comm.barrier()?;
    for iteration in 0..iterations + WARM_UP {
        if rewritten {
            buffer.elements_mut::<T>().fill(T::of(1));
            comm.barrier()?;
        }
        let started = Instant::now();
        comm.all_reduce(buffer.as_buf_mut::<T>(), Op::Sum)?;
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
        wrong: wrong::<T>(comm, buffer)?,
    })
}

/// Sums zeros and ones, exact in every type for up to 256 ranks, and counts the elements that are not right anywhere.
fn wrong<T: Small>(comm: &dyn Communicator, buffer: &mut CommBuf) -> Result<u64, Error> {
    let value = |rank: u32, at: usize| u16::from((at + rank as usize).is_multiple_of(3));
    for (at, element) in buffer.elements_mut::<T>().iter_mut().enumerate() {
        *element = T::of(value(comm.rank(), at));
    }
    comm.all_reduce(buffer.as_buf_mut::<T>(), Op::Sum)?;
    // It repeats after three elements.
    let right = [0, 1, 2].map(|at| T::of((0..comm.world_size()).map(|rank| value(rank, at)).sum()));
    let differs = |(at, element): &(usize, &T)| **element != right[at % 3];
    let mut wrong = [buffer.elements::<T>().iter().enumerate().filter(differs).count() as i64];
    comm.all_reduce(BufMut::from(&mut wrong[..]), Op::Sum)?;
    Ok(wrong[0].unsigned_abs())
}
