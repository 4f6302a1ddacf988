//! The poll loop: moves one operation's bytes over all data sockets, on the calling thread, until done or until
//! something ends it.
//!
//! A peer is declared dead only when its control socket says so or stays silent after its data socket broke: a peer
//! that stops because of another has said that on the control socket first (COLL-4).

mod census;
mod link;

#[cfg(test)]
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use self::link::{Link, Listening};
use super::control::Control;
use super::frame::{HEADER, Header, Report};
use super::patience::Patience;
use super::rendezvous::Wires;
use super::socket;
use super::stop::Stop;
use super::streams::Streams;
use super::transfer::Transfer;
use crate::recorder::State;
use crate::stall::{Behind, Wait};

/// How long a broken data socket waits for the peer's control socket to say why.
const GRACE: Duration = Duration::from_millis(250);

/// How often the control sockets are looked at while bytes keep coming: a long transfer between two ranks must not keep
/// them from hearing of a third.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often a rank that only waits looks at what ranks say that this operation has nothing to do with.
const LOOK_ASIDE_EVERY: Duration = Duration::from_millis(100);

/// All data sockets of one rank, and what has been read of its control sockets.
#[derive(Debug)]
pub(super) struct Engine {
    links: Vec<Link>,
    pub(super) timeout: Duration,
    pub(super) patience: Patience,
    pub(super) scratch: Vec<u64>,
}

impl Engine {
    /// `wires` by rank, none for the own.
    pub(super) fn new(wires: Vec<Wires>, timeout: Duration, patience: Patience) -> Self {
        let link = |(rank, data, opener)| Link {
            rank,
            data,
            control: Listening::new(opener),
            readable: true,
            writable: true,
            partner: false,
            header_sent: 0,
            header: [0; HEADER],
            header_received: 0,
        };
        let wires = wires.into_iter().enumerate();
        let links = wires.filter_map(|(rank, wires)| Some((rank, Streams::new(wires.data)?, wires.reports)));
        Engine { links: links.map(link).collect(), timeout, patience, scratch: Vec::new() }
    }

    /// Second descriptors of the data sockets.
    #[cfg(test)]
    pub(super) fn sockets(&self) -> Vec<TcpStream> {
        self.links.iter().flat_map(|link| link.data.sockets()).filter_map(|socket| socket.try_clone().ok()).collect()
    }

    /// Runs `transfer` to its end, with `mine` as the header to every partner.
    pub(super) fn drive(&mut self, control: &Control, mine: &Header, transfer: &mut dyn Transfer) -> Result<(), Stop> {
        let header = mine.encode();
        for link in &mut self.links {
            link.begin(transfer.partner(link.rank));
            link.check_left(mine.sequence)?;
        }
        // Each rank starts with the one after it, so that not all send to rank 0 first.
        let first = self.links.iter().position(|link| link.rank > mine.from as usize).unwrap_or(0);
        self.links.rotate_left(first);
        let (mut moved_at, mut looked_at, mut rounds, mut asleep) = (Instant::now(), Instant::now(), 0, false);
        // What comes before the first operation has a time limit of its own.
        let mut stall = Wait::new(control.stalls.get().filter(|_| mine.sequence > 0));
        loop {
            let (progress, open) = match self.pass(&header, mine, transfer) {
                Ok(passed) => passed,
                Err(stop) => {
                    let stop = self.judge(mine, stop);
                    return Err(self.blame(control, mine.sequence, stop));
                }
            };
            if progress && std::mem::take(&mut asleep) {
                stall.over(moved_at.elapsed(), || control.recorder.last());
                control.recorder.now(State::Entered);
            }
            if !open {
                return Ok(());
            }
            if progress {
                (moved_at, rounds) = (Instant::now(), 0);
                if moved_at - looked_at > LOOK_EVERY {
                    looked_at = moved_at;
                    self.look(control, mine.sequence)?;
                }
                continue;
            }
            if self.patience.hold_out(rounds, moved_at) {
                rounds += 1;
                self.links.iter_mut().for_each(Link::retry);
                continue;
            }
            let left = self.timeout.saturating_sub(moved_at.elapsed());
            if left.is_zero() {
                return Err(Stop::Timeout { waiting_for: self.waiting_for(transfer) });
            }
            let late = self.links.iter().find(|link| link.absent());
            if let Some(link) = late.or_else(|| self.links.iter().find(|link| link.open(transfer))) {
                control.recorder.now(State::Waiting(link.rank as u32));
                asleep = true;
            }
            self.wait(control, mine.sequence, Some(transfer), left.min(LOOK_ASIDE_EVERY))?;
            self.look_aside(mine)?;
            stall.look(moved_at.elapsed(), || control.recorder.last(), || self.behind(mine, transfer));
        }
    }

    /// One try on every link: whether any byte moved, and whether any is still to move.
    fn pass(
        &mut self,
        header: &[u8; HEADER],
        mine: &Header,
        transfer: &mut dyn Transfer,
    ) -> Result<(bool, bool), Stop> {
        let (mut progress, mut open) = (false, false);
        for link in &mut self.links {
            progress |= link.push(header, transfer)?;
            progress |= link.pull(mine, transfer)?;
            open |= link.open(transfer);
        }
        Ok((progress, open))
    }

    /// As [`Engine::look`], and whether anybody has left before operation `sequence`.
    pub(super) fn attend(&mut self, control: &Control, sequence: u64) -> Result<(), Stop> {
        self.look(control, sequence)?;
        self.links.iter().try_for_each(|link| link.check_left(sequence))
    }

