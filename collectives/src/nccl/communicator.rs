//! Collectives on device buffers, and on host slices through a staging buffer on the device.
//!
//! The order of summation is NCCL's: equal on all ranks, but not that of the TCP backend. NCCL does not compare calls:
//! that is done where an operation does not end.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError};
use cudarc::nccl::sys::ncclComm_t;

use super::library::{Library, data_type, reduction};
use super::watch::{Doing, Watch};
use super::{Start, join, sound};
use crate::buffer::{Buf, BufMut, DType, Element, Op};
use crate::communicator::{self as group, arguments};
use crate::error::Error;
use crate::recorder::Entry;
use crate::stall::{self, Tell};
use crate::tcp::{Call, Operation, call};

/// For a group that ends in order.
const FINALIZE_MAX: Duration = Duration::from_secs(5);
/// Of the parts of the staging buffer; what the device reads fastest.
const ALIGNMENT: usize = 256;

/// A group over NCCL. One operation at a time; others wait. Made by [`connect`](super::connect) or
/// [`connect_over`](super::connect_over).
pub struct Communicator {
    rank: u32,
    world: u32,
    op_timeout: Duration,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    watch: Arc<Watch>,
    watchdog: Option<JoinHandle<()>>,
    /// Where host slices pass through; grows to the largest. Its lock is held for the whole of an operation.
    staging: Mutex<Option<CudaSlice<u8>>>,
}

/// What the staging buffer holds when the operation starts.
enum Upload<'a> {
    /// The destination, which the operation changes in place.
    Destination,
    /// This source, with the result behind it.
    Source(&'a [u8]),
    /// Nothing that matters.
    Nothing,
}

/// A device and its stream, ready for a group.
pub(super) struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

impl Device {
    pub(super) fn open(ordinal: usize) -> Result<Self, Error> {
        sound("opening the device", || {
            let context = CudaContext::new(ordinal).map_err(|error| cuda("cuDevicePrimaryCtxRetain", error))?;
            let stream = context.new_stream().map_err(|error| cuda("cuStreamCreate", error))?;
            Ok(Device { context, stream })
        })?
    }
}

pub(super) fn cuda(operation: &str, error: DriverError) -> Error {
    Error::Device { operation: operation.to_owned(), reason: error.to_string() }
}

impl Communicator {
    pub(super) fn new(start: Start, device: Device) -> Result<Self, Error> {
        let Device { context, stream } = device;
        let raw = join::begin(&start, &context)?;
        let watch = Arc::new(Watch::new(start.rank, raw, start.guard));
        let mut comm = Communicator {
            rank: start.rank,
            world: start.world_size,
            op_timeout: start.limits.op_timeout,
            context,
            stream,
            watch: Arc::clone(&watch),
            watchdog: None,
            staging: Mutex::new(None),
        };
        let spawned = std::thread::Builder::new().name("nccl-watchdog".to_owned()).spawn(move || watch.run());
        comm.watchdog =
            Some(spawned.map_err(|error| Error::Invalid { reason: format!("no thread for the watchdog: {error}") })?);
        comm.watch.enter(Doing::Joining, start.limits.timeout);
        let joined = comm.watch.wait(|| comm.watch.raw.settled());
        comm.watch.conclude(joined)?;
        Ok(comm)
    }

    /// The stream that all operations run on; a slice's own stream is waited for and made to wait as cudarc does.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Combines `buf` of all ranks in place, on the device. Returns when done.
    pub fn all_reduce_device<T: Element>(&self, buf: &mut impl DevicePtrMut<T>, op: Op) -> Result<(), Error> {
        let (count, dtype) = (buf.len(), T::DTYPE);
        self.operate(call(Operation::AllReduce, op, dtype, count), |_| {
            let (at, written) = buf.device_ptr_mut(&self.stream);
            let launched = self.all_reduce_at(at, count, dtype, op);
            drop(written);
            launched.and_then(|()| self.complete())
        })
    }

