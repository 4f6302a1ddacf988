//! Processors that ranks have for themselves (`--pin-cpus`).

use crate::support::{add_worker, alone, cannot_run, held_by, open};
use cluster_tests::{Cluster, PATIENCE, Shape, until};
use types::{JobId, JobPhase, JobSpec};

/// It says on which processors it may run, tries to have all, and says it again.
fn telling(mut held: JobSpec, processors: usize, slots: u32) -> JobSpec {
    let tell = "grep Cpus_allowed_list /proc/self/status";
    let all = format!("taskset -pc 0-{} $$ > /dev/null", processors - 1);
    held.command = format!("{tell}; {all}; {tell}; {}", held.command);
    held.gang.per_rank.cpus = slots;
    held
}

/// What it has said: at its start, and after it tried to have more.
async fn told(cluster: &Cluster, job: JobId) -> anyhow::Result<[String; 2]> {
    until("what it may run on", PATIENCE, async || {
        let said = cluster.muster(&["logs", &job.to_string()]).await.ok()?.stdout;
        let lists = said.lines().filter_map(|line| Some(line.split_once("Cpus_allowed_list:")?.1.trim().to_owned()));
        <[String; 2]>::try_from(lists.collect::<Vec<_>>()).ok()
    })
    .await
}

#[tokio::test]
async fn what_a_worker_does_not_offer_is_its_daemons() {
    let Some(processors) = std::thread::available_parallelism().ok().map(usize::from).filter(|count| *count >= 2)
    else {
        return cannot_run("processors that are left to the daemon: this machine has one");
    };
    alone(Shape::new(1, 0), async |cluster| {
        add_worker(cluster, "worker-1", 1, &["--pin-cpus"])?;
        cluster.until_ready(1).await?;
        let job = cluster.client().submit(&telling(held_by(cluster, "gate"), processors, 1)).await?;
        let [own, _] = told(cluster, job).await?;
        let own = own.parse::<usize>()?;
        let daemon = cluster.pids().1[0];
        for thread in std::fs::read_dir(format!("/proc/{daemon}/task"))? {
            let number = thread?.file_name().to_string_lossy().parse()?;
            let thread = rustix::process::Pid::from_raw(number);
            let set = match rustix::thread::sched_getaffinity(thread) {
                Ok(set) => set,
                Err(rustix::io::Errno::SRCH) => continue, // it has ended meanwhile
                Err(error) => return Err(error.into()),
            };
            assert!(!set.is_set(own) && set.count() as usize == processors - 1, "thread {number}: {set:?}");
        }
        open(cluster, "gate")?;
        cluster.until_phase(job, JobPhase::Completed).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn each_job_has_processors_of_its_own_and_stays_on_them() {
    let Some(processors) = std::thread::available_parallelism().ok().map(usize::from).filter(|count| *count >= 2)
    else {
        return cannot_run("ranks on processors of their own: this machine has one");
    };
    alone(Shape::new(1, 0), async |cluster| {
        let data = cluster.folder().join("refused").display().to_string();
        let line = ["worker", "--name", "refused", "--data", &data, "--pin-cpus", "--cpus", "2000"];
        let refused = cluster.muster(&line).await?;
        assert!(refused.code == 2 && refused.stderr.contains("2000 CPU slots cannot be pinned"), "{}", refused.stderr);

        add_worker(cluster, "worker-1", 2, &["--pin-cpus"])?;
        cluster.until_ready(1).await?;
        let is_kept = !cluster.logs().contains("nothing keeps them there");
        if !is_kept {
            cannot_run("that ranks stay on their processors: no control groups for it");
        }
        let client = cluster.client();
        let first = client.submit(&telling(held_by(cluster, "first"), processors, 1)).await?;
        let second = client.submit(&telling(held_by(cluster, "second"), processors, 1)).await?;
        let (one, other) = (told(cluster, first).await?, told(cluster, second).await?);
        for told in [&one, &other] {
            assert!(told[0].parse::<u32>().is_ok(), "one processor: {told:?}");
            assert!(!is_kept || told[0] == told[1], "more than its own: {told:?}");
        }
        assert_ne!(one[0], other[0]);

        // A restarted daemon gives away what is free, and nothing else.
        cluster.worker("worker-1")?.kill()?;
        cluster.restart_worker("worker-1")?;
        cluster.until_ready(1).await?;
        open(cluster, "first")?;
        cluster.ended(first).await?;
        let third = client.submit(&telling(held_by(cluster, "third"), processors, 1)).await?;
        let third_told = told(cluster, third).await?;
        if processors == 2 {
            assert_eq!(third_told[0], one[0]);
        }
        assert_ne!(third_told[0], other[0]);
        for gate in ["second", "third", "both"] {
            open(cluster, gate)?;
        }
        let both = client.submit(&telling(held_by(cluster, "both"), processors, 2)).await?;
        let told = told(cluster, both).await?;
        assert!(told[0].contains(['-', ',']), "two processors: {told:?}");
        for job in [second, third, both] {
            let ended = cluster.ended(job).await?;
            assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Completed", 1));
        }
        Ok(())
    })
    .await;
}
