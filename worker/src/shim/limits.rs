//! Bounds of a rank that its machine's kernel keeps for each process or user: open files, the size of a file, and how many processes
//! and threads its user has. A bound that the daemon itself has is never raised.

use super::spec::Credentials;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use types::RankExit;

/// 0 = no bound but the daemon's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RankLimits {
    /// Descriptors of one process.
    pub(crate) files: u64,
    /// Bytes of one file.
    pub(crate) file_bytes: u64,
    /// Bytes of one stream that are kept.
    #[serde(default)]
    pub(crate) log_bytes: u64,
    /// Processes and threads of one user; only where ranks are users of their own, for it counts all of the user's.
    pub(crate) user_processes: u64,
}

/// Where a supervisor of another version says nothing of it. Where the machine says "no limit" it is a billion, and programs that close
/// all that they might have inherited (old Pythons, `daemon(3)`) take minutes for it.
pub(crate) const FILES_MAX: u64 = 1 << 20;

impl RankLimits {
    /// Why a rank may have failed that ended so, in words for whoever reads what it said.
    pub(super) fn reason(&self, exit: RankExit, user: Option<&Credentials>) -> Option<String> {
        // A shell says so of what it started.
        let by_signal = [RankExit::Signal(libc::SIGXFSZ), RankExit::Code(128 + libc::SIGXFSZ)];
        if by_signal.contains(&exit) && self.file_bytes > 0 {
            return Some(format!(
                "a file grew to its limit of {} bytes (--rank-file-bytes-max of the worker)",
                self.file_bytes
            ));
        }
        let user = user.filter(|_| self.user_processes > 0)?;
        // Some may have ended since it was refused one more.
        let has_all = threads_of(user.uid) >= self.user_processes - self.user_processes / 10;
        has_all.then(|| {
            format!(
                "its user {} has all of its {} processes and threads (--user-processes-max of the worker)",
                user.uid, self.user_processes
            )
        })
    }
}

/// In a rank's folder: why its supervisor is told to end it, where that is the rank's fault.
const OVER: &str = "over";

/// Before the order to end it.
pub(crate) fn tell(rank_folder: &Path, why: &str) -> io::Result<()> {
    fs::write(rank_folder.join(OVER), why)
}

/// With the order to end it.
pub(super) fn told(rank_folder: &Path) -> Option<String> {
    fs::read_to_string(rank_folder.join(OVER)).ok()
}

/// For this process and all that it starts.
///
/// # Safety
/// After a fork: plain system calls on numbers.
pub(super) unsafe fn enter(limits: &RankLimits, user: Option<&Credentials>) -> bool {
    let processes = if user.is_some() { limits.user_processes } else { 0 };
    let files = if limits.files == 0 { FILES_MAX } else { limits.files };
    // SAFETY: the same.
    unsafe {
        bound(libc::RLIMIT_NOFILE, files)
            && bound(libc::RLIMIT_FSIZE, limits.file_bytes)
            && bound(libc::RLIMIT_NPROC, processes)
    }
}

unsafe fn bound(what: libc::__rlimit_resource_t, most: u64) -> bool {
    if most == 0 {
        return true;
    }
    // SAFETY: plain system calls on a local.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(what, &raw mut limit) < 0 {
            return false;
        }
        limit.rlim_max = limit.rlim_max.min(most);
        limit.rlim_cur = limit.rlim_cur.min(limit.rlim_max);
        if what == libc::RLIMIT_FSIZE || what == libc::RLIMIT_NPROC {
            limit.rlim_cur = limit.rlim_max;
        }
        libc::setrlimit(what, &raw const limit) == 0
    }
}

/// As the kernel counts them.
fn threads_of(uid: u32) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let theirs = processes.filter(|entry| {
        entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)
            && entry.metadata().is_ok_and(|of| of.uid() == uid)
    });
    theirs.map(|entry| threads_in(&fs::read_to_string(entry.path().join("status")).unwrap_or_default())).sum()
}

fn threads_in(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Half of what the machine can have of processes and threads, so that one user leaves room for all others; at most this many.
pub(crate) fn user_processes_default() -> u64 {
    const MOST: u64 = 65_536;
    let read = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine =
        ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].iter().filter_map(|path| read(path)).min();
    machine.map_or(MOST, |most| (most / 2).clamp(1, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RankLimits = RankLimits { files: 0, file_bytes: 4_096, log_bytes: 0, user_processes: 1 << 40 };

    #[test]
    fn a_reason_is_told_only_where_the_limit_was_met() {
        let user = Credentials { uid: rustix::process::getuid().as_raw(), gid: 0, groups: Vec::new() };
        let told = LIMITS.reason(RankExit::Signal(libc::SIGXFSZ), Some(&user)).unwrap_or_default();
        assert!(told.contains("4096 bytes"), "{told}");
        assert_eq!(LIMITS.reason(RankExit::Signal(libc::SIGKILL), Some(&user)), None, "nobody has so many processes");
        let few = RankLimits { user_processes: 1, ..LIMITS };
        assert!(few.reason(RankExit::Code(2), Some(&user)).is_some_and(|told| told.contains("all of its 1 processes")));
        assert_eq!(few.reason(RankExit::Code(2), None), None, "ranks of the daemon's own user have no such bound");
        assert_eq!(RankLimits::default().reason(RankExit::Signal(libc::SIGXFSZ), Some(&user)), None);
    }

    #[test]
    fn the_threads_of_a_process_are_counted() {
        assert_eq!(threads_in("Name:\tpython\nThreads:\t17\nSigQ:\t0/1\n"), 17);
        assert_eq!(threads_in("nothing"), 0);
        assert!(threads_of(rustix::process::getuid().as_raw()) >= 1);
        assert!((1..=65_536).contains(&user_processes_default()));
    }
}
