//! The scheduler through the program: a promise that is kept, quotas borrowed and given back, racks, priorities, windows.

use crate::support::{add_worker, alone, held_by, open, shape};
use cluster_tests::{Cluster, PATIENCE, gang, spec, until};
use types::{JobId, JobPhase, JobSpec, Millis, PlaceLevel};

/// When the newest attempt was placed.
async fn placed(cluster: &Cluster, job: JobId) -> anyhow::Result<u64> {
    Ok(cluster.client().get(job).await?.attempts.last().map_or(0, |attempt| attempt.placed_ms))
}

#[tokio::test]
async fn a_big_gang_behind_small_jobs_starts_by_the_time_that_it_was_promised() {
    alone(shape(3, &["--policy", "easy"]), async |cluster| {
        for name in ["a", "b"] {
            add_worker(cluster, name, 2, &[])?;
        }
        cluster.until_ready(2).await?;
        let client = cluster.client();
        let mut first = held_by(cluster, "first");
        first.timeout = Some(Millis(60_000));
        let running = client.submit(&first).await?;
        cluster.until_phase(running, JobPhase::Running).await?;
        let mut big = gang(2, "true");
        big.gang.per_rank.cpus = 2;
        big.timeout = Some(Millis(60_000));
        let big = client.submit(&big).await?;
        let why = client.explain(big).await?;
        assert_eq!(why.start_basis, "promised", "{why:?}");
        assert!(why.start_ms > 0, "{why:?}");
        // Three slots are free. A job that could run past the promise waits though it would fit; one that could not, goes.
        let mut long = spec("true");
        long.timeout = Some(Millis(3_600_000));
        let long = client.submit(&long).await?;
        let mut short = spec("true");
        short.timeout = Some(Millis(5_000));
        let short = client.submit(&short).await?;
        assert_eq!(cluster.ended(short).await?.summary.unwrap_or_default().phase, "Completed");
        let kept_out = client.explain(long).await?;
        assert_eq!((kept_out.phase.as_str(), kept_out.obstacle.as_str()), ("Queued", "held_for"), "{kept_out:?}");
        open(cluster, "first")?;
        for job in [big, long] {
            assert_eq!(cluster.ended(job).await?.summary.unwrap_or_default().phase, "Completed");
        }
        let (big, long, short) =
            (placed(cluster, big).await?, placed(cluster, long).await?, placed(cluster, short).await?);
        assert!(short < big && big <= long && big <= why.start_ms, "{short} {big} {long} {}", why.start_ms);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_borrowed_slot_is_given_back_and_the_borrower_goes_on_from_its_checkpoint() {
    alone(shape(3, &["--preempt-after", "0s"]), async |cluster| {
        add_worker(cluster, "a", 2, &[])?;
        cluster.until_ready(1).await?;
        for arguments in [["guest", "cpu=0"], ["owner", "cpu=2"]] {
            cluster.muster(&["queues", "create", arguments[0], "--guaranteed", arguments[1]]).await?.good()?;
        }
        // Saves once, then waits to be stopped; from the checkpoint it goes on to its end.
        let command = "if [ -n \"$MUSTER_RESUME_FROM\" ]; then cat $MUSTER_RESUME_FROM/state; exit 0; fi
             mkdir $MUSTER_CHECKPOINT_DIR/step-7; echo saved by $MUSTER_ATTEMPT > $MUSTER_CHECKPOINT_DIR/step-7/state
             echo '{\"checkpoint\": \"step-7\", \"step\": 7}' >&$MUSTER_METRICS_FD
             trap 'exit 143' TERM; while :; do sleep 0.02; done";
        let mut guest = spec(command);
        (guest.queue, guest.gang.per_rank.cpus) = ("guest".into(), 2);
        let guest = cluster.client().submit(&guest).await?;
        let client = cluster.client();
        until("a checkpoint", PATIENCE, async || (!client.get(guest).await.ok()?.checkpoints.is_empty()).then_some(()))
            .await?;
        let shown = cluster.muster(&["queues", "show", "guest", "-o", "json"]).await?.json()?;
        assert_eq!((&shown["used"]["cpu"], &shown["jobs_running"]), (&2.into(), &1.into()), "{shown}");
        let mut owner = held_by(cluster, "owner");
        owner.queue = "owner".into();
        let owner = client.submit(&owner).await?;
        cluster.until_phase(owner, JobPhase::Running).await?;
        let waiting = client.explain(guest).await?;
        assert_eq!(waiting.phase, "Queued");
        open(cluster, "owner")?;
        let ended = cluster.ended(guest).await?;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed");
        let first = &ended.attempts[0];
        assert_eq!((ended.attempts.len(), first.cause_kind.as_str()), (2, "preempted"));
        assert!(first.cause.contains(&format!("job {owner}")), "{}", first.cause);
        assert!(first.lost_device_ms > 0, "the work since the checkpoint is counted");
        assert_eq!(ended.attempts[1].resumed_from_step, 7);
        let logs = cluster.muster(&["logs", &guest.to_string(), "--attempt", "2"]).await?.good()?;
        assert_eq!(logs.stdout, "saved by 1\n");
        let metrics = cluster.get(cluster.leader().await?, "/metrics").await?;
        assert!(metrics.contains("muster_scheduling_decisions_total{kind=\"preempt\"} 1"), "{metrics}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_long_job_gives_way_to_a_much_shorter_one_of_its_queue_only_where_that_was_asked_for() {
    for asked in [false, true] {
        let mut arguments = vec!["--preempt-after", "0s"];
        arguments.extend(asked.then_some("--preempt-in-queue"));
        alone(shape(1, &arguments), async |cluster| {
            add_worker(cluster, "a", 1, &[])?;
            cluster.until_ready(1).await?;
            let client = cluster.client();
            let mut long = held_by(cluster, "long");
            long.estimate = Some(Millis(36_000_000));
            let long = client.submit(&long).await?;
            cluster.until_phase(long, JobPhase::Running).await?;
            let mut short = spec("true");
            short.estimate = Some(Millis(60_000));
            let short = client.submit(&short).await?;
            if asked {
                assert_eq!(cluster.ended(short).await?.summary.unwrap_or_default().phase, "Completed");
                cluster.until_phase(long, JobPhase::Running).await?;
            } else {
                assert_eq!(client.explain(short).await?.obstacle, "no_capacity");
            }
            open(cluster, "long")?;
            let causes: Vec<String> =
                cluster.ended(long).await?.attempts.into_iter().map(|attempt| attempt.cause_kind).collect();
            let expected: &[&str] = if asked { &["preempted", "success"] } else { &["success"] };
            assert_eq!(causes, expected);
            Ok(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_gang_that_must_lie_in_one_rack_does_or_says_which_rack_has_most() {
    alone(shape(1, &[]), async |cluster| {
        for (name, rack) in [("a", "r1"), ("b", "r1"), ("c", "r2")] {
            add_worker(cluster, name, 1, &["--zone", "z", "--rack", rack])?;
        }
        cluster.until_ready(3).await?;
        let client = cluster.client();
        let job = "command: echo $MUSTER_WORKER\nresources: {instance_count: 2}\nx-muster: {required: rack}\n";
        let together = cluster.submit("rack/job.yml", job).await?;
        let mut workers = cluster.ended(together).await?.summary.unwrap_or_default().workers;
        workers.sort();
        assert_eq!(workers, ["a", "b"]);
        let mut blocker = held_by(cluster, "rack");
        blocker.constraints.required = Some(PlaceLevel::Worker);
        let blockers = [client.submit(&blocker).await?, client.submit(&blocker).await?];
        for blocker in blockers {
            cluster.until_phase(blocker, JobPhase::Running).await?;
        }
        let waits = cluster.submit("rack/again.yml", job).await?;
        let why = client.explain(waits).await?;
        assert!(["fragmented", "no_capacity"].contains(&why.obstacle.as_str()), "{why:?}");
        open(cluster, "rack")?;
        assert_eq!(cluster.ended(waits).await?.summary.unwrap_or_default().phase, "Completed");
        let too_large = job.replace("instance_count: 2", "instance_count: 3");
        let file = cluster.write("rack/large.yml", &too_large)?.display().to_string();
        let refused = cluster.muster(&["submit", &file]).await?;
        assert!(refused.code != 0 && refused.stderr.contains("needs 3 instances within one rack"), "{refused:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn queues_are_made_changed_and_deleted_while_the_cluster_runs_and_survive_its_leader() {
    alone(shape(3, &[]), async |cluster| {
        let run = async |cluster: &Cluster, line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            cluster.muster(&words).await
        };
        run(cluster, "queues create research --weight 3 --guaranteed cpu=8").await?.good()?;
        run(cluster, "queues create research/vision --ceiling cpu=4").await?.good()?;
        let again = run(cluster, "queues create research --weight 9").await?;
        assert!(again.code != 0 && again.stderr.contains("exists already"), "{again:?}");
        let orphan = run(cluster, "queues create nobody/below").await?;
        assert!(orphan.code != 0 && orphan.stderr.contains("no queue \"nobody\""), "{orphan:?}");
        let faulty = run(cluster, "queues create x --guaranteed cpu=9 --ceiling cpu=3 --lend cpu=10").await?;
        assert!(faulty.stderr.contains("ceiling") && faulty.stderr.contains("lend"), "{faulty:?}");
        let mut inner = spec("true");
        inner.queue = "research".into();
        let refused = cluster.client().submit(&inner).await.unwrap_err().to_string();
        assert!(refused.contains("default, research/vision"), "{refused}");
        inner.queue = "research/vision".into();
        let job = cluster.client().submit(&inner).await?;
        let busy = run(cluster, "queues delete research/vision").await?;
        assert!(busy.stderr.contains("1 jobs that have not ended"), "{busy:?}");

        let leader = cluster.leader().await?;
        cluster.coordinator(leader)?.kill()?;
        run(cluster, "queues update research/vision --ceiling cpu=6").await?.good()?;
        let shown = cluster.muster(&["queues", "list", "-o", "json"]).await?.json()?;
        let names: Vec<&str> =
            shown["queues"].as_array().into_iter().flatten().filter_map(|q| q["name"].as_str()).collect();
        assert_eq!(names, ["default", "research", "research/vision"]);
        assert_eq!(shown["queues"][2]["quotas"]["cpu"]["ceiling"], 6, "{shown}");
        run(cluster, &format!("jobs cancel {job}")).await?.good()?;
        run(cluster, "queues delete research/vision").await?.good()?;
        let missing = run(cluster, "queues show research/vision").await?;
        assert_eq!(missing.code, 3, "{missing:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn priorities_and_windows_change_what_starts() {
    alone(shape(3, &[]), async |cluster| {
        add_worker(cluster, "a", 1, &[])?;
        cluster.until_ready(1).await?;
        let client = cluster.client();
        let holder = client.submit(&held_by(cluster, "holder")).await?;
        cluster.until_phase(holder, JobPhase::Running).await?;
        let (early, late) = (client.submit(&spec("true")).await?, client.submit(&spec("true")).await?);
        cluster.muster(&["jobs", "priority", "5", &late.to_string()]).await?.good()?;
        let why = client.explain(early).await?;
        assert_eq!((why.position, why.ahead.as_slice()), (2, &[late.0][..]), "{why:?}");
        open(cluster, "holder")?;
        for job in [early, late] {
            cluster.ended(job).await?;
        }
        assert!(placed(cluster, late).await? < placed(cluster, early).await?);

        cluster.muster(&["workers", "window", "a", "--in", "30m", "--for", "1h"]).await?.good()?;
        let mut long = spec("true");
        long.timeout = Some(Millis(7_200_000));
        let long = client.submit(&long).await?;
        let mut short = spec("true");
        short.timeout = Some(Millis(60_000));
        let short = client.submit(&short).await?;
        assert_eq!(cluster.ended(short).await?.summary.unwrap_or_default().phase, "Completed");
        assert_eq!(client.explain(long).await?.obstacle, "closing");
        let shown = cluster.muster(&["workers", "show", "a", "-o", "json"]).await?.json()?;
        let from = shown["windows"][0]["from_ms"].as_u64().unwrap_or_default();
        client.plan_window("a", client::v1::MaintenanceWindow { from_ms: from, to_ms: from }).await?;
        assert_eq!(cluster.ended(long).await?.summary.unwrap_or_default().phase, "Completed");
        Ok(())
    })
    .await;
}

/// In how many seconds the command says that a waiting job is expected to start.
async fn expected_in(cluster: &Cluster, job: JobId) -> anyhow::Result<u64> {
    let why = cluster.muster(&["jobs", "explain", &job.to_string(), "-o", "json"]).await?.json()?;
    let at = why["expected_start_ms"].as_u64().unwrap_or_default();
    anyhow::ensure!(at > 0 && why["expected_start_unknown"] == "", "{why}");
    anyhow::ensure!(why["expected_start_assumption"].as_str().is_some_and(|text| text.contains("estimates")), "{why}");
    Ok(at.saturating_sub(daemon::clock::now().0) / 1_000)
}

#[tokio::test]
async fn every_waiting_job_has_an_expected_start_that_moves_with_what_happens() {
    alone(shape(3, &[]), async |cluster| {
        add_worker(cluster, "a", 1, &[])?;
        cluster.until_ready(1).await?;
        let client = cluster.client();
        let limited =
            |gate: &str, seconds: u64| JobSpec { timeout: Some(Millis(seconds * 1_000)), ..held_by(cluster, gate) };
        let running = client.submit(&limited("first", 3_600)).await?;
        cluster.until_phase(running, JobPhase::Running).await?;
        // The least work goes first, whoever came first.
        let long = client.submit(&limited("long", 1_800)).await?;
        let short = client.submit(&limited("short", 600)).await?;
        let (short_in, long_in) = (expected_in(cluster, short).await?, expected_in(cluster, long).await?);
        assert!((3_300..=3_600).contains(&short_in), "{short_in}");
        assert!((3_900..=4_200).contains(&long_in), "{long_in}");
        let shown = cluster.muster(&["jobs", "show", &long.to_string()]).await?.good()?.stdout;
        assert!(shown.contains("  expected     20") && shown.contains("if running jobs end at their"), "{shown}");
        let listed = cluster.muster(&["jobs", "list", "--pending", "-o", "json"]).await?.json()?;
        let starts: Vec<u64> = listed["jobs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|job| job["expected_start_ms"].as_u64())
            .collect();
        assert!(starts.len() == 2 && starts[0].abs_diff(starts[1]).abs_diff(600_000) < 60_000, "{listed}");

        // An hour early.
        open(cluster, "first")?;
        cluster.until_phase(short, JobPhase::Running).await?;
        let long_in = until("the new forecast", PATIENCE, async || {
            expected_in(cluster, long).await.ok().filter(|seconds| *seconds <= 600)
        });
        let long_in = long_in.await?;
        assert!(long_in >= 300, "{long_in}");

        // What can never start says that, and not when.
        let mut huge = spec("true");
        huge.gang.per_rank.cpus = 2;
        let huge = client.submit_for_later(&huge).await?;
        let why = cluster.muster(&["jobs", "explain", &huge.to_string()]).await?.good()?.stdout;
        assert!(why.contains("expected start: not known: it cannot start in this cluster as it is"), "{why}");
        for gate in ["short", "long"] {
            open(cluster, gate)?;
        }
        assert_eq!(cluster.ended(long).await?.summary.unwrap_or_default().phase, "Completed");
        Ok(())
    })
    .await;
}
