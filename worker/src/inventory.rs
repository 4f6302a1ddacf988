//! What this machine offers: cores, memory, NVIDIA devices through a library that is loaded only if it is there.

use crate::config::Config;
use crate::islands;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use types::{Device, DeviceSoftware, Inventory};

/// For a library of hundreds of megabytes on a cold disk.
const NCCL_TIMEOUT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Left to the system, the daemon and the supervisors: the larger of this and a sixteenth.
const MEMORY_RESERVE_BYTES: u64 = 256 << 20;

/// Looks at the machine; the operator's own figures win.
pub(crate) fn take(config: &Config) -> Inventory {
    let cpus = config.cpus.unwrap_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(cores).unwrap_or(u32::MAX)
    });
    let memory_bytes = config.memory_bytes.unwrap_or_else(|| {
        let total = machine_memory().min(cgroup_memory());
        total.saturating_sub(MEMORY_RESERVE_BYTES.max(total / 16))
    });
    let (devices, mut software) = devices();
    if !devices.is_empty() {
        software.nccl = nccl(&config.program);
    }
    Inventory { cpus, memory_bytes, devices, software }
}

fn machine_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.map_or(0, |kilobytes| kilobytes * 1024)
}

/// The limit of the group that this daemon stands in; unlimited groups say a huge number or `max`.
fn cgroup_memory() -> u64 {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let file = match controllers {
            "" => format!("/sys/fs/cgroup{path}/memory.max"),
            "memory" => format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
            _ => return None,
        };
        std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
    };
    own.lines().filter_map(limit).min().unwrap_or(u64::MAX)
}

/// The machine's GPUs; none where there is no driver, which is normal.
fn devices() -> (Vec<Device>, DeviceSoftware) {
    match offered(Nvml::init()) {
        Ok(found) => found,
        Err(NvmlError::LibloadingError(error)) => {
            tracing::debug!(%error, "no NVIDIA driver: this worker offers no devices");
            Default::default()
        }
        Err(error) => {
            warn_once(format!("the NVIDIA driver does not answer and this worker offers no devices: {error}"));
            Default::default()
        }
    }
}

fn offered(nvml: Result<Nvml, NvmlError>) -> Result<(Vec<Device>, DeviceSoftware), NvmlError> {
    let nvml = nvml?;
    let count = nvml.device_count()?;
    let mut devices: Vec<Device> = (0..count).map(|index| device(&nvml, index)).collect();
    for (device, island) in devices.iter_mut().zip(islands::of(&nvml, count)) {
        device.island = island;
    }
    // 13000 is CUDA 13.0.
    let cuda = nvml.sys_cuda_driver_version().map(|code| format!("{}.{}", code / 1_000, code % 1_000 / 10));
    let driver = nvml.sys_driver_version().unwrap_or_default();
    Ok((devices, DeviceSoftware { driver, cuda: cuda.unwrap_or_default(), nccl: String::new() }))
}

/// The version of NCCL that ranks would find, asked once of a process of its own: the library starts threads, and one that is
/// broken can end whoever loads it.
fn nccl(program: &Path) -> String {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| asked_for_nccl(program).unwrap_or_default()).clone()
}

fn asked_for_nccl(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.args(["collective", "nccl", "--output", "json"]).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    // Its answer fits into the pipe.
    let ended = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .and_then(|pidfd| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&NCCL_TIMEOUT)));
    if !matches!(ended, Ok(1)) {
        warn_once(format!("NCCL did not load within {} s", NCCL_TIMEOUT.tv_sec));
        let _ = child.kill();
    }
    child.wait().ok()?;
    let answer: serde_json::Value = serde_json::from_reader(child.stdout.take()?).ok()?;
    Some(answer["version"].as_str()?.to_owned())
}

/// The file of each GPU, through which programs reach it, by its index; none of one that does not tell.
pub(crate) fn device_files() -> BTreeMap<u32, PathBuf> {
    let Ok(nvml) = Nvml::init() else { return BTreeMap::new() };
    let minor = |index| nvml.device_by_index(index).and_then(|device| device.minor_number());
    let files = (0..nvml.device_count().unwrap_or(0)).filter_map(|index| Some((index, minor(index).ok()?)));
    files.map(|(index, minor)| (index, PathBuf::from(format!("/dev/nvidia{minor}")))).collect()
}

