//! What the coordinators take of ranks' streams, each byte flushed by a majority; how soon a follower has a line; what memory it needs.
//!
//! Ranks are measured twice: as real processes through spool and shipper, and hollow, where a session's own connections push
//! known text, so that the stores are measured and not the processes around them. Beside both stands what the disk can flush.

mod disk;
mod follow;
mod push;

use super::hollow::{Herd, Ranks};
use super::machine::{self, Cpu};
use super::stats::{Times, ms, thousands};
use super::{Options, Report, Table};
use crate::{Cluster, PATIENCE, Shape, gang, spec, until};
use anyhow::{Context as _, ensure};
use client::{LogQuery, MetricQuery};
use push::{Text, Took, Worker};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use types::{JobId, JobSpec};

/// Megabytes of each measurement, unless another number is asked for.
const MEGABYTES: usize = 400;
/// The longest for one measurement.
const SPAN_MAX: Duration = Duration::from_mins(5);
/// 100 bytes with its end, about as long as programs' lines are.
const LINE: &str =
    "2026-11-27T20:00:00Z step 1234 loss 0.23145 rate 0.0003 tokens 131072 of a line of a hundred bytes\n";
/// A point, as ranks report them.
const POINT: &str = "{\"name\": \"train_loss\", \"value\": 0.2314, \"step\": 123456, \"time\": 1764000000.25}\n";
/// Streams that are followed at once, and on how many workers.
const FOLLOWED: u32 = 1_000;
const FOLLOWED_WORKERS: u32 = 10;

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let bytes = options.count.unwrap_or(MEGABYTES) as u64 * 1_000_000;
    std::fs::create_dir_all(&options.dir)?;
    let folder = options.dir.clone();
    let disk = move || disk::flush(&folder, bytes, 3);
    let before = tokio::task::spawn_blocking(disk.clone()).await??;
    let columns = ["what", "ranks", "MB/s on a majority", "on all", "lines/s", "coordinators' CPU", "lines/s a core"];
    let mut table = Table::new("Streams of ranks onto three coordinators", &columns);
    let mut peaks = Vec::new();
    for (workers, ranks) in [(4, 1), (10, 10)] {
        let mut hollow = Hollow::start(options, workers, ranks).await?;
        table.row(hollow.flood("hollow, stdout", "stdout", LINE, bytes).await?);
        hollow.read_back(report).await?;
        table.row(hollow.flood("hollow, metric points", "metrics", POINT, bytes / 4).await?);
        hollow.read_points(report).await?;
        peaks.push((format!("{} hollow ranks", workers * ranks), hollow.peak()));
    }
    for (workers, ranks) in [(4, 1), (4, 25)] {
        let (row, peak) = processes(options, workers, ranks, bytes).await?;
        table.row(row);
        peaks.push((format!("{} processes", workers * ranks as usize), peak));
    }
    report.table(table);
    let hollow = Hollow::start(options, FOLLOWED_WORKERS, FOLLOWED / FOLLOWED_WORKERS).await?;
    report.table(follow::table(&hollow).await?);
    peaks.push((format!("{FOLLOWED} followed streams"), hollow.peak()));
    drop(hollow);
    let after = tokio::task::spawn_blocking(disk).await??;
    report.table(disk_table(bytes, before, after));
    let mut memory = Table::new("Most resident memory of a coordinator", &["load", "MiB"]);
    for (load, peak) in peaks {
        memory.row([load, format!("{peak:.0}")]);
    }
    report.table(memory);
    report.note("hollow: one session's connections a worker push text that is made beforehand, by the shipper's rules; no spool and no process");
    report.note(
        "processes: `yes LINE | head -c N` under supervisors; from their start until that many bytes are flushed",
    );
    report.note("CPU: processors at work for all three coordinators together; workers, clients and this program share the machine");
    Ok(())
}

fn rate(bytes: u64, span: Duration) -> f64 {
    bytes as f64 / 1e6 / span.as_secs_f64()
}

fn disk_table(bytes: u64, before: Duration, after: Duration) -> Table {
    let title = "The disk alone: as many bytes, three copies at once, flushed every 8 MiB; MB/s of one copy";
    let mut table = Table::new(title, &["when", "MB/s"]);
    for (when, took) in [("before", before), ("after", after)] {
        table.row([when.to_owned(), format!("{:.0}", rate(bytes, took))]);
    }
    table
}

