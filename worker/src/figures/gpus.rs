//! The GPUs by NVML: one that does not answer is left out, and what one does not tell is left out of it.

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};
use proto::internal::Gpu;
use std::collections::BTreeMap;
use std::time::Duration;

const MEBIBYTE: f64 = 1_048_576.0;

/// The driver, and the last error of each device.
pub(super) struct Gpus<'a> {
    nvml: &'a Nvml,
    /// None where the driver does not tell of errors.
    errors: Option<EventSet<'a>>,
    xids: BTreeMap<u32, u64>,
}

impl<'a> Gpus<'a> {
    pub(super) fn open(nvml: &'a Nvml) -> Self {
        Self { nvml, errors: watched(nvml), xids: BTreeMap::new() }
    }

    /// All devices that answer; none when the driver does not.
    pub(super) fn look(&self) -> Option<Vec<Gpu>> {
        let count = self.nvml.device_count().ok()?;
        let gpu = |index| {
            let device = self.nvml.device_by_index(index).ok()?;
            Some(gpu(&device, index, self.xids.get(&index).copied().unwrap_or(0)))
        };
        Some((0..count).filter_map(gpu).collect())
    }

    /// Waits at most so long; true when a device reported an error.
    pub(super) fn wait(&mut self, longest: Duration) -> bool {
        let heard = self.errors.as_ref().map(|errors| {
            let heard = errors.wait(u32::try_from(longest.as_millis()).unwrap_or(u32::MAX));
            heard.map(|event| (event.device.index(), event.event_data))
        });
        match heard {
            Some(Ok((Ok(index), Some(XidError::Value(xid))))) => {
                tracing::warn!(index, xid, "a device reports an error");
                self.xids.insert(index, xid);
                true
            }
            Some(Ok(_) | Err(NvmlError::Timeout)) => false,
            Some(Err(_)) => {
                self.errors = None;
                false
            }
            None => {
                std::thread::park_timeout(longest);
                false
            }
        }
    }
}

fn watched(nvml: &Nvml) -> Option<EventSet<'_>> {
    let mut set = nvml.create_event_set().ok()?;
    for index in 0..nvml.device_count().ok()? {
        if let Ok(device) = nvml.device_by_index(index) {
            set = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok()?;
        }
    }
    Some(set)
}

fn gpu(device: &Device<'_>, index: u32, xid: u64) -> Gpu {
    let number = |value: Result<u32, NvmlError>| value.ok().map(f64::from);
    let ecc = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok().map(|count| count as f64);
    let (utilization, memory) = (device.utilization_rates().ok(), device.memory_info().ok());
    Gpu {
        index,
        uuid: device.uuid().unwrap_or_default(),
        model: device.name().unwrap_or_default(),
        sm_clock: number(device.clock_info(Clock::SM)),
        memory_clock: number(device.clock_info(Clock::Memory)),
        temperature: number(device.temperature(TemperatureSensor::Gpu)),
        power: number(device.power_usage()).map(|milliwatts| milliwatts / 1_000.0),
        energy: device.total_energy_consumption().ok().map(|energy| energy as f64),
        pcie_sent: number(device.pcie_throughput(PcieUtilCounter::Send)),
        pcie_received: number(device.pcie_throughput(PcieUtilCounter::Receive)),
        pcie_replays: number(device.pcie_replay_counter()),
        utilization: utilization.as_ref().map(|rates| f64::from(rates.gpu)),
        memory_utilization: utilization.as_ref().map(|rates| f64::from(rates.memory)),
        memory_free: memory.as_ref().map(|memory| memory.free as f64 / MEBIBYTE),
        memory_used: memory.as_ref().map(|memory| memory.used as f64 / MEBIBYTE),
        ecc_corrected: ecc(MemoryError::Corrected),
        ecc_uncorrected: ecc(MemoryError::Uncorrected),
        throttle_reasons: device.current_throttle_reasons().ok().map(|reasons| reasons.bits() as f64),
        xid: xid as f64,
    }
}
