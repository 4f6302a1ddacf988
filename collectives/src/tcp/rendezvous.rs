//! From a list of addresses to a mesh: dials lower ranks again and again, accepts higher ones, both until one common
//! deadline.
//!
//! Threads live only until the mesh is complete or given up; none can hold the caller beyond the deadline.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use super::control::{Control, Outlet};
use super::frame::Abort;
use super::handshake::{self, Channel, Identity, Refusal, Timed};
use super::line::Line;
use super::seal::{Keys, Opener};
use super::socket;
use crate::communicator::{Peer, Rendezvous};
use crate::error::Error;

/// For connecting, and again for the handshake: a peer that answers at all does so at once.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(250);
/// Strangers that may hang in the handshake at a time, beyond the connections of all ranks.
const STRANGERS_MAX: usize = 64;

/// Authenticated connections by rank, none for the own.
#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) wires: Vec<Wires>,
    pub(super) control: Vec<Option<Outlet>>,
}

/// What the engine has of one rank.
#[derive(Debug)]
pub(super) struct Wires {
    pub(super) data: Vec<Line>,
    /// Where the reports of that rank are encrypted.
    pub(super) reports: Option<Opener>,
}

/// One connection, with keys where it is encrypted.
struct Linked {
    socket: TcpStream,
    keys: Option<Box<Keys>>,
}

enum Event {
    Linked(u32, Channel, Linked),
    /// An attempt failed; kept for the message.
    Failed(u32, String),
    /// This rank's token is out of date.
    Fenced(u32, String),
}

/// What all threads of one rendezvous share.
struct Meeting {
    me: Identity,
    deadline: Instant,
    /// Readable once the meeting is over.
    over: OwnedFd,
    accepting: AtomicUsize,
}

/// Connects to everybody.
pub(super) fn connect(rendezvous: Rendezvous, streams: u8, encrypt: bool) -> Result<Mesh, Error> {
    let Rendezvous { rank, peers, listener, token, secret, timeout, .. } = rendezvous;
    let system =
        |error: std::io::Error| Error::Rendezvous { missing: Vec::new(), after: timeout, reason: error.to_string() };
    let over = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|error| system(error.into()))?;
    let me = Identity { rank, world: peers.len() as u32, token, secret, streams, encrypt };
    let meeting = Arc::new(Meeting { me, deadline: Instant::now() + timeout, over, accepting: AtomicUsize::new(0) });
    let (events, inbox) = channel();
    if let Some(listener) = listener {
        listener.set_nonblocking(true).map_err(system)?;
        let (meeting, events) = (Arc::clone(&meeting), events.clone());
        spawn(move || meeting.accept_all(&listener, &events)).map_err(system)?;
    }
    for peer in peers.iter().filter(|peer| peer.rank < rank) {
        for channel in std::iter::once(Channel::Control).chain((0..streams).map(Channel::Data)) {
            let (meeting, events, peer) = (Arc::clone(&meeting), events.clone(), peer.clone());
            spawn(move || meeting.dial_until_linked(&peer, channel, &events)).map_err(system)?;
        }
    }
    drop(events);
    let result = collect(&meeting, &peers, timeout, &inbox);
    // Threads still waiting poll on this; each ends by itself.
    let _ = rustix::io::write(&meeting.over, &1u64.to_ne_bytes());
    result
}

fn spawn(run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name("rendezvous".to_owned()).spawn(run).map(drop)
}

/// Waits for all sockets of every peer.
fn collect(meeting: &Meeting, peers: &[Peer], timeout: Duration, inbox: &Receiver<Event>) -> Result<Mesh, Error> {
    let none = || peers.iter().map(|_| None).collect::<Vec<Option<Linked>>>();
    let mut found = Found { data: (0..meeting.me.streams).map(|_| none()).collect(), control: none() };
    let mut failures = BTreeMap::new();
    while found.linked() < (1 + usize::from(meeting.me.streams)) * (peers.len() - 1) {
        let left = meeting.deadline.saturating_duration_since(Instant::now());
        match inbox.recv_timeout(left) {
            Ok(Event::Linked(rank, channel, linked)) => {
                // A later one replaces an earlier one: the peer gave that up before it heard of its acceptance.
                if let Some(slots) = found.of(channel) {
                    slots[rank as usize] = Some(linked);
                }
            }
            Ok(Event::Failed(rank, reason)) => drop(failures.insert(rank, reason)),
            Ok(Event::Fenced(rank, reason)) => {
                return Err(Error::Handshake { rank, reason });
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(give_up(meeting, found, &failures, timeout));
            }
        }
    }
    Ok(found.mesh())
}

/// Names who is missing, and tells those who are there why this rank leaves.
fn give_up(meeting: &Meeting, found: Found, failures: &BTreeMap<u32, String>, after: Duration) -> Error {
    let linked = |rank: u32| found.all().all(|sockets| sockets[rank as usize].is_some());
    let missing: Vec<u32> = (0..meeting.me.world).filter(|rank| *rank != meeting.me.rank && !linked(*rank)).collect();
    let reason = |rank: &u32| {
        let text = failures.get(rank).map_or("never connected", String::as_str);
        format!("rank {rank}: {text}")
    };
    let reason = missing.iter().map(reason).collect::<Vec<_>>().join("; ");
    let culprit = if let [only] = missing.as_slice() { Some(*only) } else { None };
    let cause = format!("rank {} found no connection to ranks {missing:?}: {reason}", meeting.me.rank);
    let outlets = found.control.into_iter().map(|linked| linked.map(|linked| linked.control().0)).collect();
    if let Ok(control) = Control::new(meeting.me.rank, outlets) {
        let operation = "rendezvous".to_owned();
        control.abort(Abort { culprit, sequence: 0, operation, cause, disagreement: None });
    }
    Error::Rendezvous { missing, after, reason }
}

