//! Sums on two levels: groups that stand for several hosts by their labels, and give the bits of the serial loop all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use collectives::{Buf, BufMut, Communicator, Element, Error, Method, Op, Options, connect_with};
use half::bf16;
use support::{on_all, rendezvous};

/// `each` ranks on every one of `hosts`.
fn group(hosts: usize, each: usize) -> Vec<Arc<dyn Communicator>> {
    group_with(hosts, each, support::PATIENCE)
}

fn group_with(hosts: usize, each: usize, op_timeout: Duration) -> Vec<Arc<dyn Communicator>> {
    let connect = |mut one: collectives::Rendezvous| {
        one.op_timeout = op_timeout;
        let options = Options { host_label: 1 + u64::from(one.rank) / each as u64, ..Options::default() };
        std::thread::spawn(move || connect_with(one, options).unwrap())
    };
    let threads: Vec<_> = rendezvous(hosts * each).into_iter().map(connect).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn value(rank: u32, at: usize) -> f32 {
    let mixed = (at as u32 ^ rank.wrapping_mul(7919)).wrapping_mul(0x9e37_79b9);
    mixed as i32 as f32 * 2f32.powi((mixed % 24) as i32 - 40)
}

fn serial<T: Copy>(world: u32, count: usize, of: impl Fn(u32, usize) -> T, add: impl Fn(T, T) -> T) -> Vec<T> {
    (0..count).map(|at| (1..world).fold(of(0, at), |sum, rank| add(sum, of(rank, at)))).collect()
}

fn same<T: Element>(found: &[T], expected: &[T]) -> bool {
    Buf::from(found).as_bytes() == Buf::from(expected).as_bytes()
}

fn method(comm: &dyn Communicator) -> Method {
    comm.history().last().unwrap().method
}

#[test]
fn coll_2_two_levels_equal_the_serial_loop() {
    for (hosts, each) in [(2, 2), (3, 2), (2, 3)] {
        let (group, world) = (group(hosts, each), (hosts * each) as u32);
        // The last is more than a window, and no part of it is whole.
        for count in [16 << 10, 100_003, (9 << 20) / 4 + 5] {
            let expected = serial(world, count, value, |a, b| a + b);
            let results = on_all(&group, |comm| {
                let mut buffer: Vec<f32> = (0..count).map(|at| value(comm.rank(), at)).collect();
                comm.all_reduce(BufMut::from(&mut buffer), Op::Sum).unwrap();
                (buffer, method(comm))
            });
            for (rank, (found, method)) in results.iter().enumerate() {
                assert!(same(found, &expected), "{hosts} hosts of {each}, {count} elements, rank {rank}");
                assert_eq!(*method, Method::Hosts);
            }
        }
    }
}

#[test]
fn coll_2_averages_extremes_and_other_types_equal_the_serial_loop() {
    let (group, count) = (group(2, 2), 40_001);
    let average: Vec<f32> = serial(4, count, value, |a, b| a + b).into_iter().map(|sum| sum / 4.0).collect();
    let least = serial(4, count, |rank, at| f64::from(value(rank, at)), f64::min);
    let whole = serial(4, count, |rank, at| i64::from(rank) << (at % 62), i64::wrapping_add);
    let narrow: Vec<bf16> = serial(4, count, |rank, at| bf16::from_f32(value(rank, at)).to_f32(), |a, b| a + b)
        .into_iter()
        .map(bf16::from_f32)
        .collect();
    on_all(&group, |comm| {
        let rank = comm.rank();
        let mut floats: Vec<f32> = (0..count).map(|at| value(rank, at)).collect();
        comm.all_reduce(BufMut::from(&mut floats), Op::Avg).unwrap();
        assert!(same(&floats, &average));
        let mut doubles: Vec<f64> = (0..count).map(|at| f64::from(value(rank, at))).collect();
        comm.all_reduce(BufMut::from(&mut doubles), Op::Min).unwrap();
        assert!(same(&doubles, &least));
        let mut wholes: Vec<i64> = (0..count).map(|at| i64::from(rank) << (at % 62)).collect();
        comm.all_reduce(BufMut::from(&mut wholes), Op::Sum).unwrap();
        assert!(same(&wholes, &whole) && method(comm) == Method::Hosts);
        let mut halves: Vec<bf16> = (0..count).map(|at| bf16::from_f32(value(rank, at))).collect();
        comm.all_reduce(BufMut::from(&mut halves), Op::Sum).unwrap();
        assert!(same(&halves, &narrow) && method(comm) == Method::Pairwise);
    });
}

#[test]
fn coll_2_buffers_of_the_communicator_are_summed_where_they_lie() {
    let (group, count) = (group(2, 2), (17 << 20) / 4 + 3);
    let expected = serial(4, count, value, |a, b| a + b);
    // All of them, and some.
    for sharing in [4, 2] {
        on_all(&group, |comm| {
            let mut own = comm.alloc(count * 4).unwrap();
            let mut other = vec![0f32; count];
            let shares = comm.rank() * 2 % 4 < sharing || sharing == 4;
            let buffer = if shares { own.elements_mut::<f32>() } else { &mut other };
            buffer.iter_mut().enumerate().for_each(|(at, element)| *element = value(comm.rank(), at));
            comm.all_reduce(BufMut::from(&mut *buffer), Op::Sum).unwrap();
            assert!(same(buffer, &expected), "rank {}, {sharing} in shared memory", comm.rank());
        });
    }
}

#[test]
fn operations_of_both_kinds_follow_each_other() {
    let group = group(2, 2);
    on_all(&group, |comm| {
        for round in 0..30u32 {
            let mut large = vec![1f32; 20_000 + round as usize];
            comm.all_reduce(BufMut::from(&mut large), Op::Sum).unwrap();
            assert!(large.iter().all(|element| *element == 4.0));
            let mut one = [round as f32];
            comm.all_reduce(BufMut::from(&mut one[..]), Op::Max).unwrap();
            comm.broadcast(BufMut::from(&mut large), round % 4).unwrap();
            comm.barrier().unwrap();
        }
    });
}

#[test]
fn coll_5_calls_that_differ_within_a_host_and_between_hosts_are_told_apart() {
    // One rank beside another that sums; a whole host.
    for apart in [&[1u32][..], &[2, 3]] {
        let group = group(2, 2);
        let since = Instant::now();
        let results = on_all(&group, |comm| {
            if apart.contains(&comm.rank()) {
                comm.barrier()
            } else {
                comm.all_reduce(BufMut::from(&mut vec![1f32; 100_000]), Op::Sum)
            }
        });
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        assert!(results.iter().all(Result::is_err), "{results:?}");
        assert!(results.iter().any(|result| matches!(result, Err(Error::Mismatch { .. }))), "{results:?}");
    }
}

#[test]
fn coll_4_an_abort_ends_the_sum_on_all_hosts() {
    let group = group(2, 2);
    let results = on_all(&group, |comm| {
        if comm.rank() == 3 {
            comm.abort("enough");
            return Ok(());
        }
        comm.all_reduce(BufMut::from(&mut vec![1f32; 1_000_000]), Op::Sum)
    });
    for result in &results[..3] {
        assert!(matches!(result, Err(Error::Aborted { culprit: Some(3), .. })), "{result:?}");
    }
}

#[test]
fn a_rank_that_never_comes_is_named_by_its_own_number() {
    let group = group_with(2, 2, Duration::from_millis(300));
    let results = on_all(&group, |comm| {
        if comm.rank() == 3 { Ok(()) } else { comm.all_reduce(BufMut::from(&mut vec![1f32; 1_000_000]), Op::Sum) }
    });
    assert!(results.iter().flatten().count() == 1, "{results:?}");
    // Rank 2 waits for it within the host; the others may be the first to lose patience, with rank 2.
    assert!(
        results.iter().any(|result| match result {
            Err(Error::Timeout { waiting_for, .. }) => waiting_for.iter().all(|rank| *rank >= 2),
            _ => false,
        }),
        "{results:?}"
    );
}

#[test]
fn ranks_that_are_no_neighbours_stay_with_tcp() {
    let threads: Vec<_> = rendezvous(4)
        .into_iter()
        .map(|one| {
            let options = Options { host_label: 1 + u64::from(one.rank % 2), ..Options::default() };
            std::thread::spawn(move || connect_with(one, options).unwrap())
        })
        .collect();
    let group: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    on_all(&group, |comm| {
        comm.all_reduce(BufMut::from(&mut vec![1f32; 100_000]), Op::Sum).unwrap();
        assert_eq!(method(comm), Method::Pairwise);
    });
}
