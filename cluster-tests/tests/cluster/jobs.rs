//! A job's life through the command: submitted, followed, cancelled, timed out, started again, listed and watched.

use crate::support::{is_alive, line_in, shared};
use cluster_tests::{gang, spec};
use serde_json::Value;
use std::path::Path;
use types::{JobPhase, Millis};

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).join("job.yml").display().to_string()
}

#[tokio::test]
async fn hello_world_is_submitted_and_followed_to_its_end() {
    shared(async |cluster| {
        let answer = cluster.muster(&["submit", &example("hello"), "--follow"]).await?.good()?;
        for rank in 0..2 {
            let line = format!("rank {rank} | hello from rank {rank} of 2 on worker-");
            assert!(answer.stdout.contains(&line), "{line} in {}", answer.stdout);
        }
        assert!(answer.stdout.contains("MUSTER_WORLD_SIZE=2"), "{}", answer.stdout);
        assert!(answer.stderr.contains("Completed"), "{}", answer.stderr);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_followed_job_is_the_end_of_the_command() {
    shared(async |cluster| {
        let file = cluster.write("exits/job.yml", "command: echo to stderr >&2; exit 3\n")?;
        let file = file.display().to_string();
        let failed = cluster.muster(&["submit", &file, "--follow"]).await?;
        assert_eq!(failed.code, 10, "{}", failed.stderr);
        assert!(failed.stderr.contains("to stderr") && failed.stderr.contains("Failed"), "{}", failed.stderr);

        let job = cluster.submit("exits/long.yml", "command: sleep 1000\nx-muster: {grace: 1}\n").await?;
        let mut following = cluster.follow(&["logs", &job.to_string(), "-f"])?;
        cluster.until_phase(job, JobPhase::Running).await?;
        cluster.muster(&["jobs", "cancel", "--wait", &job.to_string()]).await?.good()?;
        assert_eq!(following.line().await?, None);
        assert_eq!(following.end().await?.code(), Some(11));
        assert_eq!(cluster.muster(&["logs", "999999"]).await?.code, 3);
        assert_eq!(cluster.muster(&["jobs", "show", "999999"]).await?.code, 3);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_reason_of_a_failure_names_rank_worker_code_and_stderr() {
    shared(async |cluster| {
        let job = cluster.client().submit(&spec("echo it went wrong >&2; exit 7")).await?;
        let ended = cluster.ended(job).await?;
        let summary = ended.summary.unwrap_or_default();
        assert_eq!(summary.phase, "Failed");
        for part in ["rank 0", &summary.workers[0], "7", "it went wrong"] {
            assert!(summary.reason.contains(part), "{part:?} in {:?}", summary.reason);
        }
        assert_eq!(ended.attempts[0].cause_kind, "user_code");
        assert_eq!(ended.attempts[0].ranks[0].exit_code, Some(7));
        let shown = cluster.muster(&["jobs", "show", &job.to_string(), "-o", "json"]).await?.json()?;
        assert_eq!(shown["attempts"][0]["ranks"][0]["exit_code"], 7);
        let explained = cluster.muster(&["jobs", "explain", &job.to_string()]).await?.good()?;
        assert!(explained.stdout.contains("rank 0") && explained.stdout.contains('7'), "{}", explained.stdout);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_gang_of_four_runs_on_four_workers_at_once() {
    shared(async |cluster| {
        let folder = cluster.folder().join("gang");
        std::fs::create_dir_all(&folder)?;
        // Each rank waits for all four: a gang that starts piece by piece never ends.
        let command = format!(
            "touch {0}/$MUSTER_RANK; while [ $(ls {0} | wc -l) -lt 4 ]; do sleep 0.02; done; echo $MUSTER_WORKER",
            folder.display()
        );
        let job = cluster.client().submit(&gang(4, &command)).await?;
        let ended = cluster.ended(job).await?;
        let mut workers = ended.summary.unwrap_or_default().workers;
        workers.sort();
        assert_eq!(workers, ["worker-1", "worker-2", "worker-3", "worker-4"]);
        assert_eq!(ended.attempts[0].ranks.len(), 4);
        assert!(ended.attempts[0].ranks.iter().all(|rank| rank.exit_code == Some(0)));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_job_has_its_grace_and_no_more() {
    shared(async |cluster| {
        let (polite, stubborn) = (cluster.folder().join("polite"), cluster.folder().join("stubborn"));
        let client = cluster.client();
        let command =
            format!("trap 'echo bye; exit 0' TERM; echo $$ > {}; while :; do sleep 0.05; done", polite.display());
        let first = client.submit(&spec(&command)).await?;
        let mut ignoring =
            spec(&format!("trap '' TERM; echo $$ > {}; while :; do sleep 0.05; done", stubborn.display()));
        ignoring.grace = Millis(400);
        let second = client.submit(&ignoring).await?;
        line_in(&polite).await?;
        let pid: i32 = line_in(&stubborn).await?.parse()?;
        client.cancel(first).await?;
        client.cancel(second).await?;

        let (first_end, second_end) = (cluster.ended(first).await?, cluster.ended(second).await?);
        assert_eq!(first_end.summary.unwrap_or_default().phase, "Canceled");
        assert!(first_end.attempts[0].ranks[0].stopped, "{:?}", first_end.attempts);
        let logs = cluster.muster(&["logs", &first.to_string()]).await?.good()?;
        assert_eq!(logs.stdout, "bye\n");

        assert_eq!(second_end.summary.unwrap_or_default().phase, "Canceled");
        assert!(second_end.attempts[0].ranks[0].stopped, "{:?}", second_end.attempts);
        assert!(!is_alive(pid));
        // Cancelling what has ended changes nothing.
        assert_eq!(client.cancel(first).await?.phase, "Canceled");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_program_below_a_shell_that_dies_at_once_has_the_grace_too() {
    shared(async |cluster| {
        let (ready, saved) = (cluster.folder().join("below"), cluster.folder().join("below-saved"));
        // The program saves for a second once it is told to stop; the shell above it has no trap and is gone by then.
        let program = format!(
            "trap 'sleep 1; echo state > $MUSTER_OUTPUT_MODEL/state; cp $MUSTER_OUTPUT_MODEL/state {}; echo saved; exit 0' \
             TERM\necho $PPID > {}\nwhile :; do sleep 0.05; done\n",
            saved.display(),
            ready.display()
        );
        cluster.write("below/code/program.sh", &program)?;
        let text = "code: code\ncommand: sh program.sh; echo never\noutputs: {model: }\n";
        let job = cluster.submit("below/job.yml", text).await?;
        let shell: i32 = line_in(&ready).await?.parse()?;
        cluster.client().cancel(job).await?;
        let ended = cluster.ended(job).await?;
        assert!(!is_alive(shell));
        assert_eq!(ended.summary.unwrap_or_default().phase, "Canceled");
        assert_eq!(cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout, "saved\n");
        assert_eq!(std::fs::read_to_string(&saved)?, "state\n");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_over_its_time_limit_is_stopped() {
    shared(async |cluster| {
        let job = cluster.submit("timeout/job.yml", "command: exec sleep 1000\nlimits: {timeout: 1}\n").await?;
        let ended = cluster.ended(job).await?;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Failed");
        assert_eq!(ended.attempts[0].cause_kind, "time_limit");
        let ran = ended.attempts[0].ended_ms - ended.attempts[0].running_ms;
        assert!((1_000..4_000).contains(&ran), "{ran} ms");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_failed_gang_starts_again_after_a_pause_that_doubles() {
    shared(async |cluster| {
        let mut failing = gang(2, "test $MUSTER_RANK = 0 && exec sleep 1000; test $MUSTER_ATTEMPT = 3");
        failing.restart.max_restarts = 5;
        failing.restart.backoff = Millis(150);
        // The third attempt's rank 1 completes; its rank 0 has to as well.
        failing.command = "test $MUSTER_ATTEMPT = 3 && exit 0; test $MUSTER_RANK = 1 && exit 1; exec sleep 1000".into();
        let job = cluster.client().submit(&failing).await?;
        let ended = cluster.ended(job).await?;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed");
        let attempts = &ended.attempts;
        assert_eq!(attempts.len(), 3);
        let pauses: Vec<u64> = attempts.windows(2).map(|pair| pair[1].placed_ms - pair[0].ended_ms).collect();
        assert!(pauses[0] >= 150 && pauses[1] >= 300, "{pauses:?}");
        assert!(attempts.windows(2).all(|pair| pair[0].token < pair[1].token));

        let mut hopeless = spec("exit 1");
        hopeless.restart.max_restarts = 1;
        let job = cluster.client().submit(&hopeless).await?;
        let ended = cluster.ended(job).await?;
        assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Failed", 2));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_watch_shows_every_phase_in_order_and_ends_with_the_job() {
    shared(async |cluster| {
        let job = cluster.client().submit(&spec("sleep 0.3")).await?;
        let watched = cluster.muster(&["jobs", "watch", &job.to_string(), "-o", "json"]).await?.good()?;
        let events: Vec<Value> = watched.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let indexes: Vec<u64> = events.iter().filter_map(|event| event["index"].as_u64()).collect();
        assert!(indexes.windows(2).all(|pair| pair[0] < pair[1]), "{indexes:?}");
        assert_eq!(events.last().map(|event| event["job"]["phase"].clone()), Some("Completed".into()));

        // From the middle: only what came after.
        assert!(indexes.len() > 1, "{}", watched.stdout);
        let after = indexes[0].to_string();
        let resumed = cluster.muster(&["jobs", "watch", &job.to_string(), "-o", "json", "--after", &after]).await?;
        let rest: Vec<Value> = resumed.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        assert_eq!(rest.last().map(|event| event["job"]["phase"].clone()), Some("Completed".into()));
        assert!(rest.len() < events.len());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn lists_are_filtered_and_come_in_pages() {
    shared(async |cluster| {
        let client = cluster.client();
        let mut ids = Vec::new();
        for index in 0..7 {
            let mut job = spec("true");
            job.experiment_name = "pages".into();
            job.display_name = format!("page {index} {}", if index % 2 == 0 { "even" } else { "odd" });
            ids.push(client.submit(&job).await?.0);
        }
        for id in &ids {
            cluster.until_phase(types::JobId(*id), JobPhase::Completed).await?;
        }
        ids.reverse();
        let list = async |more: &[&str]| {
            let arguments = [&["jobs", "list", "--experiment", "pages", "-o", "json"], more].concat();
            let value = cluster.muster(&arguments).await?.json()?;
            let jobs = value["jobs"].as_array().cloned().unwrap_or_default();
            anyhow::Ok(jobs.iter().filter_map(|job| job["id"].as_u64()).collect::<Vec<u64>>())
        };
        assert_eq!(list(&["--all"]).await?, ids);
        assert_eq!(list(&["--limit", "3"]).await?, ids[..3]);
        assert_eq!(list(&["--name", "even"]).await?.len(), 4);
        assert_eq!(list(&["--phase", "Completed"]).await?.len(), 7);
        assert!(list(&["--phase", "Failed", "--pending"]).await?.is_empty());

        // Pages of three, on the wire, from a coordinator's own copy once it has caught up.
        let mut seen = Vec::new();
        let mut query =
            client::v1::ListJobsRequest { experiment_name: "pages".into(), page_size: 3, ..Default::default() };
        loop {
            let page = client.list(query.clone()).await?;
            seen.extend(page.jobs.iter().map(|job| job.id));
            query.before_job = page.next_before_job;
            if query.before_job == 0 {
                break;
            }
        }
        assert_eq!(seen, ids);
        Ok(())
    })
    .await;
}
