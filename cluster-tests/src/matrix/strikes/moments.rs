//! Processes that end, or stand still, at a durable step: before a write, a flush, a rename or a removal, of a coordinator's files or
//! of a worker's.

use super::{AFTER, Struck, World};
use crate::bench::find;
use crate::{PATIENCE, until};
use anyhow::Context as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// System calls that are a durable step of a kind, and of how many of them the process meets its end in one.
#[derive(Clone, Copy, Debug)]
struct Moment {
    what: &'static str,
    calls: &'static str,
    among: u64,
    is_worker: bool,
}

const fn of_coordinator(what: &'static str, calls: &'static str, among: u64) -> Moment {
    Moment { what, calls, among, is_worker: false }
}

const fn of_worker(what: &'static str, calls: &'static str, among: u64) -> Moment {
    Moment { what, calls, among, is_worker: true }
}

/// In turn: what a coordinator writes into its journal, its mark and its streams, and what it flushes, names and removes; what a
/// worker's daemon notes of its members, renames into place and removes.
const MOMENTS: [Moment; 6] = [
    of_coordinator("a write", "pwrite64,write", 100),
    of_coordinator("a flush", "fdatasync,fsync", 30),
    of_worker("a rename", "rename,renameat,renameat2", 8),
    of_coordinator("a rename or a removal", "rename,renameat,renameat2,unlink,unlinkat", 2),
    of_worker("a flush", "fdatasync,fsync", 8),
    of_worker("a new or a removed name", "mkdir,mkdirat,unlink,unlinkat,rmdir", 12),
];

/// For a moment to come: some kinds are seldom.
const REACHED_MAX: Duration = Duration::from_secs(20);
/// How long who stands still does.
const STILL: Duration = Duration::from_secs(5);

/// Row 23: killed before the step, or held up in it for 5 s, in turn.
pub(super) async fn strike(world: &mut World) -> anyhow::Result<Struck> {
    let strace = find("strace").context("strace is not installed")?;
    let kills = world.turn.is_multiple_of(2);
    let moment = MOMENTS[world.turn / 2 % MOMENTS.len()];
    let (coordinator, leads) = if moment.is_worker { (0, false) } else { world.a_coordinator().await? };
    let victim = if moment.is_worker { world.a_worker().await? } else { format!("coordinator-{coordinator}") };
    let daemon =
        if moment.is_worker { world.cluster.worker(&victim)? } else { world.cluster.coordinator(coordinator)? };
    let pid = daemon.pid().context("the daemon does not run")?;
    let said = daemon.data().with_extension("calls");
    let when = world.chance.between(1, moment.among + 1);
    let how = if kills { "signal=KILL".to_owned() } else { format!("delay_enter={}", STILL.as_micros()) };
    let at = Instant::now();
    let mut tracer = Command::new(strace)
        .args(["-f", "-qq", "-p", &pid.to_string(), "-o"])
        .arg(&said)
        .args(["-e", &format!("trace={}", moment.calls), "-e", "signal=none"])
        .args(["-e", &format!("inject={}:{how}:when={when}", moment.calls)])
        .stdin(Stdio::null())
        .spawn()?;
    let daemon =
        if moment.is_worker { world.cluster.worker(&victim)? } else { world.cluster.coordinator(coordinator)? };
    let mut has_ended = false;
    let is_reached = until("the moment", REACHED_MAX, async || {
        let calls = std::fs::read_to_string(&said).unwrap_or_default().lines().count() as u64;
        has_ended |= daemon.ended().ok().flatten().is_some();
        (has_ended || (!kills && calls >= when)).then_some(())
    })
    .await
    .is_ok();
    if !kills && is_reached {
        tokio::time::sleep(STILL).await;
    }
    let away = Instant::now();
    let_go(&mut tracer).await?;
    has_ended |= daemon.ended()?.is_some();
    let _ = std::fs::remove_file(&said);
    if !is_reached && !has_ended {
        eprintln!("{victim} made no {when} calls of {} in {REACHED_MAX:?}", moment.calls);
        return Ok(Struck::default());
    }
    bring_back(world, &victim, coordinator, has_ended).await?;
    let what = format!(
        "{victim}, leader {leads}, {} {}, call {when}",
        if kills { "killed before" } else { "still in" },
        moment.what
    );
    eprintln!("{what}: {:?}", at.elapsed());
    if moment.is_worker {
        world.note_absence(&victim, if kills { away.elapsed() } else { STILL });
    }
    let mut struck = Struck::one(None);
    match world.history.answers.silence_until(away, AFTER).await {
        Ok(silence) => struck.times.push(silence),
        Err(error) => struck.violations.push(format!("{what}: {error:#}")),
    }
    if let Err(error) = world.until_whole().await {
        struck.violations.push(format!("{what}: not whole again: {error:#}"));
    }
    Ok(struck)
}

/// It lets go of what it traces when it is asked to end.
async fn let_go(tracer: &mut Child) -> anyhow::Result<()> {
    super::signal(tracer.id().cast_signed(), rustix::process::Signal::TERM)?;
    until("the tracer to let go", PATIENCE, async || tracer.try_wait().ok().flatten().map(drop)).await
}

async fn bring_back(world: &mut World, victim: &str, coordinator: u64, has_ended: bool) -> anyhow::Result<()> {
    if !has_ended {
        return Ok(());
    }
    if coordinator == 0 {
        return world.cluster.restart_worker(victim);
    }
    world.cluster.restart_coordinator(coordinator).await
}