/// A device that does not answer is listed as unhealthy: its index stays taken.
fn device(nvml: &Nvml, index: u32) -> Device {
    let asked = || -> Result<Device, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let (uuid, name, memory_bytes) = (device.uuid()?, device.name()?, device.memory_info()?.total);
        let (numa_node, nvlinks) = (islands::numa_node(&device), islands::nvlinks(&device).count() as u32);
        Ok(Device { index, uuid, name, memory_bytes, healthy: true, island: 0, numa_node, nvlinks })
    };
    asked().unwrap_or_else(|error| {
        warn_once(format!("device {index} does not answer and is not offered: {error}"));
        Device { index, ..Device::default() }
    })
}

/// Devices are looked at every half a minute: the same words each time would bury the log.
fn warn_once(words: String) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.contains(&words) {
        tracing::warn!("{words}");
        said.insert(words);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Builds the stand-in for the driver's library.
    fn standin(folder: &Path, flags: &[&str]) -> PathBuf {
        let (source, library) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/nvml.rs"), folder.join("nvml.so"));
        let mut rustc = Command::new("rustc");
        rustc
            .args([
                "--edition",
                "2024",
                "--crate-type",
                "cdylib",
                "--check-cfg",
                "cfg(mismatch, four, switched, bridged)",
            ])
            .args(flags);
        assert!(rustc.arg("-o").arg(&library).arg(source).status().unwrap().success());
        library
    }

    fn found(flags: &[&str]) -> Result<(Vec<Device>, DeviceSoftware), NvmlError> {
        let folder = tempfile::tempdir().unwrap();
        offered(Nvml::builder().lib_path(standin(folder.path(), flags).as_os_str()).init())
    }

    #[test]
    fn a_device_is_offered_as_the_driver_describes_it_and_a_lost_one_keeps_its_index() {
        let (devices, software) = found(&[]).unwrap();
        let [first, second] = <[Device; 2]>::try_from(devices).unwrap();
        let expected = Device {
            index: 0,
            uuid: "GPU-stand-in-0".into(),
            name: "stand-in".into(),
            memory_bytes: 80 << 30,
            healthy: true,
            ..Device::default()
        };
        assert_eq!((software.driver.as_str(), software.cuda.as_str()), ("580.159.04", "13.0"));
        assert_eq!(first, expected);
        assert_eq!((second.index, second.healthy), (1, false));
    }

    #[test]
    fn devices_of_one_numa_node_or_behind_one_nvlink_switch_are_an_island() {
        let islands = |flags: &[&str]| found(flags).unwrap().0.iter().map(|device| device.island).collect::<Vec<_>>();
        let links = |flags: &[&str]| found(flags).unwrap().0.iter().map(|device| device.nvlinks).collect::<Vec<_>>();
        assert_eq!(islands(&["--cfg", "four"]), [0, 0, 1, 1], "pairs on two NUMA nodes");
        assert_eq!(islands(&["--cfg", "four", "--cfg", "switched"]), [0, 0, 0, 0], "all reach one switch");
        assert_eq!(islands(&["--cfg", "four", "--cfg", "bridged"]), [0, 1, 0, 1], "bridges between 0, 2 and 1, 3");
        assert_eq!(islands(&[]), [0, 0], "a driver that does not tell");
        assert_eq!((links(&["--cfg", "four", "--cfg", "bridged"]), links(&[])), (vec![1; 4], vec![0; 2]));
    }

    #[test]
    fn a_driver_that_does_not_answer_is_not_taken_for_none() {
        let error = found(&["--cfg", "mismatch"]).unwrap_err();
        assert!(!matches!(error, NvmlError::LibloadingError(_)), "{error}");
    }

    #[test]
    fn every_machine_has_something_and_the_operator_wins() {
        let mut config = Config::new("w", Path::new("/tmp"), vec![], Path::new("/bin/sh"));
        let found = take(&config);
        assert!(found.cpus >= 1 && found.memory_bytes > 0);
        config.cpus = Some(64);
        config.memory_bytes = Some(1 << 40);
        let told = take(&config);
        assert_eq!((told.cpus, told.memory_bytes), (64, 1 << 40));
    }
}
