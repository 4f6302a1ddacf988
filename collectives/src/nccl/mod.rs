//! The NCCL backend: device buffers through cudarc, loaded at run time; where CUDA is absent every entry says so and
//! none panics.
//!
//! NCCL itself neither notices that a peer has died nor tells peers of an abort. So a communicator made by
//! [`connect_over`] keeps the TCP communicator it was made from as a guard: its control sockets are watched while the
//! device works, and carry aborts with their culprit. Communicators are non-blocking and polled; a watchdog ends
//! calls that block all the same. `examples/nccl_check` tries all of it on the devices of a machine.
//!
//! ```text
//! connect (TCP) ── connect_over: all able? ── rank 0's unique id ── ncclCommInitRankConfig, polled
//!                        └─ guard ◀── watch: cause, time limit, watchdog ──▶ ncclCommAbort
//! ```

mod communicator;
mod handle;
mod join;
mod library;
mod lookout;
mod watch;

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, DriverError};
use cudarc::nccl::sys::ncclUniqueId;

pub use self::communicator::Communicator;
use crate::buffer::BufMut;
use crate::communicator as group;
use crate::error::Error;

/// What the machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Of the library: major, minor, patch.
    pub version: (u32, u32, u32),
    /// Usable devices, by ordinal.
    pub devices: Vec<DeviceInfo>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What [`connect_over`] takes: an index into the devices that this process may see.
    pub ordinal: usize,
    /// As the driver calls it.
    pub name: String,
    /// All of its memory, in bytes.
    pub memory_bytes: u64,
    /// Compute capability: major, minor.
    pub capability: (u32, u32),
}

/// Names one NCCL group; made by one rank and given to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UniqueId(pub [u8; 128]);

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For all ranks to come.
    pub timeout: Duration,
    /// For one operation from start to end.
    pub op_timeout: Duration,
}

impl Default for Limits {
    /// Two minutes to join, since the first launch loads all kernels; ten for an operation: the guard finds the dead
    /// long before.
    fn default() -> Self {
        Limits { timeout: Duration::from_mins(2), op_timeout: Duration::from_mins(10) }
    }
}

/// All that a communicator is made from.
pub struct Start {
    /// This rank's index.
    pub rank: u32,
    /// Number of ranks.
    pub world_size: u32,
    /// The same on all ranks.
    pub unique_id: UniqueId,
    /// Ordinal of the device; each rank on a machine has its own.
    pub device: usize,
    /// Time limits.
    pub limits: Limits,
    /// A communicator over the same ranks, not otherwise used, that sees deaths and carries aborts. Without one,
    /// deaths are seen only by NCCL's own errors and the time limit.
    pub guard: Option<Arc<dyn group::Communicator>>,
}

fn unavailable(reason: &str) -> Error {
    Error::Unavailable { backend: "nccl", reason: reason.to_owned() }
}

/// Runs calls into cudarc, which panics where a library or a symbol is missing; that is an error here.
fn sound<T>(operation: &str, run: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        unavailable(&format!("{operation}: {}", words.unwrap_or("the driver is too old or broken")))
    })
}

/// Looks for the driver, the library and devices.
///
/// # Errors
/// [`Error::Unavailable`] with what is missing.
pub fn available() -> Result<Info, Error> {
    // SAFETY: opens the library by name and closes it again; its initialisers are NVIDIA's.
    let driver = sound("looking for the driver", || unsafe { cudarc::driver::sys::is_culib_present() })?;
    if !driver {
        return Err(unavailable("no NVIDIA driver: libcuda.so.1 cannot be loaded"));
    }
    let library = library::library()?;
    let mut code: c_int = 0;
    // SAFETY: the pointer is to a live local.
    let result = unsafe { (library.version)(&raw mut code) };
    library.accepted("ncclGetVersion", result)?;
    // Before 2.9 the code was made otherwise; nothing that old knows non-blocking communicators.
    let code = u32::try_from(code).unwrap_or(0);
    let version = (code / 10_000, code / 100 % 100, code % 100);
    let devices = sound("looking for devices", devices)??;
    if devices.is_empty() {
        return Err(unavailable("the driver is there, but no device"));
    }
    Ok(Info { version, devices })
}

fn devices() -> Result<Vec<DeviceInfo>, Error> {
    let cuda = |error: DriverError| unavailable(&format!("the driver gives no devices: {error}"));
    cudarc::driver::result::init().map_err(cuda)?;
    let count = usize::try_from(CudaContext::device_count().map_err(cuda)?).unwrap_or(0);
    (0..count).map(|ordinal| device(ordinal).map_err(cuda)).collect()
}