    /// Several buffers as one group launch, as a trainer's buckets; recorded as one operation with the elements of all.
    pub fn all_reduce_many_device<T: Element>(&self, bufs: &mut [CudaSlice<T>], op: Op) -> Result<(), Error> {
        let count = bufs.iter().map(CudaSlice::len).sum();
        self.operate(call(Operation::AllReduce, op, T::DTYPE, count), |_| {
            // SAFETY: takes no pointers; the matching end follows on every path.
            self.launch("ncclGroupStart", |library, _| unsafe { (library.group_start)() })?;
            let mut launched = Ok(());
            for buf in bufs.iter_mut() {
                let count = buf.len();
                let (at, written) = buf.device_ptr_mut(&self.stream);
                launched = launched.and_then(|()| self.all_reduce_at(at, count, T::DTYPE, op));
                drop(written);
            }
            // SAFETY: as above.
            let ended = self.launch("ncclGroupEnd", |library, _| unsafe { (library.group_end)() });
            launched.and(ended).and_then(|()| self.complete())
        })
    }

    /// Combines `src` of all ranks and leaves this rank's part in `dst`, on the device.
    pub fn reduce_scatter_device<T: Element>(
        &self,
        src: &impl DevicePtr<T>,
        dst: &mut impl DevicePtrMut<T>,
        op: Op,
    ) -> Result<(), Error> {
        let count = dst.len();
        arguments::whole(self.world, src.len(), count)?;
        self.operate(call(Operation::ReduceScatter, op, T::DTYPE, count), |_| {
            let (from, read) = src.device_ptr(&self.stream);
            let (to, written) = dst.device_ptr_mut(&self.stream);
            let launched = self.reduce_scatter_at([from, to], count, T::DTYPE, op);
            drop((read, written));
            launched.and_then(|()| self.complete())
        })
    }

    /// Puts the `src` of all ranks one after another into `dst`, on the device.
    pub fn all_gather_device<T: Element>(
        &self,
        src: &impl DevicePtr<T>,
        dst: &mut impl DevicePtrMut<T>,
    ) -> Result<(), Error> {
        let count = src.len();
        arguments::whole(self.world, dst.len(), count)?;
        self.operate(call(Operation::AllGather, Op::Sum, T::DTYPE, count), |_| {
            let (from, read) = src.device_ptr(&self.stream);
            let (to, written) = dst.device_ptr_mut(&self.stream);
            let launched = self.all_gather_at([from, to], count, T::DTYPE);
            drop((read, written));
            launched.and_then(|()| self.complete())
        })
    }

    /// Copies the buffer of rank `root` into every rank's, on the device.
    pub fn broadcast_device<T: Element>(&self, buf: &mut impl DevicePtrMut<T>, root: u32) -> Result<(), Error> {
        arguments::root(self.world, root)?;
        let count = buf.len();
        let call = Call { root, ..call(Operation::Broadcast, Op::Sum, T::DTYPE, count) };
        self.operate(call, |_| {
            let (at, written) = buf.device_ptr_mut(&self.stream);
            let launched = self.broadcast_at(at, count, T::DTYPE, root);
            drop(written);
            launched.and_then(|()| self.complete())
        })
    }

