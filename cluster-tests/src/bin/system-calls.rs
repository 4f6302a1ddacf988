//! Makes each system call that a rank might use against its machine, and says what the kernel answered: `NAME ERRNO`, 0 where it
//! succeeded. What it is made with harms nothing where it is permitted. With `reach ADDRESS:PORT..` it dials these instead.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// For who is not there; whoever is there answers at once.
const DIAL_MAX: Duration = Duration::from_secs(5);
/// Of the socket on which a rank listens for its gang.
const LISTEN_FD: i32 = 3;

/// With arguments that a kernel without a filter would look at before it looks at rights, where there are such.
const CALLS: &[(&str, libc::c_long, [libc::c_long; 5])] = &[
    ("mount", libc::SYS_mount, [0; 5]),
    ("umount2", libc::SYS_umount2, [0; 5]),
    ("pivot_root", libc::SYS_pivot_root, [0; 5]),
    ("move_mount", libc::SYS_move_mount, [-1, 0, -1, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [-1, 0, 0, 0, 0]),
    ("fsopen", libc::SYS_fsopen, [0; 5]),
    ("fsconfig", libc::SYS_fsconfig, [-1, 0, 0, 0, 0]),
    ("fsmount", libc::SYS_fsmount, [-1, 0, 0, 0, 0]),
    ("fspick", libc::SYS_fspick, [-1, 0, 0, 0, 0]),
    ("mount_setattr", libc::SYS_mount_setattr, [-1, 0, 0, 0, 0]),
    ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0]),
    ("swapon", libc::SYS_swapon, [0; 5]),
    ("swapoff", libc::SYS_swapoff, [0; 5]),
    ("quotactl", libc::SYS_quotactl, [0; 5]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]),
    ("kexec_load", libc::SYS_kexec_load, [0; 5]),
    ("kexec_file_load", libc::SYS_kexec_file_load, [-1, -1, 0, 0, 0]),
    ("init_module", libc::SYS_init_module, [0; 5]),
    ("finit_module", libc::SYS_finit_module, [-1, 0, 0, 0, 0]),
    ("delete_module", libc::SYS_delete_module, [0; 5]),
    ("bpf", libc::SYS_bpf, [0; 5]),
    ("reboot", libc::SYS_reboot, [0; 5]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 5]),
    ("lookup_dcookie", libc::SYS_lookup_dcookie, [0; 5]),
    // How many bytes the kernel's log has.
    ("syslog", libc::SYS_syslog, [10, 0, 0, 0, 0]),
    // A file's name outside of all memory.
    ("acct", libc::SYS_acct, [1, 0, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, [0; 5]),
    ("request_key", libc::SYS_request_key, [0; 5]),
    // Which keyring is this process's.
    ("keyctl", libc::SYS_keyctl, [0, -2, 1, 0, 0]),
    ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
    ("io_uring_enter", libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0]),
    ("io_uring_register", libc::SYS_io_uring_register, [-1, 0, 0, 0, 0]),
    ("settimeofday", libc::SYS_settimeofday, [1, 0, 0, 0, 0]),
    ("clock_settime", libc::SYS_clock_settime, [0; 5]),
    ("clock_adjtime", libc::SYS_clock_adjtime, [0; 5]),
    ("adjtimex", libc::SYS_adjtimex, [0; 5]),
    ("unshare_user", libc::SYS_unshare, [libc::CLONE_NEWUSER as libc::c_long, 0, 0, 0, 0]),
    ("unshare_time", libc::SYS_unshare, [0x80, 0, 0, 0, 0]),
    ("unshare_files", libc::SYS_unshare, [libc::CLONE_FILES as libc::c_long, 0, 0, 0, 0]),
    ("clone3", libc::SYS_clone3, [0; 5]),
];

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("reach", addresses)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return addresses.iter().filter_map(|to| to.parse().ok()).try_for_each(|to| reach(to, &mut out));
    }
    #[cfg(target_arch = "x86_64")]
    for (name, number) in [("iopl", libc::SYS_iopl), ("ioperm", libc::SYS_ioperm)] {
        writeln!(out, "{name} {}", call(number, [0, 1, 1, 0, 0]))?;
    }
    for (name, number, arguments) in CALLS {
        writeln!(out, "{name} {}", call(*number, *arguments))?;
    }
    let namespace = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
    writeln!(out, "clone_user {}", child_by_clone(namespace))?;
    writeln!(out, "clone {}", child_by_clone(libc::c_long::from(libc::SIGCHLD)))?;
    // Another job's process.
    if let Some(pid) = arguments.first().and_then(|pid| pid.parse().ok()) {
        writeln!(out, "ptrace {}", call(libc::SYS_ptrace, [libc::c_long::from(libc::PTRACE_SEIZE), pid, 0, 0, 0]))?;
        writeln!(out, "process_vm_readv {}", read_memory(pid))?;
    }
    out.flush()?;
    #[cfg(target_arch = "x86_64")]
    writeln!(out, "int80 {}", by_the_door_for_32_bits())?;
    Ok(())
}

/// By a socket of its own, then by the one that a rank is born with: that one was made by the daemon.
fn reach(to: SocketAddr, out: &mut impl io::Write) -> io::Result<()> {
    let errno = |answer: io::Result<()>| answer.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0);
    writeln!(out, "own {to} {}", errno(TcpStream::connect_timeout(&to, DIAL_MAX).map(drop)))?;
    if to.is_ipv4() {
        // SAFETY: a rank's listening socket has this number, and nobody else here uses it.
        let born = unsafe { BorrowedFd::borrow_raw(LISTEN_FD) };
        let dialled = rustix::net::connect_unspec(born).and_then(|()| rustix::net::connect(born, &to));
        writeln!(out, "born-with {to} {}", errno(dialled.map_err(io::Error::from)))?;
    }
    Ok(())
}

fn call(number: libc::c_long, [a, b, c, d, e]: [libc::c_long; 5]) -> i32 {
    // SAFETY: none of the calls is given memory to write to.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e) };
    errno_of(answer)
}

fn errno_of(answer: libc::c_long) -> i32 {
    if answer < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// A fork by the plain call, whose child ends at once.
fn child_by_clone(flags: libc::c_long) -> i32 {
    // SAFETY: without shared memory this is a fork of a process of one thread.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        // SAFETY: the child has nothing to end in order.
        unsafe { libc::_exit(0) }
    }
    let errno = errno_of(child);
    if child > 0 {
        // SAFETY: a child of this process.
        unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), 0) };
    }
    errno
}

/// One byte of another process, from where nothing has to be: rights are looked at first.
fn read_memory(pid: libc::c_long) -> i32 {
    let mut byte = 0_u8;
    let own = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let theirs = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 };
    // SAFETY: it writes one byte at most, into a local.
    errno_of(unsafe { libc::process_vm_readv(pid as i32, &raw const own, 1, &raw const theirs, 1, 0) } as libc::c_long)
}

/// `getpid` as a program of 32 bits asks for it. A kernel without that door ends this process.
#[cfg(target_arch = "x86_64")]
fn by_the_door_for_32_bits() -> i32 {
    let mut answer: i32 = 20;
    // SAFETY: the call reads and writes no memory.
    unsafe { std::arch::asm!("int 0x80", inout("eax") answer, out("r8") _, out("r9") _, out("r10") _, out("r11") _) };
    if answer < 0 { -answer } else { 0 }
}
