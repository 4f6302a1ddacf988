//! One peer as the engine sees it: its data socket with the header on its way, and what its control socket has said.

use std::net::TcpStream;

use rustix::event::PollFlags;

use super::super::frame::{HEADER, Header, REPORT, Report};
use super::super::seal::{Opener, TAG};
use super::super::socket::{self, Moved};
use super::super::stop::Stop;
use super::super::streams::Streams;
use super::super::transfer::Transfer;

/// The control socket as read so far.
#[derive(Debug)]
pub(super) struct Listening {
    bytes: [u8; REPORT + TAG],
    filled: usize,
    /// Where reports are encrypted.
    opener: Option<Opener>,
    /// Operations that the peer had completed when it left in order.
    pub(super) left_after: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) rank: usize,
    pub(super) data: Streams,
    pub(super) control: Listening,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) partner: bool,
    pub(super) header_sent: usize,
    pub(super) header: [u8; HEADER],
    pub(super) header_received: usize,
}

impl Listening {
    pub(super) fn new(opener: Option<Opener>) -> Self {
        Listening { bytes: [0; REPORT + TAG], filled: 0, opener, left_after: None }
    }

    /// One report, if it is complete.
    pub(super) fn read(&mut self, peer: &TcpStream) -> Result<Option<Report>, String> {
        let whole = REPORT + if self.opener.is_some() { TAG } else { 0 };
        match socket::receive(peer, &mut [], &mut self.bytes[self.filled..whole]) {
            Moved::Later => Ok(None),
            Moved::Over(reason) => Err(reason),
            Moved::Bytes(bytes) => {
                self.filled += bytes;
                if self.filled < whole {
                    return Ok(None);
                }
                self.filled = 0;
                if let Some(opener) = &mut self.opener
                    && opener.open(&[], &mut self.bytes).is_none()
                {
                    return Err("control report that it did not seal".to_owned());
                }
                let report = self.bytes.first_chunk().and_then(Report::decode);
                report.map(Some).ok_or_else(|| "control report that makes no sense".to_owned())
            }
        }
    }
}

impl Link {
    pub(super) fn begin(&mut self, partner: bool) {
        self.partner = partner;
        self.data.begin();
        // A partner may have sent before this rank came: one try is cheaper than a poll.
        (self.readable, self.writable) = (true, true);
        (self.header_sent, self.header_received) = (0, 0);
    }

    /// Try again without having asked the kernel: cheaper than a poll while an answer is expected at once.
    pub(super) fn retry(&mut self) {
        (self.readable, self.writable) = (true, true);
    }

    /// A peer that left in order is gone for all operations after its last.
    pub(super) fn check_left(&self, sequence: u64) -> Result<(), Stop> {
        match self.control.left_after {
            Some(after) if after < sequence => {
                Err(Stop::Lost { rank: self.rank, reason: format!("left the group after operation {after}") })
            }
            _ => Ok(()),
        }
    }

    /// A partner that has not entered the operation.
    pub(super) fn absent(&self) -> bool {
        self.partner && self.header_received < HEADER
    }

    pub(super) fn open(&self, transfer: &dyn Transfer) -> bool {
        let pending = self.data.pending().next().is_some();
        (self.partner && (self.header_sent < HEADER || self.header_received < HEADER))
            || transfer.expects(self.rank)
            || transfer.owes(self.rank)
            || pending
    }

    pub(super) fn wanted(&self, transfer: &mut dyn Transfer) -> PollFlags {
        let mut wanted = PollFlags::empty();
        if (self.partner && self.header_received < HEADER) || !transfer.incoming(self.rank).is_empty() {
            wanted |= PollFlags::IN;
        }
        if (self.partner && self.header_sent < HEADER) || !transfer.outgoing(self.rank).is_empty() {
            wanted |= PollFlags::OUT;
        }
        wanted
    }

    fn lost(&self, reason: String) -> Stop {
        Stop::Lost { rank: self.rank, reason }
    }

