//! The control sockets and the cause: whatever ends a communicator is set here once, told to all peers and wakes the
//! poll loop.
//!
//! A second socket per pair, because an abort must get through while the data socket is full. Every rank passes on the
//! first abort that it makes or hears before it closes anything, so a rank that stops because of another is not
//! blamed (COLL-4).

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::frame::{Abort, Position, Report};
use super::positions::Positions;
use super::seal::Sealer;
use super::socket;
use crate::error::Error;
use crate::recorder::Recorder;
use crate::stall;

/// Shared by the thread inside an operation and those that call `abort`.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) rank: u32,
    /// By rank; `None` for this rank, and for all that a failed rendezvous did not reach.
    pub(super) peers: Vec<Option<Outlet>>,
    /// Readable once a cause is set.
    pub(super) wake: OwnedFd,
    cause: OnceLock<Abort>,
    pub(super) recorder: Recorder,
    pub(super) stalls: OnceLock<stall::Watch>,
    pub(super) positions: Positions,
}

/// The control socket to one rank. Reports are read in the engine.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) socket: TcpStream,
    /// Where reports are encrypted; held until the report is sent, so that they go in the order of their numbers.
    pub(super) sealer: Option<Mutex<Sealer>>,
}

impl Outlet {
    fn send(&self, report: &Report) {
        let mut bytes = report.encode();
        match &self.sealer {
            None => drop(socket::send(&self.socket, &bytes, &[])),
            Some(sealer) => {
                let mut sealer = sealer.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(tag) = sealer.seal(&[], &mut bytes) {
                    socket::send(&self.socket, &bytes, &tag);
                }
            }
        }
    }
}

impl Control {
    pub(super) fn new(rank: u32, peers: Vec<Option<Outlet>>) -> Result<Self, Error> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| Error::Invalid { reason: format!("no eventfd: {error}") })?;
        let positions = Positions::new(peers.len());
        let (cause, recorder, stalls) = (OnceLock::new(), Recorder::new(), OnceLock::new());
        Ok(Control { rank, peers, wake, cause, recorder, stalls, positions })
    }

    /// Number and words of the operation begun last.
    pub(super) fn current(&self) -> (u64, String) {
        let (sequence, call) = self.recorder.current();
        let unnamed = if sequence == 0 { "rendezvous" } else { "an operation" };
        (sequence, call.map_or_else(|| unnamed.to_owned(), |call| call.to_string()))
    }

    /// Why this communicator is over, if it is.
    pub(super) fn cause(&self) -> Option<&Abort> {
        self.cause.get()
    }

    /// Ends the communicator unless something has already; returns the cause that holds from now on.
    pub(super) fn abort(&self, abort: Abort) -> &Abort {
        let mut first = false;
        let cause = self.cause.get_or_init(|| {
            first = true;
            abort
        });
        if first {
            let Abort { culprit, sequence, cause: words, .. } = cause;
            tracing::warn!(rank = self.rank, ?culprit, sequence, cause = %words, "collective aborted");
            self.tell(&Report::Abort(cause.clone()));
            // The counter cannot overflow from one write, and a full one is readable anyway.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
        cause
    }

    /// Sends to all peers without waiting: a control socket holds far more than the few reports that it ever carries unread.
    pub(super) fn tell(&self, report: &Report) {
        (0..self.peers.len()).for_each(|rank| self.tell_one(rank, report));
    }

    fn tell_one(&self, rank: usize, report: &Report) {
        if let Some(Some(peer)) = self.peers.get(rank) {
            peer.send(report);
        }
    }

    /// Asks all ranks how far they are, but those that owe an answer already: so no more than one question is ever unread.
    pub(super) fn ask(&self) {
        let Some(position) = self.positions.own() else { return };
        for rank in self.positions.to_ask() {
            self.tell_one(rank, &Report::Position { position, asks: true });
        }
    }

    /// Notes where `rank` is, and answers.
    pub(super) fn hear(&self, rank: usize, theirs: Position, asks: bool) {
        self.positions.hear(rank, theirs, asks);
        if let (true, Some(position)) = (asks, self.positions.own()) {
            self.tell_one(rank, &Report::Position { position, asks: false });
        }
    }
}

impl Abort {
    /// The error that a rank gets from every call after this.
    pub(super) fn as_aborted(&self) -> Error {
        Error::Aborted {
            culprit: self.culprit,
            cause: self.cause.clone(),
            operation: self.operation.clone(),
            sequence: self.sequence,
        }
    }

    /// The error of the call in which `rank` met this: the two sides of a mismatch each see it as theirs.
    pub(super) fn as_seen_by(&self, rank: u32) -> Error {
        match &self.disagreement {
            Some(sides) if sides.other == rank => Error::Mismatch {
                rank: sides.reporter,
                culprit: self.culprit,
                mine: sides.other_called.clone(),
                theirs: sides.reporter_called.clone(),
                sequence: self.sequence,
            },
            Some(sides) if sides.reporter == rank => Error::Mismatch {
                rank: sides.other,
                culprit: self.culprit,
                mine: sides.reporter_called.clone(),
                theirs: sides.other_called.clone(),
                sequence: self.sequence,
            },
            _ => self.as_aborted(),
        }
    }
}
