//! The program of the load's ranks: it says that it runs and how it ended, holds a lock that only one may hold, and prints bytes
//! that anybody can compute.
//!
//! Two live processes of one job and rank cannot both hold its lock, and the kernel lets it go with its holder: so a second one
//! that starts too early says so itself, whatever either of them was told.

use crate::sim::Chance;
use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Between two looks at the gate, and two prints.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a rank is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Where it writes its records
    #[arg(long, value_name = "DIR")]
    pub records: PathBuf,
    /// Goes on until this file is there
    #[arg(long, value_name = "FILE")]
    pub until: PathBuf,
    /// What its bytes follow from
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Bytes that it prints at each look
    #[arg(long, default_value_t = 0)]
    pub bytes: usize,
    /// Does not end when it is asked to
    #[arg(long)]
    pub stubborn: bool,
    /// Leaves a process that has left its parent and its session
    #[arg(long)]
    pub orphan: bool,
}

/// One line of a rank's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Job.
    pub job: u64,
    /// Rank.
    pub rank: u32,
    /// Attempt.
    pub attempt: u32,
    /// Process.
    pub pid: i32,
    /// Since the machine's start.
    pub at_ms: u64,
    /// What happened.
    pub event: Event,
}

/// What happened to a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It runs, and holds the lock.
    Started,
    /// It runs, and another one holds the lock.
    Overlaps,
    /// It ends by itself, and had printed so many bytes.
    Ended(u64),
}

/// Runs one rank to its end.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let number = |name: &str| -> anyhow::Result<u64> {
        daemon::environment::text(name).with_context(|| format!("no {name}"))?.parse().context("not a number")
    };
    let (job, rank) = (number("MUSTER_JOB_ID")?, u32::try_from(number("MUSTER_RANK")?)?);
    let attempt = u32::try_from(number("MUSTER_ATTEMPT")?)?;
    // Before anything is said: whoever reads that it runs may ask it to end.
    let _ignored = if arguments.stubborn { Some(signal(SignalKind::terminate())?) } else { None };
    if arguments.orphan {
        std::process::Command::new("sh").args(["-c", "(setsid sleep 1000 >/dev/null 2>&1 &)"]).status()?;
    }
    let lock =
        OpenOptions::new().create(true).append(true).open(arguments.records.join(format!("{job}-{rank}.lock")))?;
    let event = flock(&lock, FlockOperation::NonBlockingLockExclusive).map_or(Event::Overlaps, |()| Event::Started);
    let say = |event| {
        let at_ms = u64::try_from(daemon::clock::boot_time().as_millis())?;
        let record = Record { job, rank, attempt, pid: std::process::id().cast_signed(), at_ms, event };
        // One write: others append to other files, but a kill may come between two.
        let line = format!("{}\n", serde_json::to_string(&record)?);
        let file = arguments.records.join(format!("{job}-{rank}.records"));
        anyhow::Ok(OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes())?)
    };
    say(event)?;
    let mut bytes = Bytes::of(arguments.seed, job, rank, attempt);
    while !arguments.until.exists() {
        std::io::stdout().write_all(&bytes.take(arguments.bytes))?;
        std::io::stdout().flush()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    say(Event::Ended(bytes.taken))
}

/// What one attempt of one rank prints, byte for byte.
#[derive(Clone, Debug)]
pub struct Bytes {
    chance: Chance,
    /// How many were taken.
    pub taken: u64,
}

impl Bytes {
    /// From their beginning.
    pub fn of(seed: u64, job: u64, rank: u32, attempt: u32) -> Self {
        Self { chance: Chance::new(seed, &format!("bytes of {job}-{rank}-{attempt}")), taken: 0 }
    }

    /// The next ones. Letters with an end of line here and there, as programs print.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let letter = |chance: &mut Chance| match chance.between(0, 64) {
            0 => b'\n',
            other => b'?' + other as u8,
        };
        self.taken += count as u64;
        (0..count).map(|_| letter(&mut self.chance)).collect()
    }
}

/// All that the ranks of this folder said.
pub fn records(folder: &Path) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "records") {
            let text = std::fs::read_to_string(&path)?;
            // A last line without its end is one that is being written.
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let parsed = whole.map(serde_json::from_str).collect::<Result<Vec<Record>, _>>();
            records.append(&mut parsed.with_context(|| path.display().to_string())?);
        }
    }
    records.sort_by_key(|record| (record.job, record.rank, record.at_ms));
    Ok(records)
}

/// I2: nobody started while another process of its job and rank lived.
pub fn overlaps(records: &[Record]) -> Vec<String> {
    let overlaps = records.iter().filter(|record| record.event == Event::Overlaps);
    let fault = |record: &Record| {
        let Record { job, rank, attempt, pid, .. } = record;
        format!("I2: attempt {attempt} of rank {rank} of job {job} (process {pid}) began while another one lived")
    };
    overlaps.map(fault).collect()
}

/// Makes the folder, for a cluster's load.
pub fn folder(parent: &Path) -> anyhow::Result<PathBuf> {
    let folder = parent.join("witness");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Where ranks of this job and attempt run, by rank, as they said.
pub fn processes(folder: &Path, job: u64, attempt: u32) -> anyhow::Result<BTreeMap<u32, i32>> {
    let records = records(folder)?;
    let of = records.iter().filter(|record| (record.job, record.attempt) == (job, attempt));
    Ok(of.map(|record| (record.rank, record.pid)).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_however_they_are_taken_and_differ_between_attempts() {
        let mut whole = Bytes::of(7, 3, 1, 1);
        let mut parts = whole.clone();
        let together = whole.take(100);
        let mut apart = parts.take(33);
        apart.extend(parts.take(67));
        assert_eq!((together.clone(), whole.taken), (apart, parts.taken));
        assert_ne!(together, Bytes::of(7, 3, 1, 2).take(100));
        assert!(together.iter().all(|byte| byte.is_ascii_graphic() || *byte == b'\n'));
    }

    #[test]
    fn an_overlap_is_told_and_a_line_that_is_being_written_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let record = |attempt, event| Record { job: 3, rank: 1, attempt, pid: 9, at_ms: u64::from(attempt), event };
        let lines = [record(1, Event::Started), record(2, Event::Overlaps), record(3, Event::Ended(5))];
        let text: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        std::fs::write(folder.path().join("3-1.records"), format!("{}\n{}\n{}", text[0], text[1], &text[2][..9]))
            .unwrap();
        let read = records(folder.path()).unwrap();
        assert_eq!(read, lines[..2]);
        let faults = overlaps(&read);
        assert!(faults.len() == 1 && faults[0].contains("attempt 2 of rank 1 of job 3"), "{faults:?}");
    }
}
