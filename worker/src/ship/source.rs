//! One stream of one rank on its way: how far each coordinator has it, what is sent next, what a majority has. Pure.

use std::collections::BTreeMap;

/// Bytes of one stream that may be on their way to one coordinator: enough to hide a flush, few enough that other streams
/// get their turn.
const IN_FLIGHT_BYTES_MAX: u64 = 1 << 20;

/// How one coordinator stands with this stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct There {
    /// It has confirmed every byte before this.
    acknowledged: u64,
    /// Everything before this is sent.
    sent: u64,
    /// Appends without an answer.
    in_flight: u32,
    /// It takes nothing more of this stream, for good: an older token, or a limit.
    refused: bool,
    /// It lacks bytes that are gone here and gets them from the others; nothing is sent until it is asked again.
    behind: bool,
    /// It was behind: it is asked with one byte, or none where none is left here, until it has caught up.
    asking: bool,
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Bytes in the spool.
    pub(super) length: u64,
    /// Bytes before this are on a majority, as far as the spool remembers.
    pub(super) safe: u64,
    /// Bytes before this are no longer in the spool.
    pub(super) released: u64,
    there: BTreeMap<String, There>,
}

/// What to send next to one coordinator; 0 bytes are a question how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) offset: u64,
    pub(super) bytes_max: u64,
}

impl Source {
    /// A connection is new: what was on its way is lost. Sending goes on from what is known to be there, or is still
    /// here; the answer to the first append tells where the coordinator really stands. With nothing to append it is asked.
    pub(super) fn connected(&mut self, coordinator: &str) {
        let (released, length) = (self.released, self.length);
        let there = self.there.entry(coordinator.to_owned()).or_default();
        let sent = there.acknowledged.max(released);
        let asking = sent >= length && there.acknowledged < sent;
        *there = There { sent, in_flight: 0, behind: false, asking, ..*there };
    }

    /// Nothing when all is sent to this coordinator, or enough is on its way.
    pub(super) fn next(&self, coordinator: &str, chunk_bytes_max: u64) -> Option<Next> {
        let there = self.there.get(coordinator).filter(|there| !there.refused && !there.behind)?;
        // Released while its answers are on their way: they will tell where it stands.
        if there.sent < self.released {
            return None;
        }
        if there.asking && there.in_flight == 0 && there.sent == self.length && there.acknowledged < there.sent {
            return Some(Next { offset: there.sent, bytes_max: 0 });
        }
        let on_the_way = there.sent.saturating_sub(there.acknowledged.max(self.released));
        let (window, chunk) = if there.asking { (1, 1) } else { (IN_FLIGHT_BYTES_MAX, chunk_bytes_max) };
        let more = there.sent < self.length && on_the_way < window;
        more.then(|| Next { offset: there.sent, bytes_max: chunk.min(self.length - there.sent) })
    }

    /// An append went out; everything before `end` is sent.
    pub(super) fn sent(&mut self, coordinator: &str, end: u64) {
        if let Some(there) = self.there.get_mut(coordinator) {
            there.in_flight += 1;
            there.sent = end;
        }
    }

    /// The coordinator says how far it is.
    pub(super) fn acknowledged(&mut self, coordinator: &str, length: u64) {
        let Some(there) = self.there.get_mut(coordinator) else { return };
        there.in_flight = there.in_flight.saturating_sub(1);
        there.acknowledged = length;
        if there.in_flight == 0 {
            // Everything is answered: what is not there now was not taken.
            there.sent = length;
            there.behind = length < self.released;
            there.asking &= there.behind;
        }
    }

    /// Asks a coordinator that is behind again, by sending it a byte of what is still here, if anything is: its answer tells how far it has
    /// come, and what it does not take makes it ask the others.
    pub(super) fn ask_again(&mut self) {
        for there in self.there.values_mut().filter(|there| there.behind && there.in_flight == 0) {
            (there.behind, there.asking) = (false, true);
            there.sent = there.acknowledged.max(self.released);
        }
    }

    /// The coordinator takes nothing more of this stream.
    pub(super) fn refused(&mut self, coordinator: &str) {
        if let Some(there) = self.there.get_mut(coordinator) {
            there.refused = true;
        }
    }

