//! What one user may ask of one coordinator: calls in a second, calls at once, open streams; so that a client that floods is
//! told to wait, and everybody else is served.
//!
//! The rate is a token bucket (Turner, "New directions in communications", 1986): full it holds two seconds' worth. Nodes have no
//! quota: their calls are the cluster's own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// A bucket holds what flows in within so many seconds.
const BURST_S: f64 = 2.0;
/// Between two records of one user's refusals.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// Users remembered; past this those who ask for nothing now are forgotten.
const USERS_MAX: usize = 10_000;

/// The bounds, for each user at each coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Calls in a second; 0 = no bound.
    pub(crate) calls_per_second: u32,
    /// Calls that are being answered at once.
    pub(crate) calls_at_once: u32,
    /// Answers that stream at once.
    pub(crate) streams_at_once: u32,
}

impl Quota {
    /// Of so many calls in a second.
    pub(crate) fn of(calls_per_second: u32) -> Self {
        Self { calls_per_second, calls_at_once: 1_024, streams_at_once: 10_000 }
    }
}

/// Who asks for how much now. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Quotas {
    quota: Quota,
    users: Arc<Mutex<BTreeMap<String, Usage>>>,
}

#[derive(Debug)]
struct Usage {
    /// Calls that may be made at once now.
    bucket: f64,
    filled: Instant,
    calls: u32,
    streams: u32,
    told: Option<Instant>,
}

/// A call that is let through; dropped when it is over.
#[derive(Debug)]
pub(super) struct Permit {
    quotas: Quotas,
    user: String,
    is_stream: bool,
}

/// Too much.
#[derive(Debug)]
pub(super) struct Exceeded {
    pub(super) status: Status,
    /// True when nothing was said of this user for a while.
    pub(super) is_news: bool,
}

impl Quotas {
    pub(super) fn new(quota: Quota) -> Self {
        Self { quota, users: Arc::default() }
    }

    /// Lets a call of this user through, or says what there is too much of.
    pub(super) fn admit(&self, user: &str, is_stream: bool, now: Instant) -> Result<Permit, Exceeded> {
        let Quota { calls_per_second, calls_at_once, streams_at_once } = self.quota;
        let full = f64::from(calls_per_second) * BURST_S;
        let mut users = self.lock();
        if !users.contains_key(user) && users.len() >= USERS_MAX {
            users.retain(|_, usage| usage.calls + usage.streams > 0);
        }
        let fresh = || Usage { bucket: full, filled: now, calls: 0, streams: 0, told: None };
        let usage = users.entry(user.to_owned()).or_insert_with(fresh);
        let flown = now.saturating_duration_since(usage.filled).as_secs_f64() * f64::from(calls_per_second);
        usage.bucket = (usage.bucket + flown).min(full);
        usage.filled = now;
        let too_much = match () {
            () if calls_per_second > 0 && usage.bucket < 1.0 => {
                Some(format!("more than {calls_per_second} calls a second"))
            }
            () if is_stream && usage.streams >= streams_at_once => Some(format!("{streams_at_once} open streams")),
            () if !is_stream && usage.calls >= calls_at_once => Some(format!("{calls_at_once} calls at once")),
            () => None,
        };
        if let Some(what) = too_much {
            let is_news = usage.told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
            if is_news {
                usage.told = Some(now);
            }
            let text = format!("{user} has {what} at this coordinator, which is the most: wait and try again");
            return Err(Exceeded { status: Status::resource_exhausted(text), is_news });
        }
        usage.bucket -= 1.0;
        *(if is_stream { &mut usage.streams } else { &mut usage.calls }) += 1;
        Ok(Permit { quotas: self.clone(), user: user.to_owned(), is_stream })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Usage>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(usage) = self.quotas.lock().get_mut(&self.user) {
            let open = if self.is_stream { &mut usage.streams } else { &mut usage.calls };
            *open = open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_too_often_waits_and_others_do_not() {
        let quotas = Quotas::new(Quota::of(10));
        let begun = Instant::now();
        for _ in 0..20 {
            quotas.admit("sam", false, begun).unwrap();
        }
        let first = quotas.admit("sam", false, begun).unwrap_err();
        assert!(first.is_news && first.status.message().contains("10 calls a second"), "{}", first.status);
        assert!(!quotas.admit("sam", false, begun).unwrap_err().is_news, "said once");
        quotas.admit("ana", false, begun).unwrap();
        let later = begun + Duration::from_millis(1_150);
        let answers: Vec<_> = (0..100).map(|_| quotas.admit("sam", false, later).map(drop)).collect();
        let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert_eq!(answers.len() - refused.len(), 11);
        assert_eq!(refused.iter().filter(|exceeded| exceeded.is_news).count(), 1, "a second later it is news");
        let unbound = Quotas::new(Quota::of(0));
        assert!((0..1_000).all(|_| unbound.admit("sam", false, begun).is_ok()));
    }

    #[test]
    fn calls_and_streams_count_while_they_are_open() {
        let quotas = Quotas::new(Quota { calls_per_second: 0, calls_at_once: 2, streams_at_once: 1 });
        let now = Instant::now();
        let calls = [quotas.admit("sam", false, now).unwrap(), quotas.admit("sam", false, now).unwrap()];
        assert!(quotas.admit("sam", false, now).unwrap_err().status.message().contains("2 calls at once"));
        let stream = quotas.admit("sam", true, now).unwrap();
        assert!(quotas.admit("sam", true, now).unwrap_err().status.message().contains("1 open streams"));
        drop(calls);
        let again = quotas.admit("sam", false, now).unwrap();
        drop((stream, again));
        assert!(quotas.admit("sam", true, now).is_ok());
    }
}
