//! The driver's part: devices and streams that do everything at once, in host memory.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicUsize, Ordering};

const OK: c_int = 0;
const INVALID_DEVICE: c_int = 101;
const OUT_OF_MEMORY: c_int = 2;
const DEVICES: c_int = 3;
/// Room for the length in front of each allocation, and its alignment.
const HEAD: usize = 256;

thread_local! {
    static CONTEXT: Cell<usize> = const { Cell::new(0) };
}

/// Which device of the machine this thread's is: what `CUDA_VISIBLE_DEVICES` calls it, as a number, or else its own number.
pub(crate) fn current() -> usize {
    let name = visible().and_then(|names| names.get(CONTEXT.get().wrapping_sub(1)).cloned());
    name.map_or(CONTEXT.get(), |name| name.bytes().fold(7, |sum: usize, byte| sum.wrapping_mul(31) + usize::from(byte)))
}

/// The names in `CUDA_VISIBLE_DEVICES`, where it is set.
fn visible() -> Option<Vec<String>> {
    let names = std::env::var("CUDA_VISIBLE_DEVICES").ok()?;
    Some(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn devices() -> c_int {
    visible().map_or(DEVICES, |names| names.len() as c_int)
}

/// The exported functions: C's calling convention and name, and zero for success.
macro_rules! export {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),*) $body:block)*) => {
        $($(#[$attribute])*
        #[unsafe(no_mangle)]
        #[allow(unused_unsafe)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            // SAFETY: the caller keeps to CUDA's contract: pointers to live places of the right type.
            unsafe { $body }
        })*
    };
}
pub(crate) use export;

unsafe fn reserve(bytes: usize) -> u64 {
    unsafe {
        let start = alloc(Layout::from_size_align_unchecked(bytes + HEAD, HEAD));
        start.cast::<usize>().write(bytes);
        start as u64 + HEAD as u64
    }
}

unsafe fn release(address: u64) {
    if address == 0 {
        return;
    }
    unsafe {
        let start = (address as usize - HEAD) as *mut u8;
        dealloc(start, Layout::from_size_align_unchecked(start.cast::<usize>().read() + HEAD, HEAD));
    }
}

fn known(device: c_int) -> c_int {
    if (0..devices()).contains(&device) { OK } else { INVALID_DEVICE }
}

fn next_handle() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0x1000);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

export! {
    fn cuInit(_flags: c_uint) { OK }
    fn cuDriverGetVersion(version: *mut c_int) { *version = 12080; OK }
    fn cuDeviceGetCount(count: *mut c_int) { *count = devices(); OK }
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) { *device = ordinal; known(ordinal) }
    fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) {
        let text = c"stand-in".to_bytes_with_nul();
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len().min(length as usize));
        OK
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) { *bytes = 1 << 30; OK }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) {
        // Compute capability 9.0; memory pools are supported.
        *value = match attribute { 75 => 9, 115 => 1, _ => 0 };
        OK
    }
    fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) { *context = 1 + device as usize; OK }
    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) { OK }
    fn cuCtxGetCurrent(context: *mut usize) { *context = CONTEXT.get(); OK }
    fn cuCtxSetCurrent(context: usize) { CONTEXT.set(context); OK }
    fn cuCtxSynchronize() { OK }
    fn cuStreamCreate(stream: *mut usize, _flags: c_uint) { *stream = next_handle(); OK }
    fn cuStreamDestroy_v2(_stream: usize) { OK }
    fn cuStreamSynchronize(_stream: usize) { OK }
    fn cuStreamWaitEvent(_stream: usize, _event: usize, _flags: c_uint) { OK }
    fn cuEventCreate(event: *mut usize, _flags: c_uint) { *event = next_handle(); OK }
    fn cuEventDestroy_v2(_event: usize) { OK }
    fn cuEventRecord(_event: usize, _stream: usize) { OK }
    fn cuEventSynchronize(_event: usize) { OK }
    fn cuEventQuery(_event: usize) { OK }
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) { cuMemAllocAsync(address, bytes, 0) }
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: usize) {
        if bytes > 1 << 30 {
            return OUT_OF_MEMORY;
        }
        *address = reserve(bytes);
        OK
    }
    fn cuMemFree_v2(address: u64) { release(address); OK }
    fn cuMemFreeAsync(address: u64, _stream: usize) { release(address); OK }
    fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, _stream: usize) {
        std::ptr::write_bytes(to as *mut u8, value, bytes);
        OK
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, bytes: usize, _stream: usize) {
        std::ptr::copy_nonoverlapping(from, to as *mut u8, bytes);
        OK
    }
    fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, bytes: usize, _stream: usize) {
        std::ptr::copy_nonoverlapping(from as *const u8, to, bytes);
        OK
    }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: usize) {
        std::ptr::copy(from as *const u8, to as *mut u8, bytes);
        OK
    }
    fn cuGetErrorName(_code: c_int, text: *mut *const c_char) { *text = c"STANDIN_ERROR".as_ptr(); OK }
    fn cuGetErrorString(_code: c_int, text: *mut *const c_char) { *text = c"error of the stand-in".as_ptr(); OK }
}
