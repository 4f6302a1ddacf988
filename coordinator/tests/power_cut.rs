//! Acknowledged entries and votes survive power cuts: a writer on a real ext4 whose device goes away between two writes.
//!
//! Each cycle runs a writer process on a loop-mounted ext4, cuts the file system off (`EXT4_IOC_SHUTDOWN` without flushing
//! its journal: what was not flushed is gone), mounts it again, and opens the store: every acknowledged entry and the last
//! acknowledged vote must be there. `cargo test -p coordinator --test power_cut -- --cycles 100` is the long form.
//!
//! It has no test harness, for the writer must be a process of its own. Needs root, `losetup`, `mkfs.ext4` and a kernel that
//! mounts loop devices; elsewhere it says so and does nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use cluster_state::Command as Change;
use coordinator::raft::types::{Batch, Entry, LogId, SnapshotMeta, TypeConfig, Vote};
use coordinator::store::{Store, StoreOptions};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use types::{ClusterId, Timestamp};

const CYCLES: u64 = 4;
const DISK_BYTES: u64 = 256 << 20;
/// Entries that stay when the beginning of the log is purged.
const KEPT: u64 = 150;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone());
    if let Some(folder) = value("--write") {
        write_until_cut(Path::new(&folder));
        return ExitCode::SUCCESS;
    }
    let filtered_out =
        arguments.first().is_some_and(|first| !first.starts_with('-') && !"power_cut".contains(first.as_str()));
    if filtered_out || arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let Some(mut disk) = Disk::new() else {
        const WHY: &str = "not tested here: power cuts of the Raft store: no root, losetup, mkfs.ext4 or loop mounts";
        println!("{WHY}");
        // For whoever ran all tests, and reads no output of those that passed.
        if let Some(path) = daemon::environment::text("MUSTER_TEST_SKIPS") {
            let mut file = File::options().create(true).append(true).open(path).expect("the file of MUSTER_TEST_SKIPS");
            file.write_all(format!("{WHY}\n").as_bytes()).expect("the file of MUSTER_TEST_SKIPS");
        }
        return ExitCode::SUCCESS;
    };
    let cycles = value("--cycles").map_or(CYCLES, |cycles| cycles.parse().expect("--cycles takes a number"));
    let (mut acknowledged, mut seed) = (0, 0x9E37_79B9_u64);
    for cycle in 1..=cycles {
        // A different moment each time, but the same ones in each run.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let promises = disk.run_and_cut(20 + (seed >> 33) % 300);
        acknowledged += promises.count;
        if let Err(what) = verify(&disk.store(), &promises) {
            println!("power_cut: cycle {cycle} of {cycles}: {what}");
            return ExitCode::FAILURE;
        }
    }
    println!("power_cut: ok: {cycles} cuts, {acknowledged} acknowledgements, all kept");
    ExitCode::SUCCESS
}

/// What the writer was told is on disk.
#[derive(Debug, Default)]
struct Promises {
    count: u64,
    first: u64,
    next: u64,
    term: u64,
}

impl Promises {
    /// Lines of the writer: `first next term`.
    fn take(&mut self, line: &str) {
        let mut numbers = line.split(' ').map(|number| number.parse().expect("a number"));
        (self.first, self.next) = (numbers.next().unwrap(), numbers.next().unwrap());
        self.term = numbers.next().unwrap();
        self.count += 1;
    }
}

/// An ext4 in a file, mounted.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        File::create(disk.image()).unwrap().set_len(DISK_BYTES).unwrap();
        std::fs::create_dir(disk.mounted()).unwrap();
        run("mkfs.ext4", &["-q", "-F", disk.image().to_str()?]).then_some(())?;
        disk.mount().then_some(disk)
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mounted(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn store(&self) -> PathBuf {
        self.mounted().join("raft")
    }

    fn mount(&self) -> bool {
        run("mount", &["-o", "loop", self.image().to_str().unwrap(), self.mounted().to_str().unwrap()])
    }

    /// Runs the writer, cuts the power after so many acknowledgements, and puts it back.
    fn run_and_cut(&mut self, acknowledgements: u64) -> Promises {
        let mut writer: Child = Command::new(std::env::current_exe().unwrap())
            .arg("--write")
            .arg(self.store())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut promises = Promises::default();
        while promises.count < acknowledgements {
            let line = lines.next().expect("the writer ended before the cut").unwrap();
            promises.take(&line);
        }
        cut(&self.mounted());
        writer.kill().unwrap();
        writer.wait().unwrap();
        // What it was told before the cut, but had not been read here yet.
        for line in lines.map_while(Result::ok).filter(|line| line.split(' ').count() == 3) {
            promises.take(&line);
        }
        assert!(run("umount", &[self.mounted().to_str().unwrap()]), "umount");
        assert!(self.mount(), "mount after the cut");
        promises
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", self.mounted().to_str().unwrap_or_default()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn cut(mounted: &Path) {
    /// `EXT4_IOC_SHUTDOWN`, and its flag that does not even flush the journal.
    const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    const NO_JOURNAL_FLUSH: u32 = 2;
    let folder = File::open(mounted).unwrap();
    // SAFETY: the ioctl reads one u32, which `Setter` passes by reference.
    unsafe {
        let shutdown = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_JOURNAL_FLUSH);
        rustix::ioctl::ioctl(&folder, shutdown).expect("EXT4_IOC_SHUTDOWN");
    }
}

