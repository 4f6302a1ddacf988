//! Every gradient is in one bucket and comes back summed, in order, whole or in parts.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::tests::group;
use proptest::prelude::*;

fn cut(first_bytes: usize, bytes: usize, parts: usize) -> Cut {
    Cut { first_bytes, bytes, parts }
}

fn units(layout: &Layout) -> Vec<Vec<usize>> {
    layout.buckets.iter().map(|bucket| bucket.units.clone()).collect()
}

/// One step of a rank: unit `at` has the gradient `value + at`, in two passes of which each gives a half.
fn step(reducer: &mut Reducer, lengths: &[usize], value: f32) -> Reduced {
    reducer.clear(Sends::Whole);
    for last in [false, true] {
        let pass = reducer.pass(last);
        for at in (0..lengths.len()).rev() {
            let target = pass.of(at);
            assert_eq!(target.len(), lengths[at]);
            let half = 0.5 * (value + at as f32);
            for place in target {
                *place += half;
            }
            pass.complete(at).unwrap();
        }
    }
    reducer.finish(Shared { loss: value, rate: 0.25, written: 1.0, failed: 0.0 }).unwrap()
}

#[test]
fn the_first_bucket_is_closed_early_and_none_splits_a_unit() {
    let lengths = [100, 0, 10, 100, 10, 30];
    assert_eq!(units(&Layout::new(&lengths, cut(100, 400, 1))), [vec![5], vec![4, 3], vec![2, 0]]);
    assert_eq!(units(&Layout::new(&lengths, cut(400, 400, 1))), [vec![5, 4, 3], vec![2, 0]]);
    assert_eq!(units(&Layout::new(&lengths, cut(1 << 20, 8, 1))), [vec![5], vec![4], vec![3], vec![2], vec![0]]);
    let layout = Layout::new(&lengths, cut(100, 400, 3));
    assert_eq!(layout.length(), 3 * 3 * BLOCK);
    assert_eq!(layout.owned(2), [2 * BLOCK..3 * BLOCK, 5 * BLOCK..6 * BLOCK, 8 * BLOCK..9 * BLOCK]);
}

#[test]
fn a_full_bucket_leaves_while_others_are_filled() {
    let mut reducers: Vec<Reducer> = group(2)
        .into_iter()
        .map(|communicator| {
            Reducer::new(Arc::new(Layout::new(&[100, 10, 100, 10], cut(400, 400, 1))), communicator, None)
        })
        .map(Result::unwrap)
        .collect();
    for reducer in &mut reducers {
        let pass = reducer.pass(true);
        pass.complete(3).unwrap();
        assert_eq!(pass.under_way.len(), 0);
        pass.complete(2).unwrap();
        assert_eq!(pass.under_way.len(), 1, "the backward pass of unit 1 has not begun");
    }
    let end = |mut reducer: Reducer| std::thread::spawn(move || reducer.finish(Shared::default()).map(drop));
    let ends: Vec<_> = reducers.into_iter().map(end).collect();
    for end in ends {
        end.join().unwrap().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn sums_come_back_whole_or_in_parts(
        lengths in proptest::collection::vec(0..600_usize, 1..9), bytes in 4..4000_usize, world in 1..4_usize, sharded: bool,
    ) {
        let mut lengths = lengths;
        lengths.push(5);
        let run = |communicator: Arc<dyn Communicator>| {
            let lengths = lengths.clone();
            std::thread::spawn(move || {
                let rank = communicator.rank() as usize;
                let parts = if sharded { world } else { 1 };
                let layout = Arc::new(Layout::new(&lengths, cut(bytes / 2, bytes, parts)));
                let mut reducer = Reducer::new(Arc::clone(&layout), communicator, None).unwrap();
                let mut values = vec![0.0; layout.length()];
                let mut reduced = Vec::new();
                for _ in 0..2 {
                    reduced.push(step(&mut reducer, &lengths, rank as f32));
                    for (bucket, range) in layout.owned(rank).into_iter().enumerate() {
                        values[range].copy_from_slice(reducer.gradients(bucket));
                    }
                    reducer.spread(&mut values).unwrap();
                }
                let by_unit: Vec<Vec<f32>> = (0..lengths.len()).map(|at| values[layout.place(at)].to_vec()).collect();
                (reduced, by_unit)
            })
        };
        let threads: Vec<_> = group(world).into_iter().map(run).collect();
        let ranks = (0..world).sum::<usize>() as f32;
        let expected = |at: usize| vec![ranks + (world * at) as f32; lengths[at]];
        let square: f64 = (0..lengths.len()).flat_map(expected).map(|value| f64::from(value).powi(2)).sum();
        for thread in threads {
            let (reduced, by_unit) = thread.join().unwrap();
            for (at, found) in by_unit.iter().enumerate() {
                prop_assert_eq!(found, &expected(at));
            }
            for Reduced { shared, norm, .. } in reduced {
                let count = world as f32;
                prop_assert_eq!(shared, Shared { loss: ranks, rate: 0.25 * count, written: count, failed: 0.0 });
                prop_assert!((norm - square.sqrt()).abs() <= 1e-9 * norm);
            }
        }
    }
}
