//! Signals and deadlines as descriptors, so that one poll waits for everything.

use super::child::adopt;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Asks a supervisor to stop its rank: SIGTERM, grace, SIGKILL.
pub(crate) const STOP: rustix::process::Signal = rustix::process::Signal::TERM;
/// Asks a supervisor to kill its rank at once.
pub(crate) const KILL: rustix::process::Signal = rustix::process::Signal::USR1;

/// Signals of this process, read instead of delivered.
pub(super) struct Signals {
    file: File,
}

/// Which signals came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    pub(super) child: bool,
    pub(super) stop: bool,
    pub(super) kill: bool,
}

impl Signals {
    /// Blocks the signals that matter. Interrupts and hang-ups of a terminal are blocked too, and dropped: only the
    /// daemon stops ranks.
    pub(super) fn new() -> io::Result<Self> {
        let wanted = [libc::SIGCHLD, libc::SIGTERM, libc::SIGUSR1, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
        // SAFETY: plain system calls on a local set; signalfd's descriptor is ours alone.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in wanted {
                libc::sigaddset(&raw mut set, signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { file: File::from(adopt(fd)) })
        }
    }

    /// Takes all that came.
    pub(super) fn take(&mut self) -> Received {
        const SIGNAL_BYTES: usize = size_of::<libc::signalfd_siginfo>();
        let mut received = Received::default();
        let mut bytes = [0_u8; SIGNAL_BYTES];
        while self.file.read(&mut bytes).is_ok_and(|count| count == SIGNAL_BYTES) {
            // The number is the record's first field.
            match i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) {
                libc::SIGCHLD => received.child = true,
                libc::SIGTERM => received.stop = true,
                libc::SIGUSR1 => received.kill = true,
                _ => {}
            }
        }
        received
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A deadline on the boot clock: it passes during a suspension too, which a poll timeout does not.
pub(super) struct Timer {
    fd: OwnedFd,
    armed: Option<Duration>,
}

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?, armed: None })
    }

    /// Becomes readable at this boot time.
    pub(super) fn arm(&mut self, at: Duration) -> io::Result<()> {
        if self.armed == Some(at) {
            return Ok(());
        }
        // Zero would disarm.
        let at_least = at.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(at_least.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at_least.subsec_nanos()),
        };
        let setting = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &setting)?;
        self.armed = Some(at);
        Ok(())
    }

    /// Makes it unreadable again until it is armed.
    pub(super) fn clear(&mut self) {
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&self.fd, &mut count);
        self.armed = None;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
