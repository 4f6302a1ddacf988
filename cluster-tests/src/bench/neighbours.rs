//! What a job notices of its neighbours on one machine that start processes without an end, take twice their memory, or fill the
//! disk: the times of a small periodic work and of a training's steps, beside one that behaves and beside each. As root, for jobs have users of their own (`--rank-user`).
//!
//! A neighbour that is ended for what it does is submitted again until the measurement is over.

use super::stats::{Times, ms};
use super::{Options, Report, Table};
use crate::{Cluster, PATIENCE, Shape, WorkerShape, spec, until};
use anyhow::Context as _;
use rustix::fs::{Mode, chmod};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::time::Duration;
use types::JobSpec;

const ROUNDS: usize = 5;
const PINNED: &str = "--pin-cpus";
/// Every 10 ms: half a millisecond or so of arithmetic, then 4 KiB into a file. Prints its times in microseconds: from when the work was
/// due until it is computed, and of the writing.
const WORK: &str = r#"exec python3 -c '
import os, time
turns, due = 600, time.perf_counter() + 0.05
done, file, page = [], os.open("file", os.O_CREAT | os.O_WRONLY), b"x" * 4096
for turn in range(turns):
    due += 0.01
    time.sleep(max(0, due - time.perf_counter()))
    sum(range(20_000))
    begun = time.perf_counter()
    os.pwrite(file, page, turn % 64 * 4096)
    end = time.perf_counter()
    done.append((int((begun - due) * 1e6), int((end - begun) * 1e6)))
for pair in done:
    print(*pair)
'"#;
/// Steps as a training has them: some 10 ms of arithmetic without a rest, then 4 KiB into a file. Prints their times as above.
const STEPS: &str = r#"exec python3 -c '
import os, time
done, file, page = [], os.open("file", os.O_CREAT | os.O_WRONLY), b"x" * 4096
for step in range(400):
    due = time.perf_counter()
    sum(range(800_000))
    begun = time.perf_counter()
    os.pwrite(file, page, step % 64 * 4096)
    end = time.perf_counter()
    done.append((int((begun - due) * 1e6), int((end - begun) * 1e6)))
for pair in done:
    print(*pair)
'"#;
/// What is measured, and how its table calls it.
const WORKS: [(&str, &str); 2] = [
    ("half a millisecond of work each 10 ms, from when it is due", WORK),
    ("steps of some 10 ms without a rest", STEPS),
];
/// Has its slot to itself, and all of it: what two jobs of one machine do to each other when both behave.
const COMPUTER: &str = "exec python3 -c 'while True: sum(range(100_000))'";
/// Every process of it starts others, and goes on when it can start no more.
const BOMB: &str = r"exec python3 -c '
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
'";
/// The same, and each is in a session of its own: where the kernel shares processors between sessions, each has a share.
const BOMB_OF_SESSIONS: &str = r"exec python3 -c '
import os
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
'";
/// Twice what it may have, all of it written to.
const GLUTTON: &str = "python3 -c 'import time; x = bytearray(b\"x\" * (512 << 20)); time.sleep(600)'";
const GLUTTON_BYTES: u64 = 256 << 20;
const FILLER: &str = "while :; do dd if=/dev/zero of=$RANDOM bs=1M count=4096; done";
/// What a job may have of the disk, and of processes.
const BOUNDS: [&str; 4] = ["--job-disk-bytes-max", "1G", "--pids-max", "512"];
const RANGE: &str = "310400-310463";

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        report.note("not measured: jobs have users of their own, which needs root");
        return Ok(());
    }
    for (how, flags) in [("as it comes", &[][..]), (PINNED, &[PINNED][..])] {
        let dir = options.dir.join(how.trim_start_matches('-').replace(' ', "-"));
        std::fs::create_dir_all(&dir)?;
        let mut cluster = Cluster::start_in(&dir, &options.muster, Shape::new(1, 0)).await?;
        chmod(cluster.folder(), Mode::from_raw_mode(0o711))?;
        let arguments = ["--rank-user", RANGE].iter().chain(&BOUNDS).chain(flags).map(Into::into).collect();
        cluster.add_worker("worker-1", &WorkerShape { cpus: 2, arguments, ..WorkerShape::default() })?;
        cluster.until_ready(1).await?;
        let here = sched_getaffinity(None)?;
        if flags.contains(&PINNED) {
            keep_to_the_first(cluster.processes().into_iter().chain([std::process::id().cast_signed()]))?;
        }
        let log = cluster.logs();
        log.lines().filter(|line| line.contains("cgroup")).take(2).for_each(|line| report.note(line));
        for (what, work) in WORKS {
            report.table(compared(&cluster, options, work, &format!("{what}, {how}")).await?);
        }
        sched_setaffinity(None, &here)?;
    }
    report.note("with --pin-cpus the daemons and this program run on the neighbour's processor");
    report.note(format!("the worker has 2 slots, one for each job, and the bounds {}", BOUNDS.join(" ")));
    Ok(())
}

