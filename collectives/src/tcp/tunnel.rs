//! Packets between two machines of a gang, over one proven and encrypted connection: what the frameworks' own networks go through, whose
//! programs prove and encrypt nothing themselves.
//!
//! ```text
//! length of the packet (4 bytes, vouched for) | sealed packet | tag (16 bytes)
//! ```
//! Machines are numbered as ranks are elsewhere, and the higher of two dials the lower. The greeting is that of
//! [`super::handshake`] on a channel of its own, so that neither kind of connection can pass for the other; it always encrypts.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::handshake::{self, Channel, Identity, Timed};
use super::seal::{Opener, Sealer, TAG};

/// Longest packet: of the Internet Protocol.
pub const PACKET_MAX: usize = 65_535;
const LENGTH: usize = 4;
/// A machine that takes nothing for so long is gone.
const STALL_MAX: Duration = Duration::from_secs(10);
/// No group has so many data sockets.
const CHANNEL: u8 = u8::MAX - 1;

/// One machine of a gang.
#[derive(Clone, Copy)]
pub struct Machine {
    /// Its number, from 0.
    pub number: u32,
    /// How many there are.
    pub count: u32,
    /// The attempt's fencing token.
    pub token: u64,
    /// The attempt's secret.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for Machine {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("number", &self.number).field("count", &self.count).finish_non_exhaustive()
    }
}

/// Why no tunnel came of a connection.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoTunnel(String);

/// The sending end.
#[derive(Debug)]
pub struct Sending {
    stream: TcpStream,
    sealer: Sealer,
    record: Vec<u8>,
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiving {
    stream: TcpStream,
    opener: Opener,
    record: Vec<u8>,
}

impl Machine {
    fn identity(&self) -> Identity {
        Identity {
            rank: self.number,
            world: self.count,
            token: self.token,
            secret: self.secret,
            streams: CHANNEL + 1,
            encrypt: true,
        }
    }

    /// Proves this machine to machine `to`, which listens where `stream` leads, and makes it prove itself.
    ///
    /// # Errors
    /// When it proves nothing within `at_most`, or is not of this attempt.
    pub fn dial(&self, stream: TcpStream, to: u32, at_most: Duration) -> Result<(Sending, Receiving), NoTunnel> {
        let mut timed = Timed::new(&stream, at_most);
        let keys = handshake::dial(&mut timed, &self.identity(), to, Channel::Data(CHANNEL));
        open(stream, keys.map_err(|refusal| NoTunnel(refusal.to_string()))?)
    }

    /// The other side of [`Machine::dial`]: also who it is.
    ///
    /// # Errors
    /// As there.
    pub fn accept(&self, stream: TcpStream, at_most: Duration) -> Result<(u32, Sending, Receiving), NoTunnel> {
        let mut timed = Timed::new(&stream, at_most);
        let accepted = handshake::accept(&mut timed, &self.identity());
        let (from, channel, keys) = accepted.map_err(|refusal| NoTunnel(refusal.to_string()))?;
        if channel != Channel::Data(CHANNEL) {
            return Err(NoTunnel("it greets as a rank does, not as a machine".to_owned()));
        }
        let (sending, receiving) = open(stream, keys)?;
        Ok((from, sending, receiving))
    }
}

fn open(stream: TcpStream, keys: Option<super::seal::Keys>) -> Result<(Sending, Receiving), NoTunnel> {
    let keys = keys.ok_or_else(|| NoTunnel("it does not encrypt".to_owned()))?;
    let plain = |error: io::Error| NoTunnel(error.to_string());
    stream.set_nodelay(true).map_err(plain)?;
    stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(Some(STALL_MAX))).map_err(plain)?;
    let other = stream.try_clone().map_err(plain)?;
    let record = || Vec::with_capacity(LENGTH + PACKET_MAX + TAG);
    let sending = Sending { stream: other, sealer: keys.sealer, record: record() };
    Ok((sending, Receiving { stream, opener: keys.opener, record: record() }))
}