    /// What `needed` of these coordinators have. One that refused counts as having all: it will not change its mind, and
    /// keeping the bytes would keep them for ever. One that is behind counts with what it has and no more.
    pub(super) fn on_a_majority(&self, coordinators: &[String], needed: usize) -> u64 {
        let mut lengths: Vec<u64> = coordinators
            .iter()
            .map(|coordinator| match self.there.get(coordinator) {
                Some(there) if there.refused => self.length,
                Some(there) => there.acknowledged,
                None => 0,
            })
            .collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        needed.checked_sub(1).and_then(|at| lengths.get(at)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const A: &str = "a";

    fn source(length: u64) -> Source {
        let mut source = Source { length, ..Source::default() };
        source.connected(A);
        source
    }

    fn send(source: &mut Source) -> (u64, u64) {
        let next = source.next(A, 100).unwrap();
        source.sent(A, next.offset + next.bytes_max);
        (next.offset, next.bytes_max)
    }

    #[test]
    fn a_stream_is_sent_in_order_and_once() {
        let mut source = source(250);
        assert_eq!([send(&mut source), send(&mut source), send(&mut source)], [(0, 100), (100, 100), (200, 50)]);
        for length in [100, 200, 250] {
            assert_eq!(source.next(A, 100), None);
            source.acknowledged(A, length);
        }
        assert_eq!(source.next(A, 100), None);
        assert_eq!(source.on_a_majority(&[A.into()], 1), 250);
    }

    #[test]
    fn what_was_not_taken_is_sent_again_once() {
        let mut source = source(200);
        send(&mut source);
        send(&mut source);
        // The first append was lost on a full disk, so the second did not fit on.
        source.acknowledged(A, 0);
        assert_eq!(source.next(A, 100), None, "the second answer is still to come");
        source.acknowledged(A, 0);
        assert_eq!(send(&mut source), (0, 100));
    }

    #[test]
    fn a_coordinator_that_is_behind_is_met_where_it_stands() {
        let mut source = source(300);
        send(&mut source);
        source.acknowledged(A, 100);
        // It came back with an older disk.
        source.connected(A);
        assert_eq!(send(&mut source), (100, 100));
        source.acknowledged(A, 50);
        assert_eq!(send(&mut source), (50, 100));
    }

    #[test]
    fn a_new_connection_sends_again_what_was_on_its_way() {
        let mut source = source(200);
        send(&mut source);
        source.acknowledged(A, 100);
        send(&mut source);
        source.connected(A);
        assert_eq!(send(&mut source), (100, 100));
    }

    #[test]
    fn no_more_than_the_window_is_on_its_way() {
        let mut source = source(u64::MAX);
        let mut sent = 0;
        while source.next(A, 100_000).is_some() {
            sent += 100_000;
            source.sent(A, sent);
        }
        assert!((IN_FLIGHT_BYTES_MAX..IN_FLIGHT_BYTES_MAX + 100_000).contains(&sent));
    }

    #[test]
    fn a_majority_is_what_most_have() {
        let coordinators = ["a", "b", "c"].map(str::to_owned);
        let mut source = Source { length: 100, ..Source::default() };
        for (coordinator, length) in [("a", 100), ("b", 60)] {
            source.connected(coordinator);
            source.acknowledged(coordinator, length);
        }
        assert_eq!(source.on_a_majority(&coordinators, 2), 60);
        source.connected("c");
        source.refused("c");
        assert_eq!(source.on_a_majority(&coordinators, 2), 100);
        assert_eq!(source.on_a_majority(&[], 1), 0);
    }

    #[test]
    fn a_coordinator_that_lacks_released_bytes_is_left_to_its_peers() {
        let mut source = Source { length: 200, safe: 150, released: 100, ..Source::default() };
        source.connected(A);
        send(&mut source);
        source.acknowledged(A, 40);
        assert_eq!(source.next(A, 100), None);
        // It does not count for more than it has, or nobody might have the rest.
        assert_eq!(source.on_a_majority(&[A.into()], 1), 40);
        source.ask_again();
        assert_eq!(send(&mut source), (100, 1));
        assert_eq!(source.next(A, 100), None, "one question at a time");
        // Its peers have given it what is gone here.
        source.acknowledged(A, 101);
        assert_eq!(send(&mut source), (101, 99));
    }

    #[test]
    fn a_coordinator_is_asked_though_nothing_is_left_to_send() {
        let mut source = Source { length: 200, safe: 200, released: 200, ..Source::default() };
        source.connected(A);
        assert_eq!(send(&mut source), (200, 0));
        source.acknowledged(A, 40);
        assert_eq!(source.next(A, 100), None, "not before it is time to ask");
        for behind in [40, 150] {
            source.ask_again();
            assert_eq!(send(&mut source), (200, 0));
            assert_eq!(source.next(A, 100), None, "one question at a time");
            source.acknowledged(A, behind);
        }
        source.ask_again();
        send(&mut source);
        source.acknowledged(A, 200);
        source.ask_again();
        assert_eq!(source.next(A, 100), None, "it has caught up");
    }

    #[test]
    fn nothing_is_read_that_is_released_meanwhile() {
        let mut source = source(300);
        send(&mut source);
        source.released = 200;
        assert_eq!(source.next(A, 100), None);
        source.acknowledged(A, 100);
        assert_eq!(source.next(A, 100), None);
    }
}
