//! The core: all that the scheduler knows, kept between cycles and changed by facts, so that a cycle costs what changed.
//!
//! ```text
//! apply(fact)  fleet, queues, gangs, lines            nothing is decided
//! decide       timers -> promises -> admission -> reservations -> victims -> growth -> decisions
//! ```
//!
//! `CORE-1` a decision is counted as done when it is given; a second `decide` with no fact between gives nothing.
//! `CORE-2` a start has all members of the gang, within its bounds, or does not happen.
//! `CORE-3` the time that a reservation promises never becomes later, unless a worker is lost, a quota is cut or a job runs
//! longer than it said: then the decision says that it is broken.
//! `CORE-4` same facts, same decisions, whatever is kept in indexes.

mod admit;
mod ahead;
mod apply;
mod books;
mod broken;
mod check;
mod choose;
mod clear;
mod elastic;
mod expect;
mod gang;
mod givers;
mod guess;
mod line;
mod order;
mod planned;
mod preempt;
mod promises;
mod reserve;
mod resort;
mod round;
mod running;
mod start;
mod sweep;
mod victims;
mod why;

pub use check::Violation;

use crate::explain::Explanation;
use crate::fleet::Fleet;
use crate::model::{Budget, Decision, Event, Refused, Scheduler, WorkerIndex};
use crate::policy::Policy;
use crate::quota::Tree;
use crate::rooms::Index;
use gang::Gangs;
use line::Lines;
use reserve::Reservation;
use running::{Ending, Soft};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Timestamp, WorkerId};

/// Something that happens at a time without a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A worker opens or closes.
    Worker(u32),
    /// A back-off ends.
    Ready(u32),
    /// The gang that waits longest has waited so long that it goes first.
    Aged,
    /// Look again.
    Look,
}

/// A scheduler: `Core::new`, then `Scheduler::apply` and `Scheduler::decide`. A clone is a snapshot.
#[derive(Clone, Debug)]
pub struct Core {
    policy: Policy,
    now: Timestamp,
    fleet: Fleet,
    tree: Tree,
    gangs: Gangs,
    lines: Lines,
    /// What is kept to be quick; never changes an answer.
    index: RefCell<Index>,
    timers: BTreeSet<(Timestamp, Timer)>,
    /// Gangs that run, by when they are expected to end.
    ends: BTreeMap<(Timestamp, u32), Ending>,
    reservations: Vec<Reservation>,
    /// Pools of workers that close, by when, and how many workers are in each.
    closing: BTreeMap<Timestamp, (u8, u32)>,
    /// Submitted since the last cycle.
    fresh: BTreeSet<(JobId, u32)>,
    /// Rises when workers join, leave, or change what they are.
    fleet_version: u64,
    /// The versions that all lines were judged by.
    judged: Option<(u64, u64)>,
    quota_version: u64,
    /// No quota was cut, and no gang adopted, since the start: ceilings hold without exception.
    has_kept_quotas: bool,
    has_changed: bool,
    /// A reservation was given up since the last admission.
    has_freed: bool,
    is_pending: bool,
    /// What a cycle knew that its budget cut.
    blocked: Option<round::Blocked>,
    replanned_at: Timestamp,
    replan_turn: usize,
    reserved_at: Timestamp,
    /// Lines whose first gang found no start to promise, and what was the case then.
    unplanned: BTreeSet<(u32, u32)>,
    unplanned_at: (u64, u64, u64, usize),
    must_replan: bool,
    /// Gangs that victims were looked for: when, and at which turn.
    preempted_at: BTreeMap<u32, (Timestamp, u64)>,
    /// Elastic gangs that run.
    elastic: BTreeSet<u32>,
    /// Gangs in line that do not go first, the oldest first.
    young: BTreeSet<(Timestamp, JobId, u32)>,
    /// Those that do.
    firsts: BTreeSet<(Timestamp, JobId, u32)>,
    /// When the oldest of the others will.
    aged_at: Timestamp,
    /// Work of all gangs in line, in milliseconds × CPU slots for those without devices, × devices for the others.
    backlog: [u128; 2],
    /// Gangs that run, by leaf queue, those with most work left (when they started) first.
    by_service: BTreeMap<(u32, Reverse<u64>, u32), Soft>,
    /// Those of them that may be stopped, by what would be lost.
    givers: givers::Givers,
    /// A list that looks into the future write on, empty between them.
    spare: RefCell<sweep::Freed>,
    /// Starts and ends so far.
    turns: u64,
    /// Facts and answers so far.
    version: u64,
}

