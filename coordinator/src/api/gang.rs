//! What the ranks of a gang say of each other on their metrics streams, for `Jobs.Explain`: who hangs, with its stack, and who
//! is slow.
//!
//! Read when somebody asks, so nothing of it is in the tables.

use super::follow::{self, Selection};
use super::stacks::Stack;
use super::stalls::{self, Stall};
use super::tail::Tail;
use super::{Context, stacks, stragglers};
use cluster_state::{Attempt, Job};
use futures::StreamExt;
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use types::{StreamKind, Timestamp};

/// Of each stream's end: a rank that waits, or hangs, writes nothing after it said so, or its supervisor did.
const LAST_BYTES: u64 = 16 << 10;
/// Of each stream's end, and of all of them together, to see how fast ranks are: some minutes of most gangs, and what is read in
/// a moment.
const PACE_BYTES_MAX: u64 = 2 << 20;
const PACES_BYTES_MAX: u64 = 16 << 20;
/// For the bytes of all ranks; who comes late is not heard.
const READ_TIME: Duration = Duration::from_secs(2);

/// Adds to the explanation of a running job which of its ranks the others wait for, or are held up by, and to that of a failed
/// one which they waited for in vain: who fails first at the time limit is not who is to blame.
pub(super) async fn add(context: &Context, job: &Job, explanation: &mut v1::Explanation) {
    let Some(attempt) = job.attempts.last() else { return };
    let until = attempt.ended.unwrap_or_else(daemon::clock::now);
    let worker = |rank| worker_of(attempt, rank);
    let tails = read(context, job, attempt, LAST_BYTES).await;
    let stalls: BTreeMap<u32, Stall> =
        tails.iter().filter_map(|(rank, tail)| Some((*rank, stalls::last(tail)?))).collect();
    let stacks: BTreeMap<u32, Stack> =
        tails.iter().filter_map(|(rank, tail)| Some((*rank, stacks::last(tail)?))).collect();
    let mut lines = stalls::explain(&stalls, &stacks, until, &worker);
    if !attempt.phase.is_live() {
        if stalls.is_empty() {
            lines = stacks::explain(&stacks, &worker);
        }
        let number = attempt.number;
        explanation.details.extend(lines.iter().map(|line| format!("seen last in attempt {number}: {line}")));
        return;
    }
    if lines.is_empty() {
        explanation.stragglers = stragglers(context, job, attempt, until).await;
        lines = explanation.stragglers.iter().map(|straggler| stragglers::line(straggler, until)).collect();
    }
    if let Some(first) = lines.first() {
        explanation.summary = format!("it runs, but {first}");
        explanation.details.extend(lines.iter().skip(1).cloned());
    }
}

async fn stragglers(context: &Context, job: &Job, attempt: &Attempt, now: Timestamp) -> Vec<v1::Straggler> {
    let world = attempt.placement.world_size();
    if world < 2 {
        return Vec::new();
    }
    let each = (PACES_BYTES_MAX / u64::from(world)).clamp(LAST_BYTES, PACE_BYTES_MAX);
    let tails = read(context, job, attempt, each).await;
    if tails.len() < world as usize {
        return Vec::new();
    }
    let parse = move || tails.into_iter().map(|(rank, tail)| (rank, stragglers::paces(&tail))).collect();
    // Many megabytes of JSON take longer than a runtime's thread may be held up.
    let paces = tokio::task::spawn_blocking(parse).await.unwrap_or_default();
    stragglers::find(&paces, now, &|rank| worker_of(attempt, rank))
}

/// The ends of the metrics streams, by rank.
async fn read(context: &Context, job: &Job, attempt: &Attempt, tail_bytes: u64) -> BTreeMap<u32, Vec<u8>> {
    let selection = Selection {
        job: job.id,
        attempt: Some(attempt.number),
        ranks: BTreeSet::new(),
        kinds: [StreamKind::Metrics].into(),
        follow: false,
        window: None,
        tail: Some(Tail::Bytes(tail_bytes)),
        from: BTreeMap::new(),
    };
    let mut tails: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut pieces = follow::follow(context, selection);
    let read = async {
        while let Some(Ok(piece)) = pieces.next().await {
            tails.entry(piece.name.rank.0).or_default().extend_from_slice(&piece.data);
        }
    };
    if tokio::time::timeout(READ_TIME, read).await.is_err() {
        tracing::debug!(job_id = %job.id, "not all metrics were read in time to explain");
    }
    tails
}

fn worker_of(attempt: &Attempt, rank: u32) -> String {
    let holds = |member: &&types::Member| member.ranks.iter().any(|placed| placed.rank.0 == rank);
    attempt.placement.members.iter().find(holds).map_or_else(String::new, |member| member.worker.to_string())
}
