//! Networks of gangs (`--rank-network`): the ranks of a framework reach each other and nobody else, and nobody else reaches them.
//!
//! ```text
//!  rank ─┐ network namespace of its member: lo, and muster0 = 100.96.0.0/12 by the member's number
//!  rank ─┴─> muster0 ─> rank-network process ─> one proven, encrypted connection to each other member's machine
//!                                               (between the data endpoints of the members' first ranks)
//! ```
//!
//! What frameworks listen on (`MASTER_PORT`, Gloo's and Open MPI's ports of their own) proves nobody and encrypts nothing; here only the
//! gang can dial it. Ranks of Muster's own collectives, which prove and encrypt by themselves, stay in the machine's network, and so do
//! jobs that are no framework's. The process outlives the daemon as supervisors do, and ends when they have ended.

mod device;
mod lines;
mod process;

pub use process::main;

use crate::layout::MemberLayout;
use crate::process::Identity;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, SocketFlags, SocketType, sockopt,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use types::{Distribution, Endpoint, Wish};

/// The device of a member's machine in its gang's network.
pub(crate) const DEVICE: &str = "muster0";
/// Stands before the framework's address of a rank that is in such a network: all members of a gang must be.
const MARK: &str = "rank-network+";
/// Members' addresses begin here: shared address space (RFC 6598), of which no other machine is reached from there.
const FIRST: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 1);
/// As many as the network of 12 bits has addresses for.
const MEMBERS_MAX: usize = (1 << 20) - 2;
/// Descriptors that one message of the kernel carries, less one.
const RANKS_MAX: usize = 250;
/// From the start of the process to its answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const FAULT_BYTES_MAX: usize = 4_096;

/// Whether frameworks' ranks have networks of their own on this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Networks(pub(crate) bool);

/// Where a supervisor finds the network that its rank enters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    process: Identity,
    /// Of the namespace, in that process.
    descriptor: i32,
}

/// What the process is told; the listening socket at which other machines dial comes with it.
#[derive(Serialize, Deserialize)]
struct Order {
    number: u32,
    token: u64,
    secret: [u8; 32],
    /// Where each member's machine is dialled.
    machines: Vec<SocketAddr>,
    /// At which the ranks here listen for their own.
    ports: Vec<u16>,
    /// Their supervisors' folders.
    ranks: Vec<PathBuf>,
}

/// A member's network.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) place: Place,
    /// The gang's endpoints as its ranks dial them.
    pub(crate) endpoints: Vec<Endpoint>,
    /// One for each rank here, in its network.
    pub(crate) listeners: Vec<OwnedFd>,
}

impl Networks {
    /// Whether this gang's ranks have one: frameworks prove nobody.
    pub(crate) fn includes(self, wish: &Wish) -> bool {
        self.0 && wish.spec.gang.distribution != Distribution::None
    }

    /// How a rank's framework address is told to the other members.
    pub(crate) fn tell(self, wish: &Wish, framework: SocketAddr) -> String {
        if self.includes(wish) { format!("{MARK}{framework}") } else { framework.to_string() }
    }

    /// All members' ranks are in one, or none: else why not.
    pub(crate) fn check(self, wish: &Wish, endpoints: &[Endpoint]) -> Result<(), String> {
        let own = self.includes(wish);
        let Some(other) = endpoints.iter().find(|endpoint| endpoint.framework.starts_with(MARK) != own) else {
            return Ok(());
        };
        let at = wish.placement.members.iter().find(|member| member.ranks.iter().any(|rank| rank.rank == other.rank));
        let at = at.map(|member| member.worker.to_string()).unwrap_or_default();
        Err(if own {
            format!("worker {at} runs without --rank-network and this one with it: start both alike")
        } else {
            format!("worker {at} runs with --rank-network and this one without it: start both alike")
        })
    }
}

/// The address of a member in its gang's network; none past what it holds.
fn address(number: usize) -> Option<Ipv4Addr> {
    let offset = u32::try_from(number).ok().filter(|_| number < MEMBERS_MAX)?;
    Some(Ipv4Addr::from_bits(FIRST.to_bits() + offset))
}

/// Which member has this address.
fn member_at(address: Ipv4Addr) -> Option<usize> {
    address.to_bits().checked_sub(FIRST.to_bits()).map(|offset| offset as usize)
}

impl Place {
    /// A handle of the process that keeps the network; none when it is gone.
    pub(crate) fn keeper(&self) -> Option<OwnedFd> {
        self.process.open()
    }

