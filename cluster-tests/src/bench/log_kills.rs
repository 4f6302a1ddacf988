//! One of three coordinators is killed again and again while ranks log at full speed: every byte is read back once, in order (`LOG-1`).
//!
//! Real daemons. Each rank writes numbered lines without pausing until it is told to stop, so that what any byte must be follows from
//! its rank and its place. A follower reads all of them meanwhile, and in the end every coordinator is read by itself. A line that
//! is missing, comes twice or stands elsewhere breaks the count.

use super::{Options, Report, Table, Times, ms};
use crate::silence::Answers;
use crate::{Cluster, PATIENCE, Shape, spec, until};
use anyhow::{Context as _, bail, ensure};
use client::{Client, LogQuery, v1};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use types::JobId;

/// Kills, unless another number is asked for.
const KILLS: usize = 50;
const RANKS: u32 = 100;
/// Lines that the follower sees between two kills, at least: the ranks do write while coordinators die.
const LINES_BETWEEN: u64 = 200;
/// What makes a line 100 bytes long, about as long as programs' lines are.
const REST: &str = "of a job whose coordinators die one after the other, and come back, while it writes this";
/// Small writes beside the ranks', by which a failover is timed.
const BEAT: &str = "log-kills";
const BEAT_EVERY: Duration = Duration::from_millis(20);
/// Writes flow for so long before a kill, and at least until so long after it.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Kills of a coordinator.
    pub kills: usize,
    /// Of these, of the one that led.
    pub leaders: usize,
    /// Attempts of the job: one, unless the machine was so busy that the worker was lost.
    pub attempts: u32,
    /// Lines of all attempts that the follower saw, each in its place.
    pub followed: u64,
    /// Lines that the ranks of the last one wrote.
    pub lines: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// From the ranks' start to their end.
    pub took: Duration,
    /// From each death of a leader to the next acknowledged write.
    pub failovers: Vec<Duration>,
}

/// The long form.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let mut cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 1).cpus(RANKS)).await?;
    let outcome = kill_while_ranks_log(&mut cluster, RANKS, options.count.unwrap_or(KILLS)).await?;
    let columns =
        ["ranks", "kills", "of the leader", "attempts", "lines", "MB", "MB/s", "s", "failover p50 ms", "max ms"];
    let mut table = Table::new("Coordinators killed with SIGKILL while ranks log", &columns);
    let (megabytes, seconds) = (outcome.bytes as f64 / 1e6, outcome.took.as_secs_f64());
    let times = Times::of(outcome.failovers);
    table.row([
        RANKS.to_string(),
        outcome.kills.to_string(),
        outcome.leaders.to_string(),
        outcome.attempts.to_string(),
        outcome.lines.to_string(),
        format!("{megabytes:.1}"),
        format!("{:.2}", megabytes / seconds),
        format!("{seconds:.0}"),
        ms(times.median()),
        ms(times.max()),
    ]);
    report.table(table);
    report.note("a follower, and each coordinator afterwards, read every line of every rank once, in order");
    report.note(
        "MB/s: what the ranks wrote, each byte flushed by a majority, from their start to their end, kills included",
    );
    Ok(())
}

/// Runs a job of so many ranks on the one worker and kills coordinators in turn; fails unless every line is read back once, in its
/// place, by a follower that began before the first kill and from each coordinator afterwards.
pub async fn kill_while_ranks_log(cluster: &mut Cluster, ranks: u32, kills: usize) -> anyhow::Result<Outcome> {
    let stop = cluster.folder().join("stop-logging");
    let job = cluster.client().submit(&logging(ranks, &stop.display().to_string())).await?;
    let (seen, mut progress) = tokio::sync::watch::channel(0);
    let follower = follow(cluster, job, seen);
    let beat = Beat::start(cluster).await.context("the first small write")?;
    let begun = Instant::now();
    let mut failovers = Vec::new();
    for kill in 0..=kills {
        let wanted = *progress.borrow_and_update() + LINES_BETWEEN;
        let logged = tokio::time::timeout(PATIENCE, progress.wait_for(|seen| *seen >= wanted)).await;
        if logged.context("the ranks' lines stopped coming")?.is_err() {
            follower.await?.context("what the follower saw")?;
            bail!("the follower ended before the job");
        }
        if kill < kills {
            failovers.extend(kill_one(cluster, &beat.answers, kill).await?);
        }
    }
    drop(beat);
    std::fs::write(&stop, "")?;
    let ended = cluster.ended(job).await?.summary.unwrap_or_default();
    ensure!(ended.phase == "Completed", "the job: {} {}", ended.phase, ended.reason);
    let took = begun.elapsed();
    let followed = tokio::time::timeout(PATIENCE, follower).await.context("the follower does not end")??;
    let followed = followed.context("what the follower saw")?;
    let counts = followed.finish(ranks)?;
    for id in 1..=3 {
        let read = read_whole(cluster, id, job).await.with_context(|| format!("from coordinator {id}"))?;
        ensure!(read.finish(ranks)? == counts, "coordinator {id} has other lines than were followed");
    }
    let Counts { attempt, lines, bytes } = counts;
    Ok(Outcome {
        kills,
        leaders: failovers.len(),
        attempts: attempt,
        followed: followed.lines(),
        lines,
        bytes,
        took,
        failovers,
    })
}