impl Core {
    /// An empty cluster under a policy.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            now: Timestamp(0),
            fleet: Fleet::new(),
            tree: Tree::new(),
            gangs: Gangs::default(),
            lines: Lines::default(),
            index: RefCell::default(),
            timers: BTreeSet::new(),
            ends: BTreeMap::new(),
            reservations: Vec::new(),
            closing: BTreeMap::new(),
            fresh: BTreeSet::new(),
            fleet_version: 0,
            judged: None,
            quota_version: 0,
            has_kept_quotas: true,
            has_changed: false,
            has_freed: false,
            is_pending: false,
            blocked: None,
            replanned_at: Timestamp(0),
            replan_turn: 0,
            reserved_at: Timestamp(0),
            unplanned: BTreeSet::new(),
            unplanned_at: (0, 0, 0, 0),
            must_replan: false,
            preempted_at: BTreeMap::new(),
            elastic: BTreeSet::new(),
            young: BTreeSet::new(),
            firsts: BTreeSet::new(),
            aged_at: Timestamp(0),
            backlog: [0; 2],
            by_service: BTreeMap::new(),
            givers: givers::Givers::default(),
            spare: RefCell::default(),
            turns: 0,
            version: 0,
        }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Gangs in line now (without those that wait out a back-off).
    pub fn waiting(&self) -> u64 {
        self.lines.waiting
    }

    /// Gangs that run or are stopping.
    pub fn running(&self) -> usize {
        self.ends.len()
    }

    /// Drops what is kept to be quick, as a new leader begins: the next cycle counts everything anew.
    pub fn forget_indexes(&mut self) {
        self.index = RefCell::default();
    }
}

impl Scheduler for Core {
    fn apply(&mut self, now: Timestamp, event: &Event) -> Result<(), Refused> {
        self.now = self.now.max(now);
        self.apply_event(event)?;
        self.has_changed = true;
        self.version += 1;
        Ok(())
    }

    fn decide(&mut self, now: Timestamp, budget: Budget) -> Vec<Decision> {
        self.now = self.now.max(now);
        self.fire_timers();
        if !self.has_changed && !self.is_pending {
            return Vec::new();
        }
        if self.has_changed {
            self.make_round_stale();
        }
        self.has_changed = false;
        self.is_pending = false;
        self.prolong_overdue();
        self.advance_aged();
        let mut steps = budget.0;
        let mut decisions = Vec::new();
        self.judge(&mut decisions);
        if self.policy.sorts_anew() {
            self.sort_anew(&mut decisions);
        } else if self.policy.passing == crate::policy::Passing::Planned {
            self.start_planned(&mut decisions);
        } else {
            self.keep_promises(&mut decisions);
            self.admit(&mut steps, &mut decisions);
            if !self.is_pending {
                self.has_freed = false;
                self.reserve(&mut decisions);
                self.displace(&mut decisions);
                // A promise that was given up for room made elsewhere: what it kept is for others now.
                if self.has_freed {
                    self.admit(&mut steps, &mut decisions);
                }
                self.grow(&mut decisions);
            }
        }
        self.version += u64::from(!decisions.is_empty());
        decisions
    }

    fn is_pending(&self) -> bool {
        self.is_pending
    }

    fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        let timer = self.timers.range((Timestamp(now.0.saturating_add(1)), Timer::Worker(0))..).next();
        let due = self.reservations.iter().map(|reservation| reservation.start_by).filter(|at| *at > now).min();
        timer.map(|(at, _)| *at).into_iter().chain(due).min()
    }

    fn explain(&self, now: Timestamp, job: JobId) -> Option<Explanation> {
        self.why(now, job)
    }

    fn expect(&self, now: Timestamp, job: JobId) -> Option<Timestamp> {
        self.expected_start(now, job)
    }

    fn worker_id(&self, worker: WorkerIndex) -> Option<&WorkerId> {
        self.fleet.worker_id(worker)
    }

    fn worker_index(&self, worker: &WorkerId) -> Option<WorkerIndex> {
        self.fleet.index_of(worker).map(WorkerIndex)
    }
}

#[cfg(test)]
mod tests;
