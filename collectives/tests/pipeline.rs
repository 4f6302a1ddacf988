//! Reductions in the background come back whole and in submission order, and fail together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;

use collectives::{Algorithm, Error, Op, Pipeline, bench_all_reduce};
use support::{group, on_all};

#[test]
fn many_in_flight_come_back_each_with_its_own_sum() {
    let group = group(3, Algorithm::Auto);
    std::thread::scope(|scope| {
        for comm in &group {
            scope.spawn(|| {
                let pipeline = Pipeline::new(Arc::clone(comm)).unwrap();
                let submit = |at: usize| pipeline.submit(vec![at as f32; 1 + at * 700], Op::Sum);
                let handles: Vec<_> = (0..40).map(submit).collect();
                for (at, handle) in handles.into_iter().enumerate() {
                    assert_eq!(handle.wait().unwrap(), vec![3.0 * at as f32; 1 + at * 700]);
                }
            });
        }
    });
}

#[test]
fn a_forgotten_handle_does_not_hold_up_the_others() {
    let group = group(2, Algorithm::Auto);
    std::thread::scope(|scope| {
        for comm in &group {
            scope.spawn(|| {
                let pipeline = Pipeline::new(Arc::clone(comm)).unwrap();
                drop(pipeline.submit(vec![1.0; 10], Op::Sum));
                assert_eq!(pipeline.submit(vec![2.0; 10], Op::Avg).wait().unwrap(), vec![2.0; 10]);
            });
        }
    });
}

#[test]
fn after_an_abort_every_handle_gets_the_same_error() {
    let group = group(2, Algorithm::Auto);
    let pipeline = Pipeline::new(Arc::clone(&group[0])).unwrap();
    // Rank 1 takes no part, so the first stays under way until rank 1 aborts.
    let handles: Vec<_> = (0..3).map(|_| pipeline.submit(vec![0.0; 100_000], Op::Sum)).collect();
    group[1].abort("no more work");
    for handle in handles {
        match handle.wait() {
            Err(Error::Aborted { culprit, cause, .. }) => assert_eq!((culprit, &*cause), (Some(1), "no more work")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn benchmark_rows_are_the_same_on_all_ranks() {
    let group = group(2, Algorithm::Auto);
    let rows = on_all(&group, |comm| bench_all_reduce(comm, 100_000, 5).unwrap());
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0].bytes, 100_000);
    assert!(rows[0].p10_us > 0.0 && rows[0].p10_us <= rows[0].median_us && rows[0].median_us <= rows[0].p90_us);
    assert!((rows[0].busbw_gbps - rows[0].algbw_gbps).abs() < 1e-9);
}