fn verify(folder: &Path, promises: &Promises) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(folder, 1, StoreOptions::default()).map_err(|error| error.to_string())?;
        let Store { mut log, closed, .. } = store;
        let entries =
            log.try_get_log_entries(promises.first..promises.next).await.map_err(|error| error.to_string())?;
        let wanted: Vec<u64> = (promises.first..promises.next).collect();
        let found: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
        if found != wanted {
            return Err(format!("{promises:?}, but {} of {} entries are there", found.len(), wanted.len()));
        }
        if let Some(other) =
            entries.iter().find(|found| **found != entry(found.log_id.leader_id.term, found.log_id.index))
        {
            return Err(format!("entry {} is another one", other.log_id));
        }
        let vote = log.read_vote().await.map_err(|error| error.to_string())?;
        if promises.term > 0 && vote < Some(Vote::new_committed(promises.term, 1)) {
            return Err(format!("{promises:?}, but the vote is {vote:?}"));
        }
        drop(log);
        closed.await.map_err(|error| error.to_string())
    })
}

fn log_id(term: u64, index: u64) -> LogId {
    openraft::testing::log_id::<TypeConfig>(term, 1, index)
}

/// Small and large ones, by their index.
fn entry(term: u64, index: u64) -> Entry {
    let commands = if index.is_multiple_of(41) { 1_500 } else { 4 + index * 7_919 % 200 };
    let command = Change::FormCluster { cluster: ClusterId([index as u8; 16]) };
    let batch = Batch { time: Timestamp(index), commands: Arc::new(vec![command; commands as usize]) };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(batch) }
}

/// Appends, votes, truncates and purges as Raft does, and says after each what is on disk now. Ends when the disk fails.
fn write_until_cut(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let written = runtime.block_on(async {
        let Store { mut log, snapshots, .. } = Store::open(folder, 1, StoreOptions::default()).unwrap();
        let state = log.get_log_state().await.unwrap();
        let mut first = state.last_purged_log_id.map_or(0, |purged| purged.index + 1);
        let mut next = state.last_log_id.map_or(0, |last| last.index + 1);
        let mut term = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id().term) + 1;
        let mut out = std::io::stdout().lock();
        for round in 1_u64.. {
            if round % 13 == 1 {
                term += 1;
                log.save_vote(&Vote::new_committed(term, 1)).await?;
            }
            if round % 19 == 0 && next > first + 3 {
                // Said before: what goes is no promise any more.
                writeln!(out, "{first} {} {term}", next - 3)?;
                let kept = log.try_get_log_entries(next - 4..next - 3).await?;
                log.truncate_after(kept.first().map(|entry| entry.log_id)).await?;
                next -= 3;
            }
            let entries: Vec<Entry> = (0..=round % 8).map(|at| entry(term, next + at)).collect();
            next += entries.len() as u64;
            let (flushed, answer) = TypeConfig::oneshot();
            log.append(entries, IOFlushed::signal(flushed)).await?;
            answer.await.map_err(std::io::Error::other)??;
            if round % 40 == 0 && next > first + KEPT {
                let upto = log.try_get_log_entries(next - KEPT - 1..next - KEPT).await?[0].log_id;
                first = next - KEPT;
                writeln!(out, "{first} {next} {term}")?;
                snapshots.write(&SnapshotMeta { last_log_id: Some(upto), ..SnapshotMeta::default() }, &first)?;
                log.purge(upto).await?;
            }
            writeln!(out, "{first} {next} {term}")?;
        }
        Ok::<(), std::io::Error>(())
    });
    drop(written);
}
