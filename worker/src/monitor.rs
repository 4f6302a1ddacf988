//! Looks at the machine's devices now and then; what changed is registered anew, so that nothing is placed on a dead GPU.

use crate::config::Config;
use crate::inventory;
use std::time::Duration;
use tokio::sync::watch;
use types::{Inventory, WorkerRegistration};

/// Between two looks. A driver's answer takes milliseconds; a device fails once in months.
const EVERY: Duration = Duration::from_secs(30);

/// Runs as long as the daemon.
pub(crate) async fn run(config: Config, registration: watch::Sender<WorkerRegistration>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let config = config.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || inventory::take(&config)).await else { continue };
        registration.send_if_modified(|registration| update(registration, found));
    }
}

/// Cores and memory stay as they were at the start: they change only with the daemon's own configuration.
fn update(registration: &mut WorkerRegistration, found: Inventory) -> bool {
    if registration.inventory.devices == found.devices {
        return false;
    }
    let healthy = found.devices.iter().filter(|device| device.healthy).count();
    tracing::warn!(healthy, devices = found.devices.len(), "the devices have changed");
    registration.inventory.devices = found.devices;
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::{Device, Topology, WorkerId, WorkerInstance};

    #[test]
    fn only_devices_are_news() {
        let mut registration = WorkerRegistration {
            worker: WorkerId::new("w").unwrap(),
            instance: WorkerInstance(1),
            inventory: Inventory { cpus: 2, memory_bytes: 10, ..Inventory::default() },
            labels: Default::default(),
            taints: Default::default(),
            topology: Topology::default(),
            data_address: "127.0.0.1".into(),
            version: "1".into(),
        };
        assert!(!update(&mut registration, Inventory { cpus: 4, memory_bytes: 20, ..Inventory::default() }));
        let device = Device { uuid: "u".into(), name: "n".into(), memory_bytes: 1, ..Device::default() };
        assert!(update(
            &mut registration,
            Inventory { cpus: 4, memory_bytes: 20, devices: vec![device], ..Inventory::default() }
        ));
        assert_eq!((registration.inventory.cpus, registration.inventory.devices.len()), (2, 1));
    }
}