impl Sending {
    /// Hands one packet to the kernel; waits while the connection is full, for ten seconds. At most [`PACKET_MAX`] bytes.
    ///
    /// # Errors
    /// Those of the connection, which is of no use after any.
    pub fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        if packet.len() > PACKET_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = (packet.len() as u32).to_le_bytes();
        self.record.clear();
        self.record.extend_from_slice(&length);
        self.record.extend_from_slice(packet);
        let tag = self.sealer.seal(&length, &mut self.record[LENGTH..]);
        self.record.extend_from_slice(&tag.ok_or_else(|| io::Error::other("the cipher failed"))?);
        self.stream.write_all(&self.record)
    }

    /// Ends the connection: who waits for its packets hears of it.
    pub fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Receiving {
    /// Waits for the next packet.
    ///
    /// # Errors
    /// Those of the connection, `UnexpectedEof` at its end, and `InvalidData` for what the other machine did not seal as its next packet.
    pub fn receive(&mut self) -> io::Result<&[u8]> {
        let mut length = [0; LENGTH];
        self.stream.read_exact(&mut length)?;
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > PACKET_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.record.resize(bytes + TAG, 0);
        self.stream.read_exact(&mut self.record)?;
        match self.opener.open(&length, &mut self.record) {
            Some(packet) => Ok(packet),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn machine(number: u32) -> Machine {
        Machine { number, count: 2, token: 7, secret: [3; 32] }
    }

    type Ends = ((Sending, Receiving), Result<(u32, Sending, Receiving), NoTunnel>);

    fn meet(dialer: Machine, accepter: Machine) -> Result<Ends, NoTunnel> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let other = thread::spawn(move || accepter.accept(listener.accept().unwrap().0, PATIENCE));
        let dialled = dialer.dial(TcpStream::connect(address).unwrap(), 0, PATIENCE);
        let accepted = other.join().unwrap();
        dialled.map(|ends| (ends, accepted))
    }

    #[test]
    fn packets_of_every_length_come_as_they_were_sent_both_ways() {
        let ((mut sending, mut back), accepted) = meet(machine(1), machine(0)).unwrap();
        let (from, mut reply, mut receiving) = accepted.unwrap();
        assert_eq!(from, 1);
        let packets: Vec<Vec<u8>> = [0, 1, 40, 1500, PACKET_MAX].iter().map(|len| vec![*len as u8; *len]).collect();
        let sent = packets.clone();
        let sender = thread::spawn(move || {
            for packet in &sent {
                sending.send(packet).unwrap();
            }
            assert!(sending.send(&vec![0; PACKET_MAX + 1]).is_err());
            sending.close();
        });
        for packet in &packets {
            assert_eq!(receiving.receive().unwrap(), packet);
            reply.send(packet).unwrap_or_default();
        }
        assert_eq!(receiving.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        sender.join().unwrap();
        drop(back.receive());
    }

    #[test]
    fn another_secret_another_attempt_and_a_rank_that_greets_are_refused() {
        let other_secret = Machine { secret: [4; 32], ..machine(1) };
        assert!(meet(other_secret, machine(0)).is_err());
        let other_attempt = Machine { token: 8, ..machine(1) };
        let refused = meet(other_attempt, machine(0)).unwrap_err();
        assert!(refused.to_string().contains("token"), "{refused}");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepter = thread::spawn(move || machine(0).accept(listener.accept().unwrap().0, PATIENCE));
        let stream = TcpStream::connect(address).unwrap();
        let rank = Identity { streams: 1, ..machine(1).identity() };
        let mut timed = Timed::new(&stream, PATIENCE);
        assert!(handshake::dial(&mut timed, &rank, 0, Channel::Data(0)).is_err());
        assert!(accepter.join().unwrap().is_err());
    }

    #[test]
    fn what_was_changed_on_the_way_is_no_packet() {
        let ((mut sending, _back), accepted) = meet(machine(1), machine(0)).unwrap();
        let (_, _reply, mut receiving) = accepted.unwrap();
        let mut raw = sending.stream.try_clone().unwrap();
        sending.send(b"first").unwrap();
        assert_eq!(receiving.receive().unwrap(), b"first");
        raw.write_all(&5_u32.to_le_bytes()).unwrap();
        raw.write_all(&[9; 5 + TAG]).unwrap();
        assert_eq!(receiving.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
