//! Why a gang waits, as data; its text is a sentence for people.

use std::fmt;
use types::{JobId, Millis, Timestamp};

/// Why a gang was not placed in this plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It failed a moment ago and waits before its next attempt.
    BackOff {
        /// Until when.
        until: Timestamp,
        /// From the view's now.
        left: Millis,
    },
    /// No worker is known that takes gangs.
    NoWorkers {
        /// Known but lost, cordoned or draining.
        closed: u32,
    },
    /// Even the empty cluster could not host it.
    TooLarge {
        /// Members asked for.
        instances: u32,
        /// Members that fit into the empty, open cluster.
        fit_when_empty: u32,
        /// What a single member asks for that no open worker has, if that is the trouble.
        no_worker_has: Option<Lacking>,
        /// Members that would fit if closed workers were open too.
        fit_with_closed: u32,
    },
    /// It would fit, once others have ended.
    Busy {
        /// Members asked for.
        instances: u32,
        /// Members that fit now.
        fit_now: u32,
    },
    /// Enough is free, but a gang ahead of it in the order waits for the same workers.
    Behind {
        /// The gang ahead.
        job: JobId,
    },
    /// So many different gangs are ahead of it that this cycle did not look at it.
    NotLookedAt,
}

/// What one member asks for that no open worker has even when empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// GPUs.
    Gpus {
        /// Asked for.
        wanted: u64,
        /// On the worker that has most.
        largest: u32,
    },
    /// CPU slots.
    Cpus {
        /// Asked for.
        wanted: u64,
        /// On the worker that has most.
        largest: u32,
    },
    /// Memory.
    MemoryBytes {
        /// Asked for.
        wanted: u64,
        /// On the worker that has most.
        largest: u64,
    },
    /// Each of them can be had, but not all on the same worker.
    Together,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lacking::Gpus { wanted, largest } => {
                write!(f, "{wanted} GPUs for one instance (the largest has {largest})")
            }
            Lacking::Cpus { wanted, largest } => {
                write!(f, "{wanted} CPU slots for one instance (the largest has {largest})")
            }
            Lacking::MemoryBytes { wanted, largest } => {
                write!(f, "{wanted} bytes of memory for one instance (the largest has {largest})")
            }
            Lacking::Together => f.write_str("the CPU slots, memory and GPUs of one instance together"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::BackOff { left, .. } => write!(f, "waits {left} before its next attempt"),
            Reason::NoWorkers { closed: 0 } => f.write_str("no worker has joined the cluster"),
            Reason::NoWorkers { closed } => write!(f, "all {closed} workers are lost, cordoned or draining"),
            Reason::TooLarge { no_worker_has: Some(what), .. } => write!(f, "no open worker has {what}"),
            Reason::TooLarge { instances, fit_when_empty, .. } => {
                write!(f, "needs {instances} instances; the whole cluster has room for {fit_when_empty}")
            }
            Reason::Busy { instances, fit_now } => {
                write!(f, "needs {instances} instances at once; room for {fit_now} now, others hold the rest")
            }
            Reason::Behind { job } => write!(f, "job {job} is ahead of it and waits for the same workers"),
            Reason::NotLookedAt => f.write_str("many jobs are ahead of it"),
        }
    }
}
