//! The data sockets of one pair of ranks as one stream of bytes each way: block after block goes to the next socket in turn.
//!
//! Several sockets have several windows and may take several ways through a network, which one connection cannot fill
//! alone. Every operation begins with the first one, so what is small needs no other.

use std::net::TcpStream;

use super::line::Line;
use super::socket::Moved;

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
    lines: Vec<Line>,
    sending: Turn,
    receiving: Turn,
}

impl Streams {
    /// `None` without a socket.
    pub(super) fn new(lines: Vec<Line>) -> Option<Self> {
        (!lines.is_empty()).then_some(Streams { lines, sending: FIRST, receiving: FIRST })
    }

    /// Both directions start anew: all bytes of the operation before have gone, and those received have been taken.
    pub(super) fn begin(&mut self) {
        (self.sending, self.receiving) = (FIRST, FIRST);
    }

    /// Where an operation begins.
    pub(super) fn first(&mut self) -> &mut Line {
        &mut self.lines[0]
    }

    /// What to wait for until an operation begins.
    pub(super) fn first_socket(&self) -> &TcpStream {
        self.lines[0].stream()
    }

    /// The one that the next bytes go to, and how many at most.
    pub(super) fn outgoing(&mut self) -> (&mut Line, usize) {
        self.at(self.sending)
    }

    /// The one that the next bytes come from, and how many at most.
    pub(super) fn incoming(&mut self) -> (&mut Line, usize) {
        self.at(self.receiving)
    }

    fn at(&mut self, turn: Turn) -> (&mut Line, usize) {
        let most = if self.lines.len() == 1 { usize::MAX } else { turn.left };
        (&mut self.lines[turn.stream], most)
    }

    /// What to wait for until bytes can go out and come in.
    pub(super) fn next_sockets(&self) -> (&TcpStream, &TcpStream) {
        (self.lines[self.sending.stream].stream(), self.lines[self.receiving.stream].stream())
    }

    /// Those with bytes that the kernel has not taken.
    pub(super) fn pending(&self) -> impl Iterator<Item = &TcpStream> {
        self.lines.iter().filter(|line| line.pending()).map(Line::stream)
    }

    /// Hands the kernel what is pending anywhere: how many bytes it took.
    pub(super) fn flush(&mut self) -> Moved {
        let mut bytes = 0;
        for line in self.lines.iter_mut().filter(|line| line.pending()) {
            match line.flush() {
                Moved::Bytes(some) => bytes += some,
                Moved::Later => {}
                over @ Moved::Over(_) => return over,
            }
        }
        Moved::Bytes(bytes)
    }

    /// True when it is another socket's turn now.
    pub(super) fn sent(&mut self, bytes: usize) -> bool {
        next(&mut self.sending, bytes, self.lines.len())
    }

    /// As [`Streams::sent`], of what was received.
    pub(super) fn received(&mut self, bytes: usize) -> bool {
        next(&mut self.receiving, bytes, self.lines.len())
    }

    #[cfg(test)]
    pub(super) fn sockets(&self) -> impl Iterator<Item = &TcpStream> {
        self.lines.iter().map(Line::stream)
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