/// What there is of a mesh: by rank, those of data by their place first.
struct Found {
    data: Vec<Vec<Option<Linked>>>,
    control: Vec<Option<Linked>>,
}

impl Linked {
    fn control(self) -> (Outlet, Option<Opener>) {
        let (sealer, opener) = self.keys.map(|keys| (Mutex::new(keys.sealer), keys.opener)).unzip();
        (Outlet { socket: self.socket, sealer }, opener)
    }

    fn data(self) -> Line {
        Line::new(self.socket, self.keys.map(|keys| *keys))
    }
}

impl Found {
    fn all(&self) -> impl Iterator<Item = &Vec<Option<Linked>>> {
        self.data.iter().chain([&self.control])
    }

    fn of(&mut self, channel: Channel) -> Option<&mut Vec<Option<Linked>>> {
        match channel {
            Channel::Control => Some(&mut self.control),
            Channel::Data(stream) => self.data.get_mut(usize::from(stream)),
        }
    }

    fn linked(&self) -> usize {
        self.all().flatten().flatten().count()
    }

    fn mesh(self) -> Mesh {
        let mut of_data = self.data;
        let of_rank = |(rank, control): (usize, Option<Linked>)| {
            let data = of_data.iter_mut().filter_map(|sockets| sockets[rank].take()).map(Linked::data).collect();
            let (control, reports) = control.map(Linked::control).unzip();
            (Wires { data, reports: reports.flatten() }, control)
        };
        let (wires, control) = self.control.into_iter().enumerate().map(of_rank).unzip();
        Mesh { wires, control }
    }
}

impl Meeting {
    /// Time left for one step, or `None` when the meeting is over.
    fn left(&self) -> Option<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(HANDSHAKE_MAX))
    }

    /// Waits; true when the meeting ended meanwhile.
    fn ended_within(&self, wait: Duration) -> bool {
        let mut descriptors = [PollFd::new(&self.over, PollFlags::IN)];
        socket::poll(&mut descriptors, wait);
        !descriptors[0].revents().is_empty()
    }

    fn dial_until_linked(&self, peer: &Peer, channel: Channel, events: &Sender<Event>) {
        let mut pause = RETRY_MIN;
        while let Some(left) = self.left() {
            let event = match self.dial(peer.address, peer.rank, channel, left) {
                Ok(linked) => Event::Linked(peer.rank, channel, linked),
                // A newer attempt is there: this rank must not go on. An older one may still be leaving: try again.
                Err(Refusal::Token { mine, theirs }) if theirs > mine => {
                    Event::Fenced(peer.rank, format!("token {mine} is out of date, {theirs} is valid"))
                }
                Err(refusal) => Event::Failed(peer.rank, refusal.to_string()),
            };
            let again = matches!(event, Event::Failed(..));
            if events.send(event).is_err() || !again || self.ended_within(pause) {
                return;
            }
            pause = RETRY_MAX.min(pause * 2);
        }
    }

    fn dial(&self, address: SocketAddr, rank: u32, channel: Channel, left: Duration) -> Result<Linked, Refusal> {
        let stream = TcpStream::connect_timeout(&address, left)?;
        prepare(&stream)?;
        let keys = handshake::dial(&mut Timed::new(&stream, left), &self.me, rank, channel)?.map(Box::new);
        ready(&stream, channel)?;
        Ok(Linked { socket: stream, keys })
    }

    fn accept_all(self: &Arc<Self>, listener: &TcpListener, events: &Sender<Event>) {
        let limit = (1 + usize::from(self.me.streams)) * self.me.world as usize + STRANGERS_MAX;
        while let Some(left) = self.left() {
            let mut descriptors = [PollFd::new(&self.over, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
            socket::poll(&mut descriptors, left);
            if !descriptors[0].revents().is_empty() {
                return;
            }
            let Ok((stream, _)) = listener.accept() else { continue };
            if self.accepting.load(Ordering::Relaxed) >= limit {
                continue;
            }
            // A thread each, so that a stranger who connects and says nothing delays nobody.
            self.accepting.fetch_add(1, Ordering::Relaxed);
            let (meeting, events) = (Arc::clone(self), events.clone());
            let spawned = spawn(move || {
                meeting.accept(stream, &events);
                meeting.accepting.fetch_sub(1, Ordering::Relaxed);
            });
            if spawned.is_err() {
                self.accepting.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn accept(&self, stream: TcpStream, events: &Sender<Event>) {
        let Some(left) = self.left() else { return };
        let outcome = prepare(&stream).map_err(Refusal::from).and_then(|()| {
            let (rank, channel, keys) = handshake::accept(&mut Timed::new(&stream, left), &self.me)?;
            ready(&stream, channel)?;
            Ok((rank, channel, keys))
        });
        match outcome {
            Ok((rank, channel, keys)) => {
                drop(events.send(Event::Linked(rank, channel, Linked { socket: stream, keys: keys.map(Box::new) })));
            }
            // Who it was is not proven, so it is nobody's fault; the log shows it.
            Err(refusal) => tracing::warn!(rank = self.me.rank, %refusal, "connection refused"),
        }
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    socket::prepare(stream);
    Ok(())
}

fn ready(stream: &TcpStream, channel: Channel) -> std::io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    match channel {
        Channel::Control => socket::watch(stream),
        Channel::Data(_) => socket::narrow_at_home(stream),
    }
    stream.set_nonblocking(true)
}
