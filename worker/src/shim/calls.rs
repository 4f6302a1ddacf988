//! The filter of system calls of ranks that are users of their own: what no training needs, and what has opened kernels before, is
//! answered with "not permitted". A list of what is denied, not of what is allowed: frameworks and drivers find what they need
//! without being known here.
//!
//! ```text
//!  foreign architecture (int 0x80)        EPERM
//!  x32's numbers, clone3                  ENOSYS: who asks uses what is older (clone), whose flags a filter can see
//!  DENIED                                 EPERM
//!  clone, unshare with a new namespace    EPERM
//!  everything else                        as without the filter
//! ```
//!
//! Reading and tracing processes is left to the kernel's own rule: without rights, those of the same user. With a user for each
//! job these are the job's; Open MPI copies between its ranks so, and debuggers work.

use std::io;

/// By number; each is refused whatever its arguments are.
const DENIED: &[libc::c_long] = &[
    // What is mounted where.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // By handle a file is opened past the rights of the folders above it.
    libc::SYS_open_by_handle_at,
    // Another kernel, or code in this one.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_reboot,
    // What others do.
    libc::SYS_perf_event_open,
    libc::SYS_lookup_dcookie,
    libc::SYS_syslog,
    libc::SYS_acct,
    // Keys belong to no namespace and no job.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Each a door of many ways into kernels; who could use them falls back to epoll and threads.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // The machine's time.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

/// Since Linux 6.15, the same number everywhere.
const OPEN_TREE_ATTR: libc::c_long = 467;

/// Ports of the machine, of this architecture alone.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[libc::SYS_iopl, libc::SYS_ioperm];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("which system calls are denied, and by which numbers, is known for x86_64 and aarch64");

/// From here on x86_64 has the numbers of x32, under which the same calls could be made.
const X32: u32 = 0x4000_0000;

/// Of `clone(2)`; its lowest byte is a signal, so that the flag for a namespace of time can be no part of it.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
const NAMESPACE_OF_TIME: u32 = 0x80;

/// Places in what the filter is shown, `struct seccomp_data`; of the first argument the lower half, which holds all flags.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FIRST_ARGUMENT_AT: u32 = 16;

/// A filter, ready before a fork.
#[derive(Debug)]
pub(super) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    pub(super) fn new() -> Self {
        let mut filter = Self(Vec::new());
        filter.load(ARCHITECTURE_AT);
        filter.unless(libc::BPF_JEQ, ARCHITECTURE, refuse(libc::EPERM));
        filter.load(NUMBER_AT);
        if cfg!(target_arch = "x86_64") {
            filter.when(libc::BPF_JGE, X32, refuse(libc::ENOSYS));
        }
        for call in DENIED.iter().chain(DENIED_HERE) {
            filter.when(libc::BPF_JEQ, number(*call), refuse(libc::EPERM));
        }
        filter.when(libc::BPF_JEQ, number(libc::SYS_clone3), refuse(libc::ENOSYS));
        for (call, flags) in [(libc::SYS_clone, NAMESPACES), (libc::SYS_unshare, NAMESPACES | NAMESPACE_OF_TIME)] {
            // Past the four that look at this call.
            filter.jump(libc::BPF_JEQ, number(call), 0, 4);
            filter.load(FIRST_ARGUMENT_AT);
            filter.when(libc::BPF_JSET, flags, refuse(libc::EPERM));
            filter.answer(libc::SECCOMP_RET_ALLOW);
        }
        filter.answer(libc::SECCOMP_RET_ALLOW);
        filter
    }

    fn push(&mut self, code: u32, value: u32, (then, otherwise): (u8, u8)) {
        self.0.push(libc::sock_filter { code: code as u16, jt: then, jf: otherwise, k: value });
    }

    fn load(&mut self, at: u32) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, (0, 0));
    }

    /// How many instructions to go past when it holds, and when not.
    fn jump(&mut self, test: u32, value: u32, then: u8, otherwise: u8) {
        self.push(libc::BPF_JMP | libc::BPF_K | test, value, (then, otherwise));
    }

    fn when(&mut self, test: u32, value: u32, answer: u32) {
        self.jump(test, value, 0, 1);
        self.answer(answer);
    }

    fn unless(&mut self, test: u32, value: u32, answer: u32) {
        self.jump(test, value, 1, 0);
        self.answer(answer);
    }

    fn answer(&mut self, answer: u32) {
        self.push(libc::BPF_RET | libc::BPF_K, answer, (0, 0));
    }

    /// For this process and all that it starts; there is no way back.
    ///
    /// # Safety
    /// After a fork, in a process that can gain no rights: one system call on values made before.
    pub(super) unsafe fn enter(&self) -> bool {
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // Without this flag kernels before 5.16 slow every filtered process down, for what only a sandbox within a process needs.
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        // SAFETY: the program is as long as it says, and is only read.
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) == 0 }
    }
}