/// Three coordinators, and a job whose ranks run on hollow workers.
struct Hollow {
    cluster: Cluster,
    _herd: Herd,
    workers: Vec<Worker>,
    job: JobId,
    /// Of each rank's stdout, and of its metrics.
    lengths: BTreeMap<&'static str, u64>,
}

impl Hollow {
    async fn start(options: &Options, workers: u32, ranks: u32) -> anyhow::Result<Self> {
        let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 0)).await?;
        let mut herd = Herd::join(&cluster, workers as usize, ranks).await?.with(Ranks::Stay);
        let dialers: BTreeMap<_, _> = herd.dialers().into_iter().collect();
        herd.start();
        let mut gang = gang(workers, "true");
        gang.gang.ranks_per_instance = ranks;
        let client = cluster.client();
        // Not all sessions need be open yet.
        let job = client.submit_for_later(&gang).await?;
        let running = async || {
            let attempt = client.get(job).await.ok()?.attempts.pop()?;
            (attempt.phase == "Running").then_some(attempt)
        };
        let attempt = until("the hollow ranks to run", PATIENCE, running);
        let attempt = tokio::select! {
            attempt = attempt => attempt?,
            failed = herd.failed() => return Err(failed),
        };
        let workers = attempt.members.into_iter().map(|member| {
            let dialer = dialers.get(&member.worker).context("a member on a worker of nobody's")?.clone();
            anyhow::Ok(Worker { dialer, job: job.0, token: attempt.token, ranks: member.ranks })
        });
        let workers = workers.collect::<anyhow::Result<_>>()?;
        Ok(Self { cluster, _herd: herd, workers, job, lengths: BTreeMap::new() })
    }

    fn ranks(&self) -> u64 {
        self.workers.iter().map(|worker| worker.ranks.len() as u64).sum()
    }

    fn peak(&self) -> f64 {
        self.cluster.pids().0.into_iter().map(machine::memory_peak).fold(0.0, f64::max)
    }

    /// Pushes about so many bytes of all ranks together; a row of the table.
    async fn flood(&mut self, what: &str, stream: &'static str, line: &str, bytes: u64) -> anyhow::Result<[String; 7]> {
        let text = Text::new(line);
        let each = bytes / self.ranks() / text.line_bytes() * text.line_bytes();
        let (pids, addresses) = (self.cluster.pids().0, self.cluster.addresses());
        let before = Cpu::sum(&pids);
        let flood = push::flood(&self.workers, &addresses, stream, &text, each);
        let took = tokio::time::timeout(SPAN_MAX, flood).await.context("the streams were not taken")??;
        let used = Cpu::sum(&pids).since(before).own;
        self.lengths.insert(stream, each);
        Ok(row(what, self.ranks(), each * self.ranks(), line.len(), took, used))
    }

    /// All of stdout, as a reader gets it.
    async fn read_back(&self, report: &mut Report) -> anyhow::Result<()> {
        let (text, wanted) = (Text::new(LINE), self.lengths["stdout"]);
        let mut logs =
            self.cluster.client().logs(self.job, LogQuery { streams: vec!["stdout".into()], ..LogQuery::default() });
        let (mut lengths, begun) = (BTreeMap::<u32, u64>::new(), Instant::now());
        while let Some(chunk) = tokio::time::timeout(PATIENCE, logs.next()).await?? {
            let length = lengths.entry(chunk.rank).or_default();
            ensure!(chunk.offset == *length, "rank {} goes on at {} instead of {length}", chunk.rank, chunk.offset);
            let mut data = &chunk.data[..];
            while !data.is_empty() {
                let sound = text.at(*length, data.len() as u64);
                ensure!(data.starts_with(&sound), "rank {} has other bytes at {length}", chunk.rank);
                *length += sound.len() as u64;
                data = &data[sound.len()..];
            }
        }
        let whole = lengths.len() as u64 == self.ranks() && lengths.values().all(|length| *length == wanted);
        ensure!(whole, "not all was read: {lengths:?} of {wanted} each");
        let rate = rate(wanted * self.ranks(), begun.elapsed());
        report.note(format!(
            "{} hollow ranks: every byte was read back once, in order, by one reader: {rate:.0} MB/s",
            self.ranks()
        ));
        Ok(())
    }

    /// All points, as a reader gets them.
    async fn read_points(&self, report: &mut Report) -> anyhow::Result<()> {
        let wanted = self.lengths["metrics"] / POINT.len() as u64 * self.ranks();
        let mut points = self.cluster.client().metrics(self.job, MetricQuery::default());
        let (mut count, begun) = (0, Instant::now());
        while let Some(batch) = tokio::time::timeout(PATIENCE, points.next()).await?? {
            count += batch.len() as u64;
        }
        ensure!(count == wanted, "{count} points of {wanted}");
        let rate = thousands(count as f64 / begun.elapsed().as_secs_f64());
        report.note(format!(
            "{} hollow ranks: every point was read back once, by one reader: {rate} points/s",
            self.ranks()
        ));
        Ok(())
    }
}

