//! Other processes of this machine: told apart by id, start time and boot; watched and signalled without races by pidfd.

use rustix::process::{Pid, PidfdFlags, Signal, WaitIdOptions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One process, not just its id: ids come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// Ticks from boot to its start, as `/proc/PID/stat` tells.
    pub(crate) started: u64,
    /// Which boot.
    pub(crate) boot: String,
}

impl Identity {
    /// This process.
    pub(crate) fn own() -> io::Result<Self> {
        let pid = std::process::id().cast_signed();
        let stat = stat(pid).ok_or_else(|| io::Error::other("cannot read /proc/self/stat"))?;
        Ok(Self { pid, started: stat.started, boot: boot_id()? })
    }

    /// A handle of exactly this process; none when it is gone.
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        if boot_id().ok()? != self.boot {
            return None;
        }
        let handle = open(self.pid).ok()?;
        // Read after the open: the handle cannot change, so equal start times mean the same process.
        (stat(self.pid)?.started == self.started).then_some(handle)
    }
}

impl Identity {
    /// True while it runs: one that has ended is waited for by its parent, and does not.
    pub(crate) fn runs(&self) -> bool {
        self.open().is_some() && stat(self.pid).is_some_and(|stat| !stat.zombie && stat.started == self.started)
    }
}

/// A handle of the process that has this id now.
pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("0 is not a process"))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

/// Waits for a descriptor to become readable, on the present runtime.
pub(crate) fn readable(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the value owns its descriptor and keeps it open, and the same, for as long as it is registered.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// Sends a signal; a process that is gone is no fault.
pub(crate) fn signal(handle: &impl AsFd, signal: Signal) {
    if let Err(error) = rustix::process::pidfd_send_signal(handle, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(%error, ?signal, "signal not sent");
    }
}

/// Takes the status of a child that has ended, so that it does not stay as a zombie; nothing for others' children.
pub(crate) fn reap(handle: &impl AsFd) {
    let id = rustix::process::WaitId::PidFd(handle.as_fd());
    let _ = rustix::process::waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// This boot as a number that no other has.
pub(crate) fn boot_number() -> io::Result<u64> {
    let id: String = boot_id()?.chars().filter(|c| *c != '-').take(16).collect();
    u64::from_str_radix(&id, 16).map_err(io::Error::other)
}

/// Of one line of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: i32,
    pub(crate) zombie: bool,
    pub(crate) started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may hold anything, even `)`: fields are counted from its last one.
fn parse_stat(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        zombie: *fields.first()? == "Z",
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Every process id of the machine.
fn all() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Live descendants of `root`, parents before children.
pub(crate) fn descendants(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all() {
        if let Some(stat) = stat(pid).filter(|stat| !stat.zombie) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found.split_off(1)
}

/// Whether a process that is there has `root` among those above it.
pub(crate) fn is_below(pid: i32, root: i32) -> bool {
    // No tree is so deep; a number that is used again meanwhile must not lead in a circle.
    const DEPTH_MAX: usize = 256;
    let above = std::iter::successors(stat(pid).map(|stat| stat.parent), |pid| stat(*pid).map(|stat| stat.parent));
    above.take(DEPTH_MAX).any(|pid| pid == root)
}

/// Processes whose environment at start held `marker` as a whole `NAME=value`: what is left of a rank whose
/// supervisor is gone and that has no control group.
pub(crate) fn marked(marker: &str) -> Vec<i32> {
    let has = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
    };
    let own = std::process::id().cast_signed();
    all().into_iter().filter(|pid| *pid != own).filter(has).collect()
}

/// SIGKILL to each; those that are gone are no fault.
pub(crate) fn kill_all(pids: &[i32]) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let line = "7 (a) R 1 (b)) S 42 7 7 0 -1 1 2 3 4 5 6 7 8 9 20 0 1 0 9876 11";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.parent, stat.zombie, stat.started), (42, false, 9876));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Identity::own().unwrap();
        assert!(own.open().is_some());
        assert!(Identity { started: own.started + 1, ..own.clone() }.open().is_none());
        assert!(Identity { boot: "another".into(), ..own }.open().is_none());
    }
}
