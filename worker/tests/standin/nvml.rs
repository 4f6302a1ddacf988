//! A stand-in for `libnvidia-ml.so.1`: a machine with two devices, of which the second does not answer.
//!
//! Built with rustc alone by the tests of `worker/src/inventory.rs`. With `--cfg mismatch` its version is not that of
//! the driver, as after an upgrade without a restart. With `--cfg four` it has four devices, in pairs on two NUMA nodes; with
//! `switched` besides, each has a link to one switch; with `bridged`, 0 and 2 have one between them, and so have 1 and 3. Files
//! `xid`, `ecc` and `temperature` in the folder that STANDIN_STAGE names hold numbers that befall the devices.
#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{c_char, c_int, c_uint};
use std::time::{Duration, Instant};

const OK: c_int = 0;
const GPU_IS_LOST: c_int = 15;
const LIBRARY_MISMATCH: c_int = 18;
const INVALID_ARGUMENT: c_int = 2;
const NOT_SUPPORTED: c_int = 3;
const TIMEOUT: c_int = 10;
const SAME_NODE: c_int = 40;
const OTHER_NODE: c_int = 50;
const SWITCH: usize = 99;

/// `nvmlPciInfo_t`.
#[repr(C)]
pub struct PciInfo {
    short_bus_id: [c_char; 16],
    numbers: [c_uint; 5],
    bus_id: [c_char; 32],
}

unsafe fn put_address(number: usize, to: *mut PciInfo) -> c_int {
    unsafe {
        to.write(PciInfo { short_bus_id: [0; 16], numbers: [0; 5], bus_id: [0; 32] });
        put(&format!("00000000:{number:02X}:00.0"), (&raw mut (*to).bus_id).cast(), 32)
    }
}

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

/// `nvmlEventData_t`.
#[repr(C)]
pub struct Event {
    device: usize,
    kind: u64,
    data: u64,
    instances: [c_uint; 2],
}

/// The folder whose files say what befalls the devices.
fn stage() -> String {
    std::env::var("STANDIN_STAGE").unwrap_or_default()
}

fn staged(name: &str, otherwise: u64) -> u64 {
    let text = std::fs::read_to_string(format!("{}/{name}", stage())).unwrap_or_default();
    text.trim().parse().unwrap_or(otherwise)
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
    fn nvmlDeviceGetCount_v2(count: *mut c_uint) { *count = if cfg!(four) { 4 } else { 2 }; OK }
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut usize) {
        *device = 1 + index as usize;
        if index == 0 || cfg!(four) { OK } else { GPU_IS_LOST }
    }
    fn nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) { put("580.159.04", to, length) }
    fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) { *version = 13_000; OK }
    // `/dev/nvidia240` and on: of no machine that has this library.
    fn nvmlDeviceGetMinorNumber(device: usize, minor: *mut c_uint) { *minor = 239 + device as c_uint; OK }
    // Several machines on one differ by what STANDIN_MACHINE says.
    fn nvmlDeviceGetUUID(device: usize, to: *mut c_char, length: c_uint) {
        let machine = std::env::var("STANDIN_MACHINE").map_or(String::new(), |name| format!("-{name}"));
        put(&format!("GPU-stand-in{machine}-{}", device - 1), to, length)
    }
    fn nvmlDeviceGetName(_device: usize, to: *mut c_char, length: c_uint) { put("stand-in", to, length) }
    // Version, total, reserved, free, used.
    fn nvmlDeviceGetMemoryInfo_v2(_device: usize, memory: *mut [u64; 5]) {
        ((*memory)[1], (*memory)[3], (*memory)[4]) = (80 << 30, 60 << 30, 20 << 30);
        OK
    }
    fn nvmlDeviceGetIndex(device: usize, index: *mut c_uint) { *index = device as c_uint - 1; OK }
    fn nvmlDeviceGetUtilizationRates(_device: usize, rates: *mut [c_uint; 2]) { *rates = [1, 2]; OK }
    fn nvmlDeviceGetTemperature(_device: usize, _sensor: c_uint, celsius: *mut c_uint) { *celsius = staged("temperature", 41) as c_uint; OK }
    fn nvmlDeviceGetPowerUsage(_device: usize, milliwatts: *mut c_uint) { *milliwatts = 310_500; OK }
    fn nvmlDeviceGetClockInfo(_device: usize, _clock: c_uint, megahertz: *mut c_uint) { *megahertz = 1_980; OK }
    fn nvmlDeviceGetTotalEccErrors(_device: usize, is_uncorrected: c_uint, _kind: c_uint, count: *mut u64) {
        *count = if is_uncorrected == 1 { staged("ecc", 0) } else { 3 };
        OK
    }
    fn nvmlEventSetCreate(set: *mut usize) { *set = 1; OK }
    fn nvmlEventSetFree(_set: usize) { OK }
    fn nvmlDeviceRegisterEvents(_device: usize, _events: u64, _set: usize) { OK }
    // An error comes once for each file that is put there.
    fn nvmlEventSetWait_v2(_set: usize, event: *mut Event, longest: c_uint) {
        let until = Instant::now() + Duration::from_millis(longest.into());
        loop {
            let xid = staged("xid", 0);
            if xid > 0 {
                let _ = std::fs::remove_file(format!("{}/xid", stage()));
                event.write(Event { device: 1, kind: 8, data: xid, instances: [0; 2] });
                return OK;
            }
            if Instant::now() >= until { return TIMEOUT }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
    fn nvmlDeviceGetTopologyCommonAncestor(one: usize, other: usize, level: *mut c_int) {
        *level = if (one - 1) / 2 == (other - 1) / 2 { SAME_NODE } else { OTHER_NODE };
        if cfg!(four) { OK } else { NOT_SUPPORTED }
    }
    fn nvmlDeviceGetNvLinkState(_device: usize, link: c_uint, is_active: *mut c_uint) {
        if !cfg!(any(switched, bridged)) { return NOT_SUPPORTED }
        *is_active = c_uint::from(link == 1);
        if link < 2 { OK } else { INVALID_ARGUMENT }
    }
    fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: usize, _link: c_uint, pci: *mut PciInfo) {
        put_address(if cfg!(switched) { SWITCH } else { (device + 1) % 4 + 1 }, pci)
    }
    fn nvmlDeviceGetPciInfo_v3(device: usize, pci: *mut PciInfo) { put_address(device, pci) }
}
