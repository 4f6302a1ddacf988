//! Who holds which devices: the simulator's own books, so that a scheduler that gives a device away twice is found out.

use super::cluster::Cluster;
use crate::model::Placed;

/// Devices, CPU slots and memory in use.
#[derive(Clone, Debug)]
pub struct Machines {
    machines: Vec<Machine>,
    /// Machines that are up, by the number of their free devices.
    by_free: Vec<u64>,
    devices_up: u64,
    devices_used: u64,
    devices_broken: u64,
}

#[derive(Clone, Copy, Debug)]
struct Machine {
    all: u64,
    used: u64,
    cpus_free: u32,
    memory_free: u64,
    is_up: bool,
}

/// What one member takes besides its devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Take {
    /// CPU slots.
    pub cpus: u32,
    /// Bytes.
    pub memory_bytes: u64,
}

impl Machines {
    /// All free.
    pub fn new(cluster: &Cluster) -> Self {
        let machines: Vec<Machine> = cluster
            .machines
            .iter()
            .map(|machine| Machine {
                all: mask(machine.devices),
                used: 0,
                cpus_free: machine.cpus,
                memory_free: machine.memory_bytes,
                is_up: true,
            })
            .collect();
        let mut by_free = vec![0; 65];
        for machine in &machines {
            by_free[machine.free()] += 1;
        }
        let devices_up = cluster.devices();
        Self { machines, by_free, devices_up, devices_used: 0, devices_broken: 0 }
    }

    /// Takes one member's share; says what is wrong when it is not there.
    pub fn take(&mut self, placed: Placed, take: Take) -> Result<(), String> {
        let at = placed.worker.0 as usize;
        let Some(machine) = self.machines.get_mut(at) else { return Err(format!("there is no machine {at}")) };
        let free = machine.all & !machine.used;
        if !machine.is_up || placed.devices & !free != 0 {
            return Err(format!(
                "machine {at}: devices {:#b} of {free:#b} free, up: {}",
                placed.devices, machine.is_up
            ));
        }
        let (Some(cpus), Some(memory)) =
            (machine.cpus_free.checked_sub(take.cpus), machine.memory_free.checked_sub(take.memory_bytes))
        else {
            return Err(format!("machine {at} has {} CPU slots, not {}", machine.cpus_free, take.cpus));
        };
        self.by_free[machine.free()] -= 1;
        self.devices_broken -= machine.broken();
        machine.used |= placed.devices;
        (machine.cpus_free, machine.memory_free) = (cpus, memory);
        self.by_free[machine.free()] += 1;
        self.devices_broken += machine.broken();
        self.devices_used += u64::from(placed.devices.count_ones());
        Ok(())
    }

    /// Gives one member's share back.
    pub fn give(&mut self, placed: Placed, take: Take) {
        let Some(machine) = self.machines.get_mut(placed.worker.0 as usize) else { return };
        let before = machine.free();
        self.devices_broken -= machine.broken();
        machine.used &= !placed.devices;
        machine.cpus_free += take.cpus;
        machine.memory_free += take.memory_bytes;
        self.devices_broken += machine.broken();
        if machine.is_up {
            self.by_free[before] -= 1;
            self.by_free[machine.free()] += 1;
        }
        self.devices_used -= u64::from(placed.devices.count_ones());
    }

    /// A machine is lost, or back. What ran there has to be given back by the caller.
    pub fn set_up(&mut self, at: u32, is_up: bool) {
        let Some(machine) = self.machines.get_mut(at as usize).filter(|machine| machine.is_up != is_up) else { return };
        self.devices_broken -= machine.broken();
        machine.is_up = is_up;
        self.devices_broken += machine.broken();
        let (free, all) = (machine.free(), u64::from(machine.all.count_ones()));
        if is_up {
            self.by_free[free] += 1;
            self.devices_up += all;
        } else {
            self.by_free[free] -= 1;
            self.devices_up -= all;
        }
    }

    /// Devices of machines that are up.
    pub fn devices_up(&self) -> u64 {
        self.devices_up
    }

    /// Devices in use.
    pub fn devices_used(&self) -> u64 {
        self.devices_used
    }

    /// Free devices on machines that are partly used.
    pub fn devices_broken(&self) -> u64 {
        self.devices_broken
    }

    /// Free devices on machines that have fewer than `need` of them: of no use for a member of so many.
    pub fn devices_stranded(&self, need: u32) -> u64 {
        let below = self.by_free.iter().enumerate().take(need as usize);
        below.map(|(free, count)| free as u64 * count).sum()
    }
}

impl Machine {
    /// Free devices, if it is partly used and up.
    fn broken(&self) -> u64 {
        if self.used == 0 || !self.is_up { 0 } else { self.free() as u64 }
    }

    fn free(&self) -> usize {
        (self.all & !self.used).count_ones() as usize
    }
}

/// The first so many devices.
pub(crate) fn mask(devices: u32) -> u64 {
    if devices >= 64 { u64::MAX } else { (1 << devices) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WorkerIndex;

    const TAKE: Take = Take { cpus: 1, memory_bytes: 0 };

    #[test]
    fn a_device_is_given_once() {
        let mut machines = Machines::new(&Cluster::named("2x8").unwrap());
        let half = Placed { worker: WorkerIndex(1), devices: 0b1111 };
        machines.take(half, TAKE).unwrap();
        assert!(machines.take(Placed { devices: 0b1_1000, ..half }, TAKE).is_err());
        assert!(machines.take(Placed { devices: 1 << 8, ..half }, TAKE).is_err());
        assert!(machines.take(Placed { worker: WorkerIndex(2), devices: 1 }, TAKE).is_err());
        assert!(machines.take(Placed { worker: WorkerIndex(0), devices: 1 }, Take { cpus: 97, ..TAKE }).is_err());
        assert_eq!((machines.devices_used(), machines.devices_stranded(8)), (4, 4));
        machines.give(half, TAKE);
        machines.set_up(0, false);
        assert!(machines.take(Placed { worker: WorkerIndex(0), devices: 1 }, TAKE).is_err());
        assert_eq!((machines.devices_used(), machines.devices_up(), machines.devices_stranded(9)), (0, 8, 8));
    }
}
