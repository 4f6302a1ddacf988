//! Operations in the background come back whole and in submission order, fail together, and cost no allocation; nor do small sums.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use collectives::{Algorithm, Communicator, Error, Op, Part, Pipeline, bench_all_reduce};
use support::{group, on_all, sharing};

/// The system's, counting for each thread.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's own answers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Each rank with its own pipeline, at once, over both transports.
fn with_pipelines(world: usize, run: impl Fn(&dyn Communicator, &Pipeline) + Sync) {
    for group in [group(world, Algorithm::Auto), sharing(world)] {
        std::thread::scope(|scope| {
            for comm in &group {
                scope.spawn(|| run(&**comm, &Pipeline::new(Arc::clone(comm)).unwrap()));
            }
        });
    }
}

#[test]
fn many_in_flight_come_back_each_with_its_own_sum() {
    with_pipelines(3, |_, pipeline| {
        let submit = |at: usize| pipeline.all_reduce(vec![at as f32; 1 + at * 700], Op::Sum);
        let handles: Vec<_> = (0..40).map(submit).collect();
        for (at, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.wait().unwrap(), vec![3.0 * at as f32; 1 + at * 700]);
        }
    });
}

#[test]
fn every_operation_in_flight_beside_the_others_on_buffers_of_both_kinds() {
    with_pipelines(3, |comm, pipeline| {
        let rank = comm.rank() as usize;
        let mut memory = comm.alloc(4 * 50_010).unwrap();
        memory.elements_mut::<f32>().fill(1.0 + rank as f32);
        let sum = pipeline.all_reduce(Part::<f32>::new(memory, 10..50_010), Op::Sum);
        let parts = pipeline.reduce_scatter(vec![2i64; 30_000], vec![0i64; 10_000], Op::Avg);
        let mut all = comm.alloc(8 * 9).unwrap();
        all.elements_mut::<f64>().fill(-1.0);
        let gathered = pipeline.all_gather(vec![rank as f64; 3], Part::<f64>::new(all, 0..9));
        let told = pipeline.broadcast(vec![rank as i32; 5], 2);
        let barrier = pipeline.barrier();
        barrier.wait().unwrap();
        // The last has ended, so all have.
        assert!(sum.is_done() && parts.is_done() && gathered.is_done() && told.is_done());
        assert_eq!(told.wait().unwrap(), [2; 5]);
        let (own, all) = gathered.wait().unwrap();
        assert_eq!(own, vec![rank as f64; 3]);
        assert_eq!(all.into_buffer().elements::<f64>(), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        let (source, own) = parts.wait().unwrap();
        assert_eq!((source.len(), own), (30_000, vec![2i64; 10_000]));
        let memory = sum.wait().unwrap().into_buffer();
        let (before, summed) = memory.elements::<f32>().split_at(10);
        assert!(before.iter().all(|value| *value == 1.0 + rank as f32), "outside of the part");
        assert!(summed.len() == 50_000 && summed.iter().all(|value| *value == 6.0));
    });
}

#[test]
fn what_is_under_way_is_not_done() {
    let group = group(2, Algorithm::Auto);
    let pipeline = Pipeline::new(Arc::clone(&group[0])).unwrap();
    let handle = pipeline.all_reduce(vec![1f32; 3], Op::Sum);
    assert!(!handle.is_done(), "rank 1 has not come");
    let mut other = [1f32; 3];
    group[1].all_reduce((&mut other[..]).into(), Op::Sum).unwrap();
    assert_eq!(handle.wait().unwrap(), [2.0; 3]);
}

#[test]
fn a_call_that_makes_no_sense_fails_alone() {
    with_pipelines(2, |_, pipeline| {
        let wrong = pipeline.reduce_scatter(vec![1f32; 3], vec![0f32; 2], Op::Sum);
        let right = pipeline.all_reduce(vec![1f32; 3], Op::Sum);
        assert!(matches!(wrong.wait(), Err(Error::Invalid { .. })));
        assert_eq!(right.wait().unwrap(), [2.0; 3]);
    });
}

#[test]
fn a_forgotten_handle_does_not_hold_up_the_others() {
    with_pipelines(2, |_, pipeline| {
        drop(pipeline.all_reduce(vec![1.0f32; 10], Op::Sum));
        std::mem::forget(pipeline.all_reduce(vec![1.0f32; 10], Op::Sum));
        assert_eq!(pipeline.all_reduce(vec![2.0f32; 10], Op::Avg).wait().unwrap(), vec![2.0; 10]);
    });
}

#[test]
fn submitting_and_waiting_allocate_nothing() {
    with_pipelines(2, |_, pipeline| {
        let mut buffers: Vec<Option<Vec<f32>>> = (0..8).map(|_| Some(vec![1.0; 1000])).collect();
        let mut handles: Vec<_> = buffers.iter().map(|_| None).collect();
        let mut round = || {
            for (buffer, handle) in buffers.iter_mut().zip(&mut handles) {
                *handle = buffer.take().map(|buffer| pipeline.all_reduce(buffer, Op::Avg));
            }
            for (buffer, handle) in buffers.iter_mut().zip(&mut handles) {
                *buffer = handle.take().map(|handle| handle.wait().unwrap());
            }
        };
        round();
        let before = ALLOCATED.get();
        (0..50).for_each(|_| round());
        assert_eq!(ALLOCATED.get(), before);
    });
}

#[test]
fn a_small_sum_through_memory_allocates_nothing() {
    // It once asked the control sockets each time, which is far slower than the sum. A rank that has slept for long still does.
    let least = on_all(&sharing(2), |comm| {
        let mut values = [1f32; 12];
        let mut sum = || {
            let before = ALLOCATED.get();
            comm.all_reduce((&mut values[..]).into(), Op::Max).unwrap();
            ALLOCATED.get() - before
        };
        (0..200).map(|_| sum()).min()
    });
    assert_eq!(least, [Some(0), Some(0)]);
}

#[test]
fn after_an_abort_every_handle_gets_the_same_error() {
    let group = group(2, Algorithm::Auto);
    let pipeline = Pipeline::new(Arc::clone(&group[0])).unwrap();
    // Rank 1 takes no part, so the first stays under way until rank 1 aborts.
    let handles: Vec<_> = (0..3).map(|_| pipeline.all_reduce(vec![0.0f32; 100_000], Op::Sum)).collect();
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
