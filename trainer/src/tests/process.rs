//! The contract with the worker, kept by real processes: descriptors, manifest, checkpoint lines; a kill (TRAIN-5)
//! and a resume (TRAIN-3).
//!
//! The ranks are this test program itself, told by the environment to be one.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;

const WORLD: usize = 3;
const OVERRIDES: &str =
    "training.steps=60 training.batch_size=120 model.hidden=[16] checkpoint.every_steps=10 checkpoint.keep=100";

/// Does nothing in a usual test run.
#[test]
fn rank() {
    let text = daemon::environment::text;
    let Some(result) = text("MUSTER_TEST_RESULT") else { return };
    let overrides = text("MUSTER_TEST_OVERRIDES").unwrap().split(' ').map(str::to_owned).collect();
    let outcome = match crate::run(TrainArgs { config: None, overrides }) {
        Ok(summary) => format!("ok {}", summary.parameters_sha256),
        Err(error) => format!("error {error}"),
    };
    std::fs::write(result, outcome).unwrap();
}

struct Rank {
    process: Child,
    metrics: File,
    result: PathBuf,
}

impl Rank {
    fn outcome(&mut self) -> String {
        self.process.wait().unwrap();
        std::fs::read_to_string(&self.result).unwrap_or_default()
    }
}

/// Starts an attempt as a worker does.
fn start(folder: &Path, attempt: u32, overrides: &str, resume_from: Option<&Path>) -> Vec<Rank> {
    let listeners: Vec<_> = (0..WORLD).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peer = |(rank, listener): (usize, &TcpListener)| {
        let data = listener.local_addr().unwrap().to_string();
        serde_json::json!({"rank": rank, "worker": format!("w{rank}"), "data": data, "framework": "127.0.0.1:9"})
    };
    let peers: Vec<_> = listeners.iter().enumerate().map(peer).collect();
    let manifest = folder.join(format!("manifest-{attempt}.json"));
    let secret = "0a".repeat(32);
    let json = serde_json::json!({"job": 1, "attempt": attempt, "token": 10 + attempt, "world_size": WORLD,
        "secret": secret, "peers": peers, "backend": "tcp"});
    std::fs::write(&manifest, json.to_string()).unwrap();
    let one = |(rank, listener): (usize, TcpListener)| {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let result = folder.join(format!("result-{attempt}-{rank}"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "tests::process::rank", "--nocapture"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("MUSTER_TEST_RESULT", &result).env("MUSTER_TEST_OVERRIDES", overrides);
        command.env("MUSTER_MANIFEST", &manifest).env("MUSTER_RANK", rank.to_string());
        command.env("MUSTER_WORLD_SIZE", WORLD.to_string());
        command.env("MUSTER_LISTEN_FD", listener.as_raw_fd().to_string());
        command.env("MUSTER_METRICS_FD", writer.as_raw_fd().to_string());
        command.env("MUSTER_CHECKPOINT_DIR", folder.join(format!("saved-{rank}")));
        if let Some(from) = resume_from {
            command.env("MUSTER_RESUME_FROM", from);
        }
        inherit(&mut command, listener.as_fd(), &writer);
        let process = command.spawn().unwrap();
        Rank { process, metrics: File::from(reader), result }
    };
    listeners.into_iter().enumerate().map(one).collect()
}

/// Only this child gets the two descriptors.
fn inherit(command: &mut Command, listener: BorrowedFd<'_>, metrics: &OwnedFd) {
    let descriptors = [listener.as_raw_fd(), metrics.as_raw_fd()];
    let keep = move || {
        for descriptor in descriptors {
            // SAFETY: both are open in the parent until the child has been started.
            let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls and touches no memory of others.
    unsafe { command.pre_exec(keep) };
}

#[test]
fn a_killed_rank_ends_the_others_and_the_next_attempt_ends_with_the_same_bits() {
    let overrides: Vec<String> = OVERRIDES.split(' ').map(str::to_owned).collect();
    let mut whole = Gang::new("", WORLD);
    whole.configs = vec![Config::parse("test", "", &overrides).unwrap(); WORLD];
    let whole = whole.succeed();

    let folder = tempfile::tempdir().unwrap();
    // Slow, so that the kill comes in the middle.
    let slow = format!("{OVERRIDES} training.step_delay_ms=20");
    let mut ranks = start(folder.path(), 1, &slow, None);
    let mut lines = BufReader::new(ranks[0].metrics.try_clone().unwrap()).lines();
    let saved = lines.find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        line.get("checkpoint").map(|name| name.as_str().unwrap().to_owned())
    });
    assert_eq!(saved.as_deref(), Some("step-10"));
    ranks[1].process.kill().unwrap();
    for at in [1, 0, 2] {
        let outcome = ranks[at].outcome();
        let expected = if at == 1 { outcome.is_empty() } else { outcome.contains("was aborted by rank 1") };
        assert!(expected, "rank {at}: {outcome}");
    }

    let from = folder.path().join("saved-0").join("step-10");
    let mut ranks = start(folder.path(), 2, OVERRIDES, Some(&from));
    for rank in &mut ranks {
        assert_eq!(rank.outcome(), format!("ok {}", whole.parameters_sha256));
    }
}
