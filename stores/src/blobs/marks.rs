//! Which blobs may be removed: those that nothing names, a while after that was first seen, unless somebody asked for one since.
//!
//! ```text
//!  unnamed ──> marked ──(grace)──> removed
//!                │ claimed (somebody was told that it is stored) or named
//!                └──> unmarked: from the beginning
//! ```
//!
//! Promised (`BLOB-1`): what is named is never removed; what somebody was told is stored stays for the whole grace, so that they
//! can name it. No wall clock is asked, and a restart begins with no marks: both only make it later.

use std::collections::BTreeMap;
use std::time::Duration;
use types::ContentHash;

/// Blobs that nothing named when they were looked at, and since when.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks(BTreeMap<ContentHash, Duration>);

impl Marks {
    /// Somebody counts on it from now on.
    pub(super) fn claim(&mut self, hash: &ContentHash) {
        self.0.remove(hash);
    }

    /// Looks at a stored blob: is it to be removed now? Times are of a clock that never goes back: `now`, and when it was that
    /// what is named was read off the tables. Whoever was told of the blob since then must have the whole grace too.
    pub(super) fn judge(
        &mut self,
        hash: ContentHash,
        is_named: bool,
        read: Duration,
        now: Duration,
        grace: Duration,
    ) -> bool {
        if is_named {
            self.0.remove(&hash);
            return false;
        }
        let since = *self.0.entry(hash).or_insert(now);
        let is_due = since < read && read.saturating_sub(since) >= grace;
        if is_due {
            self.0.remove(&hash);
        }
        is_due
    }

    /// How many wait for their end.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const GRACE: Duration = Duration::from_secs(10);

    fn hash(n: u8) -> ContentHash {
        ContentHash([n; 32])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_nothing_names_goes_after_its_grace_and_what_is_claimed_begins_again() {
        let mut marks = Marks::default();
        let mut judge = |claimed: bool, is_named: bool, seconds: u64| {
            if claimed {
                marks.claim(&hash(1));
            }
            marks.judge(hash(1), is_named, at(seconds), at(seconds), GRACE)
        };
        assert!(!judge(false, false, 100));
        assert!(!judge(false, false, 109));
        assert!(!judge(true, false, 110), "claimed: from now on");
        assert!(!judge(false, false, 119));
        assert!(!judge(false, true, 120), "named meanwhile");
        assert!(!judge(false, false, 130), "and no longer: from the beginning");
        assert!(judge(false, false, 140));
        assert_eq!(marks.count(), 0);
        assert!(!marks.judge(hash(2), false, at(1), at(1), Duration::ZERO), "never at first sight");
        assert!(!marks.judge(hash(3), false, at(20), at(29), GRACE));
        assert!(!marks.judge(hash(3), false, at(38), at(45), GRACE), "since 29, as seen at 38");
        assert!(marks.judge(hash(3), false, at(39), at(45), GRACE));
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Somebody uploads it, or asks whether it is there and uploads it if not.
        Upload(u8),
        /// A job that names it is accepted, if its submitter was quick.
        Name(u8),
        /// Nothing names it any more.
        Unname(u8),
        Wait(u64),
        /// Reads what is named, and some time later removes; another blob is asked for meanwhile.
        Sweep(u64, u8),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4_u8).prop_map(Step::Upload),
            3 => (0..4_u8).prop_map(Step::Name),
            1 => (0..4_u8).prop_map(Step::Unname),
            3 => (1..8_u64).prop_map(Step::Wait),
            6 => (0..3_u64, 0..8_u8).prop_map(|(later, asked)| Step::Sweep(later, asked)),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        /// BLOB-1, and that what is neither named nor claimed goes when it is looked at often enough.
        #[test]
        fn what_is_named_stays_and_the_rest_goes(steps in proptest::collection::vec(step(), 1..80)) {
            let (mut marks, mut now) = (Marks::default(), 1_u64);
            let (mut stored, mut named) = (BTreeSet::new(), BTreeSet::new());
            let mut claimed: BTreeMap<u8, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Upload(n) => {
                        marks.claim(&hash(n));
                        stored.insert(n);
                        claimed.insert(n, now);
                    }
                    Step::Name(n) if claimed.get(&n).is_some_and(|told| now - told < GRACE.as_secs()) => {
                        named.insert(n);
                    }
                    Step::Name(_) => {}
                    Step::Unname(n) => drop(named.remove(&n)),
                    Step::Wait(seconds) => now += seconds,
                    Step::Sweep(later, asked) => {
                        let (read, seen) = (now, named.clone());
                        // Jobs are accepted while it looks: of what was claimed less than a grace ago.
                        named.extend(claimed.iter().filter(|(_, told)| now - **told < GRACE.as_secs()).map(|(n, _)| *n));
                        now += later;
                        if stored.contains(&asked) {
                            marks.claim(&hash(asked));
                            claimed.insert(asked, now);
                        }
                        let due: Vec<u8> = stored.iter().copied()
                            .filter(|n| marks.judge(hash(*n), seen.contains(n), at(read), at(now), GRACE))
                            .collect();
                        stored.retain(|n| !due.contains(n));
                    }
                    Step::Restart => marks = Marks::default(),
                }
                prop_assert!(named.is_subset(&stored), "BLOB-1: {named:?} of {stored:?}");
            }
            for _ in 0..3 {
                now += GRACE.as_secs();
                stored.retain(|n| !marks.judge(hash(*n), named.contains(n), at(now), at(now), GRACE));
            }
            prop_assert_eq!(stored, named);
        }
    }
}
