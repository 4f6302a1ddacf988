//! One data socket, encrypted or not: bytes in, bytes out, never waiting. Where it is encrypted they go as records that
//! [`super::seal`] has sealed.
//!
//! ```text
//! length of the text (4 bytes, vouched for) | sealed text | tag (16 bytes)
//! ```
//! Records that were sealed and not yet taken by the kernel lie here and go first; so do bytes that were opened and not yet asked for.

use std::net::TcpStream;
use std::ops::Range;

use super::seal::{Keys, TAG};
use super::socket::{self, Moved};

/// Most text of a record; it stays in the first-level cache from the caller's buffer to its tag.
const TEXT_MAX: usize = 16 << 10;
const LENGTH: usize = 4;
const RECORD_MAX: usize = LENGTH + TEXT_MAX + TAG;
/// Records for one system call.
const BATCH: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    sealed: Option<Box<Sealed>>,
}

#[derive(Debug)]
struct Sealed {
    keys: Keys,
    /// Records on their way out, and how many of their bytes have gone.
    out: Vec<u8>,
    gone: usize,
    /// What has come: `filled` bytes, of which those before `next` have been opened, and `text` not yet asked for.
    into: Vec<u8>,
    filled: usize,
    next: usize,
    text: Range<usize>,
}

/// What is there of the next record.
enum Next {
    Opened,
    Partial,
    Wrong(&'static str),
}

impl Line {
    pub(super) fn new(stream: TcpStream, keys: Option<Keys>) -> Self {
        let sealed = |keys| {
            let (out, into) = (Vec::with_capacity(BATCH * RECORD_MAX), vec![0; BATCH * RECORD_MAX]);
            Box::new(Sealed { keys, out, gone: 0, into, filled: 0, next: 0, text: 0..0 })
        };
        Line { stream, sealed: keys.map(sealed) }
    }

    /// To wait for.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Bytes were taken from the caller that the kernel has not.
    pub(super) fn pending(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.gone < sealed.out.len())
    }

    /// Hands the kernel what is pending, as far as it takes it: how many bytes.
    pub(super) fn flush(&mut self) -> Moved {
        self.sealed.as_mut().map_or(Moved::Bytes(0), |sealed| sealed.flush(&self.stream))
    }

    /// Takes bytes of `head` and then of `body`; they may be pending afterwards.
    pub(super) fn send(&mut self, head: &[u8], body: &[u8]) -> Moved {
        let Some(sealed) = &mut self.sealed else { return socket::send(&self.stream, head, body) };
        let all = head.len() + body.len();
        let mut taken = 0;
        loop {
            if let over @ Moved::Over(_) = sealed.flush(&self.stream) {
                return over;
            }
            if sealed.gone < sealed.out.len() || taken == all {
                return if taken == 0 { Moved::Later } else { Moved::Bytes(taken) };
            }
            match sealed.seal(head, body, taken) {
                Some(bytes) => taken += bytes,
                None => return Moved::Over("the cipher failed".to_owned()),
            }
        }
    }

    /// Fills `head` and then `body` with what is there.
    pub(super) fn receive(&mut self, head: &mut [u8], body: &mut [u8]) -> Moved {
        let Some(sealed) = &mut self.sealed else { return socket::receive(&self.stream, head, body) };
        let all = head.len() + body.len();
        let mut given = 0;
        loop {
            given += sealed.give(head, body, given);
            if given == all {
                return Moved::Bytes(given);
            }
            match sealed.refill(&self.stream) {
                Moved::Bytes(_) => {}
                // Why it is over is said again when there is nothing left to give.
                _ if given > 0 => return Moved::Bytes(given),
                none => return none,
            }
        }
    }

    /// How many of the next bytes are there, and a copy of them: they stay unread.
    pub(super) fn peek(&mut self, bytes: &mut [u8]) -> usize {
        let Some(sealed) = &mut self.sealed else { return socket::peek(&self.stream, bytes) };
        if sealed.text.is_empty() {
            let _ = sealed.refill(&self.stream);
        }
        let there = sealed.text.len().min(bytes.len());
        bytes[..there].copy_from_slice(&sealed.into[sealed.text.start..][..there]);
        there
    }
}