/// Ranks that write until the file is there: each looks for it every hundred lines, and says last how many it wrote.
fn logging(ranks: u32, stop: &str) -> types::JobSpec {
    // Behind the daemons, whose work is what is looked at: ranks in such a number would leave them nothing. Where the kernel shares
    // processors between sessions, niceness is of the session.
    let script = format!(
        "renice -n 19 $$ >/dev/null 2>&1; (echo 19 >/proc/self/autogroup) 2>/dev/null; i=0; until [ -e {stop} ]; do n=0; while [ $n -lt 100 ]; do n=$((n+1)); i=$((i+1)); \
         echo \"line $i of rank $MUSTER_RANK {REST}\"; done; done; echo last $i"
    );
    let mut job = spec(&script);
    job.gang.ranks_per_instance = ranks;
    job
}

/// Every third time the leader, and whoever comes otherwise; it is started again at once, and has caught up when this returns.
/// Answers with how long no write was acknowledged, if it led.
async fn kill_one(cluster: &mut Cluster, answers: &Answers, kill: usize) -> anyhow::Result<Option<Duration>> {
    answers.flow(BEFORE).await?;
    let leader = cluster.leader().await?;
    let victim = if kill.is_multiple_of(3) { leader } else { kill as u64 % 3 + 1 };
    let at = Instant::now();
    cluster.coordinator(victim)?.kill()?;
    let (silence, back) = tokio::join!(answers.silence_until(at, AFTER), cluster.restart_coordinator(victim));
    back?;
    let silence = silence?;
    let all = cluster.client();
    let behind = until("a leader", PATIENCE, async || Some(all.status(false).await.ok()?.commit_index)).await?;
    let client = cluster.client_of(victim)?;
    until("the killed coordinator to catch up", PATIENCE, async || {
        client.status(true).await.ok().filter(|status| status.applied_index >= behind && status.leader > 0).map(drop)
    })
    .await?;
    Ok((victim == leader).then_some(silence))
}

/// Small writes at a steady pace; they end when it is dropped.
struct Beat {
    answers: Answers,
    task: JoinHandle<()>,
}

impl Beat {
    async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let queue = |weight| v1::Queue { name: BEAT.to_owned(), weight, ..Default::default() };
        cluster.client().create_queue(&queue(1)).await?;
        let answers = Answers::default();
        let (client, noted): (Client, _) = (cluster.client(), answers.clone());
        let task = tokio::spawn(async move {
            let mut pace = tokio::time::interval(BEAT_EVERY);
            for weight in (1..=100).cycle() {
                pace.tick().await;
                if client.update_queue(&queue(weight)).await.is_ok() {
                    noted.note();
                }
            }
        });
        Ok(Self { answers, task })
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads live until the job's end; tells how many lines came.
fn follow(cluster: &Cluster, job: JobId, seen: tokio::sync::watch::Sender<u64>) -> JoinHandle<anyhow::Result<Reading>> {
    let query = LogQuery { follow: true, streams: vec!["stdout".into()], ..LogQuery::default() };
    let mut logs = cluster.client().logs(job, query);
    tokio::spawn(async move {
        let mut reading = Reading::default();
        while let Some(chunk) = logs.next().await.context("cannot follow any further")? {
            reading.take((chunk.attempt, chunk.rank), chunk.offset, &chunk.data)?;
            seen.send_replace(reading.lines());
        }
        Ok(reading)
    })
}

/// All of it from one coordinator.
async fn read_whole(cluster: &Cluster, id: u64, job: JobId) -> anyhow::Result<Reading> {
    let client = cluster.client_of(id)?;
    // One that was just started may not be ready to answer.
    until("a coordinator that answers", PATIENCE, async || client.get(job).await.ok().map(drop)).await?;
    let mut logs = client.logs(job, LogQuery { streams: vec!["stdout".into()], ..LogQuery::default() });
    let mut reading = Reading::default();
    while let Some(chunk) = tokio::time::timeout(PATIENCE, logs.next()).await?? {
        reading.take((chunk.attempt, chunk.rank), chunk.offset, &chunk.data)?;
    }
    Ok(reading)
}

/// Of the attempt that came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    attempt: u32,
    lines: u64,
    bytes: u64,
}

