//! Disks that fail a flush, are full, or give back other bytes than were written.

use super::{Struck, World};
use crate::bench::find;
use crate::{PATIENCE, SmallDisk, until};
use anyhow::Context as _;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// A coordinator whose flush failed has ended by then; arming the fault is counted too.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// The coordinator on a small disk.
const SMALL: u64 = 3;
/// Larger than anything else that the load writes.
const LARGE: usize = 15_000;

/// Row 15: it ends at once instead of trying again, and what it acknowledged is there.
pub(super) async fn fail_flush(world: &mut World) -> anyhow::Result<Struck> {
    let strace = find("strace").context("strace is not installed")?;
    let (victim, _) = world.a_coordinator().await?;
    let pid = world.cluster.coordinator(victim)?.pid().context("the coordinator does not run")?;
    let at = Instant::now();
    let mut command = Command::new(strace);
    command.args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string(), "-e", "trace=fsync,fdatasync"]);
    command.args(["-e", "inject=fsync,fdatasync:error=EIO:when=1"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut tracer = command.spawn()?;
    let daemon = world.cluster.coordinator(victim)?;
    let ended = until("the coordinator to end", PATIENCE, async || daemon.ended().ok().flatten()).await;
    let mut struck = Struck::one(Some(at.elapsed()));
    let _ = tracer.kill();
    tracer.wait()?;
    if at.elapsed() > ENDS_WITHIN {
        struck
            .violations
            .push(format!("coordinator {victim} went on for {:?} after a flush that failed", at.elapsed()));
    }
    if ended?.success() {
        struck.violations.push(format!("coordinator {victim} ended as if no flush had failed"));
    }
    world.cluster.restart_coordinator(victim).await?;
    Ok(struck)
}

/// Row 16: it stops, the others go on, and with room again it catches up.
pub(super) async fn fill(world: &mut World) -> anyhow::Result<Struck> {
    if world.disk.is_none() {
        world.cluster.coordinator(SMALL)?.kill()?;
        let disk = SmallDisk::over(world.cluster.coordinator(SMALL)?.data())?;
        let disk = disk.context("this user may not mount a file system of its own")?;
        world.cluster.coordinator(SMALL)?.wrapper_mut().extend(disk.wrapper());
        start_small(world).await?;
        world.disk = Some(disk);
    }
    let at = Instant::now();
    world.disk.as_ref().context("a disk")?.fill()?;
    let large = crate::spec(&format!("true {}", "x".repeat(LARGE)));
    let client = world.cluster.client();
    let mut ended = None;
    while ended.is_none() {
        anyhow::ensure!(at.elapsed() < 2 * PATIENCE, "a coordinator without room on its disk goes on");
        let made = (0..8).map(|_| async {
            let job = client.submit(&large).await?;
            client.cancel(job).await
        });
        futures::future::try_join_all(made).await?;
        ended = world.cluster.coordinator(SMALL)?.ended()?;
    }
    let struck = Struck::one(Some(at.elapsed()));
    world.disk.as_ref().context("a disk")?.make_room()?;
    start_small(world).await?;
    Ok(struck)
}

/// Where it says that it listens cannot be seen from here: it is asked itself.
async fn start_small(world: &mut World) -> anyhow::Result<()> {
    let program = world.cluster.program().to_owned();
    world.cluster.coordinator(SMALL)?.start(&program)?;
    world.until_whole().await
}

/// Row 14: it refuses to start, or it starts and tells what the others tell.
pub(super) async fn damage(world: &mut World) -> anyhow::Result<Struck> {
    let (victim, _) = world.a_coordinator().await?;
    world.cluster.coordinator(victim)?.kill()?;
    let data = world.cluster.coordinator(victim)?.data().to_owned();
    let before = data.with_extension("before");
    copy(&data, &before)?;
    let file = a_file(world, &data)?;
    let how = change(world, &file)?;
    let at = Instant::now();
    let started = world.cluster.restart_coordinator(victim).await;
    let mut struck = Struck::one(Some(at.elapsed()));
    let what = || format!("coordinator {victim} with {} {how}", file.strip_prefix(&data).unwrap_or(&file).display());
    if let Err(error) = started {
        let daemon = world.cluster.coordinator(victim)?;
        if daemon.pid().is_some() {
            struck.violations.push(format!("{} neither serves nor ends: {error:#}", what()));
            daemon.kill()?;
        }
        std::fs::remove_dir_all(&data)?;
        std::fs::rename(&before, &data)?;
        world.cluster.restart_coordinator(victim).await?;
    } else {
        std::fs::remove_dir_all(&before)?;
        if let Err(error) = world.until_whole().await {
            struck.violations.push(format!("{} serves and does not catch up: {error:#}", what()));
        }
    }
    Ok(struck)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    anyhow::ensure!(status.success(), "cannot copy {}", from.display());
    Ok(())
}

/// Any file that the coordinator keeps, but what these clients prove themselves with.
fn a_file(world: &mut World, folder: &Path) -> anyhow::Result<PathBuf> {
    let (mut open, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() && !path.ends_with("admin.json") {
                files.push(path);
            }
        }
    }
    files.sort();
    let index = world.chance.between(0, files.len() as u64);
    files.into_iter().nth(usize::try_from(index)?).context("no file")
}

/// Changes it, and says how.
fn change(world: &mut World, file: &Path) -> anyhow::Result<String> {
    let mut bytes = std::fs::read(file)?;
    let length = bytes.len() as u64;
    // Stores lay out their files beforehand: a change of what was never written is none.
    let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let at = world.chance.pick(&written);
    Ok(match (world.chance.between(0, 5), at) {
        (0 | 1, Some(at)) => {
            bytes[at] ^= 1 << world.chance.between(0, 8);
            std::fs::write(file, &bytes)?;
            format!("a bit of byte {at} of {length} changed")
        }
        (2, Some(at)) => {
            OpenOptions::new().write(true).open(file)?.set_len(at as u64)?;
            format!("cut to {at} of {length} bytes")
        }
        (3, _) => {
            OpenOptions::new().write(true).open(file)?.set_len(0)?;
            format!("emptied of {length} bytes")
        }
        _ => {
            std::fs::remove_file(file)?;
            "deleted".to_owned()
        }
    })
}
