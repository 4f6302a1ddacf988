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
    let mut read = Read::default();
    while let Some(chunk) = logs.next().await? {
        read.take(seed, job, (chunk.attempt, chunk.rank), chunk.offset, &chunk.data);
    }
    Ok((read.faults(job, records), read.sound.values().map(|bytes| bytes.taken).sum()))
}

/// What was read of one job, by attempt and rank.
#[derive(Debug, Default)]
struct Read {
    sound: BTreeMap<(u32, u32), Bytes>,
    /// Those that gave other bytes than were printed, and where. What follows in them says nothing more; of the others it does.
    other: BTreeMap<(u32, u32), u64>,
}

impl Read {
    fn take(&mut self, seed: u64, job: JobId, of: (u32, u32), offset: u64, data: &[u8]) {
        let bytes = self.sound.entry(of).or_insert_with(|| Bytes::of(seed, job.0, of.1, of.0));
        if !self.other.contains_key(&of) && (bytes.taken != offset || bytes.take(data.len()) != data) {
            self.other.insert(of, offset);
        }
    }

    fn faults(&self, job: JobId, records: &[Record]) -> Vec<String> {
        let other = |((attempt, rank), offset): (&(u32, u32), &u64)| {
            format!("I6: job {job} attempt {attempt} rank {rank}: other bytes than printed, from {offset} on")
        };
        let mut faults: Vec<String> = self.other.iter().map(other).collect();
        for record in records.iter().filter(|record| record.job == job.0) {
            let (Event::Ended(printed), of) = (&record.event, (record.attempt, record.rank)) else { continue };
            let kept = self.sound.get(&of).map_or(0, |bytes| bytes.taken);
            if kept != *printed && !self.other.contains_key(&of) {
                let (attempt, rank) = of;
                let what = format!("printed {printed} bytes and {kept} are kept");
                faults.push(format!("I6: job {job} attempt {attempt} rank {rank} {what}"));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rank: u32, attempt: u32, pid: i32, event: Event) -> Record {
        Record { job: 9, rank, attempt, pid, at_ms: 0, event }
    }

    #[test]
    fn other_bytes_in_one_stream_say_nothing_of_those_that_are_read_after_it() {
        let printed = |rank, count| Bytes::of(5, 9, rank, 1).take(count);
        let mut read = Read::default();
        read.take(5, JobId(9), (1, 0), 0, &[printed(0, 50), vec![0; 50]].concat());
        read.take(5, JobId(9), (1, 1), 0, &printed(1, 100));
        read.take(5, JobId(9), (1, 2), 0, &printed(2, 60));
        read.take(5, JobId(9), (1, 0), 100, b"more");
        let records: Vec<Record> = (0..3).map(|rank| record(rank, 1, 40, Event::Ended(100))).collect();
        let faults = read.faults(JobId(9), &records);
        assert_eq!(
            faults,
            [
                "I6: job 9 attempt 1 rank 0: other bytes than printed, from 0 on",
                "I6: job 9 attempt 1 rank 2 printed 100 bytes and 60 are kept"
            ]
        );
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
