//! Why and when an NCCL communicator ends: the first cause, the guard's news, the time limit, and a thread for calls
//! that hang.
//!
//! The thread inside an operation looks for itself while it polls. The watchdog is for the case that a call does not
//! come back although the communicator is non-blocking: only another thread can end that (COLL-4).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::handle::Raw;
use super::lookout::Lookout;
use crate::communicator as group;
use crate::error::Error;
use crate::plan::{Method, Transport};
use crate::recorder::{Recorder, State};
use crate::stall;
use crate::tcp::{self, Call};

/// Between looks at the guard: a look costs a system call, a death may take a second to be seen.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Waits up to this long spin; longer ones sleep in between.
const SPIN_MAX: Duration = Duration::from_micros(200);
const NAP_MAX: Duration = Duration::from_millis(1);
/// How long the guard may take to explain an error of NCCL's by a death.
const GRACE: Duration = Duration::from_millis(500);
/// The watchdog's beat, and how many beats one call lasts before it counts as stuck.
const BEAT: Duration = Duration::from_millis(50);
const STUCK_BEATS: u32 = 4;

/// What a rank is doing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Doing {
    #[default]
    Nothing,
    Joining,
    Leaving,
    Operation(Call),
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doing::Nothing => f.write_str("an operation"),
            Doing::Joining => f.write_str("joining the group"),
            Doing::Leaving => f.write_str("leaving the group"),
            Doing::Operation(call) => call.fmt(f),
        }
    }
}

#[derive(Default)]
struct Current {
    /// Now, or else last.
    doing: Doing,
    started: Option<Instant>,
    limit: Duration,
    stopped: bool,
}

/// The operation under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnderWay {
    pub(super) sequence: u64,
    pub(super) call: Call,
    pub(super) waited: Duration,
}

/// Shared by the thread inside an operation, those that call `abort`, and the watchdog.
pub(super) struct Watch {
    pub(super) rank: u32,
    pub(super) raw: Raw,
    guard: Option<Arc<dyn group::Communicator>>,
    cause: OnceLock<Error>,
    /// Whether an operation has returned the cause as it is.
    said: AtomicBool,
    current: Mutex<Current>,
    /// Rung by `abort` and at the end.
    bell: Condvar,
    /// Shared with the guard, which tells other ranks where this one is.
    pub(super) recorder: Arc<Recorder>,
    pub(super) stalls: OnceLock<stall::Watch>,
    /// The last operation that no rank can have left before all had entered it.
    pub(super) met: AtomicU64,
}

