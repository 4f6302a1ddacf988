//! Coordinators that die, stop and come back: nothing acknowledged is lost, nothing is doubled, a planned stop is unnoticed.

use crate::support::alone;
use client::Client;
use cluster_tests::{Cluster, PATIENCE, Shape, spec, until};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{JobId, JobSpec, RequestId};

/// A job that waits for ever: these clusters have no workers.
fn waiting() -> JobSpec {
    JobSpec { experiment_name: "kept".into(), ..spec("true") }
}

fn request(task: usize, number: usize) -> RequestId {
    RequestId((((task as u128) << 64) | number as u128).to_be_bytes())
}

/// All jobs that the cluster knows.
async fn jobs(client: &Client) -> anyhow::Result<Vec<u64>> {
    Ok(client.list_up_to(client::v1::ListJobsRequest::default(), 100_000).await?.iter().map(|job| job.id).collect())
}

#[tokio::test]
async fn no_acknowledged_submit_is_lost_or_doubled_when_the_leader_dies() {
    const TASKS: usize = 8;
    const EACH: usize = 60;
    static ACKNOWLEDGED: AtomicUsize = AtomicUsize::new(0);
    alone(Shape::new(3, 0), async |cluster| {
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let client = cluster.client();
            tasks.spawn(async move {
                let mut made = BTreeMap::new();
                for number in 0..EACH {
                    made.insert((task, number), client.submit_as(request(task, number), &waiting()).await?);
                    ACKNOWLEDGED.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(made)
            });
        }
        until("some submits", PATIENCE, async || {
            (ACKNOWLEDGED.load(Ordering::Relaxed) > TASKS * EACH / 4).then_some(())
        })
        .await?;
        let leader = cluster.leader().await?;
        let begun = Instant::now();
        cluster.coordinator(leader)?.kill()?;
        let mut made = BTreeMap::new();
        while let Some(task) = tasks.join_next().await {
            made.append(&mut task??);
        }
        println!("all submits were done {:?} after the leader's death", begun.elapsed());
        check_once(cluster, &made).await?;

        cluster.restart_coordinator(leader).await?;
        let back = cluster.client_of(leader)?;
        until("the dead coordinator to have all jobs", PATIENCE, async || {
            let stale = client::v1::ListJobsRequest { stale: true, ..Default::default() };
            (back.list_up_to(stale, 100_000).await.ok()?.len() == TASKS * EACH).then_some(())
        })
        .await
    })
    .await;
}