    /// The namespace, to enter.
    pub(crate) fn open(&self) -> io::Result<File> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the process that keeps its network is gone");
        let file = File::open(format!("/proc/{}/fd/{}", self.process.pid, self.descriptor)).map_err(|_| gone())?;
        // Looked at after: the file is that process's and no other's of its number.
        self.process.open().map(|_| file).ok_or_else(gone)
    }

    /// Does something in the namespace: what is bound there is reached from there. For a process of one thread.
    pub(crate) fn within<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let own = File::open("/proc/self/ns/net")?;
        device::enter(&self.open()?)?;
        let done = act();
        device::enter(&own)?;
        done
    }
}

/// Can this daemon make such networks? In words why not.
pub(crate) fn try_out() -> Result<(), String> {
    device::make(FIRST, &[]).map(drop).map_err(|error| format!("this process cannot make a network: {error}"))
}

/// Makes the network of a member, whose sockets these are: first the one at which other machines dial. Blocks for some milliseconds.
pub(crate) fn start(
    program: &Path,
    log: File,
    (wish, layout): (&Wish, &MemberLayout),
    endpoints: &[Endpoint],
    listeners: &[TcpListener],
) -> Result<Network, String> {
    let order = order(wish, layout, endpoints)?;
    let listener = listeners.first().ok_or("it has no ranks here")?;
    let endpoints = inside(wish, endpoints).ok_or("its endpoints are not addresses")?;
    let made = talk((program, layout.root()), log, &order, listener)
        .map_err(|error| format!("cannot make its network: {error}"));
    made.map(|(place, listeners)| Network { place, endpoints, listeners })
}

fn order(wish: &Wish, layout: &MemberLayout, endpoints: &[Endpoint]) -> Result<Order, String> {
    let of = |rank| endpoints.iter().find(|endpoint: &&Endpoint| endpoint.rank == rank);
    let data = |rank| of(rank).and_then(|endpoint| endpoint.data.parse::<SocketAddr>().ok());
    let firsts = wish.placement.members.iter().map(|member| member.ranks.first().and_then(|first| data(first.rank)));
    let machines = firsts.collect::<Option<Vec<_>>>().ok_or("an endpoint of its gang is missing, or no address")?;
    let own = wish.member().map(|member| member.ranks.as_slice()).unwrap_or_default();
    let ports = own.iter().map(|rank| data(rank.rank).map(|at| at.port())).collect::<Option<Vec<_>>>();
    let ports = ports.ok_or("an endpoint of its own is missing, or no address")?;
    if own.len() > RANKS_MAX || machines.len() > MEMBERS_MAX {
        return Err(format!("--rank-network is for {RANKS_MAX} ranks a machine and {MEMBERS_MAX} members at most"));
    }
    let number = wish.key.node_rank;
    let ranks = own.iter().map(|rank| layout.rank(rank.rank)).collect();
    Ok(Order { number, token: wish.token.0, secret: wish.secret.0, machines, ports, ranks })
}

/// The endpoints as they are in the gang's network.
fn inside(wish: &Wish, endpoints: &[Endpoint]) -> Option<Vec<Endpoint>> {
    let member = |endpoint: &Endpoint| {
        wish.placement.members.iter().position(|member| member.ranks.iter().any(|rank| rank.rank == endpoint.rank))
    };
    let moved = |text: &str, at: Ipv4Addr| {
        let port = text.strip_prefix(MARK).unwrap_or(text).parse::<SocketAddr>().ok()?.port();
        Some(SocketAddr::from((at, port)).to_string())
    };
    let all = endpoints.iter().map(|endpoint| {
        let at = address(member(endpoint)?)?;
        let (data, framework) = (moved(&endpoint.data, at)?, moved(&endpoint.framework, at)?);
        Some(Endpoint { rank: endpoint.rank, data, framework })
    });
    all.collect()
}

/// Starts the process and hears what it has made. The folder is on its command line, for people who look.
fn talk(
    (program, folder): (&Path, &Path),
    log: File,
    order: &Order,
    listener: &TcpListener,
) -> io::Result<(Place, Vec<OwnedFd>)> {
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(ANSWER_MAX))?;
    sockopt::set_socket_timeout(&ours, sockopt::Timeout::Send, Some(ANSWER_MAX))?;
    let mut child = Command::new(program)
        .arg("rank-network")
        .arg(folder)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .spawn()?;
    // It ends at once: what goes on is its child, which is nobody's here.
    let asked = ask(&ours, order, listener);
    if asked.is_err() {
        let _ = child.kill();
    }
    child.wait()?;
    asked
}

