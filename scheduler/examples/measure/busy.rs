//! A busy cluster whose every event ends a gang and submits another: what is measured, by the example and by the benchmark.

#![allow(dead_code, clippy::expect_used, clippy::wildcard_imports, clippy::redundant_pub_crate, unreachable_pub)]

use scheduler::Core;
use scheduler::model::*;
use scheduler::policy::Policy;
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Millis, Timestamp, WorkerId};

/// CPU time of this thread in nanoseconds.
pub fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A small generator: the same numbers everywhere.
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

/// A cluster in miniature that obeys the core: its gangs end after 30 to 100 % of their limits.
#[derive(Clone)]
pub struct Busy {
    pub core: Core,
    pub now: u64,
    chance: Chance,
    /// By when they end: after 30 to 100 % of their limits.
    ends: BTreeSet<(u64, JobId)>,
    end_of: BTreeMap<JobId, u64>,
    asked: BTreeMap<JobId, Asked>,
    /// Where those are that run, and since when.
    placed: BTreeMap<JobId, (Vec<Placed>, u64)>,
    workers: u64,
    pub next_job: u64,
    pub starts: u64,
}

/// What a gang asked for, in few bytes: what the core keeps of it is measured.
#[derive(Clone, Copy)]
struct Asked {
    submitted: u64,
    limit: u64,
    members: u16,
    devices: u8,
    queue: u8,
    user: u8,
    is_soft: bool,
}

impl Asked {
    fn request(&self, job: JobId) -> GangRequest {
        let limit = Some(Millis(self.limit));
        let devices = u32::from(self.devices);
        let members = Range::exactly(self.members.into());
        GangRequest {
            job,
            queue: format!("q{}", self.queue),
            user: format!("u{}", self.user),
            submitted: Timestamp(self.submitted),
            not_before: Timestamp(0),
            shape: Shape { members, devices, cpus: devices * 8, ..Shape::default() },
            priority: 0,
            preemptible: self.is_soft,
            run: RunTime { estimate: limit, limit, actual: limit },
            checkpoint: Some(Checkpoint { interval: Millis(1_800_000), save: Millis(10_000), restore: Millis(60_000) }),
            avoid: Vec::new(),
        }
    }
}

/// What a new leader does first, in nanoseconds of CPU time.
pub struct TakenOver {
    pub facts: usize,
    /// Taking in the facts.
    pub telling_ns: u64,
    /// The first cycle.
    pub cycle_ns: u64,
    /// Gangs that it starts.
    pub starts: usize,
}

const QUEUES: u64 = 16;

impl Busy {
    /// An empty cluster of so many workers of 8 devices in racks of 16 and blocks of 256, with 16 queues that share half of it.
    pub fn new(policy: Policy, workers: u64) -> Self {
        let core = Core::new(policy);
        let mut busy = Self {
            core,
            now: 1_000,
            chance: Chance(7),
            ends: BTreeSet::new(),
            end_of: BTreeMap::new(),
            asked: BTreeMap::new(),
            placed: BTreeMap::new(),
            workers,
            next_job: 1,
            starts: 0,
        };
        busy.cluster().into_iter().for_each(|event| busy.tell(event));
        busy
    }

    /// The facts that make the cluster.
    fn cluster(&self) -> Vec<Event> {
        let worker = |at: u64| {
            let rack = at / 16;
            let place = Place { block: format!("b{}", rack / 16), rack: format!("r{rack}"), ..Place::default() };
            Event::WorkerJoined(WorkerSpec {
                id: WorkerId::new(format!("w{at}")).expect("a name"),
                class: "H100".to_owned(),
                devices: 0xff,
                islands: vec![0x0f, 0xf0],
                cpus: 128,
                memory_bytes: 1 << 40,
                labels: BTreeMap::new(),
                taints: Default::default(),
                place,
                state: WorkerState::Open,
            })
        };
        let quota = Quota { guaranteed: self.workers * 8 / QUEUES / 2, ..Quota::default() };
        let quotas = BTreeMap::from([("H100".to_owned(), quota)]);
        let queue = |at| Event::QueueSet(QueueSpec { name: format!("q{at}"), weight: 1, quotas: quotas.clone() });
        (0..self.workers).map(worker).chain((0..QUEUES).map(queue)).collect()
    }

