//! Facts that go into a scheduler, decisions that come out, and the trait that both drivers (leader and simulator) use.

use crate::explain::Explanation;
use crate::model::{GangRequest, Placed, QueueSpec, WorkerIndex, WorkerSpec, WorkerState};
use types::{JobId, Millis, Timestamp, WorkerId};

/// A fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker joined, or joined again with other devices, labels or place. What runs on it is not touched.
    WorkerJoined(WorkerSpec),
    /// Its state changed.
    WorkerState {
        /// Which.
        worker: WorkerId,
        /// The new one.
        state: WorkerState,
    },
    /// It will be away for a while; known ahead, so that nothing is placed that would still run then.
    MaintenancePlanned {
        /// Which.
        worker: WorkerId,
        /// From this time.
        from: Timestamp,
        /// Until this time. `to <= from` takes the window back.
        to: Timestamp,
    },
    /// It was removed for good.
    WorkerLeft {
        /// Which.
        worker: WorkerId,
    },
    /// A queue was made or changed.
    QueueSet(QueueSpec),
    /// A queue was deleted; refused while gangs or queues are below it.
    QueueRemoved {
        /// Full name.
        name: String,
    },
    /// A gang waits now.
    Submitted(GangRequest),
    /// A gang runs already: a new leader, or a restored snapshot, tells the core. It was `Submitted` before.
    Adopted {
        /// Whose.
        job: JobId,
        /// Where.
        members: Vec<Placed>,
        /// Since when.
        since: Timestamp,
    },
    /// A waiting gang was promised a start, by the scheduler before this one: it is kept as far as it can be. Without effect
    /// under policies that reserve nothing.
    Promised {
        /// To whom.
        job: JobId,
        /// Kept free for it.
        workers: Vec<WorkerIndex>,
        /// Not later than this.
        start_by: Timestamp,
    },
    /// A worker failed a job, as the scheduler before this one was told by `EndedBy::Workers`.
    Blamed {
        /// Which.
        worker: WorkerId,
        /// Whose attempt.
        job: JobId,
        /// When.
        at: Timestamp,
    },
    /// A start that `decide` gave did not happen; the gang waits again as if nothing had been.
    StartRefused {
        /// Whose.
        job: JobId,
    },
    /// A running gang wrote a checkpoint that can be resumed from.
    Checkpointed {
        /// Whose.
        job: JobId,
        /// When.
        at: Timestamp,
    },
    /// A better estimate of what is left to run.
    Estimated {
        /// Whose.
        job: JobId,
        /// From now.
        remaining: Millis,
    },
    /// A `Resize` that made a gang smaller is done: what it gave up is free.
    Resized {
        /// Whose.
        job: JobId,
    },
    /// All members have ended and hold nothing any more; the gang waits again.
    Stopped {
        /// Whose.
        job: JobId,
        /// Why.
        by: EndedBy,
        /// Its next attempt is not before this time.
        not_before: Timestamp,
        /// What is left to run, if it is known.
        remaining: Option<Millis>,
    },
    /// All members have ended, and the job is over; or a waiting one was withdrawn.
    Ended {
        /// Whose.
        job: JobId,
        /// Why.
        by: EndedBy,
    },
}

