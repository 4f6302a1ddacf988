//! Where an ended attempt's streams end, as its ranks' ends recorded it; and what of that this disk lacks.

use super::follow::Selection;
use cluster_state::Attempt;
use std::collections::BTreeMap;
use stores::streams::{StreamError, StreamLimits, StreamName, StreamStore};
use types::{AttemptNumber, JobId, MemberEnd, RankIndex, StreamKind};

/// How long the wanted streams of an ended attempt are.
#[derive(Clone, Debug, Default)]
pub(super) struct Finals {
    lengths: BTreeMap<(RankIndex, StreamKind), u64>,
    /// Some have no record.
    unknown: bool,
}

impl Finals {
    pub(super) fn of(attempt: &Attempt, selection: &Selection) -> Self {
        let most = StreamLimits::default().bytes_per_stream_max;
        let mut finals = Self::default();
        let wanted = |rank: RankIndex| selection.ranks.is_empty() || selection.ranks.contains(&rank);
        for end in attempt.ends.iter().flatten() {
            let MemberEnd::Exited { ranks, .. } = end else { continue };
            for rank in ranks.iter().filter(|rank| wanted(rank.rank)) {
                for stream in rank.streams.iter().filter(|stream| selection.kinds.contains(&stream.kind)) {
                    finals.lengths.insert((rank.rank, stream.kind), stream.bytes.min(most));
                }
            }
        }
        let ranks = attempt.placement.members.iter().flat_map(|member| &member.ranks).map(|placed| placed.rank);
        let expected = ranks.filter(|rank| wanted(*rank)).count() * selection.kinds.len();
        finals.unknown = finals.lengths.len() < expected;
        finals
    }

    /// Where the stream ends, if that is on record.
    pub(super) fn length(&self, name: &StreamName) -> Option<u64> {
        self.lengths.get(&(name.rank, name.kind)).copied()
    }

    /// Some wanted streams have no record: their worker was lost, or never ran them.
    pub(super) fn unknown(&self) -> bool {
        self.unknown
    }

    /// Every wanted stream has a record: once these bytes are here, nobody need be asked.
    pub(super) fn settle_all(&self) -> bool {
        !self.unknown && !self.lengths.is_empty()
    }

    /// Bytes that are recorded and not on this disk.
    pub(super) fn missing(&self, store: &StreamStore, job: JobId, attempt: AttemptNumber) -> Result<u64, StreamError> {
        let mut missing = 0;
        for ((rank, kind), bytes) in &self.lengths {
            let name = StreamName { job, attempt, rank: *rank, kind: *kind };
            missing += bytes.saturating_sub(store.length(&name)?);
        }
        Ok(missing)
    }
}
