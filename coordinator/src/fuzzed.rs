//! What fuzzers call of a coordinator: readers of its files and of others' messages, behind checksums that nobody guesses.
//!
//! Each takes any bytes; it panics only when something was taken that does not come out again as it went in. Those who do so stand
//! beside what they call, in files of this name.

pub use crate::api::metrics::fuzzed::metric_lines;
pub use crate::raft::wire::fuzzed::{call, calls};
pub use crate::store::fuzzed::{header, headers, journal, journals, log, logs, snapshot, snapshots};

/// Bytes of a fuzzer that are taken from the front.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    /// The next ones; none when there are not so many.
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// As many as the two bytes before them say; all that is left when there are fewer.
    pub(crate) fn part(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(u16::from_le_bytes(*self.take(2)?.first_chunk()?));
        self.take(length.min(self.0.len()))
    }
}
