//! What this machine offers: cores, memory, NVIDIA devices through a library that is loaded only if it is there.

use crate::config::Config;
use crate::islands;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use types::{Device, Inventory};

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
    Inventory { cpus, memory_bytes, devices: devices() }
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
fn devices() -> Vec<Device> {
    match offered(Nvml::init()) {
        Ok(devices) => devices,
        Err(NvmlError::LibloadingError(error)) => {
            tracing::debug!(%error, "no NVIDIA driver: this worker offers no devices");
            Vec::new()
        }
        Err(error) => {
            warn_once(format!("the NVIDIA driver does not answer and this worker offers no devices: {error}"));
            Vec::new()
        }
    }
}

fn offered(nvml: Result<Nvml, NvmlError>) -> Result<Vec<Device>, NvmlError> {
    let nvml = nvml?;
    let count = nvml.device_count()?;
    let mut devices: Vec<Device> = (0..count).map(|index| device(&nvml, index)).collect();
    for (device, island) in devices.iter_mut().zip(islands::of(&nvml, count)) {
        device.island = island;
    }
    Ok(devices)
}

/// A device that does not answer is listed as unhealthy: its index stays taken.
fn device(nvml: &Nvml, index: u32) -> Device {
    let asked = || -> Result<Device, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let (uuid, name, memory_bytes) = (device.uuid()?, device.name()?, device.memory_info()?.total);
        Ok(Device { index, uuid, name, memory_bytes, healthy: true, island: 0 })
    };
    asked().unwrap_or_else(|error| {
        warn_once(format!("device {index} does not answer and is not offered: {error}"));
        Device { index, uuid: String::new(), name: String::new(), memory_bytes: 0, healthy: false, island: 0 }
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
    use std::path::{Path, PathBuf};
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

    fn found(flags: &[&str]) -> Result<Vec<Device>, NvmlError> {
        let folder = tempfile::tempdir().unwrap();
        offered(Nvml::builder().lib_path(standin(folder.path(), flags).as_os_str()).init())
    }

    #[test]
    fn a_device_is_offered_as_the_driver_describes_it_and_a_lost_one_keeps_its_index() {
        let [first, second] = <[Device; 2]>::try_from(found(&[]).unwrap()).unwrap();
        let expected = Device {
            index: 0,
            uuid: "GPU-stand-in".into(),
            name: "stand-in".into(),
            memory_bytes: 80 << 30,
            healthy: true,
            island: 0,
        };
        assert_eq!(first, expected);
        assert_eq!((second.index, second.healthy), (1, false));
    }

    #[test]
    fn devices_of_one_numa_node_or_behind_one_nvlink_switch_are_an_island() {
        let islands = |flags: &[&str]| found(flags).unwrap().iter().map(|device| device.island).collect::<Vec<_>>();
        assert_eq!(islands(&["--cfg", "four"]), [0, 0, 1, 1], "pairs on two NUMA nodes");
        assert_eq!(islands(&["--cfg", "four", "--cfg", "switched"]), [0, 0, 0, 0], "all reach one switch");
        assert_eq!(islands(&["--cfg", "four", "--cfg", "bridged"]), [0, 1, 0, 1], "bridges between 0, 2 and 1, 3");
        assert_eq!(islands(&[]), [0, 0], "a driver that does not tell");
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