impl Sealed {
    fn flush(&mut self, stream: &TcpStream) -> Moved {
        let mut bytes = 0;
        while self.gone < self.out.len() {
            match socket::send(stream, &[], &self.out[self.gone..]) {
                Moved::Bytes(some) => (self.gone, bytes) = (self.gone + some, bytes + some),
                Moved::Later => break,
                over @ Moved::Over(_) => return over,
            }
        }
        Moved::Bytes(bytes)
    }

    /// Seals a batch of what follows the first `taken` bytes: how many more. All records before it have gone.
    fn seal(&mut self, head: &[u8], body: &[u8], taken: usize) -> Option<usize> {
        self.out.clear();
        self.gone = 0;
        let (mut head, mut body) = (&head[taken.min(head.len())..], &body[taken.saturating_sub(head.len())..]);
        let before = head.len() + body.len();
        while self.out.len() <= (BATCH - 1) * RECORD_MAX && !(head.is_empty() && body.is_empty()) {
            let of_head = head.len().min(TEXT_MAX);
            let of_body = body.len().min(TEXT_MAX - of_head);
            let length = u32::try_from(of_head + of_body).ok()?.to_le_bytes();
            self.out.extend_from_slice(&length);
            let text = self.out.len();
            self.out.extend_from_slice(&head[..of_head]);
            self.out.extend_from_slice(&body[..of_body]);
            let tag = self.keys.sealer.seal(&length, &mut self.out[text..])?;
            self.out.extend_from_slice(&tag);
            (head, body) = (&head[of_head..], &body[of_body..]);
        }
        Some(before - head.len() - body.len())
    }

    /// Gives what is open to the caller, behind the first `given` bytes: how many more.
    fn give(&mut self, head: &mut [u8], body: &mut [u8], given: usize) -> usize {
        let before = self.text.len();
        let (of_head, of_body) = (given.min(head.len()), given.saturating_sub(head.len()));
        for to in [&mut head[of_head..], &mut body[of_body..]] {
            let bytes = to.len().min(self.text.len());
            to[..bytes].copy_from_slice(&self.into[self.text.start..][..bytes]);
            self.text.start += bytes;
        }
        before - self.text.len()
    }

    /// Opens the next record, once nothing is left of the one before.
    fn refill(&mut self, stream: &TcpStream) -> Moved {
        loop {
            match self.open() {
                Next::Opened => return Moved::Bytes(self.text.len()),
                Next::Wrong(what) => return Moved::Over(what.to_owned()),
                Next::Partial => {}
            }
            if self.into.len() - self.next < RECORD_MAX {
                self.into.copy_within(self.next..self.filled, 0);
                (self.filled, self.next) = (self.filled - self.next, 0);
            }
            match socket::receive(stream, &mut [], &mut self.into[self.filled..]) {
                Moved::Bytes(bytes) => self.filled += bytes,
                none => return none,
            }
        }
    }

    fn open(&mut self) -> Next {
        let record = &mut self.into[self.next..self.filled];
        let Some((length, rest)) = record.split_first_chunk_mut::<LENGTH>() else { return Next::Partial };
        let bytes = u32::from_le_bytes(*length) as usize;
        if bytes == 0 || bytes > TEXT_MAX {
            return Next::Wrong("a record of a length that there is not");
        }
        let Some(sealed) = rest.get_mut(..bytes + TAG) else { return Next::Partial };
        if self.keys.opener.open(&*length, sealed).is_none() {
            return Next::Wrong("a record that it did not seal: somebody changes what is under way");
        }
        let text = self.next + LENGTH;
        self.text = text..text + bytes;
        self.next = self.text.end + TAG;
        Next::Opened
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    fn streams() -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let both = [stream, listener.accept().unwrap().0];
        for stream in &both {
            stream.set_nonblocking(true).unwrap();
        }
        both
    }

