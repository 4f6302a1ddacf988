//! Keeps a member's end within what the log takes: how each rank ended stays whole, their last words and metrics as far as
//! they fit, those of the rank at fault first.

use types::{Limits, MemberEnd, OutputTree, RankEnd};

/// The end as it goes to the log.
pub(crate) fn trim(mut end: MemberEnd) -> MemberEnd {
    match &mut end {
        MemberEnd::NotPrepared { reason, .. } => reason.truncate(reason.floor_char_boundary(Limits::REASON_BYTES_MAX)),
        MemberEnd::Exited { ranks, outputs } => trim_ranks(ranks, outputs),
        MemberEnd::Unknown => {}
    }
    end
}

fn trim_ranks(ranks: &mut [RankEnd], outputs: &[OutputTree]) {
    if encoded(&ranks) + encoded(&outputs) <= Limits::MEMBER_END_BYTES_MAX {
        return;
    }
    let at_fault = cluster_state::first_failed(ranks).map(|rank| rank.rank);
    let mut taken: Vec<_> = ranks
        .iter_mut()
        .map(|rank| {
            let texts = (
                rank.rendezvous.take(),
                std::mem::take(&mut rank.stderr_tail),
                std::mem::take(&mut rank.final_metrics),
            );
            (rank, texts)
        })
        .collect();
    taken.sort_by_key(|(rank, _)| (Some(rank.rank) != at_fault, rank.rank));
    let bare: usize = taken.iter().map(|(rank, _)| encoded(rank)).sum();
    let mut left = Limits::MEMBER_END_BYTES_MAX.saturating_sub(bare + encoded(&outputs));
    for (rank, (rendezvous, tail, metrics)) in taken {
        if let Some(rest) = left.checked_sub(encoded(&rendezvous)) {
            (rank.rendezvous, left) = (rendezvous, rest);
        }
        if let Some(rest) = left.checked_sub(encoded(&tail)) {
            (rank.stderr_tail, left) = (tail, rest);
        }
        if let Some(rest) = left.checked_sub(encoded(&metrics)) {
            (rank.final_metrics, left) = (metrics, rest);
        }
    }
}

/// What cannot be encoded is refused where it is proposed.
fn encoded(value: &impl serde::Serialize) -> usize {
    postcard::experimental::serialized_size(value).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;
    use types::{RankExit, RankIndex, Timestamp};

    /// A rank with a full tail and so many bytes of metrics; 3 failed first, all others a moment later.
    fn rank(rank: u32, metrics_bytes: usize) -> RankEnd {
        RankEnd {
            rank: RankIndex(rank),
            exit: RankExit::Code(1),
            out_of_memory: false,
            ended: Timestamp(if rank == 3 { 1 } else { 2 }),
            stderr_tail: "x".repeat(Limits::STDERR_TAIL_BYTES),
            streams: vec![],
            final_metrics: vec![("m".into(), "9".repeat(metrics_bytes))],
            blames: None,
            rendezvous: None,
        }
    }

    fn trimmed(ranks: Vec<RankEnd>) -> Vec<RankEnd> {
        let before: Vec<_> = ranks.iter().map(|rank| (rank.rank, rank.exit, rank.ended)).collect();
        let MemberEnd::Exited { ranks, .. } = trim(MemberEnd::Exited { ranks, outputs: vec![] }) else { panic!() };
        let after: Vec<_> = ranks.iter().map(|rank| (rank.rank, rank.exit, rank.ended)).collect();
        assert_eq!(before, after, "how each rank ended stays, in its place");
        ranks
    }

    #[test]
    fn a_small_end_stays_as_it_is() {
        let ranks: Vec<_> = (0..8).map(|n| rank(n, 1_000)).collect();
        assert_eq!(trimmed(ranks.clone()), ranks);
    }

    #[test]
    fn a_large_end_keeps_the_words_of_the_rank_at_fault_and_then_of_the_lowest() {
        let ranks = trimmed((0..8).map(|n| rank(n, 70_000)).collect());
        let with_metrics: Vec<u32> =
            ranks.iter().filter(|rank| !rank.final_metrics.is_empty()).map(|rank| rank.rank.0).collect();
        assert_eq!(with_metrics, [0, 1, 3]);
        assert!(ranks.iter().all(|rank| !rank.stderr_tail.is_empty()), "what still fits is kept");
        let end = MemberEnd::Exited { ranks, outputs: vec![] };
        assert!(encoded(&end) <= Limits::MEMBER_END_BYTES_MAX);
    }

    #[test]
    fn the_largest_gang_on_one_worker_fits() {
        let ranks = (0..Limits::RANKS_MAX).map(|n| rank(n, if n == 3 { 75_000 } else { 500 })).collect();
        let end = trim(MemberEnd::Exited { ranks, outputs: vec![] });
        assert!(encoded(&end) <= Limits::MEMBER_END_BYTES_MAX);
        let MemberEnd::Exited { ranks, .. } = end else { panic!() };
        assert!(!ranks[3].stderr_tail.is_empty() && !ranks[3].final_metrics.is_empty());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let end = MemberEnd::NotPrepared { reason: "é".repeat(Limits::REASON_BYTES_MAX), machine_fault: true };
        let MemberEnd::NotPrepared { reason, .. } = trim(end) else { panic!() };
        assert_eq!(reason.len(), Limits::REASON_BYTES_MAX);
    }
}
