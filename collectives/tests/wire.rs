//! Several sockets between two ranks, and 32-bit floats that cross the wire in 16 bits: the bits of results, and ranks that chose
//! otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use collectives::{Algorithm, Buf, BufMut, Communicator, Error, Op, Options, Wire, connect_with};
use half::bf16;
use support::{connect_all_with, on_all, rendezvous};

fn group(world: usize, options: Options) -> Vec<Arc<dyn Communicator>> {
    let options = Options { tcp_only: true, ..options };
    connect_all_with(rendezvous(world), options).into_iter().map(|one| one.unwrap()).collect()
}

/// Of very different sizes, so that the order of summation and every rounding show.
fn value(rank: u32, at: usize) -> f32 {
    let mixed = (at as u32 ^ rank.wrapping_mul(7919)).wrapping_mul(0x9e37_79b9);
    mixed as i32 as f32 * 2f32.powi((mixed % 24) as i32 - 40)
}

fn input(rank: u32, count: usize) -> Vec<f32> {
    (0..count).map(|at| value(rank, at)).collect()
}

fn summed(group: &[Arc<dyn Communicator>], count: usize, op: Op) -> Vec<Vec<f32>> {
    on_all(group, |comm| {
        let mut buffer = input(comm.rank(), count);
        comm.all_reduce(BufMut::from(&mut buffer), op).unwrap();
        buffer
    })
}

fn same_bits(found: &[f32], expected: &[f32]) -> bool {
    Buf::from(found).as_bytes() == Buf::from(expected).as_bytes()
}

#[test]
fn coll_2_several_sockets_give_the_bits_of_one() {
    // Some blocks of 256 KiB for each socket, and a part of one.
    let count = 900_011;
    for (world, algorithm) in [(2, Algorithm::Auto), (2, Algorithm::Ring), (3, Algorithm::Auto), (3, Algorithm::Ring)] {
        let serial: Vec<f32> =
            (0..count).map(|at| (1..world as u32).fold(value(0, at), |sum, rank| sum + value(rank, at))).collect();
        for streams in [2, 8] {
            let group = group(world, Options { algorithm, streams, ..Options::default() });
            for _ in 0..2 {
                let results = summed(&group, count, Op::Sum);
                assert!(results.iter().all(|result| same_bits(result, &serial)), "{world} {algorithm:?} {streams}");
            }
            let copies = on_all(&group, |comm| {
                let mut copy = input(comm.rank(), count);
                comm.broadcast(BufMut::from(&mut copy), 1).unwrap();
                copy
            });
            assert!(copies.iter().all(|copy| same_bits(copy, &input(1, count))));
        }
    }
}

#[test]
fn ranks_with_another_number_of_sockets_do_not_meet() {
    let mut all = rendezvous(2);
    for one in &mut all {
        one.timeout = Duration::from_millis(400);
    }
    let threads: Vec<_> = all
        .into_iter()
        .map(|one| {
            let options = Options { streams: 1 + one.rank as u8, ..Options::default() };
            std::thread::spawn(move || connect_with(one, options))
        })
        .collect();
    for thread in threads {
        assert!(matches!(thread.join().unwrap(), Err(Error::Rendezvous { .. })));
    }
}

#[test]
fn coll_1_narrow_sums_are_those_of_16_bit_floats_on_all_ranks() {
    for world in [2, 3, 5] {
        let group = group(world, Options { wire: Wire::Bf16, ..Options::default() });
        for (count, op) in [(16 << 10, Op::Sum), (100_003, Op::Avg), (700_001, Op::Sum)] {
            let expected: Vec<f32> = (0..count)
                .map(|at| {
                    let narrow = |rank| bf16::from_f32(value(rank, at)).to_f32();
                    let sum = (1..world as u32).fold(narrow(0), |sum, rank| sum + narrow(rank));
                    bf16::from_f32(if op == Op::Avg { sum / world as f32 } else { sum }).to_f32()
                })
                .collect();
            let results = summed(&group, count, op);
            assert!(results.iter().all(|result| same_bits(result, &expected)), "{world} ranks, {count} {op}");
        }
    }
}

#[test]
fn small_sums_and_extremes_stay_exact_whatever_the_wire() {
    let group = group(3, Options { wire: Wire::Bf16, ..Options::default() });
    let small = summed(&group, (16 << 10) - 1, Op::Sum);
    let serial: Vec<f32> = (0..(16 << 10) - 1).map(|at| value(0, at) + value(1, at) + value(2, at)).collect();
    assert!(small.iter().all(|result| same_bits(result, &serial)));
    let most = summed(&group, 50_000, Op::Max);
    let greatest: Vec<f32> = (0..50_000).map(|at| value(0, at).max(value(1, at)).max(value(2, at))).collect();
    assert!(most.iter().all(|result| same_bits(result, &greatest)));
}

#[test]
fn coll_5_ranks_with_another_wire_get_a_mismatch() {
    let threads: Vec<_> = rendezvous(2)
        .into_iter()
        .map(|one| {
            let wire = if one.rank == 0 { Wire::Native } else { Wire::Bf16 };
            let options = Options { wire, tcp_only: true, ..Options::default() };
            std::thread::spawn(move || {
                let comm = connect_with(one, options).unwrap();
                comm.all_reduce(BufMut::from(&mut vec![1f32; 50_000]), Op::Sum)
            })
        })
        .collect();
    for thread in threads {
        assert!(matches!(thread.join().unwrap(), Err(Error::Mismatch { .. })));
    }
}
