//! Who is there: a challenge both ways before a socket may carry anything; an old token or a wrong secret is refused
//! (COLL-3).
//!
//! ```text
//! dialer                                   accepter
//! Hello  {from, to, world, token, nonce} ─▶
//!                                        ◀─ Answer {verdict, token, nonce, mac(accepter)}
//! Proof  {mac(dialer)}                   ─▶
//!                                        ◀─ verdict
//! ```
//! Both codes are HMAC-SHA-256 with the attempt's secret over both nonces, the token, both ranks, the world size, the
//! channel and the role, so neither can be replayed in another connection or reflected.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::frame::{u32_at, u64_at};

const MAGIC: &[u8; 4] = b"MUCO";
/// Changed with every change of what goes over these sockets.
const VERSION: u8 = 2;
const HELLO: usize = 64;
const ANSWER: usize = 80;
const ACCEPTED: u8 = 1;
const STALE: u8 = 2;
const REFUSED: u8 = 3;

/// Which of the sockets of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Control,
    /// One of several, from 0.
    Data(u8),
}

impl Channel {
    fn code(self) -> u8 {
        match self {
            Channel::Control => 0,
            Channel::Data(stream) => stream.saturating_add(1),
        }
    }

    fn of(code: u8) -> Self {
        code.checked_sub(1).map_or(Channel::Control, Channel::Data)
    }
}

/// What both sides of a pair must agree on.
#[derive(Clone, Copy)]
pub(super) struct Identity {
    pub(super) rank: u32,
    pub(super) world: u32,
    pub(super) token: u64,
    pub(super) secret: [u8; 32],
    /// Data sockets of a pair.
    pub(super) streams: u8,
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side is of another attempt.
    #[error("it has token {theirs}, this rank has {mine}")]
    Token { mine: u64, theirs: u64 },
    #[error("it does not know the secret of this attempt")]
    Secret,
    #[error("{0}")]
    Protocol(&'static str),
}

/// What the code of either side covers.
struct Transcript {
    channel: Channel,
    from: u32,
    to: u32,
    world: u32,
    token: u64,
    nonces: [[u8; 32]; 2],
}

impl Transcript {
    fn code(&self, secret: &[u8; 32], role: u8) -> [u8; 32] {
        let mut message = Vec::with_capacity(96);
        message.extend_from_slice(&[VERSION, role, self.channel.code()]);
        for number in [self.from, self.to, self.world] {
            message.extend_from_slice(&number.to_le_bytes());
        }
        message.extend_from_slice(&self.token.to_le_bytes());
        message.extend_from_slice(&self.nonces[0]);
        message.extend_from_slice(&self.nonces[1]);
        hmac(secret, &message)
    }
}

/// A stream whose every read and write ends at one deadline: a stranger who sends a byte now and then must not hold on.
pub(super) struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    pub(super) fn new(stream: &'a TcpStream, at_most: Duration) -> Self {
        Timed { stream, deadline: Instant::now() + at_most }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        let mut stream = self.stream;
        stream.read(to)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        let mut stream = self.stream;
        stream.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The dialing side: proves itself to rank `to` and makes it prove itself.
pub(super) fn dial(stream: &mut Timed<'_>, me: &Identity, to: u32, channel: Channel) -> Result<(), Refusal> {
    let nonce = nonce()?;
    let mut hello = [0; HELLO];
    hello[..4].copy_from_slice(MAGIC);
    hello[4] = VERSION;
    hello[5] = channel.code();
    hello[6] = me.streams;
    hello[8..12].copy_from_slice(&me.rank.to_le_bytes());
    hello[12..16].copy_from_slice(&to.to_le_bytes());
    hello[16..20].copy_from_slice(&me.world.to_le_bytes());
    hello[24..32].copy_from_slice(&me.token.to_le_bytes());
    hello[32..].copy_from_slice(&nonce);
    stream.write_all(&hello)?;

    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer)?;
    let theirs = u64_at(&answer, 8);
    if answer[0] == STALE && theirs != me.token {
        return Err(Refusal::Token { mine: me.token, theirs });
    }
    if answer[0] != ACCEPTED {
        return Err(Refusal::Protocol("it refused the greeting"));
    }
    let nonces = [nonce, bytes32(&answer[16..48])];
    let transcript = Transcript { channel, from: me.rank, to, world: me.world, token: me.token, nonces };
    if !same(&transcript.code(&me.secret, b'a'), &answer[48..80]) {
        return Err(Refusal::Secret);
    }
    stream.write_all(&transcript.code(&me.secret, b'd'))?;
    let mut verdict = [0];
    stream.read_exact(&mut verdict)?;
    if verdict[0] == ACCEPTED { Ok(()) } else { Err(Refusal::Secret) }
}

/// The accepting side: gives the rank that has proven itself. Only higher ranks dial.
pub(super) fn accept(stream: &mut Timed<'_>, me: &Identity) -> Result<(u32, Channel), Refusal> {
    let mut hello = [0; HELLO];
    stream.read_exact(&mut hello)?;
    let (from, to, world) = (u32_at(&hello, 8), u32_at(&hello, 12), u32_at(&hello, 16));
    let token = u64_at(&hello, 24);
    let channel = Channel::of(hello[5]);
    if &hello[..4] != MAGIC || hello[4] != VERSION {
        return Err(Refusal::Protocol("another protocol"));
    }
    let mut answer = [0; ANSWER];
    answer[8..16].copy_from_slice(&me.token.to_le_bytes());
    if token != me.token {
        answer[0] = STALE;
        stream.write_all(&answer)?;
        return Err(Refusal::Token { mine: me.token, theirs: token });
    }
    if to != me.rank || world != me.world || from <= me.rank || from >= world {
        answer[0] = REFUSED;
        stream.write_all(&answer)?;
        return Err(Refusal::Protocol("ranks that do not fit this group"));
    }
    if hello[6] != me.streams || hello[5] > me.streams {
        answer[0] = REFUSED;
        stream.write_all(&answer)?;
        return Err(Refusal::Protocol("another number of data sockets"));
    }
    let nonces = [bytes32(&hello[32..]), nonce()?];
    let transcript = Transcript { channel, from, to, world, token, nonces };
    answer[0] = ACCEPTED;
    answer[16..48].copy_from_slice(&nonces[1]);
    answer[48..80].copy_from_slice(&transcript.code(&me.secret, b'a'));
    stream.write_all(&answer)?;
    let mut proof = [0; 32];
    stream.read_exact(&mut proof)?;
    if !same(&transcript.code(&me.secret, b'd'), &proof) {
        stream.write_all(&[REFUSED])?;
        return Err(Refusal::Secret);
    }
    stream.write_all(&[ACCEPTED])?;
    Ok((from, channel))
}

fn nonce() -> Result<[u8; 32], Refusal> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|_| Refusal::Protocol("the system gives no random numbers"))?;
    Ok(nonce)
}

