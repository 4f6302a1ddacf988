//! Where in a stream begins and ends what a reader wants who asks by time: found in the stream of times beside it, by halving.
//!
//! ```text
//!  times   | 10:00 0 | 10:05 4,100 | 10:20 9,000 |      entries: when, and how long the stream was
//!  stream  [.........4,100.........9,000.........]
//!            since 10:07: from 4,100 on     until 10:07: to 9,000
//! ```
//!
//! What came before an entry's time stands before its offset, so that nothing is left out that belongs to the window; what stands between
//! two entries is there whole. Lines are whole too. An attempt that was over before the window, or came after it, is not read at all.

use cluster_state::Attempt;
use stores::streams::{StreamError, StreamName, StreamStore};
use tonic::Status;
use types::{Millis, StreamKind, StreamTime, Timestamp};

/// Looked for the end of a line at most.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The leader's clock says when attempts begin and end, the workers' when lines come: they may differ by so much.
const CLOCKS_APART_MAX: Millis = Millis(60_000);

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Window {
    /// Of a request, where 0 says nothing.
    pub(super) fn of(since_ms: u64, until_ms: u64) -> Result<Option<Self>, Status> {
        let time = |ms: u64| (ms > 0).then_some(Timestamp(ms));
        match (time(since_ms), time(until_ms)) {
            (None, None) => Ok(None),
            (Some(since), Some(until)) if since > until => {
                Err(Status::invalid_argument("what is asked for ends before it begins"))
            }
            (since, until) => Ok(Some(Self { since, until })),
        }
    }

    pub(super) fn has_end(&self) -> bool {
        self.until.is_some()
    }

    /// Something of this attempt may lie in it.
    pub(super) fn meets(&self, attempt: &Attempt) -> bool {
        let apart = CLOCKS_APART_MAX.0;
        let is_over = |ended: Timestamp| self.since.is_some_and(|since| ended.0.saturating_add(apart) < since.0);
        let is_later = self.until.is_some_and(|until| attempt.placed.0 > until.0.saturating_add(apart));
        !is_later && !attempt.ended.is_some_and(is_over)
    }

    /// The offset of the first byte wanted.
    pub(super) fn begin(&self, store: &StreamStore, name: &StreamName) -> Result<u64, StreamError> {
        let Some(since) = self.since else { return Ok(0) };
        let times = Times::of(store, name)?;
        let after = times.first(|entry| entry.time > since)?;
        let Some(before) = after.checked_sub(1) else { return Ok(0) };
        let offset = times.entry(before)?.and_then(|entry| entry.length(name.kind)).unwrap_or(0);
        let from = offset.saturating_sub(LINE_BYTES_MAX as u64);
        let bytes = store.read(name, from, (offset - from) as usize)?;
        let is_whole = bytes.len() as u64 == offset - from;
        let line = bytes.iter().rposition(|byte| *byte == b'\n').map(|at| from + at as u64 + 1);
        Ok(match line {
            Some(line) if is_whole => line,
            None if is_whole && from == 0 => 0,
            // Not here yet, or no line.
            _ => offset,
        })
    }

    /// The offset of the first byte that is not wanted any more; none = all that there is.
    pub(super) fn end(&self, store: &StreamStore, name: &StreamName) -> Result<Option<u64>, StreamError> {
        let Some(until) = self.until else { return Ok(None) };
        let times = Times::of(store, name)?;
        let after = times.first(|entry| entry.time >= until)?;
        let Some(offset) = times.entry(after)?.and_then(|entry| entry.length(name.kind)) else { return Ok(None) };
        // The line that its last byte stands in, to the end.
        let Some(last) = offset.checked_sub(1) else { return Ok(Some(0)) };
        let bytes = store.read(name, last, LINE_BYTES_MAX)?;
        let line = bytes.iter().position(|byte| *byte == b'\n').map(|at| last + at as u64 + 1);
        Ok(Some(line.unwrap_or(offset)))
    }
}

/// The entries beside one stream.
struct Times<'a> {
    store: &'a StreamStore,
    name: StreamName,
    count: u64,
}

impl<'a> Times<'a> {
    fn of(store: &'a StreamStore, name: &StreamName) -> Result<Self, StreamError> {
        let name = StreamName { kind: StreamKind::Times, ..*name };
        Ok(Self { store, name, count: store.length(&name)? / StreamTime::BYTES as u64 })
    }

