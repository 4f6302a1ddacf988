//! What must hold of groups that share memory, beside what `tests/` checks from outside: peers that die, leave or
//! disagree, and buffers that lie in the arena.

use std::net::TcpListener;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::*;
use crate::communicator::{Options, Peer, Rendezvous, connect_with};

const PATIENCE: Duration = Duration::from_mins(1);

type Group = Vec<Arc<dyn communicator::Communicator>>;

fn group_with(world: usize, op_timeout: Duration, options: impl Fn(u32) -> Options) -> Group {
    let listeners: Vec<_> = (0..world).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peers: Vec<_> = (0u32..)
        .zip(&listeners)
        .map(|(rank, listener)| Peer { rank, address: listener.local_addr().unwrap() })
        .collect();
    let threads: Vec<_> = (0u32..)
        .zip(listeners)
        .map(|(rank, listener)| {
            let (peers, listener, timeout) = (peers.clone(), Some(listener), PATIENCE);
            let rendezvous = Rendezvous { rank, peers, listener, token: 7, secret: [1; 32], timeout, op_timeout };
            let options = options(rank);
            std::thread::spawn(move || connect_with(rendezvous, options).unwrap())
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn group(world: usize) -> Group {
    group_with(world, PATIENCE, |_| Options::default())
}

fn on_all<R: Send>(group: &Group, run: impl Fn(&dyn communicator::Communicator) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = group.iter().map(|comm| scope.spawn(|| run(&**comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn sum(comm: &dyn communicator::Communicator, count: usize) -> Result<(), Error> {
    comm.all_reduce(BufMut::from(&mut vec![1f32; count]), Op::Sum)
}

#[test]
fn one_rank_that_wants_tcp_takes_all_with_it() {
    let sharing = group(2);
    assert!(sharing.iter().all(|comm| comm.backend() == "shm"));
    let group = group_with(3, PATIENCE, |rank| Options { tcp_only: rank == 1, ..Options::default() });
    assert!(group.iter().all(|comm| comm.backend() == "tcp"));
    assert!(on_all(&group, |comm| sum(comm, 100)).iter().all(Result::is_ok));
}

#[test]
fn coll_1_in_place_staged_and_mixed_buffers_give_the_same_bits() {
    for world in [2, 3, 4] {
        let group = group(world);
        for count in [5, 4_000, 100_003, 700_001] {
            let value =
                |rank: u32, at: usize| (at as f32 * 0.37 + rank as f32).sin() * 1e3f32.powi(rank as i32 % 3 - 1);
            // Bit r of the mask: rank r's buffer lies in its arena.
            let sums = [0, (1 << world) - 1, 1, 2].map(|mask: u32| {
                on_all(&group, |comm| {
                    let rank = comm.rank();
                    let input: Vec<f32> = (0..count).map(|at| value(rank, at)).collect();
                    if mask >> rank & 1 == 0 {
                        let mut buffer = input;
                        comm.all_reduce(BufMut::from(&mut buffer), Op::Sum).unwrap();
                        return buffer;
                    }
                    let mut buffer = comm.alloc(count * 4).unwrap();
                    assert!(buffer.is_shared());
                    buffer.elements_mut::<f32>().copy_from_slice(&input);
                    comm.all_reduce(buffer.as_buf_mut::<f32>(), Op::Sum).unwrap();
                    buffer.elements::<f32>().to_vec()
                })
            });
            for sum in sums.iter().flatten() {
                assert!(*sum == sums[0][0], "{count} over {world}");
            }
        }
    }
}

#[test]
fn coll_5_different_calls_are_a_mismatch_on_both_sides() {
    let group = group(2);
    let results = on_all(&group, |comm| sum(comm, if comm.rank() == 0 { 10 } else { 500_000 }));
    for (rank, result) in results.into_iter().enumerate() {
        let Err(Error::Mismatch { rank: other, culprit: None, mine, theirs, sequence: 1 }) = result else {
            panic!("{result:?}")
        };
        assert_eq!(other as usize, 1 - rank);
        let (small, large) = if rank == 0 { (&mine, &theirs) } else { (&theirs, &mine) };
        assert!(small.contains("(sum, 10 f32)") && large.contains("500000 f32"), "{mine} against {theirs}");
    }
    assert!(matches!(group[0].barrier(), Err(Error::Aborted { .. })));
}

/// Two ranks with their insides at hand.
fn pair() -> [super::Communicator; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = |rank: usize| listeners[rank].local_addr().unwrap();
    let peers = vec![Peer { rank: 0, address: address(0) }, Peer { rank: 1, address: address(1) }];
    let ranks = listeners.into_iter().zip(0..).map(|(listener, rank)| {
        let (peers, listener, timeout) = (peers.clone(), Some(listener), PATIENCE);
        let rendezvous = Rendezvous { rank, peers, listener, token: 7, secret: [1; 32], timeout, op_timeout: timeout };
        std::thread::spawn(move || {
            let tcp = tcp::Communicator::connect(rendezvous, Options::default()).unwrap();
            let Joined::Sharing(comm) = share(tcp, true, 0).unwrap() else { panic!("not shared") };
            comm
        })
    });
    let threads: Vec<_> = ranks.collect();
    let mut pair = threads.into_iter().map(|thread| thread.join().unwrap());
    [pair.next().unwrap(), pair.next().unwrap()]
}

#[test]
fn a_place_outside_of_the_arena_is_blamed_on_the_rank_that_named_it() {
    use crate::communicator::Communicator as _;
    const COUNT: usize = 50_000;
    // The segment's head, its last bytes, between two elements, and an overflow.
    for place in [8, u64::MAX - 64, (4 << 20) + 2, 1 << 50] {
        let [honest, liar] = pair();
        std::thread::scope(|scope| {
            let wrong = call(Operation::AllReduce, Op::Sum, DType::F32, COUNT);
            let lie = [place, 0, 0, 0, 0, 0];
            let liar = &liar;
            scope.spawn(move || liar.run(wrong, Method::Staged, |exchange| exchange.enter(&lie)));
            let error = honest.all_reduce(BufMut::from(&mut vec![1f32; COUNT]), Op::Sum).unwrap_err();
            assert_eq!(error.culprit(), Some(1), "{place}: {error}");
            assert!(error.to_string().contains("make no sense"), "{error}");
        });
        assert_eq!(liar.barrier().unwrap_err().culprit(), Some(1));
    }
}

#[test]
fn a_refused_fold_ends_the_group() {
    use crate::communicator::Communicator as _;
    let [crooked, other] = pair();
    let mut words = [0i64; 3];
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let sum = other.all_reduce(BufMut::from(&mut [1f32; 4][..]), Op::Sum);
            sum.and_then(|()| other.barrier()).unwrap_err()
        });
        // No safe caller can: the views of buffers are aligned.
        let bytes = &mut BufMut::from(&mut words[..]).into_bytes()[1..17];
        let fold = crooked.tcp.fold(Op::Sum, DType::F32);
        let wrong = call(Operation::AllReduce, Op::Sum, DType::F32, 4);
        let error = crooked.run(wrong, Method::Line, |exchange| exchange.all_reduce(Method::Line, bytes, &fold, None));
        assert_eq!(error.unwrap_err().culprit(), Some(0));
        assert_eq!(waiting.join().unwrap().culprit(), Some(0));
    });
}

#[test]
fn a_rank_that_leaves_in_order_ends_only_later_operations() {
    let mut group = group(3);
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        let leaver = group.pop().unwrap();
        scope.spawn(move || sum(&*leaver, 200_000).unwrap());
        for comm in &group {
            let both = &both;
            scope.spawn(move || {
                sum(&**comm, 200_000).unwrap();
                both.wait();
                let error = sum(&**comm, 200_000).unwrap_err();
                assert_eq!(error.culprit(), Some(2), "{error}");
                assert!(error.to_string().contains("left the group after operation 1"), "{error}");
            });
        }
    });
}

#[test]
fn abort_from_another_thread_wakes_everyone_within_a_second() {
    let group = group(3);
    std::thread::scope(|scope| {
        // Rank 2 takes no part, so ranks 0 and 1 are inside until they are woken.
        let threads: Vec<_> = group[..2].iter().map(|comm| scope.spawn(|| sum(&**comm, 1_000_000))).collect();
        let started = Instant::now();
        group[1].abort("operator said so");
        for thread in threads {
            let error = thread.join().unwrap().unwrap_err();
            assert_eq!(error.culprit(), Some(1), "{error}");
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    });
    assert_eq!(group[2].barrier().unwrap_err().culprit(), Some(1));
    // COLL-6: at once, whatever is called.
    assert_eq!(sum(&*group[0], 3).unwrap_err().culprit(), Some(1));
}

#[test]
fn a_silent_rank_is_named_by_the_timeout() {
    let group = group_with(3, Duration::from_millis(200), |_| Options::default());
    let present: Group = group[..2].to_vec();
    for error in on_all(&present, |comm| sum(comm, 500_000).unwrap_err()) {
        assert_eq!(error.culprit(), Some(2), "{error}");
    }
}

#[test]
fn a_buffer_of_a_failed_sum_is_no_longer_seen_by_others() {
    let group = group(2);
    let mut buffer = group[0].alloc(1 << 20).unwrap();
    buffer.elements_mut::<f32>().fill(3.0);
    group[1].abort("enough");
    assert!(group[0].all_reduce(buffer.as_buf_mut::<f32>(), Op::Sum).is_err());
    // Fresh private memory stands in its place, which this rank may go on using.
    assert_eq!(buffer.elements::<f32>()[0], 0.0);
    buffer.elements_mut::<f32>().fill(1.0);
}
