//! A member's node: runs Open MPI's daemon for an agent of its own gang, and ends it some time after the agent has gone: at
//! a program's good end `mpirun` lets its agents go first, and its daemons end by themselves.

use super::{Gang, Manifest, byte_of, wire};
use crate::process;
use crate::shim::spec::LISTEN_FD;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};
use rustix::time::Timespec;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// For the daemon to end by itself once its agent has gone.
const ALONE_MAX: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Callers that may try to prove themselves at once; more are turned away.
const CALLERS_MAX: usize = 8;

/// Listens on the endpoint of the member's first rank.
pub(super) struct Node {
    listener: TcpListener,
    manifest: Manifest,
}

impl Node {
    /// Takes the listening socket that the supervisor handed over.
    pub(super) fn of_environment(gang: &Gang) -> io::Result<Self> {
        // SAFETY: the supervisor left this descriptor for this program, which takes it here only.
        let socket = unsafe { OwnedFd::from_raw_fd(LISTEN_FD) };
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        let manifest = Manifest { token: gang.manifest.token, secret: gang.manifest.secret.clone(), peers: Vec::new() };
        Ok(Self { listener: TcpListener::from(socket), manifest })
    }

    /// Runs one command of an agent that proves itself, and returns its exit code. Strangers hold nobody up.
    pub(super) fn serve(self) -> io::Result<u8> {
        let (heard, commands) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("accept".into())
            .spawn(move || accept(&self.listener, &self.manifest, &heard))?;
        let (command, stream) = commands.recv().map_err(|_| io::Error::other("its socket cannot be listened on"))?;
        execute(&command, stream)
    }
}

type Heard = mpsc::SyncSender<(String, TcpStream)>;

/// Lets callers prove themselves side by side; ends with the first that did, or with the socket.
fn accept(listener: &TcpListener, manifest: &Manifest, heard: &Heard) {
    let callers = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        while let Ok((mut stream, from)) = listener.accept() {
            if callers.fetch_add(1, Ordering::SeqCst) >= CALLERS_MAX {
                callers.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let callers = &callers;
            scope.spawn(move || {
                match wire::answer(&mut stream, manifest) {
                    // A second one finds nobody who waits for it.
                    Ok(command) => drop(heard.try_send((command, stream))),
                    Err(error) => eprintln!("mpi node: {from} was not heard: {error}"),
                }
                callers.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
}

/// `muster mpi-node`: for all members but the first.
pub(super) fn serve_alone() -> io::Result<ExitCode> {
    Node::of_environment(&Gang::of_environment()?)?.serve().map(ExitCode::from)
}

fn is_loopback(stream: &TcpStream) -> bool {
    stream.peer_addr().is_ok_and(|address| address.ip().is_loopback())
}

fn execute(command: &str, mut stream: TcpStream) -> io::Result<u8> {
    let mut shell = Command::new("/bin/sh");
    if let Some(folder) = daemon::environment::text("TMPDIR").filter(|_| is_loopback(&stream)) {
        // Members on one machine would else give the same names to their shared memory, and crash each other.
        shell.env("OMPI_MCA_btl_vader_backing_directory", folder);
    }
    let mut child = shell.args(["-c", command]).process_group(0).spawn()?;
    let handle = process::open(child.id().cast_signed())?;
    let group = Pid::from_raw(child.id().cast_signed());
    let mut agent = stream.try_clone()?;
    std::thread::Builder::new().name("agent".into()).spawn(move || {
        // An agent says nothing more: a byte or an end means that it has gone.
        let _ = agent.read(&mut [0]);
        let mut ended = [PollFd::new(&handle, PollFlags::IN)];
        let alone = matches!(poll(&mut ended, Some(&ALONE_MAX)), Ok(0));
        if let Some(group) = group.filter(|_| alone) {
            let _ = rustix::process::kill_process_group(group, Signal::TERM);
        }
    })?;
    let code = byte_of(child.wait()?);
    // The agent may have gone already.
    let _ = stream.write_all(&[code]);
    Ok(code)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// At a good end the agents go a moment before the daemons do.
    #[test]
    fn a_daemon_whose_agent_went_first_ends_by_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (stream, _) = listener.accept().unwrap();
        assert_eq!(execute("sleep 0.2; exit 3", stream).unwrap(), 3);
    }
}
