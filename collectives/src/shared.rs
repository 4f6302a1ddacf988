//! Buffers that a communicator gives out: where it can, in memory that all ranks of the host see, so that summing them
//! needs no copy.

use std::ptr::NonNull;

use crate::buffer::{Buf, BufMut, Element, elements, elements_mut};
use crate::shm::arena;

/// Zeroed memory from [`crate::Communicator::alloc`]; any slice of it may be given to any operation.
///
/// After an operation on it has failed, its contents are unspecified, as with any other buffer.
#[derive(Debug)]
pub struct CommBuf {
    memory: Memory,
    bytes: usize,
}

#[derive(Debug)]
enum Memory {
    /// In units that are aligned for every element type.
    Private(Vec<u64>),
    Shared(arena::Range),
}

// SAFETY: the memory is owned by this value alone; other ranks touch it only within an operation that it is lent to.
unsafe impl Send for CommBuf {}
// SAFETY: as above; through a shared reference it is only read.
unsafe impl Sync for CommBuf {}

impl CommBuf {
    /// In ordinary memory.
    pub(crate) fn private(bytes: usize) -> Self {
        CommBuf { memory: Memory::Private(vec![0; bytes.div_ceil(8)]), bytes }
    }

    pub(crate) fn shared(range: arena::Range, bytes: usize) -> Self {
        CommBuf { memory: Memory::Shared(range), bytes }
    }

    /// True where operations on it need no copy.
    pub fn is_shared(&self) -> bool {
        matches!(self.memory, Memory::Shared(_))
    }

    fn pointer(&self) -> NonNull<u8> {
        match &self.memory {
            Memory::Private(words) => NonNull::from(words.as_slice()).cast(),
            Memory::Shared(range) => range.pointer(),
        }
    }

    /// As many whole elements as fit.
    pub fn elements<T: Element>(&self) -> &[T] {
        let bytes = self.bytes / size_of::<T>() * size_of::<T>();
        // SAFETY: the memory is at least that long, initialised, and lives as long as this value.
        let bytes = unsafe { std::slice::from_raw_parts(self.pointer().as_ptr(), bytes) };
        elements(bytes).unwrap_or_default()
    }

    /// As [`CommBuf::elements`], to be written.
    pub fn elements_mut<T: Element>(&mut self) -> &mut [T] {
        let bytes = self.bytes / size_of::<T>() * size_of::<T>();
        let start = match &mut self.memory {
            Memory::Private(words) => words.as_mut_ptr().cast(),
            Memory::Shared(range) => range.pointer().as_ptr(),
        };
        // SAFETY: as above, and borrowed exclusively.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start, bytes) };
        elements_mut(bytes).unwrap_or_default()
    }

    /// To be read by an operation, as elements of `T`.
    pub fn as_buf<T: Element>(&self) -> Buf<'_> {
        Buf::from(self.elements::<T>())
    }

    /// To be overwritten by an operation, as elements of `T`.
    pub fn as_buf_mut<T: Element>(&mut self) -> BufMut<'_> {
        BufMut::from(self.elements_mut::<T>())
    }
}
