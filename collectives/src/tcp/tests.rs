//! COLL-3 to COLL-6 from inside: peers that die, lie or disagree, with access to the sockets that the public face
//! hides.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::*;
use crate::communicator::{Communicator as _, Peer};

const PATIENCE: Duration = Duration::from_mins(1);

fn group(world: usize, algorithm: Algorithm, op_timeout: Duration) -> Vec<Communicator> {
    group_with(world, Options { algorithm, ..Options::default() }, op_timeout)
}

fn group_with(world: usize, options: Options, op_timeout: Duration) -> Vec<Communicator> {
    let listeners: Vec<_> = (0..world).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peer =
        |(rank, listener): (usize, &TcpListener)| Peer { rank: rank as u32, address: listener.local_addr().unwrap() };
    let peers: Vec<_> = listeners.iter().enumerate().map(peer).collect();
    let threads: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(rank, listener)| {
            let rendezvous = Rendezvous {
                rank: rank as u32,
                peers: peers.clone(),
                listener: Some(listener),
                token: 7,
                secret: [1; 32],
                timeout: PATIENCE,
                op_timeout,
            };
            std::thread::spawn(move || Communicator::connect(rendezvous, options).unwrap())
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn sum(comm: &Communicator, count: usize) -> Result<(), Error> {
    comm.all_reduce(BufMut::from(&mut vec![1f32; count]), Op::Sum)
}

/// Second descriptors of all its sockets, to cut them while it works.
fn sockets(comm: &Communicator) -> Vec<TcpStream> {
    let mut all = comm.engine().sockets();
    all.extend(comm.control.peers.iter().flatten().map(|peer| peer.socket.try_clone().unwrap()));
    all
}

/// As the kernel does for a process that is killed: no goodbye.
fn kill(sockets: &[TcpStream]) {
    for socket in sockets {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

fn culprit_of(result: Result<(), Error>) -> (Option<u32>, String) {
    match result {
        Err(Error::Aborted { culprit, cause, .. }) => (culprit, cause),
        other => panic!("{other:?}"),
    }
}

fn death_is_noticed(algorithm: Algorithm, streams: u8) {
    let mut group = group_with(4, Options { algorithm, streams, ..Options::default() }, PATIENCE);
    let victim = group.remove(2);
    let cut = sockets(&victim);
    let (entered, enters) = channel();
    std::thread::scope(|scope| {
        let threads: Vec<_> = group
            .iter()
            .map(|comm| {
                let entered = entered.clone();
                scope.spawn(move || {
                    sum(comm, 1000).unwrap();
                    entered.send(()).unwrap();
                    // Too large to be done without the victim, which never enters it.
                    let error = sum(comm, 1_000_000);
                    (error, Instant::now())
                })
            })
            .collect();
        sum(&victim, 1000).unwrap();
        (0..3).for_each(|_| enters.recv().unwrap());
        let killed = Instant::now();
        kill(&cut);
        for thread in threads {
            let (error, noticed) = thread.join().unwrap();
            let (culprit, cause) = culprit_of(error);
            assert_eq!(culprit, Some(2), "{cause}");
            assert!(noticed - killed < Duration::from_secs(1), "{:?}", noticed - killed);
        }
    });
    for comm in &group {
        assert_eq!(culprit_of(comm.barrier()).0, Some(2));
    }
}

#[test]
fn coll_4_death_is_noticed_by_all_within_a_second_and_blamed_on_the_dead() {
    death_is_noticed(Algorithm::Direct, 1);
}

#[test]
fn coll_4_death_is_noticed_round_the_whole_ring() {
    death_is_noticed(Algorithm::Ring, 1);
}

#[test]
fn coll_4_death_is_noticed_over_several_sockets() {
    death_is_noticed(Algorithm::Direct, 3);
}

#[test]
fn coll_4_one_socket_of_several_that_breaks_ends_the_group() {
    let group = group_with(2, Options { streams: 3, ..Options::default() }, PATIENCE);
    // The second of the three, which large sums alone use.
    kill(&group[1].engine().sockets()[1..2]);
    std::thread::scope(|scope| {
        let threads: Vec<_> = group
            .iter()
            .map(|comm| {
                scope.spawn(move || {
                    sum(comm, 1000).unwrap();
                    sum(comm, 1_000_000)
                })
            })
            .collect();
        for thread in threads {
            assert!(matches!(thread.join().unwrap(), Err(Error::Aborted { culprit: Some(_), .. })));
        }
    });
}

#[test]
fn coll_4_death_in_the_middle_of_a_transfer_is_blamed_on_the_dead() {
    let group = group(3, Algorithm::Direct, PATIENCE);
    let cut = sockets(&group[1]);
    let (half_way, killer) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            killer.recv().unwrap();
            kill(&cut);
        });
        let threads: Vec<_> = group
            .iter()
            .map(|comm| {
                let half_way = half_way.clone();
                scope.spawn(move || {
                    for round in 0.. {
                        if round == 1 && comm.rank() == 0 {
                            half_way.send(()).unwrap();
                        }
                        if let Err(error) = sum(comm, 300_000) {
                            return error;
                        }
                    }
                    unreachable!()
                })
            })
            .collect();
        let errors: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        for rank in [0, 2] {
            assert_eq!(errors[rank].culprit(), Some(1), "rank {rank}: {}", errors[rank]);
        }
    });
}

