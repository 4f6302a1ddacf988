//! COLL-1 and COLL-2: every result is, bit for bit, that of the plain serial loop over the ranks; never close, always
//! equal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;

use collectives::{Algorithm, Buf, BufMut, Communicator, DType, Element, Op};
use half::{bf16, f16};
use proptest::prelude::*;
use support::{group, on_all, sharing};

/// Plain arithmetic, written apart from the crate's.
trait Model: Element {
    type Wide: Copy + PartialOrd;
    fn any(bits: u64) -> Self;
    fn wide(self) -> Self::Wide;
    fn round(wide: Self::Wide) -> Self;
    fn add(left: Self::Wide, right: Self::Wide) -> Self::Wide;
    fn divide(sum: Self::Wide, by: usize) -> Self::Wide;
}

macro_rules! model {
    ($type:ty, $wide:ty, $any:expr, $wide_of:expr, $round:expr, $add:expr, $divide:expr) => {
        impl Model for $type {
            type Wide = $wide;
            fn any(bits: u64) -> Self {
                $any(bits)
            }
            fn wide(self) -> $wide {
                $wide_of(self)
            }
            fn round(wide: $wide) -> Self {
                $round(wide)
            }
            fn add(left: $wide, right: $wide) -> $wide {
                $add(left, right)
            }
            fn divide(sum: $wide, by: usize) -> $wide {
                $divide(sum, by)
            }
        }
    };
}

/// Of very different sizes, so that the order of summation shows in the last bits.
fn uneven(bits: u64) -> f64 {
    let exponent = (bits % 24) as i32 - 12;
    ((bits >> 8) as i32 as f64) * 2f64.powi(exponent - 24)
}

fn same<T>(value: T) -> T {
    value
}

model!(f32, f32, |b| uneven(b) as f32, same, same, |a: f32, b: f32| a + b, |s: f32, n: usize| s / n as f32);
model!(f64, f64, uneven, same, same, |a: f64, b: f64| a + b, |s: f64, n: usize| s / n as f64);
model!(
    f16,
    f32,
    |b| f16::from_f64(uneven(b)),
    f16::to_f32,
    f16::from_f32,
    |a: f32, b: f32| a + b,
    |s: f32, n: usize| s / n as f32
);
model!(
    bf16,
    f32,
    |b| bf16::from_f64(uneven(b)),
    bf16::to_f32,
    bf16::from_f32,
    |a: f32, b: f32| a + b,
    |s: f32, n: usize| s / n as f32
);
model!(i32, i32, |b| b as i32, same, same, i32::wrapping_add, |s: i32, n: usize| s / n as i32);
model!(i64, i64, |b| b as i64, same, same, i64::wrapping_add, |s: i64, n: usize| s / n as i64);

fn input<T: Model>(seed: u64, rank: u32, count: usize) -> Vec<T> {
    // SplitMix64: the same values on every machine.
    let mut state = seed ^ (u64::from(rank) << 32);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    (0..count).map(|_| T::any(next())).collect()
}

fn serial<T: Model>(op: Op, inputs: &[Vec<T>], at: usize) -> T {
    let mut all = inputs.iter().map(|input| input[at].wide());
    let first = all.next().unwrap();
    T::round(match op {
        Op::Sum => all.fold(first, T::add),
        Op::Avg => T::divide(all.fold(first, T::add), inputs.len()),
        Op::Min => all.fold(first, |a, b| if b < a { b } else { a }),
        Op::Max => all.fold(first, |a, b| if b > a { b } else { a }),
    })
}

fn bytes<T: Element>(values: &[T]) -> &[u8] {
    Buf::from(values).as_bytes()
}

type Group = [Arc<dyn Communicator>];

fn reduces<T: Model>(group: &Group, op: Op, count: usize, seed: u64) {
    let world = group.len();
    let inputs: Vec<Vec<T>> = (0..world as u32).map(|rank| input(seed, rank, count)).collect();
    let expected: Vec<T> = (0..count).map(|at| serial(op, &inputs, at)).collect();
    let results = on_all(group, |comm| {
        let mut buffer = inputs[comm.rank() as usize].clone();
        comm.all_reduce(BufMut::from(&mut buffer), op).unwrap();
        buffer
    });
    for (rank, result) in results.iter().enumerate() {
        assert!(bytes(result) == bytes(&expected), "all_reduce {op} {count} {}, rank {rank} of {world}", T::DTYPE);
    }
    let each = count / world;
    let results = on_all(group, |comm| {
        let mut part = vec![T::default(); each];
        let source = &inputs[comm.rank() as usize][..each * world];
        comm.reduce_scatter(Buf::from(source), BufMut::from(&mut part), op).unwrap();
        part
    });
    for (rank, result) in results.iter().enumerate() {
        let expected = &expected[rank * each..(rank + 1) * each];
        assert!(bytes(result) == bytes(expected), "reduce_scatter {op} {count} {}, rank {rank} of {world}", T::DTYPE);
    }
}

