//! Why and when an NCCL communicator ends: the first cause, the guard's news, the time limit, and a thread for calls
//! that hang.
//!
//! The thread inside an operation looks for itself while it polls. The watchdog is for the case that a call does not
//! come back although the communicator is non-blocking: only another thread can end that (COLL-4).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::handle::Raw;
use crate::communicator as group;
use crate::error::Error;

/// Between looks at the guard: a look costs a system call, a death may take a second to be seen.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Waits up to this long spin; longer ones sleep in between.
const SPIN_MAX: Duration = Duration::from_micros(200);
const NAP_MAX: Duration = Duration::from_millis(1);
/// How long the guard may take to explain an error of NCCL's by a death.
const GRACE: Duration = Duration::from_millis(500);
/// The watchdog's beat, and how many beats one call lasts before it counts as stuck.
const BEAT: Duration = Duration::from_millis(50);
const STUCK_BEATS: u32 = 4;

#[derive(Default)]
struct Current {
    operation: String,
    /// From 1.
    sequence: u64,
    started: Option<Instant>,
    limit: Duration,
    stopped: bool,
}

/// Shared by the thread inside an operation, those that call `abort`, and the watchdog.
pub(super) struct Watch {
    pub(super) rank: u32,
    pub(super) raw: Raw,
    guard: Option<Arc<dyn group::Communicator>>,
    cause: OnceLock<Error>,
    current: Mutex<Current>,
    /// Rung by `abort` and at the end.
    bell: Condvar,
}

impl Watch {
    pub(super) fn new(rank: u32, raw: Raw, guard: Option<Arc<dyn group::Communicator>>) -> Self {
        let current = Mutex::new(Current::default());
        Watch { rank, raw, guard, cause: OnceLock::new(), current, bell: Condvar::new() }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the next operation, unless there is a cause (COLL-6).
    pub(super) fn begin(&self, operation: String, limit: Duration) -> Result<(), Error> {
        self.cause.get().map_or(Ok(()), |cause| Err(self.as_aborted(cause)))?;
        self.current().sequence += 1;
        self.enter(operation, limit);
        Ok(())
    }

    /// As [`Watch::begin`], for what is no operation and has no number.
    pub(super) fn enter(&self, operation: String, limit: Duration) {
        let mut current = self.current();
        (current.operation, current.started, current.limit) = (operation, Some(Instant::now()), limit);
    }

    /// Ends the operation; an error ends the communicator too, and is explained by the first cause.
    pub(super) fn conclude(&self, result: Result<(), Error>) -> Result<(), Error> {
        let ended = result.map_err(|error| {
            let error = self.explain(error);
            self.raw.abort();
            error
        });
        self.current().started = None;
        ended
    }

    /// The cause, or what the guard has heard.
    pub(super) fn look(&self) -> Result<(), Error> {
        if let Some(cause) = self.cause.get() {
            return Err(self.as_aborted(cause));
        }
        let Some(guard) = &self.guard else { return Ok(()) };
        guard.check().map_err(|error| self.end(error))
    }

    /// Sets the cause unless there is one, and says which holds. What the guard did not know before, it tells the
    /// others.
    pub(super) fn end(&self, error: Error) -> Error {
        let mut first = false;
        let cause = self.cause.get_or_init(|| {
            first = true;
            error
        });
        if first {
            tracing::warn!(rank = self.rank, culprit = ?cause.culprit(), %cause, "nccl communicator ended");
            if let Some(guard) = &self.guard {
                // Without effect where the guard has ended already.
                let (culprit, words) = self.blame(cause);
                guard.abort_blaming(culprit, &words);
            }
            self.bell.notify_all();
            return match cause {
                Error::Aborted { .. } => self.as_aborted(cause),
                cause => cause.clone(),
            };
        }
        self.as_aborted(cause)
    }

    /// The error of NCCL's is often only the consequence of a death: the guard gets some time to say so.
    fn explain(&self, error: Error) -> Error {
        let error = self.named(error);
        let deadline = Instant::now() + if self.guard.is_some() { GRACE } else { Duration::ZERO };
        while matches!(error, Error::Device { .. }) && Instant::now() < deadline {
            if let Err(explained) = self.look() {
                return explained;
            }
            self.nap(LOOK_EVERY);
        }
        self.end(error)
    }

    /// NCCL knows its own calls only, and of those that end later not even which one it was.
    fn named(&self, error: Error) -> Error {
        let Error::Device { operation: call, reason } = error else { return error };
        Error::Device { operation: self.current().operation.clone(), reason: format!("{call}: {reason}") }
    }

    /// Polls `ready` until it is true; looks for causes and the time limit of the operation in between. Its error is
    /// for [`Watch::conclude`].
    pub(super) fn wait(&self, mut ready: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
        let started = Instant::now();
        let mut looked = started;
        while !ready()? {
            let now = Instant::now();
            if now - looked >= LOOK_EVERY {
                looked = now;
                self.look()?;
                self.overdue().map_or(Ok(()), Err)?;
            }
            if now - started < SPIN_MAX {
                std::thread::yield_now();
            } else {
                self.nap(NAP_MAX.min((now - started) / 16));
            }
        }
        Ok(())
    }

    fn overdue(&self) -> Option<Error> {
        let current = self.current();
        (current.started?.elapsed() > current.limit).then(|| Error::Timeout {
            // NCCL does not say on whom it waits.
            waiting_for: Vec::new(),
            operation: current.operation.clone(),
            sequence: current.sequence,
        })
    }

    /// Sleeps until the bell or the time is up.
    fn nap(&self, at_most: Duration) -> bool {
        let current = self.current();
        // A look at the cause under the lock is not needed: a missed bell costs one nap, a millisecond or a beat.
        let (current, _) = self.bell.wait_timeout(current, at_most).unwrap_or_else(PoisonError::into_inner);
        current.stopped
    }

    /// A cause as every call after the one that met it sees it.
    fn as_aborted(&self, cause: &Error) -> Error {
        let (culprit, cause) = self.blame(cause);
        let current = self.current();
        Error::Aborted { culprit, cause, operation: current.operation.clone(), sequence: current.sequence }
    }

    /// Whom a cause is blamed on, and its words without what they were wrapped in.
    fn blame(&self, cause: &Error) -> (Option<u32>, String) {
        match cause {
            Error::Aborted { culprit, cause, .. } => (*culprit, cause.clone()),
            Error::Device { .. } => (Some(self.rank), cause.to_string()),
            other => (other.culprit(), other.to_string()),
        }
    }

    /// Ends the group for a reason of this rank's.
    pub(super) fn abort(&self, culprit: Option<u32>, cause: &str) {
        let (operation, sequence) = {
            let current = self.current();
            (current.operation.clone(), current.sequence)
        };
        self.end(Error::Aborted { culprit, cause: cause.to_owned(), operation, sequence });
    }

    /// Ends the watchdog.
    pub(super) fn stop(&self) {
        self.current().stopped = true;
        self.bell.notify_all();
    }

    /// The watchdog: ends the handle where a call has not come back for [`STUCK_BEATS`] and there is a cause to end it.
    pub(super) fn run(&self) {
        let (mut visit, mut beats) = (None, 0);
        while !self.nap(BEAT) {
            let now = self.raw.stuck_since();
            beats = if now.is_some() && now == visit { beats + 1 } else { 0 };
            visit = now;
            // Several beats apart and still the same call: it is deep inside the library, not on its way in or out.
            if beats < STUCK_BEATS {
                continue;
            }
            if let Some(error) = self.overdue() {
                self.end(error);
            }
            if self.look().is_err() {
                self.raw.abort();
            }
        }
    }
}
