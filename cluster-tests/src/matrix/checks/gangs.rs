//! I5, I6 and I10: gangs that ran all the while ended well, printed what they printed, and were left alone if no fault hit them.

use super::super::load::Gangs;
use super::super::witness::{Bytes, Event, Record};
use crate::Cluster;
use client::LogQuery;
use std::collections::BTreeMap;
use types::JobId;

/// Ranks of a lasting gang.
const RANKS: u32 = 3;

/// I5: opened, each completes, however often it was placed anew.
pub(super) async fn ended_well(cluster: &Cluster, gangs: &Gangs) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for job in &gangs.lasting {
        let summary = cluster.client().get(*job).await?.summary.unwrap_or_default();
        if summary.phase != "Completed" {
            faults.push(format!("I5: the lasting gang {job} is {}: {}", summary.phase, summary.reason));
        }
    }
    Ok(faults)
}

/// I10: each rank has one process and one attempt from the beginning to its own end.
pub(super) fn kept(lasting: &[JobId], records: &[Record]) -> Vec<String> {
    let mut faults = Vec::new();
    for job in lasting {
        for rank in 0..RANKS {
            let of: Vec<&Record> = records.iter().filter(|record| (record.job, record.rank) == (job.0, rank)).collect();
            let is_one = |of: &[&Record]| {
                matches!(of, [first, last] if first.event == Event::Started
                    && first.attempt == 1 && matches!(last.event, Event::Ended(_)) && first.pid == last.pid)
            };
            if !is_one(&of) {
                faults.push(format!("I10: rank {rank} of gang {job} was not left alone: {of:?}"));
            }
        }
    }
    faults
}

/// I6: what is kept of each rank's output is what it printed, and all of it where it ended by itself. Answers with the bytes.
pub(super) async fn logs(
    cluster: &Cluster,
    job: JobId,
    seed: u64,
    records: &[Record],
) -> anyhow::Result<(Vec<String>, u64)> {
    let query = LogQuery { streams: vec!["stdout".into()], ..LogQuery::default() };
    let mut logs = cluster.client().logs(job, query);
    let (mut read, mut faults) = (BTreeMap::new(), Vec::new());
    while let Some(chunk) = logs.next().await? {
        let (attempt, rank) = (chunk.attempt, chunk.rank);
        let bytes = read.entry((attempt, rank)).or_insert_with(|| Bytes::of(seed, job.0, rank, attempt));
        if bytes.taken != chunk.offset || bytes.take(chunk.data.len()) != chunk.data {
            faults.push(format!("I6: job {job} attempt {attempt} rank {rank}: other bytes than printed"));
            break;
        }
    }
    for record in records.iter().filter(|record| record.job == job.0) {
        let Event::Ended(printed) = record.event else { continue };
        let kept = read.get(&(record.attempt, record.rank)).map_or(0, |bytes| bytes.taken);
        if kept != printed {
            let Record { attempt, rank, .. } = record;
            faults.push(format!(
                "I6: job {job} attempt {attempt} rank {rank} printed {printed} bytes and {kept} are kept"
            ));
        }
    }
    Ok((faults, read.values().map(|bytes| bytes.taken).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rank: u32, attempt: u32, pid: i32, event: Event) -> Record {
        Record { job: 9, rank, attempt, pid, at_ms: 0, event }
    }

    #[test]
    fn a_rank_that_was_started_again_moved_or_never_ended_was_not_left_alone() {
        let good: Vec<Record> = (0..RANKS)
            .flat_map(|rank| {
                [Event::Started, Event::Ended(7)].map(|event| record(rank, 1, 40 + rank.cast_signed(), event))
            })
            .collect();
        assert_eq!(kept(&[JobId(9)], &good), Vec::<String>::new());
        let again = [good.clone(), vec![record(1, 2, 99, Event::Started)]].concat();
        let mut moved = good.clone();
        moved[3].pid = 99;
        for bad in [again, moved, good[..5].to_vec(), good[2..].to_vec()] {
            let faults = kept(&[JobId(9)], &bad);
            assert!(faults.len() == 1 && faults[0].starts_with("I10: rank "), "{faults:?}");
        }
    }
}