/// Each request made exactly one job, and asking again answers with the same.
async fn check_once(cluster: &Cluster, made: &BTreeMap<(usize, usize), JobId>) -> anyhow::Result<()> {
    let client = cluster.client();
    let mut known = jobs(&client).await?;
    known.sort_unstable();
    let mut answered: Vec<u64> = made.values().map(|job| job.0).collect();
    answered.sort_unstable();
    assert_eq!(known, answered, "jobs that are there, and jobs that were acknowledged");
    for ((task, number), job) in made.iter().step_by(37) {
        assert_eq!(client.submit_as(request(*task, *number), &waiting()).await?, *job);
    }
    assert_eq!(jobs(&client).await?.len(), made.len());
    // The same id for something else is a fault, not another job.
    let other = JobSpec { command: "false".into(), ..waiting() };
    assert!(client.submit_as(request(0, 0), &other).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_first() {
    alone(Shape::new(3, 0), async |cluster| {
        let client = cluster.client();
        client.submit(&waiting()).await?;
        let before = client.status(false).await?;
        let leader = before.leader;
        let begun = Instant::now();
        cluster.coordinator(leader)?.signal(Signal::TERM)?;
        let job = client.submit(&waiting()).await?;
        println!("a submit during a planned stop took {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(2));
        let daemon = cluster.coordinator(leader)?;
        let status = until("the stopped coordinator to end", PATIENCE, async || daemon.ended().ok().flatten()).await?;
        assert_eq!(status.code(), Some(0));
        let after = client.status(false).await?;
        assert_ne!(after.leader, leader);
        assert_eq!(after.term, before.term + 1, "one election, not several");
        cluster.restart_coordinator(leader).await?;
        assert_eq!(cluster.client_of(leader)?.get(job).await?.summary.unwrap_or_default().id, job.0);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_follower_that_was_away_catches_up_and_serves() {
    alone(Shape::new(3, 0), async |cluster| {
        let leader = cluster.leader().await?;
        let follower = if leader == 1 { 2 } else { 1 };
        cluster.coordinator(follower)?.kill()?;
        let client = cluster.client();
        let mut last = JobId(0);
        for _ in 0..50 {
            last = client.submit(&waiting()).await?;
        }
        cluster.restart_coordinator(follower).await?;
        // A linearizable read at the follower itself sees what was written while it was away.
        let job = cluster.client_of(follower)?.get(last).await?;
        assert_eq!(job.summary.unwrap_or_default().id, last.0);
        // And it takes writes, for the leader.
        assert!(cluster.client_of(follower)?.submit(&waiting()).await?.0 > last.0);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_stands_still_holds_up_nobody() {
    alone(Shape::new(3, 0), async |cluster| {
        let leader = cluster.leader().await?;
        // Half of them prefer the leader, half another one, whose calls are under way to the leader when it stops.
        let follower = if leader == 1 { 2 } else { 1 };
        let addresses = |first: u64| {
            let order = (0..3).map(|step| (first - 1 + step) % 3);
            order.map(|index| cluster.addresses()[index as usize].clone()).collect()
        };
        // Waits an hour for one coordinator: only another one's answer ends a call in time.
        let patience = client::Patience { one_try: Duration::from_hours(1), ..client::Patience::default() };
        let clients = [leader, follower].map(|first| cluster.client_to(addresses(first)).with_patience(patience));
        let stopped = AtomicBool::new(false);
        let after = async |client: &client::Client| {
            let mut answers = 0;
            while answers < 5 {
                client.submit(&waiting()).await?;
                client.list(client::v1::ListJobsRequest::default()).await?;
                answers += u32::from(stopped.load(Ordering::SeqCst));
            }
            anyhow::Ok(())
        };
        let pid = Pid::from_raw(cluster.coordinator(leader)?.pid().unwrap_or_default()).expect("the leader runs");
        let stop = async {
            clients[1].submit(&waiting()).await?;
            kill_process(pid, Signal::STOP)?;
            stopped.store(true, Ordering::SeqCst);
            anyhow::Ok(())
        };
        let crowd = (0..20).map(|number: usize| after(&clients[number % 2]));
        let all = async { tokio::try_join!(stop, futures::future::try_join_all(crowd)) };
        let served = tokio::time::timeout(PATIENCE, all).await;
        kill_process(pid, Signal::CONT)?;
        served??;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn without_a_majority_nothing_is_acknowledged_and_stale_reads_go_on() {
    alone(Shape::new(3, 0), async |cluster| {
        let client = cluster.client();
        let job = client.submit(&waiting()).await?;
        let leader = cluster.leader().await?;
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        until("the leader's own copy", PATIENCE, async || {
            let status = cluster.client_of(others[0]).ok()?.status(true).await.ok()?;
            (status.applied_index >= status.commit_index && status.leader > 0).then_some(())
        })
        .await?;
        for id in &others {
            cluster.coordinator(*id)?.kill()?;
        }
        let short = client::Patience { in_all: Duration::from_secs(2), ..client::Patience::default() };
        let lonely = cluster.client_of(leader)?.with_patience(short);
        assert!(lonely.submit(&waiting()).await.is_err());
        assert!(lonely.get(job).await.is_err());
        let stale = client::v1::ListJobsRequest { stale: true, ..Default::default() };
        assert!(!lonely.list(stale).await?.jobs.is_empty());
        cluster.restart_coordinator(others[0]).await?;
        assert_eq!(client.get(job).await?.summary.unwrap_or_default().id, job.0);
        client.submit(&waiting()).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_running_gang_does_not_notice_the_death_of_the_leader() {
    alone(Shape::new(3, 2).cpus(2), async |cluster| {
        let client = cluster.client();
        let folder = cluster.folder().display().to_string();
        let command = format!("i=0; while [ ! -e {folder}/stop ]; do i=$((i+1)); echo line $i; sleep 0.05; done");
        let job = client.submit(&cluster_tests::gang(2, &command)).await?;
        let mut logs = cluster.follow(&["logs", &job.to_string(), "-f", "--rank", "0"])?;
        let mut lines: u64 = 0;
        let read = async |logs: &mut cluster_tests::Following, lines: &mut u64, count: u64| {
            for _ in 0..count {
                *lines += 1;
                anyhow::ensure!(
                    logs.line().await?.as_deref() == Some(&*format!("line {lines}")),
                    "line {lines} is not next"
                );
            }
            Ok(())
        };
        read(&mut logs, &mut lines, 20).await?;
        let leader = cluster.leader().await?;
        cluster.coordinator(leader)?.kill()?;
        // Longer than a lease: what the new leader did not adopt would be gone by then.
        read(&mut logs, &mut lines, 160).await?;
        std::fs::write(format!("{folder}/stop"), "")?;
        while let Some(line) = logs.line().await? {
            lines += 1;
            assert_eq!(line, format!("line {lines}"));
        }
        let ended = cluster.ended(job).await?;
        assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Completed", 1));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_running_gang_does_not_notice_leaders_that_stand_still() {
    alone(Shape::new(3, 1).cpus(1), async |cluster| {
        let folder = cluster.folder().display().to_string();
        let command = format!("until [ -e {folder}/stop ]; do echo tick >>{folder}/ticks; sleep 0.05; done");
        let job = cluster.client().submit(&spec(&command)).await?;
        let ticks = || std::fs::read_to_string(format!("{folder}/ticks")).map_or(0, |ticks| ticks.lines().count());
        for _ in 0..3 {
            let leader = cluster.leader().await?;
            cluster.coordinator(leader)?.signal(Signal::STOP)?;
            // Longer than a lease, and until the worker is lost after it: who waited for the one that is silent would be by then.
            let wanted = ticks() + 120;
            let ticked = until("the rank to go on", PATIENCE, async || (ticks() >= wanted).then_some(())).await;
            cluster.coordinator(leader)?.signal(Signal::CONT)?;
            ticked?;
            cluster.until_voters(3).await?;
        }
        std::fs::write(format!("{folder}/stop"), "")?;
        let ended = cluster.ended(job).await?;
        assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Completed", 1));
        Ok(())
    })
    .await;
}
