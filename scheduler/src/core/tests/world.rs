//! A cluster in miniature that obeys the core's decisions and keeps its own books of them.

use crate::core::Core;
use crate::model::*;
use crate::policy::Policy;
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Millis, Timestamp, WorkerId};

pub(super) const MINUTE: u64 = 60_000;

/// The core, and what it was told and said.
#[derive(Clone)]
pub(super) struct World {
    pub core: Core,
    pub now: u64,
    pub workers: BTreeMap<u32, WorkerSpec>,
    pub gangs: BTreeMap<JobId, GangRequest>,
    pub running: BTreeMap<JobId, (u64, Vec<Placed>)>,
    pub stopping: BTreeSet<JobId>,
    pub shrinking: BTreeMap<JobId, Vec<Placed>>,
    pub promises: BTreeMap<JobId, u64>,
    /// Start times, the first of each job.
    pub started: BTreeMap<JobId, u64>,
    /// Who made way for whom.
    pub evictions: Vec<(JobId, JobId)>,
    pub next_job: u64,
    /// What it was told of workers and queues.
    pub facts: Vec<Event>,
    pub log: Vec<Decision>,
}

pub(super) fn worker(name: &str, rack: &str, class: &str, devices: u32, cpus: u32) -> WorkerSpec {
    WorkerSpec {
        id: WorkerId::new(name).unwrap(),
        class: class.to_owned(),
        devices: if devices == 64 { u64::MAX } else { (1 << devices) - 1 },
        islands: if devices == 8 { vec![0x0f, 0xf0] } else { Vec::new() },
        cpus,
        memory_bytes: 1 << 30,
        labels: BTreeMap::new(),
        taints: BTreeSet::new(),
        place: Place { rack: rack.to_owned(), ..Place::default() },
        state: WorkerState::Open,
    }
}

pub(super) fn request(job: u64, members: u32, devices: u32) -> GangRequest {
    GangRequest {
        job: JobId(job),
        queue: "q".to_owned(),
        user: "u".to_owned(),
        submitted: Timestamp(0),
        not_before: Timestamp(0),
        shape: Shape { members: Range::exactly(members), devices, cpus: 1, ..Shape::default() },
        priority: 0,
        preemptible: true,
        run: RunTime::default(),
        checkpoint: None,
        avoid: Vec::new(),
    }
}

pub(super) fn limited(job: u64, members: u32, devices: u32, minutes: u64) -> GangRequest {
    let limit = Some(Millis(minutes * MINUTE));
    GangRequest { run: RunTime { estimate: limit, limit, actual: limit }, ..request(job, members, devices) }
}

pub(super) fn queue(name: &str, weight: u32, class: &str, quota: Quota) -> Event {
    Event::QueueSet(QueueSpec { name: name.to_owned(), weight, quotas: BTreeMap::from([(class.to_owned(), quota)]) })
}

impl World {
    pub fn new(policy: Policy) -> Self {
        let core = Core::new(policy);
        Self {
            core,
            now: 1_000,
            workers: BTreeMap::new(),
            gangs: BTreeMap::new(),
            running: BTreeMap::new(),
            stopping: BTreeSet::new(),
            shrinking: BTreeMap::new(),
            promises: BTreeMap::new(),
            started: BTreeMap::new(),
            evictions: Vec::new(),
            next_job: 1,
            facts: Vec::new(),
            log: Vec::new(),
        }
    }

    /// `racks` racks of `count` workers with `devices` devices each, and a queue named `q`.
    pub fn uniform(policy: &str, racks: u32, count: u32, devices: u32) -> Self {
        let mut world = Self::new(Policy::named(policy).unwrap());
        for rack in 0..racks {
            for at in 0..count {
                world.join(worker(&format!("w{rack}-{at}"), &format!("r{rack}"), "gpu", devices, 64));
            }
        }
        world.tell(queue("q", 1, "gpu", Quota::default()));
        world
    }

    pub fn join(&mut self, spec: WorkerSpec) {
        self.tell(Event::WorkerJoined(spec.clone()));
        let index = self.core.worker_index(&spec.id).unwrap();
        self.workers.insert(index.0, spec);
    }

    pub fn tell(&mut self, event: Event) {
        self.core.apply(Timestamp(self.now), &event).unwrap_or_else(|refused| panic!("{event:?}: {refused}"));
        if matches!(
            event,
            Event::WorkerJoined(_)
                | Event::WorkerState { .. }
                | Event::MaintenancePlanned { .. }
                | Event::WorkerLeft { .. }
                | Event::QueueSet(_)
                | Event::QueueRemoved { .. }
        ) {
            self.facts.push(event);
        }
    }

    pub fn submit(&mut self, request: GangRequest) -> JobId {
        let request = GangRequest { submitted: Timestamp(self.now), ..request };
        let job = request.job;
        self.tell(Event::Submitted(request.clone()));
        self.gangs.insert(job, request);
        self.next_job = self.next_job.max(job.0 + 1);
        job
    }

    /// Decides, keeps the books, and sees that a second decision without a fact between is empty.
    pub fn decide(&mut self) -> Vec<Decision> {
        let decisions = self.core.decide(Timestamp(self.now), Budget::UNLIMITED);
        for decision in &decisions {
            self.obey(decision);
        }
        self.core.check().unwrap();
        let again = self.core.decide(Timestamp(self.now), Budget::UNLIMITED);
        assert_eq!(again, [], "CORE-1");
        self.log.extend(decisions.iter().cloned());
        decisions
    }

