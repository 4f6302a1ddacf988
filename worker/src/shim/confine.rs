//! What a rank is made to give up between its fork and its exec, whoever it runs as: new rights, core files, limits without an end,
//! descriptors and files that others may read. Only calls that are safe after a fork, on values made before it.

use super::limits::{self, RankLimits};
use super::spec::Credentials;

/// More capabilities than any kernel knows.
const CAPABILITIES_MAX: libc::c_ulong = 64;
/// Files of a rank are its user's alone unless it says otherwise.
const UMASK: libc::mode_t = 0o077;

/// Takes effect at once; there is no way back.
///
/// # Safety
/// In a process of one thread.
pub(super) unsafe fn confine(user: Option<&Credentials>, limits: &RankLimits) -> bool {
    // SAFETY: plain system calls on locals.
    unsafe {
        libc::umask(UMASK);
        if user.is_some_and(|user| !become_user(user)) {
            return false;
        }
        // No program that it starts has more rights than itself (setuid, file capabilities), and what it held in memory is not
        // left on a disk when it dies.
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 }) == 0
            && limits::enter(limits, user)
    }
}

/// Root's rights go before the user does: nothing below this process can have them again, whatever it executes. Plain system calls,
/// because the C library's wrappers speak to other threads, of which there are none after a fork.
unsafe fn become_user(user: &Credentials) -> bool {
    // SAFETY: plain system calls; the groups are as many as is said.
    unsafe {
        for capability in 0..CAPABILITIES_MAX {
            if libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) < 0 {
                break;
            }
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 {
                return false;
            }
        }
        let (uid, gid) = (user.uid, user.gid);
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) == 0
            && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
            && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
            && drop_capabilities()
    }
}

/// A change from root to another user has taken the effective ones already, unless securebits say otherwise; the inheritable never.
unsafe fn drop_capabilities() -> bool {
    /// Two sets of 32, as `capset(2)` has them since Linux 2.6.26.
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let none: [u32; 6] = [0; 6];
    // SAFETY: both arrays are as large as that version reads.
    unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) == 0 }
}

/// Nothing above the rank's own descriptors gets through exec, whoever forgot to say so when it was opened. An old kernel (before
/// 5.11) does not know the call: there that nobody forgets is all there is.
///
/// # Safety
/// In a process of one thread.
pub(super) unsafe fn close_others_at_exec(first: i32) {
    let first = first.cast_unsigned();
    // SAFETY: a plain system call; nothing is closed before exec.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// For this process's memory to be nobody's to read: no core file, and neither `ptrace` nor `/proc/PID/mem` and `environ` for
/// others of the same user. Forks have it too, exec ends it.
pub(crate) fn hide_memory(hidden: bool) {
    // SAFETY: a plain system call on a number.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(!hidden), 0, 0, 0) };
}