#[test]
fn coll_4_a_rank_that_stops_because_of_another_is_not_blamed() {
    let mut group = group(4, Algorithm::Direct, PATIENCE);
    let victim = group.pop().unwrap();
    kill(&sockets(&victim));
    // Rank 2 notices, reports and is gone before ranks 0 and 1 look.
    let second = group.pop().unwrap();
    assert_eq!(culprit_of(second.barrier()).0, Some(3));
    drop(second);
    for comm in &group {
        assert_eq!(culprit_of(comm.barrier()).0, Some(3));
    }
}

#[test]
fn check_sees_a_death_between_operations() {
    let mut group = group(3, Algorithm::Direct, PATIENCE);
    let victim = group.pop().unwrap();
    for comm in &group {
        comm.check().unwrap();
    }
    kill(&sockets(&victim));
    for comm in &group {
        // The kernel has delivered the end once the first of these fails; loopback does so at once.
        let error = loop {
            if let Err(error) = comm.check() {
                break error;
            }
        };
        assert_eq!(error.culprit(), Some(2), "{error}");
    }
}

#[test]
fn a_rank_that_leaves_in_order_ends_only_later_operations() {
    let mut group = group(3, Algorithm::Direct, PATIENCE);
    // An abort ends what is under way on all ranks, so nobody goes on before both have the first sum.
    let both = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let leaver = group.pop().unwrap();
        scope.spawn(move || sum(&leaver, 200_000).unwrap());
        for comm in &group {
            let both = &both;
            scope.spawn(move || {
                sum(comm, 200_000).unwrap();
                both.wait();
                let (culprit, cause) = culprit_of(sum(comm, 200_000));
                assert_eq!(culprit, Some(2));
                assert!(cause.contains("left the group after operation 1"), "{cause}");
            });
        }
    });
}

#[test]
fn coll_5_different_calls_are_a_mismatch_on_both_sides() {
    type Run = fn(&Communicator) -> Result<(), Error>;
    let cases: [(Run, Run, &str, &str); 5] = [
        (|comm| sum(comm, 10), |comm| sum(comm, 11), "all_reduce(sum, 10 f32)", "all_reduce(sum, 11 f32)"),
        (|comm| sum(comm, 10), |comm| sum(comm, 500_000), "10 f32", "500000 f32"),
        (|comm| sum(comm, 500_000), |comm| comm.barrier(), "500000 f32", "barrier()"),
        (
            |comm| sum(comm, 4),
            |comm| comm.all_reduce(BufMut::from(&mut vec![1i32; 4]), Op::Max),
            "all_reduce(sum, 4 f32)",
            "all_reduce(max, 4 i32)",
        ),
        (
            |comm| comm.broadcast(BufMut::from(&mut vec![1f32; 4]), 0),
            |comm| comm.broadcast(BufMut::from(&mut vec![1f32; 4]), 1),
            "root 0",
            "root 1",
        ),
    ];
    for (left, right, left_text, right_text) in cases {
        let group = group(2, Algorithm::Auto, PATIENCE);
        let (left, right) = std::thread::scope(|scope| {
            let left = scope.spawn(|| left(&group[0]));
            let right = scope.spawn(|| right(&group[1]));
            (left.join().unwrap(), right.join().unwrap())
        });
        for (result, other, mine, theirs) in [(left, 1, left_text, right_text), (right, 0, right_text, left_text)] {
            let Err(Error::Mismatch { rank, mine: got_mine, theirs: got_theirs, .. }) = result else {
                panic!("{left_text} against {right_text}: {result:?}");
            };
            assert_eq!(rank, other);
            assert!(got_mine.contains(mine) && got_theirs.contains(theirs), "{got_mine} against {got_theirs}");
        }
        assert!(matches!(group[0].barrier(), Err(Error::Aborted { .. })));
    }
}

