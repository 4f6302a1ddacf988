//! How an all-reduce goes over TCP: the choice by bytes and ranks, and what each way needs.

use std::sync::PoisonError;

use half::bf16;

use super::pairwise::{self, Pairwise, Storage};
use super::ring::{self, Link, Part, Ring};
use super::swap::{self, Swap};
use super::{Call, Communicator, Operation, SMALL_BYTES_MAX, as_bytes, call};
use crate::buffer::{BufMut, DType, Op, elements_mut};
use crate::communicator::{Algorithm, Wire};
use crate::error::Error;
use crate::plan::{self, Method};
use crate::reduce::Fold;

/// Smaller buffers of 32-bit floats are not rounded on their way, whatever was asked for.
const NARROW_BYTES_MIN: usize = 64 << 10;

impl Communicator {
    /// Combines everybody's `bytes`, in place.
    pub(super) fn sum(&self, bytes: &mut [u8], dtype: DType, op: Op) -> Result<(), Error> {
        let narrows = self.wire == Wire::Bf16 && dtype == DType::F32 && matches!(op, Op::Sum | Op::Avg);
        if narrows && bytes.len() >= NARROW_BYTES_MIN {
            return self.sum_narrowed(bytes, op);
        }
        let count = bytes.len() / dtype.size();
        let call = call(Operation::AllReduce, op, dtype, count);
        match self.way(bytes.len(), dtype) {
            Method::Ring => self.ring(Call { ring: true, ..call }, bytes),
            Method::Pairwise => {
                self.pairwise(call, Storage::Whole(bytes), pairwise::slices(count, dtype.size(), self.world))
            }
            _ if bytes.len() <= SMALL_BYTES_MAX => {
                let whole = 0..bytes.len();
                self.exchange_and_fold(call, None, bytes, |_| whole.clone())
            }
            _ => self.swap(call, bytes),
        }
    }

    /// How a sum goes: as planned, unless an algorithm was named for large ones.
    fn way(&self, bytes: usize, dtype: DType) -> Method {
        let planned = plan::over_tcp(self.world as u64, bytes as u64);
        // Partial sums of 16-bit floats would be rounded at every rank.
        let chains = dtype.size() > 2;
        match self.algorithm {
            _ if bytes <= SMALL_BYTES_MAX => planned,
            Algorithm::Ring if chains => Method::Ring,
            _ if planned == Method::Ring && (self.algorithm == Algorithm::Direct || !chains) => Method::Pairwise,
            _ => planned,
        }
    }

    /// Sums 32-bit floats as 16-bit ones, which are rounded on their way: half the bytes, and the same bits on all ranks, as they
    /// are those of the sums of a buffer of 16-bit floats.
    fn sum_narrowed(&self, bytes: &mut [u8], op: Op) -> Result<(), Error> {
        let Some(wide) = elements_mut::<f32>(bytes) else {
            return Err(Error::Invalid { reason: super::UNALIGNED.to_owned() });
        };
        let (dtype, count) = (DType::BF16, wide.len());
        let mut narrow = self.narrow.lock().unwrap_or_else(PoisonError::into_inner);
        if narrow.len() < count {
            narrow.resize(count, bf16::ZERO);
        }
        let wire = BufMut::from(&mut narrow[..count]).into_bytes();
        let slices = pairwise::slices(count, dtype.size(), self.world);
        let mut engine = self.engine();
        let mut scratch = std::mem::take(&mut engine.scratch);
        let bytes = as_bytes(&mut scratch, pairwise::scratch_bytes(self.world).0);
        let transfer = Pairwise::new(Storage::Whole(wire), slices, self.rank, self.fold(op, dtype), bytes);
        let call = call(Operation::AllReduce, op, dtype, count);
        let result = self.run(&mut engine, call, Method::Pairwise, &mut transfer.narrowing(wide));
        engine.scratch = scratch;
        result
    }

    pub(super) fn pairwise(
        &self,
        call: Call,
        storage: Storage<'_>,
        slices: Vec<std::ops::Range<usize>>,
    ) -> Result<(), Error> {
        let mut engine = self.engine();
        let mut scratch = std::mem::take(&mut engine.scratch);
        let bytes = as_bytes(&mut scratch, pairwise::scratch_bytes(self.world).0);
        let fold = self.fold(call.op, call.dtype);
        let mut transfer = Pairwise::new(storage, slices, self.rank, fold, bytes);
        let result = self.run(&mut engine, call, Method::Pairwise, &mut transfer);
        engine.scratch = scratch;
        result
    }

    fn swap(&self, call: Call, buffer: &mut [u8]) -> Result<(), Error> {
        let mut engine = self.engine();
        let mut scratch = std::mem::take(&mut engine.scratch);
        let bytes = as_bytes(&mut scratch, swap::SCRATCH_BYTES);
        let mut transfer = Swap::new(buffer, bytes, self.fold(call.op, call.dtype));
        let result = self.run(&mut engine, call, Method::Flat, &mut transfer);
        engine.scratch = scratch;
        result
    }

    fn ring(&self, call: Call, buffer: &mut [u8]) -> Result<(), Error> {
        let mut engine = self.engine();
        let mut scratch = std::mem::take(&mut engine.scratch);
        let bytes = as_bytes(&mut scratch, ring::CHUNK_BYTES);
        // The partial sum of all ranks before is the first of two.
        let fold = Fold { contributions: 2, position: 1, ..self.fold(call.op, call.dtype) };
        let (next, previous) = ((self.rank + 1) % self.world, (self.rank + self.world - 1) % self.world);
        let link = Link { place: self.rank, length: self.world, previous, next };
        let mut transfer = Ring::new(Part { buffer, beside: ring::ALONE }, bytes, fold, link);
        let result = self.run(&mut engine, call, Method::Ring, &mut transfer);
        engine.scratch = scratch;
        result
    }
}