/// The daemons and this process go to the first processor, which is the neighbour's: as on a machine where a worker offers less than all, and
/// keeps to the rest.
fn keep_to_the_first(processes: impl Iterator<Item = i32>) -> anyhow::Result<()> {
    let mut first = CpuSet::new();
    first.set(0);
    for process in processes {
        for thread in std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
            let thread = thread.file_name().to_str().and_then(|number| Pid::from_raw(number.parse().ok()?));
            sched_setaffinity(thread, &first)?;
        }
    }
    Ok(())
}

/// All of them in turns on one worker.
async fn compared(cluster: &Cluster, options: &Options, work: &str, what: &str) -> anyhow::Result<Table> {
    let mut glutton = spec(GLUTTON);
    glutton.gang.per_rank.memory_bytes = GLUTTON_BYTES;
    let beside = [
        ("one that sleeps", spec("exec sleep 600")),
        ("one that computes", spec(COMPUTER)),
        ("a fork bomb", spec(BOMB)),
        ("one that makes sessions", spec(BOMB_OF_SESSIONS)),
        ("twice its memory", glutton),
        ("a full disk", spec(FILLER)),
    ];
    let mut found: Vec<Vec<[Times; 2]>> = vec![Vec::new(); beside.len()];
    for _ in 0..options.count.unwrap_or(ROUNDS) {
        for ((_, other), found) in beside.iter().zip(&mut found) {
            found.push(measured(cluster, other, work).await?);
        }
    }
    let title = format!("In ms, medians of rounds in turns: {what}");
    let mut table = Table::new(&title, &["beside", "computed p50", "computed p99", "4 KiB written p50", "written p99"]);
    for ((who, _), rounds) in beside.iter().zip(found) {
        let middle = |of: usize, share: usize| {
            ms(Times::of(rounds.iter().map(|times| times[of].per_mille(share)).collect()).median())
        };
        table.row([(*who).to_owned(), middle(0, 500), middle(0, 990), middle(1, 500), middle(1, 990)]);
    }
    Ok(table)
}

/// The times of the work: until it is computed, and of the writing.
async fn measured(cluster: &Cluster, other: &JobSpec, work: &str) -> anyhow::Result<[Times; 2]> {
    let client = cluster.client();
    let working = async {
        until("the neighbour", PATIENCE, async || {
            let jobs = client.list(client::v1::ListJobsRequest::default()).await.ok()?;
            jobs.jobs.iter().any(|job| job.phase == "Running").then_some(())
        })
        .await?;
        let job = client.submit(&spec(work)).await?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        anyhow::ensure!(ended.phase == "Completed", "{}: {}", ended.phase, ended.reason);
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout;
        let mut times = [Vec::new(), Vec::new()];
        for line in said.lines() {
            let (done, written) = line.rsplit_once(' ').with_context(|| format!("no times: {line:?}"))?;
            for (times, text) in times.iter_mut().zip([done, written]) {
                let text = text.rsplit(' ').next().unwrap_or_default();
                times.push(Duration::from_micros(text.parse().with_context(|| format!("no time: {text:?}"))?));
            }
        }
        anyhow::Ok(times.map(Times::of))
    };
    let abusing = async {
        loop {
            let job = client.submit(other).await?;
            client.wait(job).await?;
        }
    };
    let times = tokio::select! {
        times = working => times?,
        failed = abusing => return failed,
    };
    let jobs = client.list(client::v1::ListJobsRequest::default()).await?;
    for job in jobs.jobs.iter().filter(|job| !["Completed", "Failed", "Canceled"].contains(&job.phase.as_str())) {
        client.cancel(types::JobId(job.id)).await?;
        client.wait(types::JobId(job.id)).await?;
    }
    Ok(times)
}