    fn tell(&mut self, event: Event) {
        self.core.apply(Timestamp(self.now), &event).expect("a fact");
    }

    /// Sizes as in Philly (most need one device), the rest up to 64 workers.
    pub fn submit(&mut self) {
        let (size, time) = (self.chance.next() % 1_000, self.chance.next() % 100);
        let (members, devices) = match size {
            0..700 => (1, 1),
            700..780 => (1, 2),
            780..860 => (1, 4),
            860..960 => (1, 8),
            960..985 => (2, 8),
            985..995 => (4, 8),
            995..999 => (8, 8),
            _ => (64, 8),
        };
        let job = JobId(self.next_job);
        self.next_job += 1;
        let (queue, user, is_soft) =
            (self.chance.next() % QUEUES, self.chance.next() % 100, self.chance.next().is_multiple_of(2));
        let (queue, user) = (queue as u8, user as u8);
        let limit = 60_000 * (1 + time * time / 4);
        let asked = Asked { submitted: self.now, limit, members, devices, queue, user, is_soft };
        self.asked.insert(job, asked);
        self.tell(Event::Submitted(asked.request(job)));
    }

    /// A new leader takes over, to whom all is told anew.
    pub fn take_over(&self) -> TakenOver {
        let mut core = Core::new(self.core.policy().clone());
        let mut facts = self.cluster();
        for (job, asked) in &self.asked {
            facts.push(Event::Submitted(asked.request(*job)));
            if let Some((members, since)) = self.placed.get(job) {
                facts.push(Event::Adopted { job: *job, members: members.clone(), since: Timestamp(*since) });
            }
        }
        let begin = cpu_ns();
        for fact in &facts {
            core.apply(Timestamp(self.now), fact).expect("a fact");
        }
        let told = cpu_ns();
        let decisions = core.decide(Timestamp(self.now), Budget::UNLIMITED);
        let cost = cpu_ns() - told;
        let starts = decisions.iter().filter(|decision| matches!(decision, Decision::Start { .. })).count();
        TakenOver { facts: facts.len(), telling_ns: told - begin, cycle_ns: cost, starts }
    }

    /// One cycle: what it cost, in nanoseconds of CPU time.
    pub fn cycle(&mut self) -> u64 {
        let begin = cpu_ns();
        let decisions = self.core.decide(Timestamp(self.now), Budget::UNLIMITED);
        let cost = cpu_ns() - begin;
        for decision in decisions {
            match decision {
                Decision::Start { job, members, .. } => {
                    let run =
                        self.asked.get(&job).map_or(0, |asked| asked.limit) * (30 + self.chance.next() % 71) / 100;
                    self.ends.insert((self.now + run, job));
                    self.end_of.insert(job, self.now + run);
                    self.placed.insert(job, (members, self.now));
                    self.starts += 1;
                }
                Decision::Preempt { job, .. } => {
                    if let Some(end) = self.end_of.remove(&job) {
                        self.ends.remove(&(end, job));
                    }
                    self.placed.remove(&job);
                    let not_before = Timestamp(self.now + 1);
                    self.tell(Event::Stopped { job, by: EndedBy::Order, not_before, remaining: None });
                }
                _ => {}
            }
        }
        cost
    }

    /// Goes on to the next end of a gang, and submits another: two facts, for one cycle.
    pub fn go_on(&mut self) {
        let ended = self.ends.pop_first();
        self.now = self.now.max(ended.map_or(0, |(at, _)| at));
        if let Some((_, job)) = ended {
            self.end_of.remove(&job);
            self.placed.remove(&job);
            self.asked.remove(&job);
            self.tell(Event::Ended { job, by: EndedBy::Success });
        }
        self.submit();
    }

    /// A gang that waits, if the last submitted ones do.
    pub fn waiting(&self, back: u64) -> JobId {
        JobId(self.next_job.saturating_sub(1 + back))
    }
}
