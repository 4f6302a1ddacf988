//! Guessing is slow: an address whose tokens were unknown too often is answered without a look for a while.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use tonic::Status;
use types::Timestamp;

/// Unknown tokens of one address within a window.
const FAILURES_MAX: u32 = 20;
const WINDOW_MS: u64 = 10_000;
/// Addresses that are remembered; past this the table begins anew.
const ADDRESSES_MAX: usize = 10_000;

/// Who failed how often, by address. Tokens that are known are never held up by it.
#[derive(Default)]
pub(super) struct Strangers {
    failures: Mutex<BTreeMap<Option<IpAddr>, (Timestamp, u32)>>,
}

impl Strangers {
    /// Before an unknown token is looked for in earnest.
    pub(super) fn admit(&self, from: Option<IpAddr>, now: Timestamp) -> Result<(), Status> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.get(&from) {
            Some((since, count)) if *count >= FAILURES_MAX && now.0 < since.0 + WINDOW_MS => {
                Err(Status::resource_exhausted("too many unknown tokens came from this address: try again in 10 s"))
            }
            _ => Ok(()),
        }
    }

    /// It was unknown.
    pub(super) fn failed(&self, from: Option<IpAddr>, now: Timestamp) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES_MAX {
            failures.clear();
        }
        let entry = failures.entry(from).or_insert((now, 0));
        if now.0 >= entry.0.0 + WINDOW_MS {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_guesses_waits_and_others_do_not() {
        let (strangers, here, there) = (Strangers::default(), "10.0.0.1".parse().ok(), "10.0.0.2".parse().ok());
        for _ in 0..FAILURES_MAX {
            assert!(strangers.admit(here, Timestamp(5)).is_ok());
            strangers.failed(here, Timestamp(5));
        }
        assert!(strangers.admit(here, Timestamp(6)).is_err());
        assert!(strangers.admit(there, Timestamp(6)).is_ok());
        assert!(strangers.admit(here, Timestamp(5 + WINDOW_MS)).is_ok());
    }
}