    /// Reads what the control sockets have to say, without waiting.
    pub(super) fn look(&mut self, control: &Control, sequence: u64) -> Result<(), Stop> {
        self.wait(control, sequence, None, Duration::ZERO)
    }

    /// Waits for any socket that matters. Without a transfer: for control sockets only.
    fn wait(
        &mut self,
        control: &Control,
        sequence: u64,
        transfer: Option<&mut dyn Transfer>,
        at_most: Duration,
    ) -> Result<(), Stop> {
        let transferring = transfer.is_some();
        let wanted: Vec<PollFlags> = match transfer {
            Some(transfer) => self.links.iter().map(|link| link.wanted(transfer)).collect(),
            None => vec![PollFlags::empty(); self.links.len()],
        };
        let mut descriptors = Vec::with_capacity(1 + 3 * self.links.len());
        descriptors.push(PollFd::new(&control.wake, PollFlags::IN));
        let mut meaning = Vec::with_capacity(3 * self.links.len());
        for (at, link) in self.links.iter().enumerate() {
            if let (None, Some(peer)) = (link.control.left_after, &control.peers[link.rank]) {
                descriptors.push(PollFd::new(&peer.socket, PollFlags::IN));
                meaning.push((at, true));
            }
            // A socket of which nothing is wanted would only report its end, over and over.
            let (out, into) = link.data.next_sockets();
            let next = [(out, PollFlags::OUT), (into, PollFlags::IN)];
            let next = next.into_iter().filter(|(_, flags)| wanted[at].contains(*flags));
            let pending = link.data.pending().map(|socket| (socket, PollFlags::OUT));
            for (socket, flags) in next.chain(pending.filter(|_| transferring)) {
                descriptors.push(PollFd::new(socket, flags));
                meaning.push((at, false));
            }
        }
        socket::poll(&mut descriptors, at_most);
        if !descriptors[0].revents().is_empty() {
            return Err(Stop::Woken);
        }
        let ready: Vec<_> = descriptors[1..].iter().map(PollFd::revents).zip(meaning).collect();
        drop(descriptors);
        let broken = PollFlags::HUP | PollFlags::ERR;
        let mut reports = Vec::new();
        for (flags, (at, is_control)) in ready {
            if is_control && !flags.is_empty() {
                reports.push(at);
            } else {
                self.links[at].readable |= flags.intersects(PollFlags::IN | broken);
                self.links[at].writable |= flags.intersects(PollFlags::OUT | broken);
            }
        }
        self.hear(control, sequence, &reports)
    }

    /// Reads the control sockets of these links. An abort that somebody reports goes before a loss that is seen here.
    fn hear(&mut self, control: &Control, sequence: u64, links: &[usize]) -> Result<(), Stop> {
        let mut lost = Ok(());
        for at in links {
            let link = &mut self.links[*at];
            let Some(peer) = &control.peers[link.rank] else { continue };
            match link.control.read(&peer.socket) {
                Ok(Some(Report::Abort(abort))) => return Err(Stop::Told(abort)),
                Ok(Some(Report::Goodbye { sequence: after })) => {
                    link.control.left_after = Some(after);
                    lost = lost.and(link.check_left(sequence));
                }
                Ok(Some(Report::Position { position, asks })) => control.hear(link.rank, position, asks),
                Ok(None) => {}
                Err(reason) => lost = lost.and(Err(Stop::Lost { rank: link.rank, reason })),
            }
        }
        lost
    }

    /// The cause behind what a data socket showed: an abort that has been reported goes first, because it came first.
    /// Where a connection broke, the control sockets get some time to say why.
    fn blame(&mut self, control: &Control, sequence: u64, seen: Stop) -> Stop {
        let grace = if let Stop::Lost { rank, .. } = &seen {
            if let Some(link) = self.links.iter().find(|link| link.rank == *rank)
                && let Err(stop) = link.check_left(sequence)
            {
                return stop;
            }
            GRACE
        } else {
            Duration::ZERO
        };
        let deadline = Instant::now() + grace;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wait(control, sequence, None, left) {
                Err(stop @ (Stop::Told(_) | Stop::Woken)) => return stop,
                Err(Stop::Lost { rank, reason }) if !grace.is_zero() => return Stop::Lost { rank, reason },
                _ if left.is_zero() => return seen,
                _ => {}
            }
        }
    }

    /// As [`Engine::waiting_for`], with where they were last heard of.
    fn behind(&self, mine: &Header, transfer: &dyn Transfer) -> Vec<Behind> {
        let heard = |link: &Link| {
            if link.absent() {
                Header::decode(&link.header).map_or(0, |last| last.sequence).min(mine.sequence - 1)
            } else {
                mine.sequence
            }
        };
        let late = self.waiting_for(transfer).into_iter();
        late.filter_map(|rank| {
            let link = self.links.iter().find(|link| link.rank == rank as usize)?;
            Some(Behind { rank, sequence: heard(link) })
        })
        .collect()
    }

    /// Partners that have not entered the operation; if all have, those that owe bytes or take none.
    fn waiting_for(&self, transfer: &dyn Transfer) -> Vec<u32> {
        let ranks = |late: &dyn Fn(&&Link) -> bool| {
            let mut ranks: Vec<u32> = self.links.iter().filter(late).map(|link| link.rank as u32).collect();
            ranks.sort_unstable();
            ranks
        };
        let absent = ranks(&|link| link.absent());
        if absent.is_empty() { ranks(&|link| link.open(transfer)) } else { absent }
    }
}