/// Without a context, which would take some hundred megabytes of every device looked at.
fn device(ordinal: usize) -> Result<DeviceInfo, DriverError> {
    use cudarc::driver::result::device;
    use cudarc::driver::sys::CUdevice_attribute as Attribute;

    let handle = device::get(ordinal as c_int)?;
    let attribute = |attribute| {
        // SAFETY: the handle was just given by the driver.
        unsafe { device::get_attribute(handle, attribute) }.map(|value| u32::try_from(value).unwrap_or(0))
    };
    // SAFETY: as above.
    let memory_bytes = unsafe { device::total_mem(handle) }? as u64;
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    Ok(DeviceInfo { ordinal, name: device::get_name(handle)?, memory_bytes, capability })
}

/// A fresh group name; needs the library but no device.
pub fn unique_id() -> Result<UniqueId, Error> {
    let library = library::library()?;
    let mut id = ncclUniqueId { internal: [0; 128] };
    // SAFETY: the pointer is to a live local.
    let code = unsafe { (library.unique_id)(&raw mut id) };
    library.accepted("ncclGetUniqueId", code)?;
    Ok(UniqueId(id.internal.map(|byte| byte as u8)))
}

/// Rank 0 makes a group name and all get it: one broadcast of 132 bytes.
///
/// # Errors
/// Where rank 0 has no NCCL, all ranks get an error, each from its own view.
pub fn share_unique_id(comm: &dyn group::Communicator) -> Result<UniqueId, Error> {
    let mut words = [0i32; 33];
    let made = if comm.rank() == 0 { Some(unique_id()) } else { None };
    if let Some(Ok(id)) = &made {
        words[0] = 1;
        for (word, bytes) in words[1..].iter_mut().zip(id.0.chunks_exact(4)) {
            *word = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    comm.broadcast(BufMut::from(&mut words[..]), 0)?;
    if let Some(made) = made {
        return made;
    }
    if words[0] != 1 {
        return Err(unavailable("rank 0 has no NCCL"));
    }
    let mut id = [0; 128];
    for (bytes, word) in id.chunks_exact_mut(4).zip(&words[1..]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Ok(UniqueId(id))
}

/// Joins a group of the same ranks as `guard`, through which the name is shared and which then watches over it.
///
/// # Errors
/// [`Error::Unavailable`] on all ranks, where one of them has no library or cannot open its `device`: all can then fall
/// back to TCP together, with the guard. Any other error ends the guard too.
pub fn connect_over(guard: Arc<dyn group::Communicator>, device: usize) -> Result<Arc<Communicator>, Error> {
    connect_over_with(guard, device, Limits::default())
}

/// As [`connect_over`], with time limits.
pub fn connect_over_with(
    guard: Arc<dyn group::Communicator>,
    device: usize,
    limits: Limits,
) -> Result<Arc<Communicator>, Error> {
    let mine = open(device);
    let mut able = [i32::from(mine.is_ok())];
    guard.all_reduce(BufMut::from(&mut able[..]), crate::Op::Min)?;
    let opened = mine.map_err(as_unavailable)?;
    if able[0] == 0 {
        return Err(unavailable("another rank has no usable device"));
    }
    let start = Start {
        rank: guard.rank(),
        world_size: guard.world_size(),
        unique_id: share_unique_id(&*guard).map_err(as_unavailable)?,
        device,
        limits,
        guard: Some(guard),
    };
    Communicator::new(start, opened).map(Arc::new)
}

/// Joins a group; returns when all ranks have.
pub fn connect(start: Start) -> Result<Arc<Communicator>, Error> {
    let device = open(start.device)?;
    Communicator::new(start, device).map(Arc::new)
}

fn open(device: usize) -> Result<communicator::Device, Error> {
    let devices = available()?.devices.len();
    if device >= devices {
        return Err(unavailable(&format!("no device {device} among {devices}")));
    }
    communicator::Device::open(device)
}

/// A device that cannot be opened is, before the group exists, no more than an absent one.
fn as_unavailable(error: Error) -> Error {
    match error {
        Error::Device { .. } => unavailable(&error.to_string()),
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// On a machine with devices these tests have nothing to say.
    fn absent() -> bool {
        available().is_err()
    }

    #[test]
    fn absence_of_cuda_is_an_error_with_a_clear_text() {
        if !absent() {
            return;
        }
        let text = match available() {
            Err(Error::Unavailable { backend: "nccl", reason }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(text.contains("libcuda.so") || text.contains("libnccl") || text.contains("device"), "{text}");
        let start = Start {
            rank: 0,
            world_size: 1,
            unique_id: UniqueId([0; 128]),
            device: 0,
            limits: Limits::default(),
            guard: None,
        };
        assert!(matches!(connect(start), Err(Error::Unavailable { .. })));
    }

    #[test]
    fn without_cuda_a_guard_stays_usable_for_tcp() {
        if !absent() {
            return;
        }
        let guard: Arc<dyn group::Communicator> = Arc::new(crate::local::Communicator::new());
        assert!(matches!(connect_over(Arc::clone(&guard), 0), Err(Error::Unavailable { .. })));
        guard.barrier().unwrap();
    }
}
