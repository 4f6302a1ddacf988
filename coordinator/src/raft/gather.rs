//! When a batch is large enough to go: an entry costs the same whatever is in it, so callers that take turns should share one.
//!
//! A caller that has been answered often comes back at once (a client that submits one job after the other). Were the next
//! entry begun without it, callers would fall into groups that each pay for an entry of their own. So after an answer to
//! many, the next batch waits until about as many are there again, for at most half the time that the last one took; as
//! PostgreSQL's `commit_delay` does when `commit_siblings` are seen. Where they do not come back it stops to wait for a while.
//! Pure: times come in.

use std::time::Duration;
use tokio::time::Instant;

/// Commands below which nobody is waited for: a lone client is not held up.
const COMPANY_MIN: usize = 8;
/// With an entry in flight, the next goes at this many commands: the work of one then hides the flush of the other.
const SECOND_MIN: usize = 64;
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_millis(4);
/// Batches that go at once after callers did not come back.
const WITHOUT: u32 = 16;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// So many commands are expected, until then.
    wait: Option<(usize, Instant)>,
    /// Batches left that wait for nobody.
    without: u32,
}

impl Gather {
    /// When to look again though nothing else happens.
    pub(super) fn until(&self) -> Option<Instant> {
        self.wait.map(|(_, until)| until)
    }

    /// A batch of `answered` commands that began then was committed now, while `waiting` others are here.
    pub(super) fn answered(&mut self, answered: usize, waiting: usize, began: Instant, now: Instant) {
        let expected = answered + waiting;
        if self.without > 0 {
            self.without -= 1;
        } else if expected >= COMPANY_MIN {
            let wait = (now.saturating_duration_since(began) / 2).min(WAIT_MAX);
            self.wait = Some((expected, now + wait));
        }
    }

    /// True when the next batch goes now.
    pub(super) fn is_enough(&mut self, waiting: usize, in_flight: usize, now: Instant) -> bool {
        if waiting == 0 || (in_flight > 0 && waiting < SECOND_MIN) {
            return false;
        }
        let Some((expected, until)) = self.wait else { return true };
        // The last few may have ended, or be slow: not worth the others' time.
        let is_enough = waiting >= expected - expected / 8;
        if !is_enough && now < until {
            return false;
        }
        self.wait = None;
        if waiting < expected / 2 {
            self.without = WITHOUT;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_millis(6);

    #[test]
    fn a_lone_client_is_never_held_up() {
        let (mut gather, now) = (Gather::default(), Instant::now());
        for _ in 0..100 {
            assert!(gather.is_enough(1, 0, now));
            gather.answered(1, 0, now, now + ROUND);
            assert_eq!(gather.until(), None);
        }
        assert!(!gather.is_enough(0, 0, now), "nothing to send");
    }

    #[test]
    fn those_who_were_just_answered_are_waited_for() {
        let (mut gather, now) = (Gather::default(), Instant::now());
        assert!(gather.is_enough(16, 0, now));
        assert!(!gather.is_enough(16, 1, now), "a small one waits for the one in flight");
        assert!(gather.is_enough(64, 1, now), "a large one does not");
        gather.answered(16, 16, now, now + ROUND);
        let now = now + ROUND;
        assert!(!gather.is_enough(16, 0, now));
        assert!(gather.is_enough(28, 0, now), "all but the last few are back");
        gather.answered(32, 0, now, now + ROUND);
        assert!(!gather.is_enough(20, 0, now + ROUND));
        assert!(gather.is_enough(20, 0, now + ROUND + ROUND / 2), "half a round is the end");
    }

    #[test]
    fn callers_who_do_not_come_back_are_not_waited_for_again_soon() {
        let (mut gather, mut now) = (Gather::default(), Instant::now());
        let mut waits = 0;
        for _ in 0..170 {
            gather.answered(20, 2, now, now + ROUND);
            now += ROUND;
            if !gather.is_enough(2, 0, now) {
                waits += 1;
                now += WAIT_MAX;
                assert!(gather.is_enough(2, 0, now));
            }
        }
        assert_eq!(waits, 10);
    }
}
