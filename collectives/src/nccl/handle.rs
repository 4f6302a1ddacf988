//! One raw NCCL communicator: every call checked, and ended exactly once, also from another thread than the one
//! inside a call.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use cudarc::nccl::sys::{ncclComm, ncclComm_t, ncclConfig_t, ncclUniqueId};

use super::library::{IN_PROGRESS, Library, SUCCESS};
use super::{UniqueId, unavailable};
use crate::error::Error;

/// Owner of the handle; null once it is aborted or destroyed.
pub(super) struct Raw {
    library: &'static Library,
    comm: AtomicPtr<ncclComm>,
    /// Goes up on the way into the library and again on the way out: odd while a call is under way.
    visits: AtomicU64,
}

impl Raw {
    /// Begins to join; poll [`Raw::settled`] until all have.
    pub(super) fn begin(library: &'static Library, rank: u32, world: u32, id: &UniqueId) -> Result<Self, Error> {
        const NAME: &str = "ncclCommInitRankConfig";
        let mut comm = ptr::null_mut();
        let id = ncclUniqueId { internal: id.0.map(|byte| byte as std::ffi::c_char) };
        let mut config = config();
        // SAFETY: both pointers are to live locals; the configuration declares its own size and version.
        let code = unsafe { (library.init)(&raw mut comm, world as c_int, id, rank as c_int, &raw mut config) };
        library.accepted(NAME, code)?;
        if comm.is_null() {
            return Err(unavailable("the library is too old for non-blocking communicators"));
        }
        Ok(Raw { library, comm: AtomicPtr::new(comm), visits: AtomicU64::new(0) })
    }

    /// Runs one call on the live handle; `None` once there is none.
    pub(super) fn visit<R>(&self, call: impl FnOnce(&Library, ncclComm_t) -> R) -> Option<R> {
        // First the mark, then the handle: who sees no mark for long enough may end the handle (see `stuck_since`).
        self.visits.fetch_add(1, Ordering::SeqCst);
        let comm = self.comm.load(Ordering::SeqCst);
        let result = (!comm.is_null()).then(|| call(self.library, comm));
        self.visits.fetch_add(1, Ordering::SeqCst);
        result
    }

    /// The number of the call under way, if one is: equal numbers at two times mean that it has not returned in
    /// between.
    pub(super) fn stuck_since(&self) -> Option<u64> {
        Some(self.visits.load(Ordering::SeqCst)).filter(|visits| visits % 2 == 1)
    }

    /// False while something begun earlier is under way on the host side; true also once the handle is gone.
    pub(super) fn settled(&self) -> Result<bool, Error> {
        let look = |library: &Library, comm| {
            let mut state = SUCCESS;
            // SAFETY: the handle is live during a visit; the state is a live local.
            let code = unsafe { (library.async_error)(comm, &raw mut state) };
            match (code, state) {
                (SUCCESS, SUCCESS) => Ok(true),
                (SUCCESS, IN_PROGRESS) => Ok(false),
                (SUCCESS, state) => Err(library.failed("asynchronous work", state)),
                (code, _) => Err(library.failed("ncclCommGetAsyncError", code)),
            }
        };
        self.visit(look).unwrap_or(Ok(true))
    }

    /// Ends it in the middle of whatever it does. Called by the thread inside an operation between its calls, or by
    /// another one that has seen it stuck inside one call: NCCL then makes that call return with an error.
    pub(super) fn abort(&self) {
        let comm = self.comm.swap(ptr::null_mut(), Ordering::SeqCst);
        if !comm.is_null() {
            // SAFETY: the swap gives the live handle to one caller only, once.
            let _ = unsafe { (self.library.abort)(comm) };
        }
    }

    /// Flushes; poll [`Raw::settled`], then [`Raw::destroy`].
    pub(super) fn finalize(&self) -> Result<(), Error> {
        let finalize = |library: &Library, comm| {
            // SAFETY: the handle is live during a visit.
            library.accepted("ncclCommFinalize", unsafe { (library.finalize)(comm) })
        };
        self.visit(finalize).unwrap_or(Ok(()))
    }

    /// Frees it after [`Raw::finalize`].
    pub(super) fn destroy(&self) {
        let comm = self.comm.swap(ptr::null_mut(), Ordering::SeqCst);
        if !comm.is_null() {
            // SAFETY: as in `abort`.
            let _ = unsafe { (self.library.destroy)(comm) };
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Non-blocking, all else by default.
fn config() -> ncclConfig_t {
    /// Size and version of the structure as of NCCL 2.18: older and newer libraries take it and fill in the rest.
    const SIZE: usize = 48;
    const VERSION: u32 = 21_800;
    const MAGIC: u32 = 0xcafe_beef;
    const UNDEFINED: i32 = i32::MIN;
    // SAFETY: the structure holds integers and pointers only, for which zero is a value.
    let mut config: ncclConfig_t = unsafe { std::mem::zeroed() };
    config.size = SIZE;
    config.magic = MAGIC;
    config.version = VERSION;
    config.blocking = 0;
    config.cgaClusterSize = UNDEFINED;
    config.minCTAs = UNDEFINED;
    config.maxCTAs = UNDEFINED;
    config.splitShare = UNDEFINED;
    config.trafficClass = UNDEFINED;
    config
}
