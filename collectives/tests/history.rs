//! The flight recorder from outside: what a group did, over both transports, and where a rank waits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;

use collectives::{Algorithm, Buf, BufMut, Communicator, Op, State};
use support::{group, on_all, sharing};

fn both(world: usize) -> [(&'static str, Vec<Arc<dyn Communicator>>); 2] {
    [("shm", sharing(world)), ("tcp", group(world, Algorithm::Auto))]
}

#[test]
fn every_operation_is_recorded_with_its_way() {
    for (transport, group) in both(3) {
        on_all(&group, |comm| {
            comm.all_reduce(BufMut::from(&mut [1f32; 2][..]), Op::Max).unwrap();
            comm.all_reduce(BufMut::from(&mut vec![1i64; 100_000]), Op::Sum).unwrap();
            comm.reduce_scatter(Buf::from(&[1f64; 3][..]), BufMut::from(&mut [0f64][..]), Op::Avg).unwrap();
            comm.all_gather(Buf::from(&[1i32][..]), BufMut::from(&mut [0i32; 3][..])).unwrap();
            comm.broadcast(BufMut::from(&mut [1f32; 5][..]), 2).unwrap();
            comm.barrier().unwrap();
        });
        let (small, large) = if transport == "shm" { ("line", "staged") } else { ("flat", "pairwise") };
        for comm in &group {
            let history = comm.history();
            let lines: Vec<String> = history.iter().map(ToString::to_string).collect();
            let starts = [
                r#"{"sequence":1,"kind":"all_reduce","dtype":"f32","op":"max","root":null,"elements":2,"#,
                r#"{"sequence":2,"kind":"all_reduce","dtype":"i64","op":"sum","root":null,"elements":100000,"#,
                r#"{"sequence":3,"kind":"reduce_scatter","dtype":"f64","op":"avg","root":null,"elements":1,"#,
                r#"{"sequence":4,"kind":"all_gather","dtype":"i32","op":null,"root":null,"elements":1,"#,
                r#"{"sequence":5,"kind":"broadcast","dtype":"f32","op":null,"root":2,"elements":5,"#,
                r#"{"sequence":6,"kind":"barrier","dtype":null,"op":null,"root":null,"elements":0,"#,
            ];
            assert_eq!(lines.len(), starts.len());
            for (line, start) in lines.iter().zip(starts) {
                assert!(line.starts_with(start), "{line}");
                assert!(line.contains(&format!(r#""transport":"{transport}","method":"#)), "{line}");
                assert!(line.ends_with(r#""state":"done","waiting_for":null}"#), "{line}");
            }
            assert_eq!((history[0].method.to_string(), history[1].method.to_string()), (small.into(), large.into()));
        }
    }
}

#[test]
fn a_rank_that_waits_says_for_whom() {
    for (transport, group) in both(3) {
        std::thread::scope(|scope| {
            let run = |comm: &dyn Communicator| comm.all_reduce(BufMut::from(&mut vec![1f32; 50_000]), Op::Sum);
            let threads: Vec<_> = group[..2].iter().map(|comm| scope.spawn(move || run(&**comm))).collect();
            for comm in &group[..2] {
                while comm.history().last().map(|entry| entry.state) != Some(State::Waiting(2)) {
                    std::thread::yield_now();
                }
            }
            run(&*group[2]).unwrap();
            for thread in threads {
                thread.join().unwrap().unwrap();
            }
        });
        assert!(group.iter().all(|comm| comm.history()[0].state == State::Done), "{transport}");
    }
}

#[test]
fn what_failed_stays_readable_after_the_end() {
    for (transport, group) in both(2) {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| group[0].barrier().unwrap_err());
            while group[0].history().is_empty() {
                std::thread::yield_now();
            }
            group[1].abort("enough");
            waiting.join().unwrap();
        });
        let history = group[0].history();
        assert_eq!((history.len(), history[0].state), (1, State::Failed), "{transport}");
        assert!(history[0].ended_ns.is_some());
    }
}