fn copies<T: Model>(group: &Group, count: usize, seed: u64) {
    let world = group.len();
    let inputs: Vec<Vec<T>> = (0..world as u32).map(|rank| input(seed, rank, count)).collect();
    let together = inputs.concat();
    let root = seed as u32 % world as u32;
    on_all(group, |comm| {
        let mine = &inputs[comm.rank() as usize];
        let mut gathered = vec![T::default(); count * world];
        comm.all_gather(Buf::from(mine), BufMut::from(&mut gathered)).unwrap();
        assert!(bytes(&gathered) == bytes(&together), "all_gather {count} {} of {world}", T::DTYPE);
        let mut copy = mine.clone();
        comm.broadcast(BufMut::from(&mut copy), root).unwrap();
        assert!(bytes(&copy) == bytes(&inputs[root as usize]), "broadcast {count} {} of {world}", T::DTYPE);
        comm.barrier().unwrap();
    });
}

fn reduces_of(dtype: DType, group: &Group, op: Op, count: usize, seed: u64) {
    match dtype {
        DType::F32 => reduces::<f32>(group, op, count, seed),
        DType::F64 => reduces::<f64>(group, op, count, seed),
        DType::F16 => reduces::<f16>(group, op, count, seed),
        DType::BF16 => reduces::<bf16>(group, op, count, seed),
        DType::I32 => reduces::<i32>(group, op, count, seed),
        DType::I64 => reduces::<i64>(group, op, count, seed),
    }
}

fn every_type_and_operation(world: usize) {
    every_type_and_operation_of(&group(world, Algorithm::Auto));
    every_type_and_operation_of(&sharing(world));
}

fn every_type_and_operation_of(group: &Group) {
    let world = group.len();
    for count in [0, 1, 3, 1000] {
        for dtype in DType::ALL {
            for op in Op::ALL {
                reduces_of(dtype, group, op, count, world as u64);
            }
        }
        copies::<f32>(group, count, 1);
        copies::<bf16>(group, count, 2);
    }
    // Large: each type with one operation here, all pairs over the worlds.
    for (at, dtype) in DType::ALL.into_iter().enumerate() {
        reduces_of(dtype, group, Op::ALL[(at + world) % 4], 100_003, world as u64);
    }
    copies::<i64>(group, 100_003, 3);
}

#[test]
fn coll_2_world_1_equals_the_serial_loop() {
    every_type_and_operation(1);
}

#[test]
fn coll_2_world_2_equals_the_serial_loop() {
    every_type_and_operation(2);
}

#[test]
fn coll_2_world_3_equals_the_serial_loop() {
    every_type_and_operation(3);
}

#[test]
fn coll_2_world_4_equals_the_serial_loop() {
    every_type_and_operation(4);
}

#[test]
fn coll_2_world_5_equals_the_serial_loop() {
    every_type_and_operation(5);
}

#[test]
fn coll_2_world_6_equals_the_serial_loop() {
    every_type_and_operation(6);
}

#[test]
fn coll_2_rings_equal_the_serial_loop() {
    for world in [2, 3, 5] {
        let group = group(world, Algorithm::Ring);
        for (at, dtype) in DType::ALL.into_iter().enumerate() {
            reduces_of(dtype, &group, Op::ALL[(at + world) % 4], 50_021, world as u64);
        }
    }
}

#[test]
fn coll_2_more_than_sixteen_ranks_equal_the_serial_loop() {
    for group in [group(17, Algorithm::Auto), sharing(17)] {
        reduces::<f32>(&group, Op::Sum, 20_011, 1);
        reduces::<f32>(&group, Op::Avg, 11, 2);
    }
}

#[test]
fn coll_1_every_rank_ends_with_the_same_bits_whatever_the_timing() {
    let groups = [group(4, Algorithm::Auto), sharing(4)];
    for round in 0..12u32 {
        let group = &groups[round as usize % 2];
        let results = on_all(group, |comm| {
            // Another rank comes late each time, and the last chunk is short.
            for _ in 0..(comm.rank() + round) % 4 * 50 {
                std::thread::yield_now();
            }
            let mut buffer: Vec<f32> = input(7, comm.rank(), 30_011);
            comm.all_reduce(BufMut::from(&mut buffer), Op::Avg).unwrap();
            bytes(&buffer).to_vec()
        });
        assert!(results.iter().all(|result| *result == results[0]), "round {round}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn coll_2_any_sequence_of_sizes_equals_the_serial_loop(
        world in 1..7usize,
        way in 0..3usize,
        calls in proptest::collection::vec((0..40_000usize, 0..4usize, 0..6usize, any::<u64>()), 1..5),
    ) {
        let group = match way {
            0 => group(world, Algorithm::Ring),
            1 => group(world, Algorithm::Direct),
            _ => sharing(world),
        };
        for (count, op, dtype, seed) in calls {
            reduces_of(DType::ALL[dtype], &group, Op::ALL[op], count, seed);
        }
    }
}
