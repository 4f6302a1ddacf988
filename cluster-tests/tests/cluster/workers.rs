//! Workers that die: their daemon alone, or for good; and what keeps them alive beside their ranks.

use crate::support::{alone, held_by, is_alive, line_in, open, shared};
use cluster_tests::{PATIENCE, Shape, spec, until};
use rustix::process::{Pid, Signal};
use types::JobPhase;

#[tokio::test]
async fn a_daemon_that_comes_back_adopts_its_ranks() {
    alone(Shape::new(1, 1), async |cluster| {
        let folder = cluster.folder().display().to_string();
        let command = format!(
            "echo $$ > {folder}/pid; echo before; while [ ! -e {folder}/back ]; do sleep 0.02; done; echo after; exit 5"
        );
        let job = cluster.client().submit(&spec(&command)).await?;
        let pid: i32 = line_in(&cluster.folder().join("pid")).await?.parse()?;
        cluster.until_phase(job, JobPhase::Running).await?;
        cluster.worker("worker-1")?.kill()?;
        cluster.restart_worker("worker-1")?;
        cluster.until_ready(1).await?;
        assert!(is_alive(pid));
        std::fs::write(format!("{folder}/back"), "")?;
        let ended = cluster.ended(job).await?;
        // The very attempt, with the exit code and every byte from before and after.
        assert_eq!((ended.attempts.len(), ended.attempts[0].ranks[0].exit_code), (1, Some(5)));
        assert_eq!(cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout, "before\nafter\n");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_orderly_stop_keeps_ranks_for_the_next_daemon() {
    alone(Shape::new(1, 1), async |cluster| {
        let folder = cluster.folder().display().to_string();
        let command = format!("echo $$ > {folder}/pid; while [ ! -e {folder}/back ]; do sleep 0.02; done");
        let job = cluster.client().submit(&spec(&command)).await?;
        let pid: i32 = line_in(&cluster.folder().join("pid")).await?.parse()?;
        let daemon = cluster.worker("worker-1")?;
        daemon.signal(Signal::TERM)?;
        let status = until("the daemon to end", PATIENCE, async || daemon.ended().ok().flatten());
        assert_eq!(status.await?.code(), Some(0));
        assert!(is_alive(pid));
        cluster.restart_worker("worker-1")?;
        std::fs::write(format!("{folder}/back"), "")?;
        let ended = cluster.ended(job).await?;
        assert_eq!((ended.attempts.len(), ended.summary.unwrap_or_default().phase.as_str()), (1, "Completed"));
        Ok(())
    })
    .await;
}

/// As of a machine that was copied with all that is on it: two daemons prove the same name and the same folder.
#[tokio::test]
async fn a_daemon_with_a_copy_of_a_workers_folder_waits_as_long_as_the_worker_is_heard() {
    alone(Shape::new(1, 1), async |cluster| {
        let folder = cluster.folder().display().to_string();
        let command = format!("echo begun; while [ ! -e {folder}/go ]; do sleep 0.02; done; echo done");
        cluster.copy_worker("worker-1")?;
        let job = cluster.client().submit(&spec(&command)).await?;
        cluster.until_phase(job, JobPhase::Running).await?;
        let copy = cluster.worker("worker-1-copy")?;
        let told = async || copy.log().contains("copy of its data folder").then_some(());
        until("the copy to be told why it waits", PATIENCE, told).await?;
        std::fs::write(format!("{folder}/go"), "")?;
        let ended = cluster.ended(job).await?;
        assert_eq!((ended.attempts.len(), ended.summary.unwrap_or_default().phase.as_str()), (1, "Completed"));
        assert_eq!(cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout, "begun\ndone\n");
        assert!(!cluster.worker("worker-1-copy")?.log().contains("session opened"));
        assert!(!cluster.worker("worker-1")?.log().contains("session lost"));
        // It takes the worker's place when that is gone: a machine that was moved.
        cluster.worker("worker-1")?.kill()?;
        let job = cluster.client().submit(&spec("true")).await?;
        assert_eq!(cluster.ended(job).await?.summary.unwrap_or_default().phase, "Completed");
        assert!(cluster.worker("worker-1-copy")?.log().contains("session opened"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_copy_of_the_folder_of_a_worker_whose_ranks_run_here_is_refused_and_they_go_on() {
    alone(Shape::new(1, 1), async |cluster| {
        let mut held = held_by(cluster, "gate");
        held.command = format!("echo $$ > {}/pid; {}", cluster.folder().display(), held.command);
        let job = cluster.client().submit(&held).await?;
        // Before that its supervisor may not have said who it is.
        line_in(&cluster.folder().join("pid")).await?;
        cluster.copy_worker("worker-1")?;
        let copy = cluster.worker("worker-1-copy")?;
        let ended = until("the copy to end", PATIENCE, async || copy.ended().ok().flatten()).await?;
        let said = copy.log();
        assert!(!ended.success() && said.contains("is a copy of another worker's folder"), "{said}");
        open(cluster, "gate")?;
        let ended = cluster.ended(job).await?;
        assert_eq!((ended.attempts.len(), ended.summary.unwrap_or_default().phase.as_str()), (1, "Completed"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_gang_of_a_lost_worker_starts_elsewhere_when_its_ranks_are_surely_dead() {
    alone(Shape::new(1, 2).cpus(1), async |cluster| {
        let folder = cluster.folder().display().to_string();
        // The second attempt looks whether any rank of the first still runs (LEASE-1): all share this machine.
        let command = format!(
            "for pid in $(cat {folder}/first 2>/dev/null); do kill -0 $pid 2>/dev/null && echo alive $pid; done; \
             if [ $MUSTER_ATTEMPT = 1 ]; then echo $$ >> {folder}/first; echo $MUSTER_WORKER > {folder}/at; exec sleep 1000; fi; \
             echo second on $MUSTER_WORKER"
        );
        let job = cluster.client().submit(&spec(&command)).await?;
        let at = line_in(&cluster.folder().join("at")).await?;
        cluster.worker(&at)?.kill()?;
        let ended = cluster.ended(job).await?;
        assert_eq!(ended.summary.clone().unwrap_or_default().phase, "Completed", "{:?}", ended.summary);
        assert_eq!((ended.attempts.len(), ended.attempts[0].cause_kind.as_str()), (2, "worker_lost"));
        let other = if at == "worker-1" { "worker-2" } else { "worker-1" };
        let logs = cluster.muster(&["logs", &job.to_string(), "--stream", "stdout", "--attempt", "2"]).await?.good()?;
        assert_eq!(logs.stdout, format!("second on {other}\n"));
        assert_eq!(cluster.processes_of(job), [0_i32; 0]);
        // And the worker itself comes back as if nothing had been.
        cluster.restart_worker(&at)?;
        cluster.until_ready(2).await
    })
    .await;
}

#[tokio::test]
async fn a_machine_that_failed_three_jobs_is_told_to_be_set_aside_and_taken_back_by_uncordon() {
    alone(Shape::new(3, 1), async |cluster| {
        let members = cluster.worker("worker-1")?.data().join("members");
        std::fs::rename(&members, members.with_extension("aside"))?;
        std::fs::write(&members, "no folder")?;
        for _ in 0..3 {
            let job = cluster.client().submit(&spec("true")).await?;
            let tried =
                async || Some(cluster.client().get(job).await.ok()?.attempts.first()?.ended_ms).filter(|at| *at > 0);
            until("the attempt to fail", PATIENCE, tried).await?;
            cluster.client().cancel(job).await?;
        }
        let waits = cluster.client().submit(&spec("true")).await?;
        for id in 1..=3 {
            let workers = cluster.client_of(id)?.workers().await?;
            assert_eq!(workers[0].state, "set aside", "as coordinator {id} tells it");
            assert!(workers[0].aside_until_ms > workers[0].registered_ms);
        }
        let why = cluster.client().explain(waits).await?;
        assert!(why.hints.iter().any(|hint| hint.contains("1 workers are set aside")), "{:?}", why.hints);
        let shown = cluster.muster(&["workers", "show", "worker-1"]).await?.good()?.stdout;
        assert!(shown.contains("set aside  until"), "{shown}");
        let until_ms = cluster.client().workers().await?[0].aside_until_ms;
        let leader = cluster.leader().await?;
        cluster.coordinator(leader)?.kill()?;
        cluster.muster(&["jobs", "list"]).await?.good()?;
        let workers = cluster.client().workers().await?;
        assert_eq!(workers[0].state, "set aside", "another leads");
        // From the end of the third job: one leader goes by when it read of it, the next by when it was written.
        assert!(workers[0].aside_until_ms.abs_diff(until_ms) < 1_000, "{} {until_ms}", workers[0].aside_until_ms);

        std::fs::remove_file(&members)?;
        std::fs::rename(members.with_extension("aside"), &members)?;
        for turn in ["cordon", "uncordon"] {
            cluster.muster(&["workers", turn, "worker-1"]).await?.good()?;
        }
        assert_eq!(cluster.ended(waits).await?.summary.unwrap_or_default().phase, "Completed");
        assert_eq!(cluster.client().workers().await?[0].state, "ready");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn each_daemon_has_a_session_of_its_own_and_so_a_share_of_the_processor() {
    shared(async |cluster| {
        let (coordinators, workers) = cluster.pids();
        assert_eq!((coordinators.len(), workers.len()), (3, 4));
        for pid in coordinators.into_iter().chain(workers) {
            let session = rustix::process::getsid(Pid::from_raw(pid))?;
            assert_eq!(session.as_raw_pid(), pid);
        }
        Ok(())
    })
    .await;
}
