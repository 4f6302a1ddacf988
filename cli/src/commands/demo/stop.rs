//! `muster demo --stop`: ends what `--keep` left, and only that.

use super::folder::{Folder, is_same};
use super::sweep;
use super::{CONTEXT, report};
use crate::context;
use crate::failure::{Exit, not_found};
use crate::output::note;
use rustix::process::{Pid, Signal};
use std::path::Path;
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(8);

/// Ends the daemons that the folder's marker names, and their descendants.
pub fn run(dir: &Path) -> anyhow::Result<Exit> {
    let marker = Folder::read_marker(dir).map_err(|error| not_found(format!("{error:#}")))?;
    let mut descendants = Vec::new();
    let mut running = Vec::new();
    for (name, pid, start) in &marker.running {
        // A number that the kernel gave to another process since is left alone.
        if is_same(*pid, *start) {
            descendants
                .extend(sweep::descendants(*pid).into_iter().filter_map(|pid| Some((pid, sweep::started(pid)?))));
            running.push((name.as_str(), *pid, *start));
        }
    }
    // Workers first: they still can say what became of their ranks.
    for prefix in ["worker", "coordinator"] {
        let group: Vec<(i32, u64)> = running
            .iter()
            .filter(|(name, ..)| name.starts_with(prefix))
            .map(|(_, pid, start)| (*pid, *start))
            .collect();
        for (pid, _) in &group {
            send(*pid, Signal::TERM);
        }
        sweep::wait_until(GRACE, || group.iter().all(|(pid, start)| !is_same(*pid, *start)));
    }
    let all: Vec<(i32, u64)> =
        running.iter().map(|(_, pid, start)| (*pid, *start)).chain(descendants.iter().copied()).collect();
    let gone = sweep::wait_until(GRACE, || {
        let left: Vec<i32> = all.iter().filter(|(pid, start)| is_same(*pid, *start)).map(|(pid, _)| *pid).collect();
        for pid in &left {
            send(*pid, Signal::KILL);
        }
        left.is_empty()
    });
    anyhow::ensure!(gone, "some processes cannot be ended");
    if let Ok(path) = context::config_path() {
        context::forget(&path, CONTEXT, &marker.coordinators)?;
    }
    note(&format!("{} daemons ended", running.len()));
    report::stopped(dir);
    Ok(Exit::Success)
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}
