//! What one operation sends and receives, apart from how: the engine asks for the next bytes, so algorithms hold no
//! sockets.
//!
//! [`Direct`] is the plain one: each pair exchanges one range each way.

use std::ops::Range;

/// Progress of one operation on one rank. Ranks are indices here, and never this rank's own.
pub(super) trait Transfer {
    /// Headers are exchanged with this rank, both ways.
    fn partner(&self, rank: usize) -> bool;
    /// Bytes that can go to `rank` now; empty where there are none for the moment or for good.
    fn outgoing(&self, rank: usize) -> &[u8];
    /// The first `bytes` of [`Transfer::outgoing`] have gone.
    fn sent(&mut self, rank: usize, bytes: usize);
    /// Where the next bytes of `rank` go; empty where none are wanted now or for good.
    fn incoming(&mut self, rank: usize) -> &mut [u8];
    /// The first `bytes` of [`Transfer::incoming`] have been filled.
    fn received(&mut self, rank: usize, bytes: usize);
    /// Bytes of `rank` are still to come.
    fn expects(&self, rank: usize) -> bool;
    /// Bytes are still to go to `rank`, available or not.
    fn owes(&self, rank: usize) -> bool;
}

/// Most bytes handed to the kernel at once, so that one peer does not starve the others.
pub(super) const QUANTUM: usize = 1 << 20;

/// Cuts a range to [`QUANTUM`].
pub(super) fn quantum(from: usize, end: usize) -> Range<usize> {
    from..end.min(from + QUANTUM)
}

/// Ranges between this rank and one other.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    pub(super) partner: bool,
    /// Of the source, still to be sent.
    pub(super) send: Range<usize>,
    /// Of the destination, still to be received.
    pub(super) receive: Range<usize>,
}

/// One range each way with each partner.
#[derive(Debug)]
pub(super) struct Direct<'a> {
    pub(super) source: &'a [u8],
    pub(super) destination: &'a mut [u8],
    /// By rank.
    pub(super) lanes: Vec<Lane>,
}

impl Transfer for Direct<'_> {
    fn partner(&self, rank: usize) -> bool {
        self.lanes[rank].partner
    }
    fn outgoing(&self, rank: usize) -> &[u8] {
        let Range { start, end } = self.lanes[rank].send;
        &self.source[quantum(start, end)]
    }
    fn sent(&mut self, rank: usize, bytes: usize) {
        self.lanes[rank].send.start += bytes;
    }
    fn incoming(&mut self, rank: usize) -> &mut [u8] {
        let Range { start, end } = self.lanes[rank].receive;
        &mut self.destination[quantum(start, end)]
    }
    fn received(&mut self, rank: usize, bytes: usize) {
        self.lanes[rank].receive.start += bytes;
    }
    fn expects(&self, rank: usize) -> bool {
        !self.lanes[rank].receive.is_empty()
    }
    fn owes(&self, rank: usize) -> bool {
        !self.lanes[rank].send.is_empty()
    }
}