    fn lines() -> [Line; 2] {
        let [here, there] = streams();
        [Line::new(here, Keys::new([1; 32], [2; 32])), Line::new(there, Keys::new([2; 32], [1; 32]))]
    }

    /// All of `text` from one line to the other, in calls of these sizes.
    fn carry(from: &mut Line, to: &mut Line, text: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut got = vec![0; text.len()];
        let (mut sent, mut received) = (0, 0);
        for size in sizes.iter().cycle() {
            let head = (sent + size / 3).min(text.len());
            let end = (sent + size).min(text.len());
            if end > sent
                && let Moved::Bytes(bytes) = from.send(&text[sent..head], &text[head..end])
            {
                sent += bytes;
            }
            assert!(matches!(from.flush(), Moved::Bytes(_)));
            let end = (received + size).min(got.len());
            let (head, body) = got[received..end].split_at_mut(size.div_euclid(4).min(end - received));
            match to.receive(head, body) {
                Moved::Bytes(bytes) => received += bytes,
                Moved::Later => {}
                Moved::Over(reason) => panic!("{reason}"),
            }
            if received == text.len() {
                break;
            }
        }
        assert!(!from.pending());
        got
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
        #[test]
        fn coll_7_bytes_arrive_as_they_were_however_they_are_cut(
            text in prop::collection::vec(any::<u8>(), 1..400_000),
            sizes in prop::collection::vec(prop_oneof![1usize..100, 1usize..70_000, 100_000usize..2_000_000], 1..5),
        ) {
            let [mut here, mut there] = lines();
            prop_assert!(carry(&mut here, &mut there, &text, &sizes) == text);
            prop_assert!(carry(&mut there, &mut here, &text, &sizes) == text);
        }
    }

    #[test]
    fn coll_7_nothing_of_the_text_is_on_the_wire_and_what_was_changed_ends_the_connection() {
        let [here, there] = streams();
        let mut here = Line::new(here, Keys::new([1; 32], [2; 32]));
        let text = b"a gradient that nobody else should see".repeat(20);
        assert_eq!(here.send(&text[..64], &text[64..]), Moved::Bytes(text.len()));
        let mut wire = vec![0; text.len() + LENGTH + TAG];
        let mut filled = 0;
        while filled < wire.len() {
            if let Moved::Bytes(bytes) = socket::receive(&there, &mut [], &mut wire[filled..]) {
                filled += bytes;
            }
        }
        assert!(!wire.windows(8).any(|part| part == &text[..8]));
        for (at, says) in [(0, "did not seal"), (3, "length"), (100, "did not seal")] {
            let [from, to] = streams();
            let mut to = Line::new(to, Keys::new([2; 32], [1; 32]));
            let mut wire = wire.clone();
            wire[at] ^= 1;
            // What the other byte made of the length may be more than was sent.
            wire.extend_from_slice(&[0; 300]);
            assert_eq!(socket::send(&from, &[], &wire), Moved::Bytes(wire.len()));
            drop(from);
            let over = loop {
                match to.receive(&mut [], &mut [0; 64]) {
                    Moved::Later => {}
                    over => break over,
                }
            };
            assert!(matches!(&over, Moved::Over(reason) if reason.contains(says)), "{at}: {over:?}");
        }
    }

    #[test]
    fn what_is_looked_at_stays_unread() {
        let [mut here, mut there] = lines();
        assert_eq!(here.send(&[7; 64], &[]), Moved::Bytes(64));
        let mut bytes = [0; 64];
        while there.peek(&mut bytes) < 64 {}
        assert_eq!(bytes, [7; 64]);
        assert_eq!(there.receive(&mut [0; 64], &mut [0; 1]), Moved::Bytes(64));
        assert_eq!(there.peek(&mut bytes), 0);
    }
}