fn ask(line: &OwnedFd, order: &Order, listener: &TcpListener) -> io::Result<(Place, Vec<OwnedFd>)> {
    send_with(line, &[0], &[listener.as_fd()])?;
    let mut stream = std::os::unix::net::UnixStream::from(line.try_clone()?);
    stream.write_all(&serde_json::to_vec(order)?)?;
    rustix::net::shutdown(line, Shutdown::Write)?;
    let (answer, descriptors) = receive_with(line, FAULT_BYTES_MAX)?;
    match serde_json::from_slice::<Result<Place, String>>(&answer) {
        Ok(Ok(place)) if descriptors.len() == order.ports.len() => Ok((place, descriptors)),
        Ok(Err(fault)) => Err(io::Error::other(fault)),
        Ok(Ok(_)) | Err(_) => Err(io::Error::other("the process that keeps it ended before it answered")),
    }
}

fn send_with(line: &OwnedFd, bytes: &[u8], descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RANKS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(line, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_with(line: &OwnedFd, bytes_max: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; bytes_max];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RANKS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(line, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    bytes.truncate(received.bytes);
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    Ok((bytes, descriptors))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use types::{AttemptNumber, Goal, JobId, MemberKey, RankIndex, Token};

    fn wish(distribution: Distribution) -> Wish {
        let key = MemberKey { job: JobId(7), attempt: AttemptNumber(2), node_rank: 1 };
        let mut wish = crate::testing::wish(key, Token(12), Goal::Run, vec![]);
        let mut spec = (*wish.spec).clone();
        spec.gang.distribution = distribution;
        wish.spec = Arc::new(spec);
        wish
    }

    fn endpoint(rank: u32, framework: String) -> Endpoint {
        Endpoint { rank: RankIndex(rank), data: format!("10.0.0.{rank}:{}", 4000 + rank), framework }
    }

    #[test]
    fn frameworks_have_one_and_others_do_not() {
        let at: SocketAddr = "10.0.0.1:5000".parse().unwrap();
        assert_eq!(Networks(true).tell(&wish(Distribution::PyTorch), at), "rank-network+10.0.0.1:5000");
        assert_eq!(Networks(true).tell(&wish(Distribution::None), at), "10.0.0.1:5000");
        assert_eq!(Networks(false).tell(&wish(Distribution::Mpi), at), "10.0.0.1:5000");
    }

    #[test]
    fn ranks_are_told_addresses_of_their_own_network() {
        let wish = wish(Distribution::PyTorch);
        let told = [0, 1].map(|rank| endpoint(rank, format!("rank-network+10.0.0.{rank}:{}", 5000 + rank)));
        assert_eq!(Networks(true).check(&wish, &told), Ok(()));
        let inside = inside(&wish, &told).unwrap();
        let texts: Vec<_> = inside.iter().map(|all| (all.data.as_str(), all.framework.as_str())).collect();
        assert_eq!(texts, [("100.96.0.1:4000", "100.96.0.1:5000"), ("100.96.0.2:4001", "100.96.0.2:5001")]);
        let layout = crate::layout::Layout::new(Path::new("/d")).member(wish.key);
        let order = order(&wish, &layout, &told).unwrap();
        assert_eq!((order.number, order.ports), (1, vec![4001]));
        assert_eq!(order.machines, ["10.0.0.0:4000".parse().unwrap(), "10.0.0.1:4001".parse().unwrap()]);
    }

    #[test]
    fn a_gang_is_in_one_network_or_in_none() {
        let wish = wish(Distribution::PyTorch);
        let mixed = [endpoint(0, "10.0.0.0:5000".into()), endpoint(1, "rank-network+10.0.0.1:5001".into())];
        let with = Networks(true).check(&wish, &mixed).unwrap_err();
        assert!(with.contains("without --rank-network and this one with it"), "{with}");
        let without = Networks(false).check(&wish, &mixed).unwrap_err();
        assert!(without.contains("with --rank-network and this one without it"), "{without}");
    }

    #[test]
    fn each_member_has_an_address_and_no_more_than_there_are() {
        assert_eq!(address(0), Some(FIRST));
        assert_eq!(address(255).and_then(member_at), Some(255));
        assert_eq!(address(MEMBERS_MAX - 1), Some(Ipv4Addr::new(100, 111, 255, 254)));
        assert_eq!(address(MEMBERS_MAX), None);
        assert_eq!(member_at(Ipv4Addr::new(10, 0, 0, 1)), None);
    }
}
