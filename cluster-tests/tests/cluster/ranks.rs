//! Ranks that misbehave: each is ended with everything that it started, and the job says what was wrong.

use crate::support::{cannot_run, is_alive, line_in, shared};
use cluster_tests::{PATIENCE, gang, spec, until};

#[tokio::test]
async fn when_a_rank_dies_its_gang_is_stopped_within_a_second() {
    shared(async |cluster| {
        let folder = cluster.folder().join("gang-death");
        std::fs::create_dir_all(&folder)?;
        let script = format!(
            "echo $$ > {0}/$MUSTER_RANK; while [ $(ls {0} | wc -l) -lt 4 ]; do sleep 0.02; done; \
             test $MUSTER_RANK = 2 && {{ echo boom >&2; exit 9; }}; trap '' TERM; while :; do sleep 0.05; done",
            folder.display()
        );
        let job = cluster.client().submit(&gang(4, &script)).await?;
        let ended = cluster.ended(job).await?;
        let summary = ended.summary.clone().unwrap_or_default();
        assert_eq!(summary.phase, "Failed");
        let culprit = &ended.attempts[0].ranks.iter().find(|rank| rank.rank == 2).cloned().unwrap_or_default();
        for part in ["rank 2", &culprit.worker, "9", "boom"] {
            assert!(summary.reason.contains(part), "{part:?} in {:?}", summary.reason);
        }
        let last = ended.attempts[0].ranks.iter().map(|rank| rank.ended_ms).max().unwrap_or_default();
        let span = last - culprit.ended_ms;
        println!("the gang was gone {span} ms after its first death");
        assert!(span < 1_000, "{span} ms: {:?}", ended.attempts[0].ranks);
        assert!(ended.attempts[0].ranks.iter().filter(|rank| rank.rank != 2).all(|rank| rank.stopped));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named() {
    shared(async |cluster| {
        let job = cluster.client().submit(&spec("no-such-program --fast")).await?;
        let ended = cluster.ended(job).await?;
        let summary = ended.summary.unwrap_or_default();
        assert_eq!((summary.phase.as_str(), ended.attempts[0].ranks[0].exit_code), ("Failed", Some(127)));
        assert!(summary.reason.contains("no-such-program") && summary.reason.contains("127"), "{}", summary.reason);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_ranks_session_gives_way_to_the_daemons() {
    shared(async |cluster| {
        let own = std::fs::read_to_string("/proc/self/autogroup").unwrap_or_default();
        if own.is_empty() {
            cannot_run("the niceness of ranks' sessions: this kernel has no autogroup");
            return Ok(());
        }
        let job = cluster.client().submit(&spec("cat /proc/self/autogroup")).await?;
        assert_eq!(cluster.ended(job).await?.summary.unwrap_or_default().phase, "Completed");
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout;
        assert!(said.trim_end().ends_with("nice 5"), "{said:?}, the test itself {own:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn nothing_that_a_rank_started_outlives_it() {
    shared(async |cluster| {
        let file = cluster.folder().join("runaway");
        // A daemon as they are made: a session of its own, its parent gone, deaf to what it may be deaf to, no open pipe.
        let runaway = format!(
            "setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 0.1; done' \
             </dev/null >/dev/null 2>&1 & while [ ! -e {0} ]; do sleep 0.01; done; echo done",
            file.display()
        );
        let job = cluster.client().submit(&spec(&runaway)).await?;
        let ended = cluster.ended(job).await?;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed");
        let pid: i32 = line_in(&file).await?.parse()?;
        assert!(!is_alive(pid), "the runaway outlived its rank's end");
        assert_eq!(cluster.processes_of(job), [0_i32; 0], "something of the job is left");

        // One that hides its name, and is cancelled instead.
        let hidden = cluster.folder().join("hidden");
        let command =
            format!("env -i setsid sh -c 'echo $$ > {0}; exec /bin/sleep 1000' & exec sleep 1000", hidden.display());
        let job = cluster.client().submit(&spec(&command)).await?;
        let pid: i32 = line_in(&hidden).await?.parse()?;
        assert!(is_alive(pid));
        cluster.client().cancel(job).await?;
        cluster.ended(job).await?;
        assert!(!is_alive(pid), "a process without an environment outlived its rank");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_rank_that_is_killed_from_outside_is_told_by_its_signal() {
    shared(async |cluster| {
        let file = cluster.folder().join("victim");
        let job = cluster.client().submit(&spec(&format!("echo $$ > {}; exec sleep 1000", file.display()))).await?;
        let pid: i32 = line_in(&file).await?.parse()?;
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::SEGV)?;
        let ended = cluster.ended(job).await?;
        assert_eq!(ended.attempts[0].ranks[0].signal, Some(11));
        let reason = ended.summary.unwrap_or_default().reason;
        assert!(reason.contains("signal 11") || reason.contains("SIGSEGV"), "{reason}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_is_gone_from_its_worker_once_it_has_ended() {
    shared(async |cluster| {
        let job = cluster.client().submit(&spec("true")).await?;
        cluster.ended(job).await?;
        let client = cluster.client();
        until("no worker has the job any more", PATIENCE, async || {
            let workers = client.workers().await.ok()?;
            workers.iter().all(|worker| !worker.jobs.contains(&job.0)).then_some(())
        })
        .await
    })
    .await;
}

/// Without a limit rank 1 ends with 3.
const TOO_MUCH: &str = r"
command: test $MUSTER_RANK = 0 && exec sleep 1000; head -c 300000000 /dev/zero | tail >/dev/null; exit 3
resources: {instance_count: 2}
x-muster: {memory_per_rank: 64MiB, spread: true}
";

#[tokio::test]
async fn a_rank_over_its_memory_limit_is_killed_and_the_job_says_so() {
    shared(async |cluster| {
        let job = cluster.submit("memory/job.yml", TOO_MUCH).await?;
        let ended = cluster.ended(job).await?;
        let (summary, ranks) = (ended.summary.unwrap_or_default(), &ended.attempts[0].ranks);
        let culprit = ranks.iter().find(|rank| rank.rank == 1).cloned().unwrap_or_default();
        let log = std::fs::read_to_string(cluster.folder().join(format!("{}.log", culprit.worker)))?;
        let lacking = |line: &str| line.contains("limits are not enforced here") && line.contains("memory");
        if culprit.exit_code == Some(3) && log.lines().any(lacking) {
            cannot_run("a rank over its memory limit: no memory controller is to be had here");
            return Ok(());
        }
        assert_eq!((summary.phase.as_str(), ended.attempts[0].cause_kind.as_str()), ("Failed", "out_of_memory"));
        for part in ["rank 1 on ", &culprit.worker, "memory limit"] {
            assert!(summary.reason.contains(part), "{part:?} in {:?}", summary.reason);
        }
        assert!(ranks.iter().any(|rank| rank.rank == 0 && rank.stopped), "{ranks:?}");
        Ok(())
    })
    .await;
}
