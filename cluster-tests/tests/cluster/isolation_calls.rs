//! The filter of system calls of ranks that are users of their own, told by a job that makes each of them.

use crate::isolation_users::{RANGE, can_be_others, let_pass};
use crate::support::{add_worker, alone, held_by, open};
use crate::training;
use cluster_tests::{Cluster, PATIENCE, Shape, spec, until};
use std::collections::BTreeMap;

/// What the kernel answered to each, as the program says it.
type Answers = BTreeMap<String, i32>;

/// May be asked for, whoever asks: of the job's own processes, and of nobody else's by the kernel's own rule.
const FREE: [&str; 2] = ["clone", "unshare_files"];

async fn said(cluster: &Cluster, command: &str) -> anyhow::Result<String> {
    let job = cluster.client().submit(&spec(command)).await?;
    cluster.ended(job).await?;
    let logs = cluster.muster(&["logs", &job.to_string()]).await?.good()?;
    Ok(format!("{}{}", logs.stdout, logs.stderr))
}

async fn answers(cluster: &Cluster, victim: i32) -> anyhow::Result<Answers> {
    let program = env!("CARGO_BIN_EXE_system-calls");
    let said = said(cluster, &format!("{program} {victim}")).await?;
    let lines = said.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.filter_map(|(name, errno)| Some((name.to_owned(), errno.parse().ok()?))).collect())
}

#[tokio::test]
async fn calls_that_no_training_needs_are_refused_and_a_training_goes_on() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_be_others(cluster.program(), "the filter of system calls") {
            return Ok(());
        }
        let_pass(cluster)?;
        add_worker(cluster, "worker-1", 8, &["--rank-user", RANGE])?;
        cluster.until_ready(1).await?;
        let victim = cluster.client().submit(&held_by(cluster, "gate")).await?;
        cluster.until_phase(victim, types::JobPhase::Running).await?;
        let process = until("its process", PATIENCE, async || cluster.processes_of(victim).first().copied()).await?;
        let answers = answers(cluster, process).await?;
        open(cluster, "gate")?;
        assert!(answers.len() > 40 && answers.contains_key("process_vm_readv"), "{answers:?}");
        for (name, errno) in &answers {
            let expected = match name.as_str() {
                "clone3" => libc::ENOSYS,
                name if FREE.contains(&name) => 0,
                _ => libc::EPERM,
            };
            assert_eq!(*errno, expected, "{name} in {answers:?}");
        }
        println!("{} calls were refused", answers.len() - FREE.len());

        let tries = "grep Seccomp: /proc/self/status; for try in 'unshare -m true' 'unshare -U true' 'mount -t tmpfs none /tmp' dmesg; \
                     do $try >/dev/null 2>&1 && echo could: $try || echo denied: $try; done";
        let said = said(cluster, tries).await?;
        assert!(said.contains("Seccomp:\t2\n") && !said.contains("could: "), "{said}");
        assert_eq!(said.matches("denied: ").count(), 4, "{said}");

        // Threads, forks and shared memory between ranks go on.
        training::trains_on_a_table(cluster).await
    })
    .await;
}

#[tokio::test]
async fn with_the_flag_ranks_make_each_call_that_their_user_may() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_be_others(cluster.program(), "ranks without a filter of system calls") {
            return Ok(());
        }
        let_pass(cluster)?;
        add_worker(cluster, "worker-1", 8, &["--rank-user", RANGE, "--allow-all-system-calls"])?;
        cluster.until_ready(1).await?;
        let said = said(cluster, "grep Seccomp: /proc/self/status").await?;
        assert_eq!(said, "Seccomp:\t0\n");
        let answers = answers(cluster, 1).await?;
        // The kernel looks at what it is given, and has no number of arguments of these that is right.
        for name in ["clone3", "add_key", "request_key", "io_uring_enter"] {
            let errno = answers.get(name).copied();
            assert!(!matches!(errno, None | Some(libc::EPERM | libc::ENOSYS)), "{name}: {answers:?}");
        }
        Ok(())
    })
    .await;
}