/// What one reader saw of the ranks' lines.
#[derive(Debug, Default)]
struct Reading {
    /// By attempt and rank: where a machine is so busy that its worker is lost, the job begins again.
    ranks: BTreeMap<(u32, u32), Rank>,
}

#[derive(Debug, Default)]
struct Rank {
    bytes: u64,
    lines: u64,
    partial: Vec<u8>,
    /// What the rank said last.
    last: Option<u64>,
}

impl Reading {
    fn take(&mut self, place: (u32, u32), offset: u64, data: &[u8]) -> anyhow::Result<()> {
        let rank = self.ranks.entry(place).or_default();
        let number = place.1;
        ensure!(offset == rank.bytes, "rank {number} goes on at {offset} instead of {}", rank.bytes);
        rank.bytes += data.len() as u64;
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            rank.partial.extend_from_slice(part);
            if !part.ends_with(b"\n") {
                continue;
            }
            let line = std::mem::take(&mut rank.partial);
            let line = std::str::from_utf8(&line)?.trim_end();
            if let Some(count) = line.strip_prefix("last ") {
                rank.last = Some(count.parse()?);
                continue;
            }
            let wanted = format!("line {} of rank {number} {REST}", rank.lines + 1);
            ensure!(line == wanted, "rank {number} has {line:?} in the place of {wanted:?}");
            rank.lines += 1;
        }
        Ok(())
    }

    fn lines(&self) -> u64 {
        self.ranks.values().map(|rank| rank.lines).sum()
    }

    /// Lines and bytes of the last attempt, if every rank's last word agrees with what was seen. One that was cut short has no last
    /// word: its lines follow each other, which is looked at as they come.
    fn finish(&self, ranks: u32) -> anyhow::Result<Counts> {
        let attempt = self.ranks.keys().next_back().map_or(0, |(attempt, _)| *attempt);
        let last = || self.ranks.range((attempt, 0)..);
        ensure!(last().count() == ranks as usize, "{} ranks of {ranks} said something", last().count());
        for ((_, number), rank) in last() {
            ensure!(rank.partial.is_empty() && rank.last == Some(rank.lines), "rank {number} ends with {rank:?}");
        }
        let (lines, bytes) = last().fold((0, 0), |(lines, bytes), (_, rank)| (lines + rank.lines, bytes + rank.bytes));
        Ok(Counts { attempt, lines, bytes })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(pieces: &[(u64, &str)]) -> anyhow::Result<Counts> {
        let mut reading = Reading::default();
        for (offset, text) in pieces {
            reading.take((1, 0), *offset, text.as_bytes())?;
        }
        reading.finish(1)
    }

    #[test]
    fn a_line_that_is_missing_doubled_or_displaced_is_seen() {
        let line = |n: u64| format!("line {n} of rank 0 {REST}\n");
        let whole = format!("{}{}last 2\n", line(1), line(2));
        let counts = Counts { attempt: 1, lines: 2, bytes: whole.len() as u64 };
        assert_eq!(read(&[(0, &whole)]).unwrap(), counts);
        assert_eq!(read(&[(0, &whole[..9]), (9, &whole[9..])]).unwrap(), counts);
        for bad in [
            format!("{}last 1\n", line(2)),
            format!("{0}{0}last 2\n", line(1)),
            format!("{}last 2\n", line(1)),
            format!("{}{}", line(1), line(2)),
        ] {
            assert!(read(&[(0, &bad)]).is_err(), "{bad}");
        }
        assert!(read(&[(1, &whole)]).is_err() && read(&[(0, &whole[..9]), (8, &whole[8..])]).is_err());
    }
}