fn row(what: &str, ranks: u64, bytes: u64, line: usize, took: Took, used: Duration) -> [String; 7] {
    let lines = bytes as f64 / line as f64 / took.majority.as_secs_f64();
    let cores = used.as_secs_f64() / took.all.as_secs_f64();
    [
        what.to_owned(),
        ranks.to_string(),
        format!("{:.0}", rate(bytes, took.majority)),
        format!("{:.0}", rate(bytes, took.all)),
        thousands(lines),
        format!("{cores:.2}"),
        // A third of what they need together is one coordinator's.
        thousands(bytes as f64 / line as f64 / (used.as_secs_f64() / 3.0)),
    ]
}

/// Real processes on real workers.
async fn processes(options: &Options, workers: usize, ranks: u32, bytes: u64) -> anyhow::Result<([String; 7], f64)> {
    let shape = Shape::new(3, workers).cpus(ranks);
    let cluster = Cluster::start_in(&options.dir, &options.muster, shape).await?;
    let all = workers as u64 * u64::from(ranks);
    let each = bytes / all / LINE.len() as u64 * LINE.len() as u64;
    let job =
        JobSpec { gang: gang(workers as u32, "").gang, ..spec(&format!("yes '{}' | head -c {each}", LINE.trim_end())) };
    let job = JobSpec { gang: types::GangSpec { ranks_per_instance: ranks, ..job.gang }, ..job };
    let pids = cluster.pids().0;
    let before = Cpu::sum(&pids);
    let job = cluster.client().submit(&job).await?;
    let summary = || async { cluster.client().get(job).await.ok()?.summary };
    let running = until("the ranks to start", PATIENCE, async || summary().await.filter(|job| job.started_ms > 0));
    running.await?;
    let begun = Instant::now();
    let majority = until("a majority to have all", SPAN_MAX, async || {
        (having(&cluster, each * all).await.ok()? >= 2).then(|| begun.elapsed())
    });
    let majority = majority.await?;
    let every = until("all to have all", SPAN_MAX, async || {
        (having(&cluster, each * all).await.ok()? == 3).then(|| begun.elapsed())
    });
    let took = Took { majority, all: every.await? };
    let used = Cpu::sum(&pids).since(before).own;
    let ended = cluster.ended_within(job, SPAN_MAX).await?.summary.unwrap_or_default();
    ensure!(ended.phase == "Completed", "the job: {} {}", ended.phase, ended.reason);
    let peak = pids.into_iter().map(machine::memory_peak).fold(0.0, f64::max);
    Ok((row("processes, stdout", all, each * all, LINE.len(), took, used), peak))
}

/// How many coordinators have flushed so many bytes of streams.
async fn having(cluster: &Cluster, bytes: u64) -> anyhow::Result<usize> {
    let mut count = 0;
    for id in 1..=3 {
        let text = cluster.get(id, "/metrics").await?;
        let flushed = text.lines().find_map(|line| line.strip_prefix("muster_telemetry_bytes_total "));
        count += usize::from(flushed.context("it tells no bytes")?.trim().parse::<f64>()? >= bytes as f64);
    }
    Ok(count)
}
