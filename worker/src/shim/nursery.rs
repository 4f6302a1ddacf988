//! Where supervisors are born: one process for each daemon that forks them, so that a rank's start does not pay for loading
//! and linking the whole program again (3 ms of CPU for a binary of this size; a fork of a small process is a tenth of it).
//!
//! ```text
//!  daemon ──path of the record, listening socket, secrets──> nursery ──fork──> supervisor ──> rank
//!         <────── a handle of exactly that process ─┘
//! ```
//!
//! It has one thread and holds nothing but its end of the socket; it ends with the daemon. Supervisors live on.

use super::{say, supervise};
use crate::layout::Layout;
use crate::process;
use crate::secrets::Secrets;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use rustix::process::{WaitOptions, wait};
use rustix::time::Timespec;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

/// Longest path of a record.
const PATH_BYTES_MAX: usize = 4_096;
/// Descriptors that come with it: the rank's listening socket, and a file in memory with its secrets where it has some.
const GIFTS: usize = 2;
/// A log of this size is put aside when a nursery opens; the one put aside before is gone then.
const LOG_BYTES_MAX: u64 = 1 << 20;
/// Ended supervisors are taken note of this often, and before each birth.
const REAP_EVERY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The daemon's side.
#[derive(Debug)]
pub(crate) struct Nursery {
    program: PathBuf,
    layout: Layout,
    line: Mutex<Option<OwnedFd>>,
}

impl Nursery {
    /// Nothing is started before the first supervisor is asked for. The folder is on the process's command line, for
    /// people who look.
    pub(crate) fn new(program: &Path, layout: &Layout) -> Self {
        Self { program: program.to_owned(), layout: layout.clone(), line: Mutex::new(None) }
    }

    /// Starts the supervisor of this record; returns exactly that process. Blocks for a fraction of a millisecond;
    /// a nursery that is gone is started again.
    pub(crate) fn start(&self, record: &Path, listener: &OwnedFd, secrets: &Secrets) -> io::Result<OwnedFd> {
        let secrets = secrets.gift()?;
        let gifts: Vec<BorrowedFd<'_>> = std::iter::once(listener).chain(&secrets).map(AsFd::as_fd).collect();
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = line.as_ref()
            && let Ok(answer) = ask(open, record, &gifts)
        {
            return answer;
        }
        let fresh = line.insert(self.open()?);
        ask(fresh, record, &gifts)?
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Command::new(&self.program)
            .arg("rank-nursery")
            .arg(self.layout.root())
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(self.open_log()?))
            .spawn()?;
        Ok(ours)
    }

    /// One for all supervisors, which have little to say: a file for each would cost each rank one.
    pub(crate) fn open_log(&self) -> io::Result<File> {
        let path = self.layout.supervisors_log();
        if std::fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            std::fs::rename(&path, path.with_extension("log.old"))?;
        }
        File::options().create(true).append(true).mode(0o600).open(path)
    }
}

/// The outer error is the line's, the inner one the nursery's own: it could not fork.
fn ask(line: &OwnedFd, record: &Path, gifts: &[BorrowedFd<'_>]) -> io::Result<io::Result<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(GIFTS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(gifts));
    rustix::net::sendmsg(line, &[IoSlice::new(record.as_os_str().as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    let (answer, mut handles) = receive(line.as_fd(), 4)?;
    let code: [u8; 4] = answer.try_into().map_err(|_| io::Error::other("the nursery is gone"))?;
    Ok(match (i32::from_le_bytes(code), handles.pop()) {
        (0, Some(handle)) => Ok(handle),
        (code, _) => Err(io::Error::from_raw_os_error(code)),
    })
}

/// One message with its descriptors; empty when the other side is gone.
fn receive(line: BorrowedFd<'_>, bytes_max: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; bytes_max];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(GIFTS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(line, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    bytes.truncate(received.bytes);
    let mut handles = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            handles.extend(fds);
        }
    }
    Ok((bytes, handles))
}

/// Runs `muster rank-nursery FOLDER`. Call it before any thread is made: it forks.
pub fn main(_: &[OsString]) -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    // Out of the daemon's group: a terminal's interrupt is not meant for it. Fails only for a leader, which is out already.
    let _ = rustix::process::setsid();
    // Supervisors, its forks, hold their gang's secret.
    super::confine::hide_memory(true);
    let stdin = io::stdin();
    let line = stdin.as_fd();
    loop {
        reap();
        let mut waits = [PollFd::from_borrowed_fd(line, PollFlags::IN)];
        match poll(&mut waits, Some(&REAP_EVERY)) {
            Ok(0) | Err(Errno::INTR) => continue,
            result => drop(result?),
        }
        let (path, gifts) = receive(line, PATH_BYTES_MAX)?;
        if path.is_empty() {
            return Ok(());
        }
        let born = give_birth(Path::new(OsStr::from_bytes(&path)), gifts);
        answer(line, born)?;
    }
}

fn reap() {
    while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
}

fn give_birth(record: &Path, gifts: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    let mut gifts = gifts.into_iter();
    let (Some(listener), secrets) = (gifts.next(), gifts.next()) else { return Err(Errno::INVAL.into()) };
    // SAFETY: this process has one thread, so that the child may go on as it would have.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => be_supervisor(record, &listener, secrets),
        // Not reaped before the next turn, so the id is still that child's.
        pid => process::open(pid),
    }
}

fn be_supervisor(record: &Path, listener: &OwnedFd, secrets: Option<OwnedFd>) -> ! {
    let secrets = || secrets.map(Secrets::receive).transpose().map(Option::unwrap_or_default);
    let begun = take_gift(listener).and_then(|()| secrets()).and_then(|secrets| supervise(record, &secrets));
    let code = match begun {
        Ok(()) => 0,
        Err(error) => {
            say(format_args!("{error}"));
            1
        }
    };
    // SAFETY: ends this process at once; what lies above on the stack belongs to the nursery.
    unsafe { libc::_exit(code) }
}

fn take_gift(listener: &OwnedFd) -> io::Result<()> {
    // SAFETY: 0 is this process's own stdin; what else it has inherited is closed by `supervise`.
    if unsafe { libc::dup2(listener.as_raw_fd(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = c"rank-shim";
    // SAFETY: a short constant name for lists of processes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    Ok(())
}

fn answer(line: BorrowedFd<'_>, born: io::Result<OwnedFd>) -> io::Result<()> {
    let code = match &born {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    };
    let handles: Vec<BorrowedFd<'_>> = born.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(GIFTS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !handles.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&handles));
    }
    rustix::net::sendmsg(line, &[IoSlice::new(&code.to_le_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
