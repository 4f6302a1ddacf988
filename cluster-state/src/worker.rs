//! A worker as the cluster knows it, and what is held on it; the sums stay within capacity (`SLOT-1`).

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use types::{Availability, JobId, LogIndex, Member, MemberKey, RankResources, Timestamp, Window, WorkerRegistration};

/// Strikes that are remembered: more than any rule counts.
const STRIKES_MAX: usize = 16;

/// A known worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// What it said of itself when it last opened a session.
    pub registration: WorkerRegistration,
    /// May it get new gangs?
    pub availability: Availability,
    /// True from the end of its lease until it registers again.
    pub lost: bool,
    /// When it registered first.
    pub registered: Timestamp,
    /// The entry by which it registered last.
    pub registered_by: LogIndex,
    /// What is taken.
    pub held: Held,
    /// When it will be away, in order.
    pub windows: Vec<Window>,
    /// Taints that operators added.
    pub taints: BTreeSet<String>,
    /// Attempts that failed through its fault since it registered or was opened, oldest first; the last few.
    pub strikes: Vec<Strike>,
}

/// An attempt that failed through a machine's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strike {
    /// When it had ended.
    pub at: Timestamp,
    /// Whose.
    pub job: JobId,
}

/// What members hold on one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// CPU slots.
    pub cpus: u32,
    /// Bytes.
    pub memory_bytes: u64,
    /// Devices by index, each with its one holder.
    pub devices: BTreeMap<u32, MemberKey>,
    /// Members of live attempts that have not ended here.
    pub members: BTreeSet<MemberKey>,
}

impl Worker {
    /// Takes new gangs of any length?
    pub fn is_open(&self) -> bool {
        !self.lost && self.availability == Availability::Open
    }

    /// When it is to be empty, if it is being drained.
    pub fn drained_by(&self) -> Option<Timestamp> {
        match self.availability {
            Availability::Draining { deadline } => Some(deadline),
            Availability::Open | Availability::Cordoned => None,
        }
    }

    /// One word for tables: lost, draining, cordoned or ready.
    pub fn state_name(&self) -> &'static str {
        match (self.lost, self.availability) {
            (true, _) => "lost",
            (false, Availability::Draining { .. }) => "draining",
            (false, Availability::Cordoned) => "cordoned",
            (false, Availability::Open) => "ready",
        }
    }

    /// Its own taints and those that operators added.
    pub fn all_taints(&self) -> BTreeSet<String> {
        self.registration.taints.union(&self.taints).cloned().collect()
    }

    /// Notes a failure that was its fault.
    pub(crate) fn strike(&mut self, at: Timestamp, job: JobId) {
        if self.strikes.len() >= STRIKES_MAX {
            self.strikes.remove(0);
        }
        self.strikes.push(Strike { at, job });
    }

    /// CPU slots that nobody holds.
    pub fn cpus_free(&self) -> u32 {
        self.registration.inventory.cpus.saturating_sub(self.held.cpus)
    }

    /// Bytes that nobody holds.
    pub fn memory_bytes_free(&self) -> u64 {
        self.registration.inventory.memory_bytes.saturating_sub(self.held.memory_bytes)
    }

    /// Healthy devices that nobody holds, by index.
    pub fn devices_free(&self) -> impl Iterator<Item = u32> + '_ {
        let devices = &self.registration.inventory.devices;
        devices.iter().filter(|d| d.healthy && !self.held.devices.contains_key(&d.index)).map(|d| d.index)
    }

    /// Number of devices that can be placed on, held or not.
    pub fn devices_healthy(&self) -> u32 {
        self.registration.inventory.devices.iter().filter(|device| device.healthy).count() as u32
    }

    /// Gives `member` what it needs, or says why it cannot.
    pub(crate) fn hold(
        &mut self,
        now: Timestamp,
        key: MemberKey,
        member: &Member,
        each: RankResources,
    ) -> Result<(), String> {
        let name = &self.registration.worker;
        let is_usable = self.is_open() || (!self.lost && self.drained_by().is_some_and(|deadline| now < deadline));
        if !is_usable {
            return Err(format!("worker {name} is {}", self.state_name()));
        }
        let ranks = member.ranks.len() as u64;
        let cpus = u32::try_from(ranks.saturating_mul(u64::from(each.cpus))).unwrap_or(u32::MAX);
        let memory_bytes = ranks.saturating_mul(each.memory_bytes);
        if cpus > self.cpus_free() || memory_bytes > self.memory_bytes_free() {
            return Err(format!("worker {name} has too little free"));
        }
        let mut devices = self.held.devices.clone();
        for index in member.ranks.iter().flat_map(|rank| &rank.devices) {
            let usable = self.registration.inventory.devices.iter().any(|d| d.index == *index && d.healthy);
            if !usable || devices.insert(*index, key).is_some() {
                return Err(format!("device {index} of worker {name} is not free"));
            }
        }
        self.held.devices = devices;
        self.held.cpus += cpus;
        self.held.memory_bytes += memory_bytes;
        self.held.members.insert(key);
        Ok(())
    }

    /// Takes back what `member` held; nothing when it holds nothing (any more).
    pub(crate) fn release(&mut self, key: MemberKey, member: &Member, each: RankResources) {
        if !self.held.members.remove(&key) {
            return;
        }
        let ranks = member.ranks.len() as u64;
        let cpus = u32::try_from(ranks.saturating_mul(u64::from(each.cpus))).unwrap_or(u32::MAX);
        self.held.cpus = self.held.cpus.saturating_sub(cpus);
        self.held.memory_bytes = self.held.memory_bytes.saturating_sub(ranks.saturating_mul(each.memory_bytes));
        self.held.devices.retain(|_, holder| *holder != key);
    }
}
