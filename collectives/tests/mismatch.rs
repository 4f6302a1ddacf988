//! COLL-5 with real processes over both transports: ranks that call different things end within a second on every rank,
//! with the two calls named, and from three ranks on with the one that differs as the culprit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use collectives::{Buf, BufMut, Communicator, Element, Error, Op};
use support::PATIENCE;
use support::processes::{Setting, join, read, say, start};

/// What most ranks call, what the last one calls instead, and the words of the two calls that differ.
const CASES: [(&str, &str, &str, &str); 7] = [
    ("all_reduce f32 sum 9", "barrier", "all_reduce(sum, 9 f32)", "barrier()"),
    ("all_reduce f32 sum 9", "all_reduce i32 sum 9", "all_reduce(sum, 9 f32)", "all_reduce(sum, 9 i32)"),
    ("all_reduce f32 sum 9", "all_reduce f32 max 9", "all_reduce(sum, 9 f32)", "all_reduce(max, 9 f32)"),
    ("all_reduce f32 sum 9", "all_reduce f32 sum 90000", "all_reduce(sum, 9 f32)", "all_reduce(sum, 90000 f32)"),
    ("broadcast 0", "broadcast 1", "broadcast(5 f32, root 0)", "broadcast(5 f32, root 1)"),
    ("all_reduce f32 sum 9,barrier", "barrier,all_reduce f32 sum 9", "all_reduce(sum, 9 f32)", "barrier()"),
    (
        "barrier,all_gather 3",
        "barrier,broadcast 0",
        "all_gather(3 f32) as number 2",
        "broadcast(5 f32, root 0) as number 2",
    ),
];

fn call(comm: &dyn Communicator, words: &str) -> Result<(), Error> {
    match words.split(' ').collect::<Vec<_>>()[..] {
        ["barrier"] => comm.barrier(),
        ["broadcast", root] => comm.broadcast(BufMut::from(&mut [1f32; 5][..]), root.parse().unwrap()),
        ["all_gather", count] => {
            let count: usize = count.parse().unwrap();
            let mut all = vec![0f32; count * comm.world_size() as usize];
            comm.all_gather(Buf::from(&vec![1f32; count]), BufMut::from(&mut all))
        }
        ["all_reduce", dtype, op, count] => {
            let (op, count) = (if op == "max" { Op::Max } else { Op::Sum }, count.parse().unwrap());
            if dtype == "i32" { sum::<i32>(comm, op, count) } else { sum::<f32>(comm, op, count) }
        }
        _ => panic!("{words}"),
    }
}

fn sum<T: Element>(comm: &dyn Communicator, op: Op, count: usize) -> Result<(), Error> {
    comm.all_reduce(BufMut::from(&mut vec![T::default(); count]), op)
}

/// What each child does; in the parent, nothing. The role holds each rank's calls.
#[test]
fn rank_of_a_group() {
    let Some((role, comm)) = join(PATIENCE) else { return };
    let calls = role.split('|').nth(comm.rank() as usize).unwrap();
    say(&format!("together {}", comm.backend()));
    read();
    if calls.is_empty() {
        return;
    }
    // Who only receives a broadcast is done with it before the others have compared theirs: its next call ends.
    let mut calls = calls.split(',').chain(["barrier"]);
    let error = calls.find_map(|words| call(&*comm, words).err()).expect("the calls fit");
    say(&format!("ended {:?} {error}", error.culprit()));
    // The group stays, so that no goodbye ends it for the others.
    read();
    assert!(matches!(comm.barrier(), Err(Error::Aborted { .. })));
    say("over");
}

/// What each rank says of its end. Ranks with nothing to call stay away from the group.
fn ends(roles: &[&str], tcp: bool) -> Vec<String> {
    let variables = if tcp { &[("COLLECTIVES_TCP", "1")][..] } else { &[] };
    let mut group = start(roles.len(), Setting { role: &roles.join("|"), variables, ..Setting::default() });
    for child in &group {
        assert_eq!(child.hear("together"), if tcp { "tcp" } else { "shm" });
    }
    let called = Instant::now();
    for (child, _) in group.iter_mut().zip(roles).filter(|(_, role)| !role.is_empty()) {
        child.tell("go");
    }
    let present = group.iter().zip(roles).filter(|(_, role)| !role.is_empty());
    let ends: Vec<String> = present.map(|(child, _)| child.hear("ended")).collect();
    assert!(called.elapsed() < Duration::from_secs(1), "{roles:?} {:?}", called.elapsed());
    for (child, role) in group.iter_mut().zip(roles) {
        child.tell("go");
        if !role.is_empty() {
            child.hear("over");
        }
    }
    ends
}

#[test]
fn coll_5_every_difference_is_named_on_every_rank_within_a_second() {
    for (most, odd, most_text, odd_text) in CASES {
        for (world, tcp) in [(2, false), (2, true), (3, false), (3, true), (4, false), (4, true)] {
            let mut roles = vec![most; world];
            roles[world - 1] = odd;
            let culprit = if world == 2 { "None".to_owned() } else { format!("Some({})", world - 1) };
            for (rank, end) in ends(&roles, tcp).iter().enumerate() {
                if most.starts_with("broadcast") && tcp && world > 2 {
                    // Receivers are done before others have compared, so they may be named with what they call next.
                    assert!(end.contains(odd_text), "{roles:?}: {end}");
                    continue;
                }
                assert!(end.contains(most_text) && end.contains(odd_text), "{roles:?}, tcp {tcp}: {end}");
                let odd = if rank == world - 1 { "this rank".to_owned() } else { format!("rank {}", world - 1) };
                assert!(end.contains(&odd), "{roles:?}, tcp {tcp}: {end}");
                assert!(end.starts_with(&culprit), "{roles:?}, tcp {tcp}: {end}");
            }
        }
    }
}

#[test]
fn coll_5_roots_in_a_circle_are_found_although_nobody_hears_from_whom_it_waits_for() {
    for tcp in [false, true] {
        for end in ends(&["broadcast 1", "broadcast 2", "broadcast 0"], tcp) {
            assert!(end.starts_with("None") && end.matches("broadcast(5 f32, root").count() >= 2, "tcp {tcp}: {end}");
        }
    }
}

#[test]
fn coll_5_a_rank_that_stays_away_does_not_keep_two_that_differ_waiting() {
    for tcp in [false, true] {
        for end in ends(&["barrier", "broadcast 0", ""], tcp) {
            assert!(end.contains("barrier()") && end.contains("broadcast(5 f32, root 0)"), "tcp {tcp}: {end}");
        }
    }
}