    fn obey(&mut self, decision: &Decision) {
        match decision {
            Decision::Start { job, members, .. } => {
                self.check_placement(*job, members, &[]);
                assert!(self.running.insert(*job, (self.now, members.clone())).is_none(), "started twice");
                self.started.entry(*job).or_insert(self.now);
                self.promises.remove(job);
            }
            Decision::Preempt { job, to, .. } => {
                assert!(self.running.contains_key(job) && self.stopping.insert(*job));
                self.evictions.push((*job, *to));
            }
            Decision::Resize { job, members } => {
                let old = self.running[job].1.clone();
                if members.len() < old.len() {
                    assert!(members.iter().all(|member| old.contains(member)));
                    self.shrinking.insert(*job, members.clone());
                } else {
                    self.check_placement(*job, members, &old);
                    self.running.get_mut(job).unwrap().1.clone_from(members);
                }
            }
            Decision::Reserve { job, start_by, is_broken, .. } => {
                let old = self.promises.insert(*job, start_by.0);
                assert!(*is_broken || old.is_none_or(|old| start_by.0 <= old), "CORE-3");
            }
            Decision::Reject { .. } => {}
        }
    }

    /// Invariants 1 to 3 by books of its own.
    fn check_placement(&self, job: JobId, members: &[Placed], own: &[Placed]) {
        let gang = &self.gangs[&job];
        let shape = &gang.shape;
        let count = members.len() as u32;
        assert!(count >= shape.members.min && count <= shape.members.max, "partial gang");
        let mut taken: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        let others = self.running.iter().filter(|(other, _)| **other != job);
        for (other, (_, places)) in others {
            for placed in places {
                let entry = taken.entry(placed.worker.0).or_default();
                entry.0 |= placed.devices;
                entry.1 += u64::from(self.gangs[other].shape.cpus);
            }
        }
        for placed in members {
            let spec = &self.workers[&placed.worker.0];
            let entry = taken.entry(placed.worker.0).or_default();
            assert_eq!(placed.devices.count_ones(), shape.devices);
            assert_eq!(entry.0 & placed.devices, 0, "a device is given twice");
            assert!(own.contains(placed) || placed.devices & !spec.devices == 0, "no such device");
            assert!(own.contains(placed) || self.is_open(placed.worker.0), "the worker is closed");
            entry.0 |= placed.devices;
            entry.1 += u64::from(shape.cpus);
            assert!(entry.1 <= u64::from(spec.cpus), "too many CPU slots");
            assert!(shape.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value)));
            assert!(spec.taints.iter().all(|taint| shape.tolerations.contains(taint)));
            let is_wanted = shape.classes.is_empty() || shape.classes.iter().any(|choice| choice.class == spec.class);
            assert!(is_wanted, "a class that it does not want");
        }
        if shape.required == Some(Level::Rack) {
            let racks: BTreeSet<_> = members.iter().map(|placed| &self.workers[&placed.worker.0].place).collect();
            assert_eq!(racks.len(), 1, "not in one rack");
        }
    }

    pub fn is_open(&self, worker: u32) -> bool {
        match self.workers[&worker].state {
            WorkerState::Open => true,
            WorkerState::Draining { deadline } => self.now < deadline.0,
            _ => false,
        }
    }

    pub fn set_state(&mut self, worker: u32, state: WorkerState) {
        let spec = self.workers.get_mut(&worker).unwrap();
        spec.state = state;
        let worker = spec.id.clone();
        self.tell(Event::WorkerState { worker, state });
    }

    pub fn end(&mut self, job: JobId) {
        self.tell(Event::Ended { job, by: EndedBy::Success });
        self.forget(job);
        self.gangs.remove(&job);
        self.promises.remove(&job);
    }

    pub fn stop(&mut self, job: JobId, by: EndedBy, back_off: u64) {
        let not_before = Timestamp(self.now + back_off);
        self.tell(Event::Stopped { job, by, not_before, remaining: None });
        self.forget(job);
    }

    fn forget(&mut self, job: JobId) {
        self.running.remove(&job);
        self.stopping.remove(&job);
        self.shrinking.remove(&job);
    }

    /// Those that were told to stop have stopped, those that were told to shrink have shrunk.
    pub fn let_go(&mut self) {
        for job in std::mem::take(&mut self.stopping) {
            self.stop(job, EndedBy::Order, 0);
        }
        for (job, members) in std::mem::take(&mut self.shrinking) {
            self.tell(Event::Resized { job });
            self.running.get_mut(&job).unwrap().1 = members;
        }
    }

    /// Goes on in time, with every wake-up between; gangs that run end by their limits.
    pub fn advance(&mut self, to: u64) {
        loop {
            let wake = self.core.next_wake(Timestamp(self.now)).map(|wake| wake.0);
            let ends = self.running.iter().filter_map(|(job, (since, _))| {
                let run = self.gangs[job].run;
                Some((since + run.actual?.0, *job))
            });
            let end = ends.min().filter(|(at, _)| *at <= to);
            let wake = wake.filter(|wake| *wake <= to);
            match (wake, end) {
                (Some(wake), Some((at, _))) if wake < at => self.now = self.now.max(wake),
                (Some(wake), None) => self.now = self.now.max(wake),
                (_, Some((at, job))) => {
                    self.now = self.now.max(at);
                    self.end(job);
                    // All that ends at this instant has ended before anybody decides.
                    let is_over = |job: &JobId, since: u64| {
                        since + self.gangs[job].run.actual.map_or(u64::MAX / 2, |run| run.0) <= at
                    };
                    let over = self.running.iter().filter(|(job, (since, _))| is_over(job, *since));
                    let over: Vec<JobId> = over.map(|(job, _)| *job).collect();
                    for job in over {
                        self.end(job);
                    }
                }
                (None, None) => break,
            }
            self.decide();
            self.let_go();
            self.decide();
        }
        self.now = self.now.max(to);
        self.decide();
    }
}