fn bytes32(from: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&from[..32]);
    bytes
}

/// RFC 2104 with SHA-256; a key of 32 bytes needs no hashing first.
fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut pad = [byte; 64];
        pad.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        pad
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// Takes the same time wherever the first difference is.
fn same(left: &[u8; 32], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0, |sum, (left, right)| sum | (left ^ right));
    std::hint::black_box(difference) == 0 && right.len() == left.len()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    fn identity(rank: u32, token: u64, secret: u8) -> Identity {
        Identity { rank, world: 4, token, secret: [secret; 32], streams: 1 }
    }

    const PATIENCE: Duration = Duration::from_mins(1);

    fn accepting(listener: TcpListener, me: Identity) -> JoinHandle<Result<(u32, Channel), Refusal>> {
        std::thread::spawn(move || accept(&mut Timed::new(&listener.accept().unwrap().0, PATIENCE), &me))
    }

    fn meet(dialer: Identity, accepter: Identity) -> (Result<(), Refusal>, Result<(u32, Channel), Refusal>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepting = accepting(listener, accepter);
        let dialed = dial(&mut Timed::new(&stream, PATIENCE), &dialer, accepter.rank, Channel::Control);
        drop(stream);
        (dialed, accepting.join().unwrap())
    }

    #[test]
    fn the_right_one_is_let_in() {
        let (dialed, accepted) = meet(identity(3, 7, 1), identity(1, 7, 1));
        dialed.unwrap();
        assert_eq!(accepted.unwrap(), (3, Channel::Control));
    }

    #[test]
    fn old_token_is_refused_and_both_learn_which() {
        let (dialed, accepted) = meet(identity(3, 6, 1), identity(1, 7, 1));
        assert!(matches!(dialed, Err(Refusal::Token { mine: 6, theirs: 7 })));
        assert!(matches!(accepted, Err(Refusal::Token { mine: 7, theirs: 6 })));
    }

    #[test]
    fn wrong_secret_is_refused_on_both_sides() {
        let (dialed, accepted) = meet(identity(3, 7, 2), identity(1, 7, 1));
        assert!(matches!(dialed, Err(Refusal::Secret)));
        assert!(accepted.is_err());
    }

    #[test]
    fn a_dialer_that_skips_the_proof_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepting = accepting(listener, identity(1, 7, 1));
        let mut hello = [0; HELLO];
        hello[..4].copy_from_slice(MAGIC);
        hello[4] = VERSION;
        hello[6] = 1;
        hello[8..12].copy_from_slice(&3u32.to_le_bytes());
        hello[12..16].copy_from_slice(&1u32.to_le_bytes());
        hello[16..20].copy_from_slice(&4u32.to_le_bytes());
        hello[24..32].copy_from_slice(&7u64.to_le_bytes());
        stream.write_all(&hello).unwrap();
        // The accepter's own code, sent back: the role in it makes it worthless.
        let mut answer = [0; ANSWER];
        stream.read_exact(&mut answer).unwrap();
        stream.write_all(&answer[48..80]).unwrap();
        assert!(matches!(accepting.join().unwrap(), Err(Refusal::Secret)));
    }

    #[test]
    fn a_stranger_who_sends_a_byte_now_and_then_is_dropped_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepting = std::thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            accept(&mut Timed::new(&stream, Duration::from_millis(100)), &identity(1, 7, 1)).map(drop)
        });
        // Ends once the other side has closed: the second write after that fails.
        while stream.write_all(&[0]).is_ok() && !accepting.is_finished() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert!(matches!(accepting.join().unwrap(), Err(Refusal::Io(_))));
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let mut key = [0u8; 32];
        key[..20].fill(0x0b); // Case 1: shorter keys are padded with zeros.
        let code = hmac(&key, b"Hi There");
        assert_eq!(code[..8], [0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53]);
    }
}
