//! COLL-3 and COLL-7 in the greeting: who is let in, and what somebody between the two can do.

use super::*;
use std::net::TcpListener;
use std::thread::JoinHandle;

fn identity(rank: u32, token: u64, secret: u8) -> Identity {
    Identity { rank, world: 4, token, secret: [secret; 32], streams: 1, encrypt: false }
}

const PATIENCE: Duration = Duration::from_mins(1);

type Accepted = Result<(u32, Channel, Option<Keys>), Refusal>;

fn accepting(listener: TcpListener, me: Identity) -> JoinHandle<Accepted> {
    std::thread::spawn(move || accept(&mut Timed::new(&listener.accept().unwrap().0, PATIENCE), &me))
}

fn meet(dialer: Identity, accepter: Identity) -> (Result<Option<Keys>, Refusal>, Accepted) {
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
    assert!(dialed.unwrap().is_none());
    assert!(matches!(accepted.unwrap(), (3, Channel::Control, None)));
}

#[test]
fn coll_7_one_side_that_wishes_so_is_enough_and_each_connection_has_its_own_keys() {
    let wishing = |rank, encrypt| Identity { encrypt, ..identity(rank, 7, 1) };
    let mut seen = Vec::new();
    for (dialer, accepter) in [(true, false), (false, true), (true, true)] {
        let (dialed, accepted) = meet(wishing(3, dialer), wishing(1, accepter));
        let (mut here, mut there) = (dialed.unwrap().unwrap(), accepted.unwrap().2.unwrap());
        for (from, to) in [(&mut here.sealer, &mut there.opener), (&mut there.sealer, &mut here.opener)] {
            let mut bytes = [9; 24];
            let tag = from.seal(b"", &mut bytes[..8]).unwrap();
            bytes[8..].copy_from_slice(&tag);
            assert!(!seen.contains(&bytes), "neither both directions nor two connections have one key");
            seen.push(bytes);
            assert_eq!(to.open(b"", &mut bytes).unwrap(), [9; 8]);
        }
    }
}

/// Somebody between the two changes one byte of what the dialer says first.
fn meet_with_a_byte_changed(at: usize, to: u8) -> (Result<Option<Keys>, Refusal>, Accepted) {
    let wishing = |rank| Identity { encrypt: true, ..identity(rank, 7, 1) };
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [between, real] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let [first, second] = listeners;
    let accepting = accepting(second, wishing(1));
    let forwarding = std::thread::spawn(move || {
        let (mut dialer, mut accepter) = (first.accept().unwrap().0, TcpStream::connect(real).unwrap());
        let mut hello = [0; HELLO];
        dialer.read_exact(&mut hello).unwrap();
        hello[at] = to;
        accepter.write_all(&hello).unwrap();
        let mut answer = [0; ANSWER];
        accepter.read_exact(&mut answer).unwrap();
        dialer.write_all(&answer).unwrap();
    });
    let stream = TcpStream::connect(between).unwrap();
    let dialed = dial(&mut Timed::new(&stream, PATIENCE), &wishing(3), 1, Channel::Control);
    forwarding.join().unwrap();
    (dialed, accepting.join().unwrap())
}

#[test]
fn coll_7_nobody_between_two_ranks_takes_the_wish_or_a_share_out_of_the_greeting() {
    for (at, to) in [(7, 0), (32, 0xff), (63, 0xff)] {
        let (dialed, accepted) = meet_with_a_byte_changed(at, to);
        assert!(matches!(dialed, Err(Refusal::Secret)), "byte {at}: {dialed:?}");
        assert!(accepted.is_err());
    }
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
