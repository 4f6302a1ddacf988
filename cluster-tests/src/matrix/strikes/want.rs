//! Daemons that lack something: a disk that flushes in time, processor time, descriptors, threads.

use super::{AFTER, Struck, World};
use crate::bench::find;
use crate::{PATIENCE, until};
use anyhow::Context as _;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// A leader whose disk stands still holds up nobody for longer.
const STALLED_WITHIN: Duration = Duration::from_secs(5);
/// A flush that stands still, in microseconds; it ends with the fault.
const STALL_US: u64 = 60_000_000;
/// Descriptors and threads that a daemon may have beyond those that it has.
const SPARE: u64 = 2;
/// Of 100 ms, in microseconds: a fifth of one processor.
const PROCESSOR_US: u64 = 20_000;

/// Row 17: each flush of a coordinator takes 300 ms longer, or all stand still.
pub(super) async fn slow_flush(world: &mut World) -> anyhow::Result<Struck> {
    let strace = find("strace").context("strace is not installed")?;
    let (victim, leads) = world.a_coordinator().await?;
    let (span, stalls) = (world.span(6_000, 10_000), world.chance.thousandths(500));
    let pid = world.cluster.coordinator(victim)?.pid().context("the coordinator does not run")?;
    let delay = if stalls { STALL_US } else { 300_000 };
    let at = Instant::now();
    let mut tracer = Command::new(strace)
        .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string(), "-e", "trace=fsync,fdatasync"])
        .args(["-e", &format!("inject=fsync,fdatasync:delay_enter={delay}")])
        .stdin(Stdio::null())
        .spawn()?;
    let answers = world.history.answers.clone();
    let (silence, ()) = tokio::join!(answers.silence_until(at, AFTER), tokio::time::sleep(span));
    // It lets go of what it traces when it is asked to end.
    super::signal(tracer.id().cast_signed(), rustix::process::Signal::TERM)?;
    until("the tracer to let go", PATIENCE, async || tracer.try_wait().ok().flatten()).await?;
    let silence = silence?;
    let mut struck = Struck::one(leads.then_some(silence));
    if silence > STALLED_WITHIN {
        let what = if stalls { "stood still" } else { "took 300 ms longer" };
        struck.violations.push(format!(
            "nothing was acknowledged for {silence:?}: flushes of coordinator {victim}, leader {leads}, {what}"
        ));
    }
    Ok(struck)
}

/// Row 18: for some seconds a daemon gets a fifth of a processor, or no further descriptor, or no further thread.
pub(super) async fn starve(world: &mut World) -> anyhow::Result<Struck> {
    let span = world.span(3_000, 8_000);
    let is_worker = world.chance.thousandths(333);
    let (coordinator, leads) = if is_worker { (0, false) } else { world.a_coordinator().await? };
    let victim = if is_worker { world.a_worker().await? } else { format!("coordinator-{coordinator}") };
    let daemon = if is_worker { world.cluster.worker(&victim)? } else { world.cluster.coordinator(coordinator)? };
    let pid = daemon.pid().context("the daemon does not run")?;
    let what = Want::ALL[world.turn % Want::ALL.len()];
    let at = Instant::now();
    let relief = what.impose(pid)?;
    let answers = world.history.answers.clone();
    let (silence, ()) = tokio::join!(answers.silence_until(at, AFTER), tokio::time::sleep(span));
    relief.give(pid)?;
    let silence = silence?;
    let daemon = if is_worker { world.cluster.worker(&victim)? } else { world.cluster.coordinator(coordinator)? };
    let mut struck = Struck::one(leads.then_some(silence));
    if let Some(status) = daemon.ended()? {
        // It may give up; it may not be left half alive. It comes back as a service manager would bring it.
        eprintln!("{victim} ended with {status} without {what:?}");
        if is_worker {
            world.cluster.restart_worker(&victim)?;
        } else {
            world.cluster.restart_coordinator(coordinator).await?;
        }
    }
    if let Err(error) = world.until_whole().await {
        struck.violations.push(format!("{victim} lacked {what:?} for {span:?} and is not whole again: {error:#}"));
    }
    Ok(struck)
}

/// What a daemon gets no more of.
#[derive(Clone, Copy, Debug)]
enum Want {
    Processor,
    Descriptors,
    Threads,
}

impl Want {
    const ALL: [Self; 3] = [Self::Processor, Self::Descriptors, Self::Threads];

    fn impose(self, pid: i32) -> anyhow::Result<Relief> {
        match self {
            Self::Processor => {
                let group = Group::of("cpu", pid)?;
                group.set("cpu.cfs_quota_us", PROCESSOR_US)?;
                Ok(Relief::Group(group))
            }
            Self::Threads => {
                let group = Group::of("pids", pid)?;
                let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?.count() as u64;
                group.set("pids.max", threads + SPARE)?;
                Ok(Relief::Group(group))
            }
            Self::Descriptors => {
                let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
                let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
                let limit = Rlimit { current: Some(open + SPARE), maximum };
                let before = prlimit(Pid::from_raw(pid), Resource::Nofile, limit)?;
                Ok(Relief::Limit(before))
            }
        }
    }
}

/// How it gets what it needs again.
enum Relief {
    Group(Group),
    Limit(Rlimit),
}

impl Relief {
    fn give(self, pid: i32) -> anyhow::Result<()> {
        match self {
            Self::Group(group) => group.leave(),
            Self::Limit(before) => match prlimit(Pid::from_raw(pid), Resource::Nofile, before) {
                Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            },
        }
    }
}

/// A control group of this program's own, of the first version, with one process in it.
struct Group {
    folder: PathBuf,
    /// Where the process was before.
    before: PathBuf,
}

impl Group {
    fn of(controller: &str, pid: i32) -> anyhow::Result<Self> {
        let root = Path::new("/sys/fs/cgroup").join(controller);
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let of = |line: &str| line.split_once(':')?.1.strip_prefix(&format!("{controller}:/")).map(str::to_owned);
        let before =
            groups.lines().find_map(of).with_context(|| format!("no control group {controller} (first version)"))?;
        let group = Self { folder: root.join(format!("muster-matrix-{pid}")), before: root.join(before) };
        std::fs::create_dir(&group.folder).with_context(|| format!("no control group {controller} may be made"))?;
        group.set("cgroup.procs", pid as u64)?;
        Ok(group)
    }

    fn set(&self, file: &str, value: u64) -> anyhow::Result<()> {
        std::fs::write(self.folder.join(file), value.to_string()).with_context(|| file.to_owned())
    }

    fn leave(self) -> anyhow::Result<()> {
        for pid in std::fs::read_to_string(self.folder.join("cgroup.procs"))?.lines() {
            std::fs::write(self.before.join("cgroup.procs"), pid)?;
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}
