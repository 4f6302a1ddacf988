//! COLL-4 with real processes over TCP and shared memory: the kernel tells of a death by SIGKILL as it does in production.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use collectives::{BufMut, Op};
use support::PATIENCE;
use support::processes::{Setting, join, say, start};

/// What each child does; in the parent, nothing.
#[test]
fn rank_of_a_group() {
    let Some((_, comm)) = join(PATIENCE) else { return };
    let mut buffer = vec![1f32; 50_000];
    comm.all_reduce(BufMut::from(&mut buffer), Op::Sum).unwrap();
    say(&format!("together {}", comm.backend()));
    let error = loop {
        if let Err(error) = comm.all_reduce(BufMut::from(&mut buffer), Op::Avg) {
            break error;
        }
    };
    say(&format!("culprit {:?}", error.culprit()));
    support::processes::read();
}

#[test]
fn coll_4_a_killed_process_is_noticed_by_all_within_a_second_and_blamed() {
    for (victim, tcp) in [(0, true), (2, true), (0, false), (1, false), (2, false)] {
        let variables = if tcp { &[("COLLECTIVES_TCP", "1")][..] } else { &[] };
        let mut group = start(3, Setting { role: "sum", variables, ..Setting::default() });
        for child in &group {
            assert_eq!(child.hear("together"), if tcp { "tcp" } else { "shm" });
        }
        let killed = Instant::now();
        group[victim].kill();
        for (rank, child) in group.iter().enumerate().filter(|(rank, _)| *rank != victim) {
            assert_eq!(child.hear("culprit"), format!("Some({victim})"), "rank {rank}");
        }
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    }
}
