//! A power cut: an ext4 file system of its own is shut down in the middle of writing, its journal and page cache lost as
//! they are, and mounted again. What was acknowledged is there, whole; what was not is a prefix or not there at all.
//!
//! Needs root, loop devices and `mkfs.ext4`; elsewhere it says so and proves nothing.
#![allow(clippy::unwrap_used)]

use daemon::environment;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use stores::blobs::{BlobOptions, BlobState, BlobStore, hash_of};
use stores::streams::{StreamError, StreamLimits, StreamName, StreamStore};
use types::{AttemptNumber, ContentHash, JobId, RankIndex, StreamKind, Token};

const FOLDER: &str = "MUSTER_TEST_POWER_CUT";
const ROUNDS: u64 = 12;

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|out| out.status.success())
}

/// An ext4 file system in a file.
struct Disk {
    image: String,
    place: PathBuf,
}

impl Disk {
    fn make(folder: &Path) -> Option<Self> {
        let image = folder.join("image");
        let place = folder.join("mounted");
        std::fs::create_dir(&place).unwrap();
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let image = image.to_str().unwrap().to_owned();
        let made = run("mkfs.ext4", &["-q", "-F", &image]);
        let disk = Self { image, place };
        (made && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        run("mount", &["-o", "loop", &self.image, self.place.to_str().unwrap()])
    }

    /// Loses whatever is not on disk and comes back as after the next boot.
    fn cut_power(&self) {
        const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        const WITHOUT_FLUSHING_THE_JOURNAL: u32 = 2;
        let root = File::open(&self.place).unwrap();
        // SAFETY: EXT4_IOC_SHUTDOWN reads one 32-bit flag word from the pointer that the setter passes.
        unsafe {
            let request = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSHING_THE_JOURNAL);
            rustix::ioctl::ioctl(&root, request).unwrap();
        }
        drop(root);
        assert!(run("umount", &[self.place.to_str().unwrap()]));
        assert!(self.mount());
    }
}

/// Also in the file that `MUSTER_TEST_SKIPS` names: cargo hides what a passing test says.
fn cannot_run(why: &str) {
    eprintln!("not tested here: power cuts of the streams and blobs: {why}");
    if let Some(path) = environment::text("MUSTER_TEST_SKIPS") {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(format!("not tested here: power cuts of the streams and blobs: {why}\n").as_bytes()).unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    let test = "what_was_acknowledged_survives_power_cuts";
    if let Some(folder) = environment::text(FOLDER) {
        match Disk::make(Path::new(&folder)) {
            Some(disk) => survive(&disk),
            None => cannot_run("no loop device or no mkfs.ext4"),
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    if !rustix::process::geteuid().is_root() || !run("unshare", &["-m", "true"]) {
        return cannot_run("not root");
    }
    // In a mount namespace of its own, which takes the mount with it whatever happens.
    let status = Command::new("unshare")
        .args(["-m", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FOLDER, folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "the test failed in its child process");
}

fn source(from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// Few streams are flushed one by one, many at once: both ways.
fn streams(round: u64) -> Vec<StreamName> {
    let ranks = if round.is_multiple_of(2) { 3 } else { 20 };
    let name = |rank| StreamName {
        job: JobId(round * 1_000),
        attempt: AttemptNumber(1),
        rank: RankIndex(rank),
        kind: StreamKind::Stdout,
    };
    (0..ranks).map(name).collect()
}

fn survive(disk: &Disk) {
    let mut acknowledged: Vec<(StreamName, u64)> = Vec::new();
    let mut stored: Vec<ContentHash> = Vec::new();
    for round in 1..=ROUNDS {
        let options = BlobOptions { disk_free_min: 0, ..BlobOptions::default() };
        let blobs = BlobStore::open_with(&disk.place.join("data/blobs"), options).unwrap();
        let limits = StreamLimits { disk_free_min: 0, ..StreamLimits::default() };
        let store = StreamStore::open(&disk.place.join("data/streams"), limits).unwrap();
        check(&store, &acknowledged, &blobs, &stored);
        for name in streams(round) {
            let count = 1_000 + 977 * round as usize;
            let token = if name.rank.0 == 0 { 2 } else { 1 };
            store.append(&name, Token(1), 0, &source(0, 500)).unwrap();
            acknowledged.push((name, store.append(&name, Token(token), 500, &source(500, count)).unwrap().length));
        }
        // Nothing but a new token: only the folder has something to flush.
        let fenced = StreamName { job: JobId(7), ..streams(round)[0] };
        if round > 1 {
            let late = store.append(&fenced, Token(round - 2), 1, b"");
            assert!(matches!(late, Err(StreamError::OlderToken { .. })), "the token of round {} is lost", round - 1);
        }
        store.append(&fenced, Token(round), 0, b"x").unwrap();
        store.flush().unwrap();
        // Every other stream has a compacted file when the power goes, or is just being taken apart again.
        for (name, _) in acknowledged.iter().filter(|(name, _)| (name.rank.0 as u64 + round).is_multiple_of(2)) {
            store.compact(name).unwrap();
        }
        stored.extend(store_blobs(&blobs, round));
        // Unacknowledged: more of the same streams, a stream of another job, a blob on its way. One stream is taken apart for it,
        // and last: that commits the file system's journal, and with it ext4 may keep the others' longer size without their bytes.
        let more = |name: &StreamName, length| store.append(name, Token(2), length, &source(length, 5_000)).unwrap();
        let (raw, compacted): (Vec<_>, Vec<_>) =
            acknowledged.iter().copied().partition(|(name, _)| store.is_raw(name).unwrap());
        for (name, length) in raw.into_iter().chain(compacted.into_iter().take(1)) {
            more(&name, length);
        }
        let mut torn = blobs.writer(hash_of(b"torn"), 4).unwrap();
        torn.write(0, b"to").unwrap();
        drop((torn, store, blobs));
        disk.cut_power();
    }
}

fn store_blobs(blobs: &BlobStore, round: u64) -> Vec<ContentHash> {
    let count = if round.is_multiple_of(3) { 2 } else { 30 };
    let contents = (0..count).map(|i| source(round * 1_000_000 + i, 3_000 + 100 * i as usize));
    let finished = contents.map(|content| blobs.import(&mut content.as_slice(), u64::MAX).unwrap()).collect();
    blobs.commit(finished).unwrap()
}

fn check(store: &StreamStore, acknowledged: &[(StreamName, u64)], blobs: &BlobStore, stored: &[ContentHash]) {
    for (name, length) in acknowledged {
        let now = store.length(name).unwrap();
        assert!(now >= *length, "{name}: {now} of {length} acknowledged bytes");
        assert!(store.read(name, 0, usize::MAX).unwrap() == source(0, now as usize), "{name} has other bytes");
    }
    for hash in stored {
        assert_eq!(blobs.verify(hash).unwrap(), BlobState::Good, "{hash}");
    }
}
