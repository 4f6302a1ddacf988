//! The data sockets of one pair of ranks as one stream of bytes each way: block after block goes to the next socket in turn.
//!
//! Several sockets have several windows and may take several ways through a network, which one connection cannot fill
//! alone. Every operation begins with the first one, so what is small needs no other.

use std::net::TcpStream;

/// Most sockets that carry data between two ranks.
pub(super) const STREAMS_MAX: u8 = 8;
/// Bytes that go to one socket before it is the next one's turn.
const BLOCK_BYTES: usize = 256 << 10;

/// Where one direction is.
#[derive(Clone, Copy, Debug)]
struct Turn {
    stream: usize,
    /// Bytes left of the block.
    left: usize,
}

const FIRST: Turn = Turn { stream: 0, left: BLOCK_BYTES };

/// See the module. There is at least one socket.
#[derive(Debug)]
pub(super) struct Streams {
    sockets: Vec<TcpStream>,
    sending: Turn,
    receiving: Turn,
}

impl Streams {
    /// `None` without a socket.
    pub(super) fn new(sockets: Vec<TcpStream>) -> Option<Self> {
        (!sockets.is_empty()).then_some(Streams { sockets, sending: FIRST, receiving: FIRST })
    }

    /// Both directions start anew: all bytes of the operation before have gone, and those received have been taken.
    pub(super) fn begin(&mut self) {
        (self.sending, self.receiving) = (FIRST, FIRST);
    }

    pub(super) fn first(&self) -> &TcpStream {
        &self.sockets[0]
    }

    /// The socket that the next bytes go to, and how many at most.
    pub(super) fn outgoing(&self) -> (&TcpStream, usize) {
        self.at(self.sending)
    }

    /// The socket that the next bytes come from, and how many at most.
    pub(super) fn incoming(&self) -> (&TcpStream, usize) {
        self.at(self.receiving)
    }

    fn at(&self, turn: Turn) -> (&TcpStream, usize) {
        (&self.sockets[turn.stream], if self.sockets.len() == 1 { usize::MAX } else { turn.left })
    }

    /// True when it is another socket's turn now.
    pub(super) fn sent(&mut self, bytes: usize) -> bool {
        next(&mut self.sending, bytes, self.sockets.len())
    }

    /// As [`Streams::sent`], of what was received.
    pub(super) fn received(&mut self, bytes: usize) -> bool {
        next(&mut self.receiving, bytes, self.sockets.len())
    }

    #[cfg(test)]
    pub(super) fn sockets(&self) -> impl Iterator<Item = &TcpStream> {
        self.sockets.iter()
    }
}

fn next(turn: &mut Turn, bytes: usize, streams: usize) -> bool {
    if streams == 1 {
        return false;
    }
    turn.left = turn.left.saturating_sub(bytes);
    if turn.left > 0 {
        return false;
    }
    *turn = Turn { stream: (turn.stream + 1) % streams, left: BLOCK_BYTES };
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_go_round_and_an_operation_starts_anew() {
        let mut turn = FIRST;
        assert!(!next(&mut turn, BLOCK_BYTES - 1, 3) && turn.left == 1);
        assert!(next(&mut turn, 1, 3) && turn.stream == 1 && turn.left == BLOCK_BYTES);
        assert!(next(&mut turn, BLOCK_BYTES, 3) && next(&mut turn, BLOCK_BYTES, 3) && turn.stream == 0);
        assert!(!next(&mut turn, BLOCK_BYTES, 1) && turn.stream == 0);
        assert!(Streams::new(Vec::new()).is_none());
    }
}