    /// The number of the first entry of which this is so, and then of all behind it; their count, if there is none.
    fn first(&self, is_so: impl Fn(&StreamTime) -> bool) -> Result<u64, StreamError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)?.is_none_or(|entry| is_so(&entry)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    fn entry(&self, number: u64) -> Result<Option<StreamTime>, StreamError> {
        if number >= self.count {
            return Ok(None);
        }
        let bytes = self.store.read(&self.name, number * StreamTime::BYTES as u64, StreamTime::BYTES)?;
        Ok(bytes[..].try_into().ok().map(StreamTime::decode))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use stores::streams::StreamLimits;
    use types::{AttemptNumber, JobId, RankIndex, Token};

    const NAME: StreamName =
        StreamName { job: JobId(1), attempt: AttemptNumber(1), rank: RankIndex(0), kind: StreamKind::Stderr };
    const TEXT: &[u8] = b"one\ntwo\nthree\nfour\n";

    /// A stream with entries at the given times and lengths.
    fn store(entries: &[(u64, u64)]) -> (tempfile::TempDir, StreamStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = StreamStore::open(&folder.path().join("streams"), StreamLimits::default()).unwrap();
        store.append(&NAME, Token(1), 0, TEXT).unwrap();
        let entry =
            |(time, length): &(u64, u64)| StreamTime { time: Timestamp(*time), lengths: [7, *length, 9] }.encode();
        let times: Vec<u8> = entries.iter().flat_map(entry).collect();
        store.append(&StreamName { kind: StreamKind::Times, ..NAME }, Token(1), 0, &times).unwrap();
        store.flush().unwrap();
        (folder, store)
    }

    fn cut(store: &StreamStore, since: u64, until: u64) -> &'static str {
        let window = Window::of(since, until).unwrap().unwrap();
        let begin = window.begin(store, &NAME).unwrap() as usize;
        let end = window.end(store, &NAME).unwrap().map_or(TEXT.len(), |end| end as usize);
        std::str::from_utf8(&TEXT[begin..end.max(begin)]).unwrap()
    }

    #[test]
    fn what_was_written_in_the_window_is_in_it_in_whole_lines() {
        // "one" before 10, "two" and half of "three" before 20, the rest before 30.
        let (_folder, store) = store(&[(10, 4), (20, 10), (30, 19)]);
        for (since, until, wanted) in [
            (5, 0, "one\ntwo\nthree\nfour\n"),
            (10, 0, "two\nthree\nfour\n"),
            (19, 0, "two\nthree\nfour\n"),
            (20, 0, "three\nfour\n"),
            (30, 0, ""),
            (99, 0, ""),
            (0, 5, "one\n"),
            (0, 10, "one\n"),
            (0, 11, "one\ntwo\nthree\n"),
            (0, 20, "one\ntwo\nthree\n"),
            (0, 31, "one\ntwo\nthree\nfour\n"),
            (11, 12, "two\nthree\n"),
            (25, 26, "three\nfour\n"),
        ] {
            assert_eq!(cut(&store, since, until), wanted, "{since} to {until}");
        }
    }

    #[test]
    fn without_entries_all_of_it_is_in_the_window_and_one_that_ends_before_it_begins_is_a_fault() {
        let (_folder, store) = store(&[]);
        assert_eq!(cut(&store, 10, 20).as_bytes(), TEXT);
        assert_eq!(Window::of(0, 0).unwrap(), None);
        assert_eq!(Window::of(20, 10).unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn entries_are_found_among_many_without_reading_all() {
        let entries: Vec<(u64, u64)> = (0..8_000).map(|n| (n * 10, n)).collect();
        let (_folder, store) = store(&entries);
        let times = Times::of(&store, &NAME).unwrap();
        for number in [0, 1, 4_999, 7_999] {
            let looked = std::cell::Cell::new(0);
            let found = times.first(|entry| {
                looked.set(looked.get() + 1);
                entry.time.0 >= number * 10
            });
            assert_eq!(found.unwrap(), number);
            assert!(looked.get() <= 13, "{} were read", looked.get());
        }
    }
}
