//! A stand-in for `libnvidia-ml.so.1`: a machine with two devices, of which the second does not answer.
//!
//! Built with rustc alone by the tests of `worker/src/inventory.rs`. With `--cfg mismatch` its version is not that of
//! the driver, as after an upgrade without a restart.
#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{c_char, c_int, c_uint};

const OK: c_int = 0;
const GPU_IS_LOST: c_int = 15;
const LIBRARY_MISMATCH: c_int = 18;

/// C's calling convention and name, and a code as the result.
macro_rules! export {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $body:block)*) => {
        $(#[unsafe(no_mangle)]
        #[allow(unused_unsafe)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            // SAFETY: the caller keeps to NVML's contract: pointers to live places of the right type.
            unsafe { $body }
        })*
    };
}

unsafe fn put(text: &str, to: *mut c_char, length: c_uint) -> c_int {
    let count = text.len().min(length as usize - 1);
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, count);
        *to.add(count) = 0;
    }
    OK
}

export! {
    fn nvmlInit_v2() { if cfg!(mismatch) { LIBRARY_MISMATCH } else { OK } }
    fn nvmlShutdown() { OK }
    fn nvmlDeviceGetCount_v2(count: *mut c_uint) { *count = 2; OK }
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut usize) {
        *device = 1 + index as usize;
        if index == 0 { OK } else { GPU_IS_LOST }
    }
    fn nvmlDeviceGetUUID(_device: usize, to: *mut c_char, length: c_uint) { put("GPU-stand-in", to, length) }
    fn nvmlDeviceGetName(_device: usize, to: *mut c_char, length: c_uint) { put("stand-in", to, length) }
    // Version, total, reserved, free, used.
    fn nvmlDeviceGetMemoryInfo_v2(_device: usize, memory: *mut [u64; 5]) { (*memory)[1] = 80 << 30; OK }
}