fn refuse(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
}

fn number(call: libc::c_long) -> u32 {
    call as u32
}

/// Has this kernel such filters?
pub(crate) fn try_out() -> Result<(), String> {
    let answer = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the call only reads that number.
    let tried = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0_u32, &raw const answer) };
    if tried == 0 {
        return Ok(());
    }
    let why = io::Error::last_os_error();
    Err(format!("this kernel filters no system calls ({why}): say --allow-all-system-calls to run ranks without"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;

    /// What the kernel would answer: the few instructions that are used, by their definition in `bpf(4)`.
    fn answer(architecture: u32, call: u32, first: u32) -> u32 {
        let Filter(program) = Filter::new();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            let code = u32::from(code);
            at += 1;
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                loaded = match k {
                    0 => call,
                    4 => architecture,
                    16 => first,
                    other => panic!("byte {other} is none of those"),
                };
            } else if code == libc::BPF_RET | libc::BPF_K {
                return k;
            } else {
                let holds = match code & !libc::BPF_JMP {
                    libc::BPF_JEQ => loaded == k,
                    libc::BPF_JGE => loaded >= k,
                    libc::BPF_JSET => loaded & k != 0,
                    other => panic!("instruction {other}"),
                };
                at += usize::from(if holds { jt } else { jf });
            }
        }
    }

    fn here(call: libc::c_long, first: i32) -> u32 {
        answer(ARCHITECTURE, number(call), first.cast_unsigned())
    }

    #[test]
    fn what_is_denied_is_denied_and_what_programs_live_by_is_not() {
        for call in [libc::SYS_mount, libc::SYS_bpf, libc::SYS_adjtimex, libc::SYS_io_uring_setup, OPEN_TREE_ATTR] {
            assert_eq!(here(call, 0), refuse(libc::EPERM), "{call}");
        }
        for call in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_futex,
            libc::SYS_mbind,
            libc::SYS_ioctl,
            libc::SYS_process_vm_readv,
            libc::SYS_ptrace,
            libc::SYS_clock_gettime,
            libc::SYS_prctl,
        ] {
            assert_eq!(here(call, i32::MAX), ALLOWED, "{call}");
        }
    }

    #[test]
    fn threads_and_forks_are_made_and_namespaces_are_not() {
        let thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_FILES | libc::CLONE_FS;
        assert_eq!(here(libc::SYS_clone, thread), ALLOWED);
        assert_eq!(here(libc::SYS_clone, libc::SIGCHLD), ALLOWED);
        assert_eq!(here(libc::SYS_clone, libc::SIGCHLD | libc::CLONE_NEWUSER), refuse(libc::EPERM));
        assert_eq!(here(libc::SYS_clone3, 0), refuse(libc::ENOSYS), "its flags lie in memory");
        assert_eq!(here(libc::SYS_unshare, libc::CLONE_FILES), ALLOWED);
        for namespace in [libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWCGROUP, 0x80] {
            assert_eq!(here(libc::SYS_unshare, namespace), refuse(libc::EPERM), "{namespace:x}");
        }
    }

    #[test]
    fn other_architectures_are_no_way_round() {
        const I386: u32 = 0x4000_0003;
        assert_eq!(answer(I386, number(libc::SYS_read), 0), refuse(libc::EPERM));
        #[cfg(target_arch = "x86_64")]
        assert_eq!(answer(ARCHITECTURE, X32 + number(libc::SYS_mount), 0), refuse(libc::ENOSYS));
    }
}