impl Watch {
    pub(super) fn new(rank: u32, raw: Raw, guard: Option<Arc<dyn group::Communicator>>) -> Self {
        let recorder = Arc::new(Recorder::new());
        recorder.goes_over(Transport::Nccl);
        if let Some(guard) = guard.as_ref().and_then(|guard| guard.guard()) {
            guard.follow(&recorder);
        }
        Watch {
            rank,
            raw,
            guard,
            cause: OnceLock::new(),
            said: AtomicBool::new(false),
            current: Mutex::new(Current::default()),
            bell: Condvar::new(),
            recorder,
            stalls: OnceLock::new(),
            met: AtomicU64::new(0),
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the guard knows of the others; nothing without one.
    pub(super) fn others(&self) -> Option<tcp::Guard<'_>> {
        self.guard.as_ref()?.guard()
    }

    /// Starts the next operation, unless there is a cause (COLL-6).
    pub(super) fn begin(&self, call: Call, limit: Duration) -> Result<(), Error> {
        self.alive()?;
        let mut current = self.current();
        self.recorder.begin();
        self.recorder.record(call, Method::Nccl, State::Entered);
        (current.doing, current.started, current.limit) = (Doing::Operation(call), Some(Instant::now()), limit);
        Ok(())
    }

    /// Whether there is no cause yet.
    pub(super) fn alive(&self) -> Result<(), Error> {
        self.cause.get().map_or(Ok(()), |cause| Err(self.as_aborted(cause)))
    }

    /// As [`Watch::begin`], for what is no operation and has no number.
    pub(super) fn enter(&self, doing: Doing, limit: Duration) {
        let mut current = self.current();
        (current.doing, current.started, current.limit) = (doing, Some(Instant::now()), limit);
    }

    /// Ends the operation; an error ends the communicator too, and is explained by the first cause.
    pub(super) fn conclude(&self, result: Result<(), Error>) -> Result<(), Error> {
        let ended = result.map_err(|error| {
            let error = self.explain(error);
            self.raw.abort();
            self.at_first_hand(error)
        });
        let mut current = self.current();
        current.started = None;
        if let Doing::Operation(call) = current.doing {
            self.recorder.now(if ended.is_ok() { State::Done } else { State::Failed });
            if ended.is_ok() && tcp::meets(&call) {
                self.met.store(self.recorder.position().sequence, Ordering::SeqCst);
            }
        }
        ended
    }

    /// The first operation that ends gets the cause as it is, also where the watchdog has found it.
    fn at_first_hand(&self, error: Error) -> Error {
        match self.cause.get() {
            Some(cause) if !matches!(cause, Error::Aborted { .. }) && !self.said.swap(true, Ordering::SeqCst) => {
                cause.clone()
            }
            _ => error,
        }
    }

    /// The operation under way, if there is one.
    pub(super) fn under_way(&self) -> Option<UnderWay> {
        let current = self.current();
        let (Doing::Operation(call), Some(started)) = (current.doing, current.started) else { return None };
        Some(UnderWay { sequence: self.recorder.position().sequence, call, waited: started.elapsed() })
    }

    /// Records whom operation `sequence` waits for, while it lasts.
    pub(super) fn waits_for(&self, sequence: u64, rank: u32) {
        let current = self.current();
        if current.started.is_some() && self.recorder.position().sequence == sequence {
            self.recorder.now(State::Waiting(rank));
        }
    }

    /// The cause, or what the guard has heard.
    pub(super) fn look(&self) -> Result<(), Error> {
        if let Some(cause) = self.cause.get() {
            return Err(self.as_aborted(cause));
        }
        let Some(guard) = &self.guard else { return Ok(()) };
        guard.check().map_err(|error| self.end(error))
    }

    /// Sets the cause unless there is one, and says which holds, as an abort. What the guard did not know before, it tells the
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
        Error::Device { operation: self.current().doing.to_string(), reason: format!("{call}: {reason}") }
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
            operation: current.doing.to_string(),
            sequence: self.recorder.position().sequence,
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
        let (operation, sequence) = self.place();
        Error::Aborted { culprit, cause, operation, sequence }
    }

    /// Whom a cause is blamed on, and its words without what they were wrapped in.
    fn blame(&self, cause: &Error) -> (Option<u32>, String) {
        match cause {
            Error::Aborted { culprit, cause, .. } => (*culprit, cause.clone()),
            Error::Device { .. } => (Some(self.rank), cause.to_string()),
            other => (other.culprit(), other.to_string()),
        }
    }

    /// Words and number of what goes on now, or else went on last.
    fn place(&self) -> (String, u64) {
        (self.current().doing.to_string(), self.recorder.position().sequence)
    }

    /// Ends the group for a reason of this rank's.
    pub(super) fn abort(&self, culprit: Option<u32>, cause: &str) {
        let (operation, sequence) = self.place();
        self.end(Error::Aborted { culprit, cause: cause.to_owned(), operation, sequence });
    }

    /// Ends the watchdog.
    pub(super) fn stop(&self) {
        self.current().stopped = true;
        self.bell.notify_all();
    }

    /// The watchdog: answers for this rank and looks for those behind; ends the handle where a call has not come back for
    /// [`STUCK_BEATS`] and there is a cause to end it.
    pub(super) fn run(&self) {
        let (mut visit, mut beats, mut lookout) = (None, 0, Lookout::default());
        while !self.nap(BEAT) {
            let ended = self.look().is_err();
            lookout.look(self);
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
            if ended || self.look().is_err() {
                self.raw.abort();
            }
        }
        lookout.over(self);
    }
}