#[test]
fn coll_5_third_ranks_learn_of_a_mismatch_too() {
    let group = group(3, Algorithm::Auto, PATIENCE);
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = |comm: &Communicator| sum(comm, if comm.rank == 2 { 9 } else { 8 });
        let threads: Vec<_> = group.iter().map(|comm| scope.spawn(move || run(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for result in results {
        assert!(matches!(result, Err(Error::Mismatch { .. } | Error::Aborted { .. })), "{result:?}");
        assert_eq!(result.unwrap_err().culprit(), Some(2));
    }
}

#[test]
fn coll_3_a_frame_of_another_token_is_an_error() {
    let mut group = group(2, Algorithm::Auto, PATIENCE);
    group[1].token = 6;
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(group[1].barrier().is_err()));
        match group[0].barrier() {
            // Whichever rank reads the other's frame first.
            Err(
                Error::StaleFrame { rank: 1, mine: 7, theirs: 6, sequence: 1 }
                | Error::Aborted { culprit: Some(0), .. },
            ) => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn abort_from_another_thread_wakes_everyone() {
    let group = group(3, Algorithm::Auto, PATIENCE);
    let started = Instant::now();
    std::thread::scope(|scope| {
        // Rank 2 takes no part, so ranks 0 and 1 are inside until they are woken.
        let threads: Vec<_> = group[..2].iter().map(|comm| scope.spawn(move || sum(comm, 1_000_000))).collect();
        group[1].abort("operator said so");
        group[1].abort("a second cause that must not win");
        for thread in threads {
            assert_eq!(culprit_of(thread.join().unwrap()), (Some(1), "operator said so".to_owned()));
        }
        assert_eq!(culprit_of(group[2].barrier()), (Some(1), "operator said so".to_owned()));
    });
    assert!(started.elapsed() < PATIENCE / 2);
}

#[test]
fn coll_6_after_the_first_error_every_call_fails_at_once() {
    let group = group(2, Algorithm::Direct, PATIENCE);
    group[1].abort("enough");
    let comm = &group[0];
    assert_eq!(culprit_of(comm.barrier()).0, Some(1));
    let started = Instant::now();
    let (mut one, mut two) = ([1f32; 1], [1f32; 2]);
    let results = [
        sum(comm, 3),
        sum(comm, 300_000),
        comm.reduce_scatter(Buf::from(&two[..]), BufMut::from(&mut one[..]), Op::Sum),
        comm.all_gather(Buf::from(&one[..]), BufMut::from(&mut two[..])),
        comm.broadcast(BufMut::from(&mut one[..]), 0),
        comm.barrier(),
        comm.check(),
    ];
    for result in results {
        assert_eq!(culprit_of(result), (Some(1), "enough".to_owned()));
    }
    assert!(started.elapsed() < Duration::from_secs(1));
    // The first cause holds on the rank that set it, too.
    group[1].abort("something else");
    assert_eq!(culprit_of(group[1].barrier()), (Some(1), "enough".to_owned()));
}

#[test]
fn abort_is_heard_while_bytes_keep_coming() {
    let group = group(2, Algorithm::Direct, PATIENCE);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            group.iter().map(|comm| scope.spawn(move || while sum(comm, 2_000_000).is_ok() {})).collect();
        let started = Instant::now();
        group[0].abort_blaming(None, "no time left");
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    });
    assert_eq!(culprit_of(group[1].barrier()), (None, "no time left".to_owned()));
}

#[test]
fn a_silent_rank_is_named_by_the_timeout() {
    let group = group(3, Algorithm::Direct, Duration::from_millis(200));
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = group[..2].iter().map(|comm| scope.spawn(move || sum(comm, 500_000))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for result in results {
        match result {
            Err(Error::Timeout { waiting_for, sequence: 1, .. }) => assert_eq!(waiting_for, [2]),
            Err(Error::Aborted { culprit, .. }) => assert_eq!(culprit, Some(2)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn wrong_arguments_send_nothing_and_harm_nothing() {
    let group = group(2, Algorithm::Auto, PATIENCE);
    std::thread::scope(|scope| {
        for comm in &group {
            scope.spawn(move || {
                let short = comm.all_gather(Buf::from(&[1f32; 2][..]), BufMut::from(&mut [0f32; 3][..]));
                assert!(matches!(short, Err(Error::Invalid { .. })));
                let nobody = comm.broadcast(BufMut::from(&mut [0f32; 3][..]), 2);
                assert!(matches!(nobody, Err(Error::Invalid { .. })));
                sum(comm, 3).unwrap();
            });
        }
    });
}
