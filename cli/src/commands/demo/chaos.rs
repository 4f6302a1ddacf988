//! What `--chaos` does to the cluster in the middle of training, and what must be true afterwards.

use super::course::Course;
use super::processes::Processes;
use anyhow::Context as _;
use client::{Client, Patience};
use std::time::Duration;
use tokio::time::Instant;

/// Training is well under way.
const BEGIN_AT_STEP: u64 = 40;
/// Steps that must follow the leader's death on the same attempt.
const STEPS_AFTER: u64 = 30;
const PATIENCE: Duration = Duration::from_mins(1);
/// Lease, its margin, a new placement and the way back to the checkpoint.
const RESUME_PATIENCE: Duration = Duration::from_mins(2);

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Chaos {
    /// The coordinator that was killed.
    pub leader: u64,
    /// From its death to the next acknowledged write.
    pub failover: Duration,
    /// The worker that was killed.
    pub worker: String,
    /// From its death to the next attempt's first step.
    pub recovery: Duration,
    /// The checkpoint that training went on from.
    pub resumed_from_step: u64,
    /// The last step before the worker's death.
    pub step_at_death: u64,
}

/// Kills the leader, then a worker; checks after each.
pub async fn run(course: &mut Course<'_>, client: &Client, processes: &Processes) -> anyhow::Result<Chaos> {
    course.until("training under way", PATIENCE, |board| board.step >= BEGIN_AT_STEP).await?;
    let mut chaos = Chaos::default();
    kill_leader(course, client, processes, &mut chaos).await?;
    kill_worker(course, processes, &mut chaos).await?;
    Ok(chaos)
}

async fn kill_leader(
    course: &mut Course<'_>,
    client: &Client,
    processes: &Processes,
    chaos: &mut Chaos,
) -> anyhow::Result<()> {
    chaos.leader = course.during(async { Ok(client.status(false).await?.leader) }).await?;
    let before = course.board.attempt().map(|attempt| (attempt.number, attempt.token)).context("no attempt runs")?;
    let step = course.board.step;
    course.tell(&format!("chaos: kill -9 coordinator {}, the leader", chaos.leader))?;
    let death = Instant::now();
    processes.kill(&format!("coordinator-{}", chaos.leader)).await?;
    course.during(write(client)).await.context("no write was acknowledged after the leader's death")?;
    chaos.failover = death.elapsed();
    course.tell(&format!("chaos: the next write was acknowledged after {} ms", chaos.failover.as_millis()))?;
    course
        .until("training going on after the leader's death", PATIENCE, |board| board.step >= step + STEPS_AFTER)
        .await?;
    // By a fresh, linearizable read: the board might not have heard of a restart yet.
    let id = course.board.job.as_ref().and_then(|job| job.summary.as_ref()).map_or(0, |summary| summary.id);
    let job = course.during(async { Ok(client.get(types::JobId(id)).await?) }).await?;
    let phase = job.summary.map(|summary| summary.phase).unwrap_or_default();
    let after = job.attempts.last().map(|attempt| (attempt.number, attempt.token));
    anyhow::ensure!(
        after == Some(before) && job.attempts.len() == 1 && phase == "Running",
        "the leader's death touched the training: attempt {} became {:?}, the job is {phase}",
        before.0,
        after.map(|(number, _)| number)
    );
    course.tell("chaos: the same attempt trains on: the leader's death did not touch it")
}

/// A write that changes the replicated state for sure, and is undone: a worker closed and opened.
async fn write(client: &Client) -> anyhow::Result<()> {
    let hasty = client.clone().with_patience(Patience {
        one_try: Duration::from_millis(500),
        in_all: Duration::from_secs(30),
        unreachable: Duration::from_secs(10),
        ..Patience::default()
    });
    hasty.cordon("worker-1").await?;
    client.uncordon("worker-1").await?;
    Ok(())
}

async fn kill_worker(course: &mut Course<'_>, processes: &Processes, chaos: &mut Chaos) -> anyhow::Result<()> {
    let attempt = course.board.attempt().context("no attempt runs")?;
    let number = attempt.number;
    chaos.worker = attempt.members.last().map(|member| member.worker.clone()).context("the attempt has no members")?;
    course
        .until("a checkpoint", PATIENCE, |board| board.job.as_ref().is_some_and(|job| !job.checkpoints.is_empty()))
        .await?;
    chaos.step_at_death = course.board.step;
    course.tell(&format!("chaos: kill -9 {} at step {}", chaos.worker, chaos.step_at_death))?;
    let death = Instant::now();
    processes.kill(&chaos.worker).await?;
    course
        .until("training going on from its checkpoint on the other workers", RESUME_PATIENCE, |board| {
            let resumed = board.attempt().is_some_and(|attempt| attempt.number > number);
            (resumed && board.step > 0) || is_final(board.phase())
        })
        .await?;
    chaos.recovery = death.elapsed();
    let attempt = course.board.attempt().context("no attempt runs")?;
    chaos.resumed_from_step = attempt.resumed_from_step;
    let elsewhere = attempt.members.iter().all(|member| member.worker != chaos.worker);
    anyhow::ensure!(attempt.number == number + 1, "training went on as attempt {}, not {}", attempt.number, number + 1);
    anyhow::ensure!(elsewhere, "the new attempt was placed on the dead {}", chaos.worker);
    anyhow::ensure!(chaos.resumed_from_step > 0, "the new attempt began from the start, not from its checkpoint");
    course.tell(&format!(
        "chaos: attempt {} goes on from step {} after {:.1} s",
        number + 1,
        chaos.resumed_from_step,
        chaos.recovery.as_secs_f64()
    ))
}

fn is_final(phase: &str) -> bool {
    types::JobPhase::from_name(phase).is_some_and(types::JobPhase::is_final)
}
