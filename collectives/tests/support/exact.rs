//! What every operation must give, with small whole numbers: exact in every type and in every order of summation.
//!
//! Averages are whole over 1, 2, 3, 4, 6 and 8 ranks. A result that differs is named with its place.

use std::fmt::Debug;

use collectives::{Buf, BufMut, Communicator, DType, Element, Op, nccl};
use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits};
use half::{bf16, f16};

/// An element type that small whole numbers are exact in.
pub trait Small: Element + DeviceRepr + ValidAsZeroBits + PartialEq + Debug + Unpin {
    fn of(value: i32) -> Self;
}

macro_rules! small {
    ($($type:ty: $of:expr),*) => { $(impl Small for $type { fn of(value: i32) -> Self { $of(value) } })* };
}
small!(f32: |v| v as f32, f64: f64::from, i32: |v| v, i64: i64::from,
    f16: |v| f16::from_f32(v as f32), bf16: |v| bf16::from_f32(v as f32));

fn value(rank: u32, at: usize) -> i32 {
    24 * ((at as i32 + 3 * rank as i32) % 7 - 2)
}

fn reduced(op: Op, world: u32, at: usize) -> i32 {
    let values = (0..world).map(|rank| value(rank, at));
    match op {
        Op::Sum => values.sum(),
        Op::Avg => values.sum::<i32>() / world as i32,
        Op::Min => values.min().unwrap_or(0),
        Op::Max => values.max().unwrap_or(0),
    }
}

fn vector<T: Small>(count: usize, value: impl Fn(usize) -> i32) -> Vec<T> {
    (0..count).map(|at| T::of(value(at))).collect()
}

/// The number of elements compared, or the first that differs.
fn compare<T: Small>(name: &str, found: &[T], expected: impl Fn(usize) -> i32) -> Result<u64, String> {
    for (at, found) in found.iter().enumerate() {
        let expected = T::of(expected(at));
        if *found != expected {
            return Err(format!("{name} of {}: element {at} is {found:?} and not {expected:?}", T::DTYPE));
        }
    }
    Ok(found.len() as u64)
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Every operation in every type, on host memory and on the device; the number of elements compared.
pub fn all(comm: &nccl::Communicator, count: usize) -> Result<u64, String> {
    let mut compared = 0;
    for dtype in DType::ALL {
        compared += match dtype {
            DType::F32 => of_type::<f32>(comm, count)?,
            DType::F64 => of_type::<f64>(comm, count)?,
            DType::F16 => of_type::<f16>(comm, count)?,
            DType::BF16 => of_type::<bf16>(comm, count)?,
            DType::I32 => of_type::<i32>(comm, count)?,
            DType::I64 => of_type::<i64>(comm, count)?,
        };
    }
    Ok(compared)
}

fn of_type<T: Small>(comm: &nccl::Communicator, count: usize) -> Result<u64, String> {
    let host = host::<T>(comm, count)?;
    // Device memory of no bytes does not exist.
    Ok(host + if count == 0 { 0 } else { device::<T>(comm, count)? })
}

/// Every operation in one type on host memory.
pub fn host<T: Small>(comm: &dyn Communicator, count: usize) -> Result<u64, String> {
    let (rank, world) = (comm.rank(), comm.world_size());
    let whole = count * world as usize;
    let first = rank as usize * count;
    let mut compared = 0;
    for op in Op::ALL {
        let mut buffer: Vec<T> = vector(count, |at| value(rank, at));
        comm.all_reduce(BufMut::from(&mut buffer), op).map_err(words)?;
        compared += compare(&format!("all_reduce {op}"), &buffer, |at| reduced(op, world, at))?;
        let source: Vec<T> = vector(whole, |at| value(rank, at));
        let mut part = vec![T::default(); count];
        comm.reduce_scatter(Buf::from(&source), BufMut::from(&mut part), op).map_err(words)?;
        compared += compare(&format!("reduce_scatter {op}"), &part, |at| reduced(op, world, first + at))?;
    }
    let mine: Vec<T> = vector(count, |at| value(rank, at));
    let mut gathered = vec![T::default(); whole];
    comm.all_gather(Buf::from(&mine), BufMut::from(&mut gathered)).map_err(words)?;
    compared += compare("all_gather", &gathered, |at| value((at / count.max(1)) as u32, at % count.max(1)))?;
    for root in [0, world - 1] {
        let mut copy = mine.clone();
        comm.broadcast(BufMut::from(&mut copy), root).map_err(words)?;
        compared += compare("broadcast", &copy, |at| value(root, at))?;
    }
    comm.barrier().map_err(words)?;
    Ok(compared)
}

/// Every operation in one type on device memory.
pub fn device<T: Small>(comm: &nccl::Communicator, count: usize) -> Result<u64, String> {
    let (rank, world) = (comm.rank(), comm.world_size());
    let mine: Vec<T> = vector(count, |at| value(rank, at));
    let memory = Memory { stream: comm.stream() };
    let mut compared = 0;
    for op in Op::ALL {
        let mut buffer = memory.up(&mine)?;
        comm.all_reduce_device(&mut buffer, op).map_err(words)?;
        compared += compare("all_reduce_device", &memory.down(&buffer)?, |at| reduced(op, world, at))?;
        let source: Vec<T> = vector(count * world as usize, |at| value(rank, at));
        comm.reduce_scatter_device(&memory.up(&source)?, &mut buffer, op).map_err(words)?;
        let first = rank as usize * count;
        compared += compare("reduce_scatter_device", &memory.down(&buffer)?, |at| reduced(op, world, first + at))?;
    }
    let mut gathered = memory.up(&vec![T::default(); count * world as usize])?;
    comm.all_gather_device(&memory.up(&mine)?, &mut gathered).map_err(words)?;
    let expected = |at| value((at / count) as u32, at % count);
    compared += compare("all_gather_device", &memory.down(&gathered)?, expected)?;
    let mut buckets = (0..3).map(|_| memory.up(&mine)).collect::<Result<Vec<_>, _>>()?;
    comm.all_reduce_many_device(&mut buckets, Op::Sum).map_err(words)?;
    for bucket in &mut buckets {
        compared += compare("all_reduce_many_device", &memory.down(bucket)?, |at| reduced(Op::Sum, world, at))?;
    }
    let mut copy = memory.up(&mine)?;
    comm.broadcast_device(&mut copy, world - 1).map_err(words)?;
    compared += compare("broadcast_device", &memory.down(&copy)?, |at| value(world - 1, at))?;
    if world > 1 && comm.all_gather_device(&gathered, &mut copy).is_ok() {
        return Err("all_gather_device took a destination that is too short".to_owned());
    }
    Ok(compared)
}

struct Memory<'a> {
    stream: &'a std::sync::Arc<CudaStream>,
}

impl Memory<'_> {
    fn up<T: Small>(&self, from: &[T]) -> Result<CudaSlice<T>, String> {
        self.stream.clone_htod(from).map_err(words)
    }

    fn down<T: Small>(&self, from: &CudaSlice<T>) -> Result<Vec<T>, String> {
        self.stream.clone_dtoh(from).map_err(|error: DriverError| words(error))
    }
}