/// Why an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// It did its work.
    Success,
    /// It failed, and nobody but the job is to blame.
    Failure,
    /// It failed, and these workers may be to blame: counted, and a worker with too many is set aside.
    Workers(Vec<WorkerId>),
    /// It was stopped by a decision, or by its owner.
    Order,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start a waiting gang. The core counts it as running from now on.
    Start {
        /// Whose.
        job: JobId,
        /// Index = node rank.
        members: Vec<Placed>,
        /// When it will have ended, by its limit or else by its estimate.
        until: Option<Timestamp>,
    },
    /// Stop a running gang so that another can start; `Stopped` answers it. Its room is held for `to` until then.
    Preempt {
        /// Whose.
        job: JobId,
        /// At once or after its next checkpoint.
        stop: Stop,
        /// For whom.
        to: JobId,
        /// Device time that will have to be done again, in milliseconds × devices.
        lost_device_ms: u64,
    },
    /// Change an elastic gang's members (a smaller gang keeps what it had until `Resized` says that it is done), or move a gang (only policies that sort all gangs anew do); it goes on from its
    /// last checkpoint.
    Resize {
        /// Whose.
        job: JobId,
        /// The new members; index = node rank.
        members: Vec<Placed>,
    },
    /// A promise: the gang starts by this time, on these workers or earlier elsewhere.
    Reserve {
        /// For whom.
        job: JobId,
        /// Which workers are kept free for it from `start_by` on.
        workers: Vec<WorkerIndex>,
        /// Not later than this.
        start_by: Timestamp,
        /// True when an earlier promise had to be broken: a worker was lost, a quota cut, or a job ran past its estimate.
        is_broken: bool,
    },
    /// It can never start in this cluster as it is. It stays known, and is looked at again when workers or queues change.
    Reject {
        /// Whose.
        job: JobId,
    },
}

/// When a preempted gang stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// With its grace.
    Now,
    /// After the checkpoint that is due about then.
    AfterCheckpoint {
        /// About when.
        due: Timestamp,
    },
}

/// Steps that one call of `decide` may take: gangs looked at and placements tried. A call that used its budget says so by
/// `Scheduler::is_pending`, and the next call goes on. Steps, not time, so that a capped cycle is the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(pub u32);

impl Budget {
    /// No bound.
    pub const UNLIMITED: Budget = Budget(u32::MAX);
}

/// A fact that cannot be: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such worker.
    #[error("worker {0} is not known")]
    UnknownWorker(WorkerId),
    /// No such worker.
    #[error("worker with index {} is not known", .0.0)]
    UnknownIndex(WorkerIndex),
    /// No such queue, or it is no leaf.
    #[error("{0:?} is not a queue that gangs can wait in")]
    UnknownQueue(String),
    /// No such gang.
    #[error("job {0} is not known")]
    UnknownJob(JobId),
    /// Submitted before.
    #[error("job {0} is known already")]
    KnownJob(JobId),
    /// Not in the phase that the event wants.
    #[error("job {job} is not {wanted}")]
    WrongPhase {
        /// Whose.
        job: JobId,
        /// `running` or `waiting`.
        wanted: &'static str,
    },
    /// The members do not fit where they are said to run.
    #[error("job {0} does not fit where it is said to run")]
    DoesNotFit(JobId),
    /// Nonsense in a specification.
    #[error("{what}: {why}")]
    Invalid {
        /// Of which worker, queue or job.
        what: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Gangs or queues are below it.
    #[error("queue {0:?} is in use")]
    QueueInUse(String),
}

/// Any policy, as the leader and the simulator drive it. All calls have `now` not before that of the call before.
pub trait Scheduler {
    /// Takes a fact. Facts of one instant may come in any order that makes sense.
    fn apply(&mut self, now: Timestamp, event: &Event) -> Result<(), Refused>;

    /// What to do now. The scheduler counts its starts as running and its preempted as stopping at once, so a second call
    /// with no event between gives nothing.
    fn decide(&mut self, now: Timestamp, budget: Budget) -> Vec<Decision>;

    /// True when the last `decide` stopped because its budget was used.
    fn is_pending(&self) -> bool;

    /// When to call `decide` although no event came: a back-off ends, a window begins, a reservation falls due.
    fn next_wake(&self, now: Timestamp) -> Option<Timestamp>;

    /// Why a gang waits; nothing for one that is not waiting.
    fn explain(&self, now: Timestamp, job: JobId) -> Option<Explanation>;

    /// When a waiting gang is expected to start, which for one with a promise is not later than that; nothing where that is not
    /// known. Dear beside `explain`: a look ahead on a copy, whose cost is all gangs and a cycle for each end until then.
    fn expect(&self, _now: Timestamp, _job: JobId) -> Option<Timestamp> {
        None
    }

    /// The name of a worker.
    fn worker_id(&self, worker: WorkerIndex) -> Option<&WorkerId>;

    /// The number of a worker.
    fn worker_index(&self, worker: &WorkerId) -> Option<WorkerIndex>;
}
