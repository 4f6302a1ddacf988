//! `muster lineage verify`: records against each other, against a file that was kept elsewhere, and against the bytes they name.

use super::records::{Chain, Line, differences};
use crate::commands::Session;
use crate::commands::jobs::parse_job;
use crate::failure::{Exit, bad_input};
use crate::output::text::{bytes, hash};
use anyhow::Context as _;
use clap::Args;
use client::{Client, LineageRecords};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use types::JobId;

/// Differences named of one record.
const PLACES_MAX: usize = 8;

/// `muster lineage verify`
#[derive(Args, Debug)]
#[command(
    after_help = "Ends with 1 and names each fault. Records bind each other: whoever alters one must make all later ones again, which shows
only against an export that was kept elsewhere. A coordinator checks its own tables and disk; `--coordinators` chooses one.

Examples:
  muster lineage verify                              all jobs, and that their files are there
  muster lineage verify 7 --deep                     every byte that job 7 names
  muster lineage verify --file lineage.jsonl         the cluster has what was exported
  muster lineage verify --file lineage.jsonl --offline"
)]
pub struct VerifyArgs {
    /// Only this job
    #[arg(value_parser = parse_job)]
    job: Option<JobId>,
    /// A file that `muster lineage export` wrote: it must be sound, and the cluster must have the very same records
    #[arg(long, value_name = "FILE", conflicts_with = "job")]
    file: Option<PathBuf>,
    /// Only the file; needs no cluster
    #[arg(long, requires = "file")]
    pub(super) offline: bool,
    /// Read every byte of code, data, checkpoints and outputs, not only sizes and lists of files
    #[arg(long, conflicts_with = "file")]
    deep: bool,
    /// Only the records, not the files
    #[arg(long, conflicts_with_all = ["file", "deep"])]
    records_only: bool,
}

/// One thing that is wrong.
#[derive(Debug)]
struct Fault {
    record: Option<u64>,
    job: u64,
    /// Node of the graph, and the file.
    place: String,
    what: String,
}

#[derive(Debug, Default)]
struct Found {
    chain: Chain,
    folders: u64,
    files: u64,
    bytes: u64,
    faults: Vec<Fault>,
}

/// With the cluster.
pub(super) async fn run(args: &VerifyArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let mut found = Found::default();
    if let Some(path) = &args.file {
        let first = lines(path)?.next().transpose()?.map_or(1, |line| line.number);
        let mut theirs = client.lineage_records(first.saturating_sub(1), None).await?;
        for line in lines(path)? {
            against(&mut found, &line?, &mut theirs).await?;
        }
        return found.tell(args, session);
    }
    let mut records = client.lineage_records(0, args.job).await?;
    while let Some(record) = records.next().await? {
        found.step(&Line::from(record));
    }
    if !args.records_only {
        files(&mut found, args, client).await?;
    }
    found.tell(args, session)
}

/// Without it.
pub(super) fn file(args: &VerifyArgs, session: &Session) -> anyhow::Result<Exit> {
    let path = args.file.as_ref().context("no file is named")?;
    let mut found = Found::default();
    for line in lines(path)? {
        found.step(&line?);
    }
    found.tell(args, session)
}

fn lines(path: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Line>>> {
    let file =
        std::fs::File::open(path).map_err(|error| bad_input(format!("cannot read {}: {error}", path.display())))?;
    let path = path.to_owned();
    Ok(std::io::BufReader::new(file).lines().enumerate().map(move |(index, line)| {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&line).map_err(|error| bad_input(format!("{}:{}: {error}", path.display(), index + 1)))
    }))
}

/// A record of the file beside the cluster's of that number.
async fn against(found: &mut Found, line: &Line, theirs: &mut LineageRecords) -> anyhow::Result<()> {
    if found.step(line) {
        return Ok(());
    }
    let other = loop {
        match theirs.next().await?.map(Line::from) {
            // The file lacks some, which is told already.
            Some(other) if other.number < line.number => {}
            other => break other,
        }
    };
    let what = match other {
        None => "the cluster has no such record: the end was cut off, or it began anew from an older copy".to_owned(),
        Some(other) if other == *line => return Ok(()),
        Some(other) => {
            let value = |line: &Line| serde_json::from_str::<Value>(&line.text).unwrap_or_default();
            let places: Vec<String> = differences(&value(line), &value(&other))
                .into_iter()
                .take(PLACES_MAX)
                .map(|(place, ..)| place)
                .collect();
            match places.as_slice() {
                [] => "the cluster has sealed it otherwise".to_owned(),
                places => format!("the cluster says otherwise: {}", places.join(", ")),
            }
        }
    };
    found.faults.push(Fault { record: Some(line.number), job: line.job, place: String::new(), what });
    Ok(())
}

async fn files(found: &mut Found, args: &VerifyArgs, client: &Client) -> anyhow::Result<()> {
    let mut checks = client.lineage_check(args.job, args.deep).await?;
    while let Some(check) = checks.next().await? {
        found.folders += check.trees;
        found.files += check.files;
        found.bytes += check.bytes;
        for fault in check.faults {
            let file = if fault.path.is_empty() { "the list of its files" } else { &fault.path };
            let place = format!("{} {}, {file}", fault.node, hash(&fault.tree));
            found.faults.push(Fault { record: None, job: check.job_id, place, what: fault.what });
        }
    }
    Ok(())
}

impl Found {
    /// True when the record is wrong by itself, or does not follow.
    fn step(&mut self, line: &Line) -> bool {
        let Some(what) = self.chain.step(line) else { return false };
        self.faults.push(Fault { record: Some(line.number), job: line.job, place: String::new(), what });
        true
    }

    fn tell(&self, args: &VerifyArgs, session: &Session) -> anyhow::Result<Exit> {
        let Found { chain, folders, files, bytes: read, faults } = self;
        let (number, head) = chain.last.clone().unwrap_or_default();
        let value = json!({
            "records": chain.count, "withheld": chain.withheld, "last": number, "hash": head, "folders": folders, "files": files, "bytes_read": read,
            "faults": faults.iter().map(|fault| json!({
                "record": fault.record, "job_id": fault.job, "place": fault.place, "what": fault.what,
            })).collect::<Vec<_>>(),
        });
        session.output.print(&value, |_| {
            let mut text = String::new();
            for Fault { record, job, place, what } in faults {
                let record = record.map(|number| format!("record {number}, ")).unwrap_or_default();
                let place = if place.is_empty() { String::new() } else { format!(", {place}") };
                let _ = writeln!(text, "fault: {record}job {job}{place}: {what}");
            }
            if !faults.is_empty() {
                return text;
            }
            let _ = writeln!(text, "{} records are what was sealed; the last is {number}, {head}", chain.count);
            if chain.withheld > 0 {
                let _ = writeln!(
                    text,
                    "of {} of them, of other workspaces, only the hashes were there to be followed",
                    chain.withheld
                );
            }
            if args.file.is_none() && !args.records_only {
                let how =
                    if args.deep { format!("{} read", bytes(*read)) } else { "sizes and lists compared".to_owned() };
                let _ = writeln!(text, "{folders} folders with {files} files are there; {how}");
            }
            text
        })?;
        Ok(if faults.is_empty() { Exit::Success } else { Exit::Error })
    }
}
