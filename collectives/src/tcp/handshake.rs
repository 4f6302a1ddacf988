//! Who is there: a challenge both ways before a socket may carry anything; an old token or a wrong secret is refused
//! (COLL-3).
//!
//! ```text
//! dialer                                   accepter
//! Hello  {from, to, world, token, wish, share} ─▶
//!                                              ◀─ Answer {verdict, token, wish, share, mac(accepter)}
//! Proof  {mac(dialer)}                         ─▶
//!                                              ◀─ verdict
//! ```
//! Both codes are HMAC-SHA-256 with the attempt's secret over both shares, both wishes, the token, both ranks, the world size, the
//! channel and the role, so neither can be replayed in another connection or reflected.
//!
//! A share is the public half of an X25519 key of this connection alone, and the nonce of the codes. Where either side wishes so,
//! everything after the handshake is encrypted, with keys from the secret and from what both shares give together: who learns the secret
//! later opens nothing that was recorded before (COLL-7).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::rand::SystemRandom;
use sha2::{Digest, Sha256};

use super::frame::{u32_at, u64_at};
use super::seal::Keys;

const MAGIC: &[u8; 4] = b"MUCO";
/// Changed with every change of what goes over these sockets.
const VERSION: u8 = 3;
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
    /// Whether this rank wants connections encrypted.
    pub(super) encrypt: bool,
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
    /// Of the dialer and of the accepter.
    wishes: [bool; 2],
    shares: [[u8; 32]; 2],
}

impl Transcript {
    fn code(&self, secret: &[u8; 32], role: u8) -> [u8; 32] {
        hmac(secret, &self.message(role))
    }

    /// The keys of this connection; `roles` of the sending and of the receiving direction.
    fn keys(&self, secret: &[u8; 32], share: Share, theirs: usize, roles: [u8; 2]) -> Result<Option<Keys>, Refusal> {
        if self.wishes == [false, false] {
            return Ok(None);
        }
        let peer = UnparsedPublicKey::new(&X25519, &self.shares[theirs]);
        let keys = agree_ephemeral(share.private, &peer, |shared| {
            let [sending, receiving] = roles.map(|role| {
                let mut message = self.message(role);
                message.extend_from_slice(shared);
                hmac(secret, &message)
            });
            Keys::new(sending, receiving)
        });
        keys.ok().flatten().map(Some).ok_or(Refusal::Protocol("no keys come of what it sent"))
    }

    fn message(&self, role: u8) -> Vec<u8> {
        let mut message = Vec::with_capacity(160);
        message.extend_from_slice(&[VERSION, role, self.channel.code()]);
        message.extend_from_slice(&self.wishes.map(u8::from));
        for number in [self.from, self.to, self.world] {
            message.extend_from_slice(&number.to_le_bytes());
        }
        message.extend_from_slice(&self.token.to_le_bytes());
        message.extend_from_slice(&self.shares[0]);
        message.extend_from_slice(&self.shares[1]);
        message
    }
}

/// This side's half of a key agreement.
struct Share {
    private: EphemeralPrivateKey,
    public: [u8; 32],
}

impl Share {
    fn new() -> Result<Self, Refusal> {
        let none = |_| Refusal::Protocol("the system gives no random numbers");
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(none)?;
        let public = bytes32(private.compute_public_key().map_err(none)?.as_ref());
        Ok(Share { private, public })
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

/// The dialing side: proves itself to rank `to` and makes it prove itself. Keys where the connection is encrypted from here on.
pub(super) fn dial(stream: &mut Timed<'_>, me: &Identity, to: u32, channel: Channel) -> Result<Option<Keys>, Refusal> {
    let share = Share::new()?;
    let mut hello = [0; HELLO];
    hello[..4].copy_from_slice(MAGIC);
    hello[4] = VERSION;
    hello[5] = channel.code();
    hello[6] = me.streams;
    hello[7] = u8::from(me.encrypt);
    hello[8..12].copy_from_slice(&me.rank.to_le_bytes());
    hello[12..16].copy_from_slice(&to.to_le_bytes());
    hello[16..20].copy_from_slice(&me.world.to_le_bytes());
    hello[24..32].copy_from_slice(&me.token.to_le_bytes());
    hello[32..].copy_from_slice(&share.public);
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
    let shares = [share.public, bytes32(&answer[16..48])];
    let wishes = [me.encrypt, answer[1] == 1];
    let transcript = Transcript { channel, from: me.rank, to, world: me.world, token: me.token, wishes, shares };
    if !same(&transcript.code(&me.secret, b'a'), &answer[48..80]) {
        return Err(Refusal::Secret);
    }
    stream.write_all(&transcript.code(&me.secret, b'd'))?;
    let mut verdict = [0];
    stream.read_exact(&mut verdict)?;
    if verdict[0] == ACCEPTED { transcript.keys(&me.secret, share, 1, *b"DA") } else { Err(Refusal::Secret) }
}

/// The accepting side: gives the rank that has proven itself, and keys where the connection is encrypted from here on. Only higher
/// ranks dial.
pub(super) fn accept(stream: &mut Timed<'_>, me: &Identity) -> Result<(u32, Channel, Option<Keys>), Refusal> {
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
    let share = Share::new()?;
    let (shares, wishes) = ([bytes32(&hello[32..]), share.public], [hello[7] == 1, me.encrypt]);
    let transcript = Transcript { channel, from, to, world, token, wishes, shares };
    answer[0] = ACCEPTED;
    answer[1] = u8::from(me.encrypt);
    answer[16..48].copy_from_slice(&share.public);
    answer[48..80].copy_from_slice(&transcript.code(&me.secret, b'a'));
    stream.write_all(&answer)?;
    let mut proof = [0; 32];
    stream.read_exact(&mut proof)?;
    if !same(&transcript.code(&me.secret, b'd'), &proof) {
        stream.write_all(&[REFUSED])?;
        return Err(Refusal::Secret);
    }
    let keys = transcript.keys(&me.secret, share, 0, *b"AD")?;
    stream.write_all(&[ACCEPTED])?;
    Ok((from, channel, keys))
}

fn bytes32(from: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&from[..32]);
    bytes
}

/// RFC 2104 with SHA-256; a key of 32 bytes needs no hashing first.
pub(super) fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
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
mod tests;
