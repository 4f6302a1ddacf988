//! How ranks find each other: late ones are waited for, absent ones named, and those of another attempt kept out
//! (COLL-3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use collectives::{Algorithm, BufMut, Communicator, Error, Op, connect};
use support::{connect_all, on_all, rendezvous};

fn sums_to(group: &[std::sync::Arc<dyn Communicator>], expected: f32) {
    let sums = on_all(group, |comm| {
        let mut one = vec![1f32];
        comm.all_reduce(BufMut::from(&mut one), Op::Sum).unwrap();
        one[0]
    });
    assert_eq!(sums, vec![expected; group.len()]);
}

#[test]
fn a_world_of_one_needs_no_network() {
    let comm = connect(rendezvous(1).remove(0)).unwrap();
    assert_eq!((comm.backend(), comm.rank(), comm.world_size()), ("local", 0, 1));
    comm.barrier().unwrap();
    comm.abort("stop");
    assert!(matches!(comm.barrier(), Err(Error::Aborted { culprit: Some(0), .. })));
}

#[test]
fn absent_ranks_are_named_by_all_within_the_deadline() {
    let mut all = rendezvous(4);
    for one in &mut all {
        one.timeout = Duration::from_millis(400);
    }
    // Rank 2 never starts; its listener is gone, so that connections to it are refused.
    drop(all.remove(2));
    let started = Instant::now();
    for result in connect_all(all, Algorithm::Auto) {
        match result {
            Err(Error::Rendezvous { missing, reason, .. }) => {
                assert_eq!(missing, [2]);
                assert!(reason.contains("rank 2"), "{reason}");
            }
            other => panic!("{:?}", other.map(|comm| comm.rank())),
        }
    }
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_listener_that_comes_later_is_found() {
    let mut all = rendezvous(2);
    // The address is published, but nobody listens until rank 1 has been refused at least once.
    let address = all[0].peers[0].address;
    drop(all[0].listener.take());
    let later = all.pop().unwrap();
    let waiting = std::thread::spawn(move || connect(later));
    assert!(TcpStream::connect(address).is_err());
    let mut first = all.pop().unwrap();
    first.listener = Some(TcpListener::bind(address).unwrap());
    let group = [connect(first).unwrap(), waiting.join().unwrap().unwrap()];
    sums_to(&group, 2.0);
}

#[test]
fn coll_3_old_token_is_fenced_and_does_not_take_the_right_ones_place() {
    let mut all = rendezvous(3);
    let mut stale = rendezvous(3).remove(2);
    (stale.peers, stale.token) = (all[0].peers.clone(), 6);
    let last = all.remove(2);
    let rest = std::thread::spawn(move || connect_all(all, Algorithm::Auto));
    match connect(stale) {
        Err(Error::Handshake { reason, .. }) => assert!(reason.contains("token 6 is out of date"), "{reason}"),
        other => panic!("{:?}", other.map(|comm| comm.rank())),
    }
    let last = connect(last).unwrap();
    let mut group: Vec<_> = rest.join().unwrap().into_iter().map(|one| one.unwrap()).collect();
    group.push(last);
    sums_to(&group, 3.0);
}

#[test]
fn coll_3_wrong_secret_is_refused_and_does_not_take_the_right_ones_place() {
    let mut all = rendezvous(3);
    let mut liar = rendezvous(3).remove(2);
    (liar.peers, liar.secret, liar.timeout) = (all[0].peers.clone(), [8; 32], Duration::from_millis(200));
    let last = all.remove(2);
    let rest = std::thread::spawn(move || connect_all(all, Algorithm::Auto));
    match connect(liar) {
        Err(Error::Rendezvous { missing, reason, .. }) => {
            assert_eq!(missing, [0, 1]);
            assert!(reason.contains("secret"), "{reason}");
        }
        other => panic!("{:?}", other.map(|comm| comm.rank())),
    }
    let last = connect(last).unwrap();
    let mut group: Vec<_> = rest.join().unwrap().into_iter().map(|one| one.unwrap()).collect();
    group.push(last);
    sums_to(&group, 3.0);
}

#[test]
fn strangers_that_say_nothing_delay_nobody() {
    let all = rendezvous(3);
    let strangers: Vec<_> = all[0].peers.iter().map(|peer| TcpStream::connect(peer.address).unwrap()).collect();
    let started = Instant::now();
    let group: Vec<_> = connect_all(all, Algorithm::Auto).into_iter().map(|one| one.unwrap()).collect();
    assert!(started.elapsed() < Duration::from_secs(4), "waited for a stranger: {:?}", started.elapsed());
    sums_to(&group, 3.0);
    drop(strangers);
}

#[test]
fn peer_lists_that_make_no_sense_are_refused() {
    let mut wrong = rendezvous(2).remove(0);
    wrong.peers.reverse();
    assert!(matches!(connect(wrong), Err(Error::Invalid { .. })));
    let mut wrong = rendezvous(2).remove(0);
    wrong.listener = None;
    assert!(matches!(connect(wrong), Err(Error::Invalid { .. })));
    let mut wrong = rendezvous(2).remove(0);
    wrong.rank = 2;
    assert!(matches!(connect(wrong), Err(Error::Invalid { .. })));
}
