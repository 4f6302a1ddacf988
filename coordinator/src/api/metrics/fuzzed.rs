//! Metric lines as programs write them, which may be anything.

use super::{Lines, StreamName};
use std::collections::BTreeSet;
use types::{AttemptNumber, JobId, RankIndex, StreamKind};

/// The first byte tells how long the pieces are in which the others come: the points are the same as of one piece.
pub fn metric_lines(bytes: &[u8]) {
    let Some((step, text)) = bytes.split_first() else { return };
    let (job, attempt, rank) = (JobId(1), AttemptNumber(1), RankIndex(0));
    let name = StreamName { job, attempt, rank, kind: StreamKind::Metrics };
    let all = BTreeSet::new();
    let whole = Lines::default().points(name, text, &all);
    let mut lines = Lines::default();
    let pieces = text.chunks(usize::from(*step).max(1));
    let cut: Vec<_> = pieces.flat_map(|piece| lines.points(name, piece, &all)).collect();
    assert_eq!(cut, whole, "other points when the lines come in pieces");
    for point in &whole {
        assert!(point.value.is_finite() && point.name.len() <= super::NAME_BYTES_MAX, "{point:?} is a point");
    }
}