    /// Sends what can go now.
    pub(super) fn push(&mut self, header: &[u8; HEADER], transfer: &mut dyn Transfer) -> Result<bool, Stop> {
        if !self.partner || !self.writable {
            return Ok(false);
        }
        let flushed = match self.data.flush() {
            Moved::Bytes(bytes) => bytes > 0,
            Moved::Later => false,
            Moved::Over(reason) => return Err(self.lost(reason)),
        };
        let (head, body) = (&header[self.header_sent..], transfer.outgoing(self.rank));
        // An operation's header is within the first block.
        let (line, most) = self.data.outgoing();
        let body = &body[..body.len().min(most - head.len())];
        let asked = head.len() + body.len();
        if asked == 0 {
            // Where something is pending still, the kernel has just taken all that it could.
            self.writable = !line.pending();
            return Ok(flushed);
        }
        let bytes = match line.send(head, body) {
            Moved::Bytes(bytes) => bytes,
            Moved::Later => 0,
            Moved::Over(reason) => return Err(self.lost(reason)),
        };
        let blocked = bytes < asked || line.pending();
        let turned = self.data.sent(bytes);
        self.writable = turned || !blocked;
        let of_head = bytes.min(head.len());
        self.header_sent += of_head;
        if bytes > of_head {
            transfer.sent(self.rank, bytes - of_head);
        }
        Ok(bytes > 0 || flushed)
    }

    /// Receives what is there and wanted.
    pub(super) fn pull(&mut self, mine: &Header, transfer: &mut dyn Transfer) -> Result<bool, Stop> {
        if !self.partner || !self.readable {
            return Ok(false);
        }
        let (head, body) = (&mut self.header[self.header_received..], transfer.incoming(self.rank));
        let (line, most) = self.data.incoming();
        let end = body.len().min(most - head.len());
        let body = &mut body[..end];
        let (of_head, asked) = (head.len(), head.len() + body.len());
        if asked == 0 {
            return Ok(false);
        }
        let bytes = match line.receive(head, body) {
            Moved::Bytes(bytes) => bytes,
            Moved::Later => 0,
            Moved::Over(reason) => return Err(self.lost(reason)),
        };
        // A short read has emptied the socket; asking again at once would be a wasted call.
        let turned = self.data.received(bytes);
        self.readable = turned || bytes == asked;
        self.header_received += bytes.min(of_head);
        if of_head > 0 && self.header_received == HEADER {
            self.check(mine)?;
        }
        if bytes > of_head {
            transfer.received(self.rank, bytes - of_head);
        }
        Ok(bytes > 0)
    }

    /// The header that lies unread in the socket, where it is one of this attempt's.
    pub(super) fn peek(&mut self, mine: &Header) -> Option<Header> {
        let mut bytes = [0; HEADER];
        let whole = self.data.first().peek(&mut bytes) == HEADER;
        let header = Header::decode(&bytes).filter(|_| whole)?;
        (header.token == mine.token && header.from as usize == self.rank).then_some(header)
    }

    /// What this rank has said that it calls, read or not.
    pub(super) fn said(&mut self, mine: &Header) -> Option<Header> {
        match self.header_received {
            0 => self.peek(mine),
            HEADER => Header::decode(&self.header),
            _ => None,
        }
    }

    fn check(&self, mine: &Header) -> Result<(), Stop> {
        let rank = self.rank;
        let Some(theirs) = Header::decode(&self.header) else { return Err(Stop::Garbage { rank }) };
        if theirs.token != mine.token {
            return Err(Stop::Stale { rank, token: theirs.token });
        }
        if theirs.from as usize != rank {
            return Err(Stop::Garbage { rank });
        }
        if theirs.sequence != mine.sequence || theirs.call != mine.call {
            return Err(Stop::Mismatch { rank, theirs, culprit: None });
        }
        Ok(())
    }
}