    /// Runs one operation: one at a time, none after the first error, no panic of a library gets through.
    fn operate(
        &self,
        call: Call,
        run: impl FnOnce(&mut Option<CudaSlice<u8>>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        self.watch.begin(call, self.op_timeout)?;
        let result = sound(call.operation.name(), || {
            self.context.bind_to_thread().map_err(|error| cuda("cuCtxSetCurrent", error))?;
            run(&mut staging)
        });
        self.watch.conclude(result.flatten())
    }

    /// One call on the live handle.
    fn launch(&self, name: &str, call: impl FnOnce(&Library, ncclComm_t) -> c_int) -> Result<(), Error> {
        let launched = self.watch.raw.visit(|library, comm| library.accepted(name, call(library, comm)));
        match launched {
            Some(Ok(())) => Ok(()),
            // The watchdog ends a handle only for a cause, which then goes before what the ended call returned.
            Some(Err(error)) => self.watch.look().and(Err(error)),
            None => self.watch.look(),
        }
    }

    /// Waits for what has been launched.
    fn complete(&self) -> Result<(), Error> {
        // The launch itself may be under way in NCCL's own thread; only after that is the event behind it.
        self.watch.wait(|| self.watch.raw.settled())?;
        let event = self.stream.record_event(None).map_err(|error| cuda("cuEventRecord", error))?;
        self.watch.wait(|| {
            self.watch.raw.settled()?;
            event.try_is_complete().map_err(|error| cuda("cuEventQuery", error))
        })
    }

    fn all_reduce_at(&self, at: u64, count: usize, dtype: DType, op: Op) -> Result<(), Error> {
        let (to, stream) = (at as *mut c_void, self.stream.cu_stream().cast());
        let (dtype, op) = (data_type(dtype), reduction(op));
        self.launch("ncclAllReduce", |library, comm| {
            // SAFETY: the memory holds `count` elements and outlives the operation, which ends before its caller
            // returns.
            unsafe { (library.all_reduce)(to, to, count, dtype, op, comm, stream) }
        })
    }

    fn reduce_scatter_at(&self, at: [u64; 2], count: usize, dtype: DType, op: Op) -> Result<(), Error> {
        let (from, to, stream) = (at[0] as *const c_void, at[1] as *mut c_void, self.stream.cu_stream().cast());
        let (dtype, op) = (data_type(dtype), reduction(op));
        self.launch("ncclReduceScatter", |library, comm| {
            // SAFETY: as above; the source holds `world * count` elements.
            unsafe { (library.reduce_scatter)(from, to, count, dtype, op, comm, stream) }
        })
    }

    fn all_gather_at(&self, at: [u64; 2], count: usize, dtype: DType) -> Result<(), Error> {
        let (from, to, stream) = (at[0] as *const c_void, at[1] as *mut c_void, self.stream.cu_stream().cast());
        self.launch("ncclAllGather", |library, comm| {
            // SAFETY: as above; the destination holds `world * count` elements.
            unsafe { (library.all_gather)(from, to, count, data_type(dtype), comm, stream) }
        })
    }

    fn broadcast_at(&self, at: u64, count: usize, dtype: DType, root: u32) -> Result<(), Error> {
        let (to, stream) = (at as *mut c_void, self.stream.cu_stream().cast());
        self.launch("ncclBroadcast", |library, comm| {
            // SAFETY: as above; source and destination may be the same memory.
            unsafe { (library.broadcast)(to, to, count, data_type(dtype), root as c_int, comm, stream) }
        })
    }

    /// An operation on host memory: up, across, down. `launch` gets the device addresses of input and output.
    fn staged(
        &self,
        call: Call,
        upload: Upload<'_>,
        destination: &mut [u8],
        launch: impl FnOnce([u64; 2]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if destination.is_empty() && !matches!(upload, Upload::Source(source) if !source.is_empty()) {
            // No byte to move, and device memory of no bytes does not exist; all ranks see the same lengths.
            return self.watch.begin(call, self.op_timeout).and_then(|()| self.watch.conclude(Ok(())));
        }
        self.operate(call, |staging| {
            let source: &[u8] = match &upload {
                Upload::Destination => destination,
                Upload::Source(source) => source,
                Upload::Nothing => &[],
            };
            let behind = match upload {
                Upload::Source(source) => source.len().next_multiple_of(ALIGNMENT),
                Upload::Destination | Upload::Nothing => 0,
            };
            let device = self.grow(staging, behind + destination.len())?;
            if !source.is_empty() {
                self.stream.memcpy_htod(source, device).map_err(|error| cuda("cuMemcpyHtoDAsync", error))?;
            }
            let (at, written) = device.device_ptr_mut(&self.stream);
            let launched = launch([at, at + behind as u64]);
            drop(written);
            launched.and_then(|()| self.complete())?;
            let result = device.slice(behind..behind + destination.len());
            self.stream.memcpy_dtoh(&result, destination).map_err(|error| cuda("cuMemcpyDtoHAsync", error))?;
            // Not polled: only the copy is left, which needs no other rank.
            self.stream.synchronize().map_err(|error| cuda("cuStreamSynchronize", error))
        })
    }

    fn grow<'a>(&self, staging: &'a mut Option<CudaSlice<u8>>, bytes: usize) -> Result<&'a mut CudaSlice<u8>, Error> {
        if staging.as_ref().is_none_or(|device| device.len() < bytes) {
            *staging = None;
            let size = bytes.next_multiple_of(1 << 16);
            *staging = Some(self.stream.alloc_zeros(size).map_err(|error| cuda("cuMemAlloc", error))?);
        }
        staging.as_mut().ok_or_else(|| Error::Invalid { reason: "no staging buffer".to_owned() })
    }
}

