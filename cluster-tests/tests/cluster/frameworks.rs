//! The examples of other frameworks, each trained over four workers, where this machine has the framework or may install it.

mod install;
mod rendezvous;

use crate::isolation_users::{can_be_others, let_pass};
use crate::rank_network::can_have_networks;
use crate::support::{add_worker, alone, cannot_run, shared};
use cluster_tests::{Cluster, Shape};
use install::Framework;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::sync::Mutex;

/// Importing a framework many times on two cores takes its time.
const PATIENCE: Duration = Duration::from_mins(4);
/// One framework at a time, for the same reason.
static TURN: Mutex<()> = Mutex::const_new(());

/// Of no framework.
pub const PYTHON: Framework =
    Framework { name: "plain processes", module: "json", program: None, debian: &["python3"], pip: &[] };
const PYTORCH: Framework =
    Framework { name: "PyTorch", module: "torch", program: None, debian: &["python3-torch"], pip: &[] };
const MPI: Framework = Framework {
    name: "MPI",
    module: "mpi4py",
    program: Some("mpirun"),
    debian: &["openmpi-bin", "python3-mpi4py"],
    pip: &[],
};
const TENSORFLOW: Framework =
    Framework { name: "TensorFlow", module: "tensorflow", program: None, debian: &[], pip: &["tensorflow-cpu"] };

/// What a job left.
struct Left {
    logs: String,
    metrics: String,
}

impl Left {
    /// Every rank of the world says at its end that it is done.
    fn assert_all_done(&self, world: u32) {
        for rank in 0..world {
            let done = format!("rank {rank} of {world}");
            assert!(self.logs.lines().any(|line| line.contains(&done)), "no {done:?} in\n{}", self.logs);
        }
    }
}

/// Runs an example to its end, if its framework is to be had here, and looks at what it left.
async fn trains(example: &str, framework: &Framework, look: impl FnOnce(&Left)) {
    let _turn = TURN.lock().await;
    let python = match framework.python() {
        Ok(python) => python,
        Err(why) => return cannot_run(&format!("the example {example}: {why}")),
    };
    shared(async |cluster| {
        look(&run(cluster, example, &python).await?);
        Ok(())
    })
    .await;
}

/// Runs an example to its end with this Python.
async fn run(cluster: &Cluster, example: &str, python: &str) -> anyhow::Result<Left> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
    let text = std::fs::read_to_string(folder.join("job.yml"))?;
    let code = text.lines().find_map(|line| line.strip_prefix("code: "));
    let code = code.filter(|_| text.contains("python3 ") && text.contains("instance_count: 4\n"));
    let code = code.ok_or_else(|| anyhow::anyhow!("not as expected: {text}"))?;
    let place = format!("code: {}\n", folder.join(code).display());
    let text = text.replace(&format!("code: {code}\n"), &place).replace("python3 ", &format!("{python} "));
    // One instance on each of the four workers.
    let text = if text.contains("x-muster:\n") {
        text.replace("x-muster:\n", "x-muster:\n  spread: true\n")
    } else {
        format!("{text}x-muster:\n  spread: true\n")
    };
    let job = cluster.submit(&format!("{example}/job.yml"), &text).await?;
    let ended = cluster.ended_within(job, PATIENCE).await?;
    let logs = cluster.muster(&["logs", &job.to_string()]).await?.good()?;
    let summary = ended.summary.unwrap_or_default();
    assert_eq!(summary.phase, "Completed", "{}\n{}\n{}", summary.reason, logs.stdout, logs.stderr);
    let causes: Vec<_> = ended.attempts.iter().map(|attempt| attempt.cause.as_str()).collect();
    println!("{example}: {causes:?}");
    // One on each worker: those that machines and networks of this moment ended before the last do not count.
    let ranks = ended.attempts.last().map(|attempt| attempt.ranks.as_slice()).unwrap_or_default();
    let workers: BTreeSet<_> = ranks.iter().map(|rank| rank.worker.as_str()).collect();
    assert_eq!(workers.len(), 4, "not over four workers: {ranks:?}");
    let metrics = cluster.muster(&["metrics", &job.to_string()]).await?.good()?;
    Ok(Left { logs: logs.stdout, metrics: metrics.stdout })
}

/// As users of their own, with the filter of system calls and places and networks of their own where there can be any: Open MPI reads its
/// neighbours' memory, frameworks make threads and sockets of all kinds.
#[tokio::test]
async fn frameworks_train_as_users_of_their_own() {
    let _turn = TURN.lock().await;
    alone(Shape::new(1, 0), async |cluster| {
        if !can_be_others(cluster.program(), "frameworks as users of their own") {
            return Ok(());
        }
        let_pass(cluster)?;
        let mut arguments = vec!["--rank-user", "310300-310331"];
        if can_have_networks(cluster, "frameworks in networks of their own") {
            // Without a network of their own workers that encrypt would refuse them.
            arguments.extend(["--rank-network", "--encrypt-ranks"]);
        }
        for name in ["worker-1", "worker-2", "worker-3", "worker-4"] {
            add_worker(cluster, name, 4, &arguments)?;
        }
        cluster.until_ready(4).await?;
        for (example, framework) in [("pytorch-ddp", &PYTORCH), ("mpi", &MPI), ("tensorflow", &TENSORFLOW)] {
            match framework.python() {
                Err(why) => cannot_run(&format!("the example {example} as a user of its own: {why}")),
                Ok(python) if !install::others_run(&python, framework) => {
                    cannot_run(&format!("the example {example} as a user of its own: others cannot run {python}"));
                }
                Ok(python) => run(cluster, example, &python).await?.assert_all_done(4),
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn plain_processes_train() {
    trains("processes", &PYTHON, |left| {
        left.assert_all_done(4);
        assert!(left.metrics.contains("loss"), "{}", left.metrics);
    })
    .await;
}

#[tokio::test]
async fn the_pytorch_example_trains() {
    trains("pytorch-ddp", &PYTORCH, |left| {
        left.assert_all_done(4);
        assert!(left.metrics.contains("loss"), "{}", left.metrics);
    })
    .await;
}

#[tokio::test]
async fn the_torchrun_example_trains_two_processes_on_each_worker() {
    // PyTorch 1.13 under Python 3.11, as Debian 12 has them: its launcher takes its own default for nothing and ends.
    let reads_its_default =
        "from torch.distributed.elastic.multiprocessing import Std; assert Std.from_str('0') is not None";
    if PYTORCH.python().is_ok_and(|python| !install::succeeds(Command::new(python).args(["-c", reads_its_default]))) {
        return cannot_run("the example pytorch-torchrun: the torchrun of this PyTorch does not run under this Python");
    }
    trains("pytorch-torchrun", &PYTORCH, |left| {
        left.assert_all_done(8);
        assert!(left.metrics.contains("loss"), "{}", left.metrics);
    })
    .await;
}

#[tokio::test]
async fn the_mpi_example_trains() {
    trains("mpi", &MPI, |left| {
        left.assert_all_done(4);
        // All lines come through mpirun, which says whose they are.
        assert!(left.logs.contains("[1,3]<stdout>:rank 3 of 4"), "{}", left.logs);
        // Each rank's, although Open MPI closed the descriptor on the way to it.
        for rank in 0..4 {
            assert!(left.metrics.contains(&format!("seconds_rank_{rank}")), "{}", left.metrics);
        }
    })
    .await;
}

#[tokio::test]
async fn the_tensorflow_example_trains() {
    trains("tensorflow", &TENSORFLOW, |left| {
        left.assert_all_done(4);
        assert!(left.metrics.contains("loss"), "{}", left.metrics);
    })
    .await;
}
