//! The NCCL library, loaded once at run time: a table of the functions used here, every one looked up before the
//! first call.
//!
//! Own loader, with cudarc's types: cudarc's never looks for `libnccl.so.2`, which is all that NVIDIA's packages
//! ship, panics at a missing symbol, and reads result codes into a Rust enum, which is undefined for the codes of
//! newer libraries.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};

use super::unavailable;
use crate::buffer::{DType, Op};
use crate::error::Error;

/// Of a call that was carried out.
pub(super) const SUCCESS: c_int = 0;
/// Of a call that a non-blocking communicator is still working on.
pub(super) const IN_PROGRESS: c_int = 7;

/// What the loader searches, by the rules of the system (`LD_LIBRARY_PATH`, then the cache). Without a version last: it
/// belongs to development packages and may be any version.
const NAMES: [&CStr; 2] = [c"libnccl.so.2", c"libnccl.so"];

type Stream = *mut c_void;

/// Functions of the library, with C's types. Codes stay integers.
pub(super) struct Library {
    pub(super) version: unsafe extern "C" fn(*mut c_int) -> c_int,
    pub(super) unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> c_int,
    pub(super) init: unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> c_int,
    pub(super) async_error: unsafe extern "C" fn(ncclComm_t, *mut c_int) -> c_int,
    pub(super) abort: unsafe extern "C" fn(ncclComm_t) -> c_int,
    pub(super) finalize: unsafe extern "C" fn(ncclComm_t) -> c_int,
    pub(super) destroy: unsafe extern "C" fn(ncclComm_t) -> c_int,
    pub(super) group_start: unsafe extern "C" fn() -> c_int,
    pub(super) group_end: unsafe extern "C" fn() -> c_int,
    pub(super) all_reduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        ncclDataType_t,
        ncclRedOp_t,
        ncclComm_t,
        Stream,
    ) -> c_int,
    pub(super) reduce_scatter: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        ncclDataType_t,
        ncclRedOp_t,
        ncclComm_t,
        Stream,
    ) -> c_int,
    pub(super) all_gather:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, Stream) -> c_int,
    pub(super) broadcast:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, Stream) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(ncclComm_t) -> *const c_char,
}

/// The library, loaded by the first caller and kept for the life of the process: NCCL has threads that outlive its
/// handles.
pub(super) fn library() -> Result<&'static Library, Error> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(load).as_ref().map_err(|reason| unavailable(reason))
}

fn load() -> Result<Library, String> {
    let mut reasons = Vec::new();
    for name in NAMES {
        // SAFETY: the name is a C string; the library's initialisers are NVIDIA's, as with any linked library.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !handle.is_null() {
            return table(handle);
        }
        reasons.push(loader_error());
    }
    Err(format!("libnccl cannot be loaded: {}", reasons.join("; ")))
}

fn loader_error() -> String {
    // SAFETY: gives null or a C string that is valid until this thread's next call of the loader.
    unsafe { text(libc::dlerror()) }
}

/// Copies a library's string; null is empty.
///
/// # Safety
/// `from` is null or a live C string.
unsafe fn text(from: *const c_char) -> String {
    if from.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned()
}

fn table(handle: *mut c_void) -> Result<Library, String> {
    // SAFETY: each type is that of the function of this name in nccl.h, unchanged since NCCL 2.18.
    unsafe {
        Ok(Library {
            version: symbol(handle, c"ncclGetVersion")?,
            unique_id: symbol(handle, c"ncclGetUniqueId")?,
            init: symbol(handle, c"ncclCommInitRankConfig")?,
            async_error: symbol(handle, c"ncclCommGetAsyncError")?,
            abort: symbol(handle, c"ncclCommAbort")?,
            finalize: symbol(handle, c"ncclCommFinalize")?,
            destroy: symbol(handle, c"ncclCommDestroy")?,
            group_start: symbol(handle, c"ncclGroupStart")?,
            group_end: symbol(handle, c"ncclGroupEnd")?,
            all_reduce: symbol(handle, c"ncclAllReduce")?,
            reduce_scatter: symbol(handle, c"ncclReduceScatter")?,
            all_gather: symbol(handle, c"ncclAllGather")?,
            broadcast: symbol(handle, c"ncclBroadcast")?,
            error_string: symbol(handle, c"ncclGetErrorString")?,
            last_error: symbol(handle, c"ncclGetLastError")?,
        })
    }
}

/// # Safety
/// `F` is the function pointer type of that symbol.
unsafe fn symbol<F: Copy>(handle: *mut c_void, name: &CStr) -> Result<F, String> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the handle is that of an open library, which is never closed.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("libnccl is older than 2.18 or broken: {}", loader_error()));
    }
    // SAFETY: sizes are equal by the assertion, the type is right by this function's contract.
    Ok(unsafe { std::mem::transmute_copy(&address) })
}

impl Library {
    /// The error of a call that returned `code`.
    pub(super) fn failed(&self, operation: &str, code: c_int) -> Error {
        // Without the handle, which the watchdog may have ended while the call was under way; NCCL keeps the words for
        // the whole process.
        // SAFETY: both give C strings that stay, the first one for any code.
        let (words, detail) = unsafe { (text((self.error_string)(code)), text((self.last_error)(ptr::null_mut()))) };
        Error::Device { operation: operation.to_owned(), reason: format!("code {code}, {words}: {detail}") }
    }

    /// Success, or begun: a non-blocking communicator may still be working on it.
    pub(super) fn accepted(&self, operation: &str, code: c_int) -> Result<(), Error> {
        match code {
            SUCCESS | IN_PROGRESS => Ok(()),
            code => Err(self.failed(operation, code)),
        }
    }
}

pub(super) fn data_type(dtype: DType) -> ncclDataType_t {
    match dtype {
        DType::F32 => ncclDataType_t::ncclFloat32,
        DType::F64 => ncclDataType_t::ncclFloat64,
        DType::F16 => ncclDataType_t::ncclFloat16,
        DType::BF16 => ncclDataType_t::ncclBfloat16,
        DType::I32 => ncclDataType_t::ncclInt32,
        DType::I64 => ncclDataType_t::ncclInt64,
    }
}

pub(super) fn reduction(op: Op) -> ncclRedOp_t {
    match op {
        Op::Sum => ncclRedOp_t::ncclSum,
        Op::Avg => ncclRedOp_t::ncclAvg,
        Op::Min => ncclRedOp_t::ncclMin,
        Op::Max => ncclRedOp_t::ncclMax,
    }
}
