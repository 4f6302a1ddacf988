//! What clients asked of a real cluster and were told, as the checks need it and as it is kept after a violation.

use crate::silence::Answers;
use crate::sim::linearizable::{Action, Operation};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// Of all clients of one run.
#[derive(Debug)]
pub(super) struct History {
    began: Instant,
    told: Mutex<Told>,
    /// When anything that changes something was acknowledged.
    pub(super) answers: Answers,
}

/// What they know.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// By the name that the client gave.
    pub(super) submits: BTreeMap<String, Submit>,
    /// Acknowledged cancels.
    pub(super) cancelled: BTreeSet<u64>,
    /// Cancels that were asked for.
    pub(super) cancels: BTreeSet<u64>,
    /// By register.
    pub(super) registers: BTreeMap<String, Vec<Operation>>,
    /// What no answer may be.
    pub(super) faults: Vec<String>,
}

/// One job that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submit {
    /// What it exits with if nobody ends it.
    pub(super) code: i32,
    /// Which job it was acknowledged as.
    pub(super) job: Option<u64>,
}

impl History {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), told: Mutex::default(), answers: Answers::default() }
    }

    /// Microseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// To look and to write.
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job is asked for.
    pub(super) fn submits(&self, name: &str, code: i32) {
        self.told().submits.insert(name.to_owned(), Submit { code, job: None });
    }

    /// It was acknowledged; asked again under the same request it must be the same job.
    pub(super) fn submitted(&self, name: &str, job: u64) {
        self.answers.note();
        let mut told = self.told();
        let known = told.submits.get_mut(name).and_then(|submit| submit.job.replace(job));
        if known.is_some_and(|known| known != job) {
            told.faults.push(format!("I1: {name} was acknowledged as job {known:?} and again as job {job}"));
        }
    }

    /// Somebody asks for the end of a job.
    pub(super) fn cancels(&self, job: u64) {
        self.told().cancels.insert(job);
    }

    /// And was told that it will end.
    pub(super) fn cancelled(&self, job: u64) {
        self.answers.note();
        self.told().cancelled.insert(job);
    }

    /// A read or a write of a register.
    pub(super) fn operation(&self, register: &str, operation: Operation) {
        if matches!(operation.action, Action::Write(_)) && operation.returned.is_some() {
            self.answers.note();
        }
        self.told().registers.entry(register.to_owned()).or_default().push(operation);
    }

    /// What somebody saw and may not be.
    pub(super) fn fault(&self, what: String) {
        self.told().faults.push(what);
    }

    /// As it is kept: a line each.
    pub(super) fn text(&self) -> String {
        let told = self.told();
        let mut text = String::new();
        for (name, Submit { code, job }) in &told.submits {
            let _ = writeln!(text, "submit {name} exit {code} acknowledged as {job:?}");
        }
        for job in &told.cancels {
            let _ = writeln!(text, "cancel {job} acknowledged {}", told.cancelled.contains(job));
        }
        for (register, operations) in &told.registers {
            for operation in operations {
                let _ = writeln!(text, "{register} {operation:?}");
            }
        }
        text
    }
}
