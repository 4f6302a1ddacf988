//! When each waiting job is expected to start: one look ahead on a copy of the scheduler, off the leader's loop, for all who ask.
//!
//! ```text
//!  asked ── a look that still holds? ──yes──────────────────────────────────────> its answer
//!             └──no──> one at a time: a copy from the loop ──> a thread of its own, within a budget ──> kept
//! ```
//!
//! `OUTLOOK-1` while the scheduler stays as it is and nothing falls due that was foreseen, there is one look for all who ask.
//! `OUTLOOK-2` a look is followed by a rest of several times its cost: however often the scheduler changes, and however many
//! ask, looks take a bounded part of a processor, and copies one of the loop's time. Meanwhile the last answer is given.
//! `OUTLOOK-3` nobody gets an empty answer: what is not known says why.

use scheduler::Core;
use scheduler::foresee::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use types::{JobId, LogIndex, Timestamp};

/// For one look ahead; where it ends, later starts are not known.
const BUDGET: Duration = Duration::from_secs(1);
/// For who asks: less than a coordinator waits for the leader's explanation.
const PATIENCE: Duration = Duration::from_secs(3);
/// A look that took so long is followed by a rest of so many times that.
const REST_TIMES: u32 = 4;
/// Where so many wait a copy of the scheduler would hold up the loop for tens of milliseconds, and the budget see few starts.
pub(super) const WAITING_MAX: usize = 100_000;

/// A state of the scheduler: when it was built, and what it took and decided since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(super) built: LogIndex,
    pub(super) changes: u64,
}

/// The scheduler as it was, or why there is no copy.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(super) version: Version,
    pub(super) now: Timestamp,
    /// How long the loop was held up.
    pub(super) cost: Duration,
    pub(super) core: Result<Box<Core>, String>,
}

/// What is expected of a waiting job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    At(Timestamp),
    /// Why that is not known.
    Unknown(String),
}

/// The last look ahead, and the turn to make the next; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outlook {
    kept: Arc<Mutex<Option<Arc<Look>>>>,
    turn: Arc<Semaphore>,
    patience: Duration,
}

#[derive(Debug)]
struct Look {
    version: Version,
    from: Timestamp,
    future: Result<Future, String>,
    made: Instant,
    cost: Duration,
}

impl Outlook {
    pub(super) fn new() -> Self {
        Self { kept: Arc::default(), turn: Arc::new(Semaphore::new(1)), patience: PATIENCE }
    }

    /// Of a job that waits in this version of the scheduler. `copy` asks the loop once it is awaited, and has
    /// nothing when that does not lead.
    pub(crate) async fn expected(
        &self,
        job: JobId,
        (version, now): (Version, Timestamp),
        copy: impl std::future::Future<Output = Option<Copied>>,
    ) -> Expected {
        match tokio::time::timeout(self.patience, self.look(job, version, now, copy)).await {
            Ok(Ok(look)) => look.expected(job),
            Ok(Err(why)) => Expected::Unknown(why.to_owned()),
            Err(_) => Expected::Unknown(format!(
                "looks ahead take so long at the moment that none was made within {:?}; ask again",
                self.patience
            )),
        }
    }

    async fn look(
        &self,
        job: JobId,
        version: Version,
        now: Timestamp,
        copy: impl std::future::Future<Output = Option<Copied>>,
    ) -> Result<Arc<Look>, &'static str> {
        let holds =
            |look: &Arc<Look>| look.holds(version, now) || (look.rests_until() > Instant::now() && look.knows(job));
        if let Some(look) = self.kept().filter(holds) {
            return Ok(look);
        }
        let turn = self.turn.clone().acquire_owned().await.map_err(|_| "this coordinator ends")?;
        // Another may have made it meanwhile.
        if let Some(look) = self.kept() {
            if holds(&look) {
                return Ok(look);
            }
            tokio::time::sleep_until(look.rests_until()).await;
        }
        let copied = copy.await.ok_or("the leader is changing")?;
        let kept = self.kept.clone();
        // Who asked may lose patience: the look goes on, and is there for the next.
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let look = Arc::new(Look::make(copied));
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(look.clone());
            look
        });
        made.await.map_err(|_| "the look ahead did not come to its end")
    }

    fn kept(&self) -> Option<Arc<Look>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Look {
    fn make(copied: Copied) -> Self {
        let begun = Instant::now();
        let goes_on = || begun.elapsed() < BUDGET;
        let astray = |error| format!("the look ahead went astray: {error}");
        let future = copied.core.and_then(|core| core.look_ahead(copied.now, goes_on).map_err(astray));
        let cost = copied.cost + begun.elapsed();
        Self { version: copied.version, from: copied.now, future, made: Instant::now(), cost }
    }

    /// Nothing has happened since, neither a fact nor what was foreseen.
    fn holds(&self, version: Version, now: Timestamp) -> bool {
        let next = self.future.as_ref().ok().and_then(|future| future.next);
        self.version == version && next.is_none_or(|next| now < next)
    }

    fn rests_until(&self) -> Instant {
        self.made + self.cost * REST_TIMES
    }

    fn knows(&self, job: JobId) -> bool {
        self.future.as_ref().map_or(true, |future| future.starts.contains_key(&job) || future.left.contains(&job))
    }

    fn expected(&self, job: JobId) -> Expected {
        let future = match &self.future {
            Ok(future) => future,
            Err(why) => return Expected::Unknown(why.clone()),
        };
        if let Some(at) = future.starts.get(&job) {
            return Expected::At(*at);
        }
        Expected::Unknown(match (future.left.contains(&job), future.is_cut) {
            (true, true) => format!(
                "a look ahead of {} s saw the next {}, in which {} other jobs start",
                BUDGET.as_secs(),
                future.until.since(self.from),
                future.starts.len()
            ),
            (true, false) => "nothing that is foreseen starts it, not even when all that runs has ended".to_owned(),
            (false, _) => "it does not wait any more".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
