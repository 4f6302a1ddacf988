//! One worker's books: what is free, who holds the rest, and until when it may be used.

use crate::fleet::{LEVELS, Need};
use crate::model::{Refused, WorkerSpec, WorkerState};
use types::Timestamp;

/// The pool of workers that nobody has a claim on.
pub(crate) const OPEN_POOL: u8 = 0;
/// The pool of workers that take no gang.
pub(crate) const CLOSED: u8 = u8::MAX;

/// Workers that may be used for a while only: reserved for a gang, or closing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    /// Others than the holder have to be gone by then; nothing = no bound.
    pub until: Option<Timestamp>,
    /// The gang that may use them as it likes.
    pub holder: Option<u32>,
    /// The holder has to be gone by then: the first of its workers closes.
    pub closes_at: Option<Timestamp>,
}

/// A gang on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    pub gang: u32,
    pub group: u32,
    pub members: u32,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    pub spec: WorkerSpec,
    pub class: u16,
    /// False once it left for good.
    pub is_present: bool,
    /// Its places; index = level.
    pub path: [u32; LEVELS],
    /// Healthy devices that nobody holds.
    pub free: u64,
    /// Devices that somebody holds.
    pub held: u64,
    pub cpus_free: u32,
    pub cpus_held: u32,
    pub memory_free: u64,
    pub memory_held: u64,
    pub residents: Vec<Resident>,
    pub pool: u8,
    /// Planned absences, by begin.
    pub windows: Vec<(Timestamp, Timestamp)>,
    /// Set aside for failing jobs, until then.
    pub aside_until: Option<Timestamp>,
    /// Attempts that failed here: when, and whose.
    pub strikes: Vec<(Timestamp, types::JobId)>,
}

impl Worker {
    pub fn validate(spec: &WorkerSpec) -> Result<(), Refused> {
        let what = || format!("worker {}", spec.id);
        if spec.class.is_empty() && spec.devices != 0 {
            return Err(Refused::Invalid { what: what(), why: "devices without a class" });
        }
        let overlap = spec.islands.iter().try_fold(0, |all, island| (all & island == 0).then_some(all | island));
        if overlap.is_none() {
            return Err(Refused::Invalid { what: what(), why: "a device is in two islands" });
        }
        Ok(())
    }

    pub fn new(spec: WorkerSpec, class: u16, path: [u32; LEVELS]) -> Self {
        Self {
            free: spec.devices,
            held: 0,
            cpus_free: spec.cpus,
            cpus_held: 0,
            memory_free: spec.memory_bytes,
            memory_held: 0,
            spec,
            class,
            is_present: true,
            path,
            residents: Vec::new(),
            pool: OPEN_POOL,
            windows: Vec::new(),
            aside_until: None,
            strikes: Vec::new(),
        }
    }

    pub fn replace_spec(&mut self, spec: WorkerSpec, class: u16) {
        self.spec = spec;
        self.class = class;
        self.is_present = true;
        self.recount();
    }

    /// What is free, from what there is and what is held: a worker may come back smaller than what runs on it.
    fn recount(&mut self) {
        self.free = self.spec.devices & !self.held;
        self.cpus_free = self.spec.cpus.saturating_sub(self.cpus_held);
        self.memory_free = self.spec.memory_bytes.saturating_sub(self.memory_held);
    }

    /// Its devices count as the cluster's.
    pub fn counts(&self) -> bool {
        self.is_present && self.spec.state != WorkerState::Lost
    }

    /// Has devices, and all are free.
    pub fn is_whole(&self) -> bool {
        self.is_present && self.spec.devices != 0 && self.free == self.spec.devices
    }

    pub fn hosts_group(&self, group: u32) -> bool {
        self.residents.iter().any(|resident| resident.group == group)
    }

    pub fn can_take(&self, need: &Need, devices: u64) -> bool {
        devices.count_ones() == need.devices
            && devices & !self.free == 0
            && need.cpus <= self.cpus_free
            && need.memory_bytes <= self.memory_free
    }

    pub fn take(&mut self, gang: u32, need: &Need, group: u32, devices: u64) {
        self.held |= devices;
        self.cpus_held += need.cpus;
        self.memory_held += need.memory_bytes;
        self.recount();
        match self.residents.iter_mut().find(|resident| resident.gang == gang) {
            Some(resident) => resident.members += 1,
            None => self.residents.push(Resident { gang, group, members: 1 }),
        }
    }

    pub fn give(&mut self, gang: u32, need: &Need, devices: u64) {
        debug_assert!(self.held & devices == devices, "gives what nobody holds");
        self.held &= !devices;
        self.cpus_held = self.cpus_held.saturating_sub(need.cpus);
        self.memory_held = self.memory_held.saturating_sub(need.memory_bytes);
        self.recount();
        if let Some(at) = self.residents.iter().position(|resident| resident.gang == gang) {
            self.residents[at].members -= 1;
            if self.residents[at].members == 0 {
                self.residents.remove(at);
            }
        }
    }

    /// Takes gangs at this time.
    pub fn is_open(&self, now: Timestamp) -> bool {
        let state = match self.spec.state {
            WorkerState::Open => true,
            WorkerState::Cordoned | WorkerState::Lost => false,
            WorkerState::Draining { deadline } => now < deadline,
        };
        let in_window = self.windows.iter().any(|(from, to)| *from <= now && now < *to);
        self.is_present && state && !in_window && self.aside_until.is_none_or(|until| until <= now)
    }

    /// When it closes next; nothing = not planned.
    pub fn closes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let window = self.windows.iter().map(|(from, _)| *from).find(|from| *from > now);
        let drain = match self.spec.state {
            WorkerState::Draining { deadline } if deadline > now => Some(deadline),
            _ => None,
        };
        window.into_iter().chain(drain).min()
    }
}