impl group::Communicator for Communicator {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world_size(&self) -> u32 {
        self.world
    }

    fn backend(&self) -> &'static str {
        "nccl"
    }

    fn all_reduce(&self, buf: BufMut<'_>, op: Op) -> Result<(), Error> {
        let (dtype, count) = (buf.dtype(), buf.len());
        let call = call(Operation::AllReduce, op, dtype, count);
        self.staged(call, Upload::Destination, buf.into_bytes(), |[at, _]| self.all_reduce_at(at, count, dtype, op))
    }

    fn reduce_scatter(&self, src: Buf<'_>, dst: BufMut<'_>, op: Op) -> Result<(), Error> {
        arguments::reduce_scatter(self.world, &src, &dst)?;
        let (dtype, count) = (dst.dtype(), dst.len());
        let call = call(Operation::ReduceScatter, op, dtype, count);
        let launch = |at| self.reduce_scatter_at(at, count, dtype, op);
        self.staged(call, Upload::Source(src.as_bytes()), dst.into_bytes(), launch)
    }

    fn all_gather(&self, src: Buf<'_>, dst: BufMut<'_>) -> Result<(), Error> {
        arguments::all_gather(self.world, &src, &dst)?;
        let (dtype, count) = (src.dtype(), src.len());
        let launch = |at| self.all_gather_at(at, count, dtype);
        let call = call(Operation::AllGather, Op::Sum, dtype, count);
        self.staged(call, Upload::Source(src.as_bytes()), dst.into_bytes(), launch)
    }

    fn broadcast(&self, buf: BufMut<'_>, root: u32) -> Result<(), Error> {
        arguments::root(self.world, root)?;
        let (dtype, count) = (buf.dtype(), buf.len());
        let upload = if root == self.rank { Upload::Destination } else { Upload::Nothing };
        let call = Call { root, ..call(Operation::Broadcast, Op::Sum, dtype, count) };
        self.staged(call, upload, buf.into_bytes(), |[at, _]| self.broadcast_at(at, count, dtype, root))
    }

    fn barrier(&self) -> Result<(), Error> {
        let mut one = [0i32];
        let call = call(Operation::Barrier, Op::Sum, DType::I32, 0);
        let bytes = BufMut::from(&mut one[..]).into_bytes();
        self.staged(call, Upload::Destination, bytes, |[at, _]| self.all_reduce_at(at, 1, DType::I32, Op::Sum))
    }

    fn check(&self) -> Result<(), Error> {
        self.watch.look()
    }

    fn history(&self) -> Vec<Entry> {
        self.watch.recorder.entries()
    }

    fn watch_stalls(&self, after: Duration, tell: Tell) {
        let _ = self.watch.stalls.set(stall::Watch { after, tell });
    }

    fn abort(&self, cause: &str) {
        self.watch.abort(Some(self.rank), cause);
    }

    fn abort_blaming(&self, culprit: Option<u32>, cause: &str) {
        self.watch.abort(culprit, cause);
    }
}

impl Drop for Communicator {
    /// Ends in order where there is no cause: what is under way elsewhere is not disturbed.
    fn drop(&mut self) {
        if self.watch.alive().is_ok() {
            self.watch.enter(Doing::Leaving, FINALIZE_MAX);
            let finalized = sound("leaving the group", || {
                self.context.bind_to_thread().map_err(|error| cuda("cuCtxSetCurrent", error))?;
                self.watch.raw.finalize()?;
                self.watch.wait(|| self.watch.raw.settled())
            });
            if self.watch.conclude(finalized.flatten()).is_ok() {
                self.watch.raw.destroy();
            }
        }
        self.watch.stop();
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
    }
}
