//! A rank that hangs without dying is named by those that wait for it, long before the time limit: real processes over both
//! transports, of which one stops itself with SIGSTOP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use collectives::{BufMut, Op};
use support::PATIENCE;
use support::processes::{Setting, join, read, say, start};

const AFTER: Duration = Duration::from_millis(300);

/// What each child does; in the parent, nothing. The role is the number of elements.
#[test]
fn rank_of_a_group() {
    let Some((role, comm)) = join(PATIENCE) else { return };
    comm.watch_stalls(
        AFTER,
        Box::new(|stall| {
            let behind: Vec<_> = stall.behind.iter().map(|behind| (behind.rank, behind.sequence)).collect();
            let operation = (stall.operation.kind, stall.operation.sequence, stall.operation.elements);
            say(&format!("stall {operation:?} {behind:?}"));
        }),
    );
    let mut buffer = vec![1f32; role.parse().unwrap()];
    comm.all_reduce(BufMut::from(&mut buffer), Op::Sum).unwrap();
    say(&format!("together {} {}", comm.backend(), std::process::id()));
    read();
    if comm.rank() == 2 {
        // To this thread, which so does not come past it: sent to the process, another one might take it, later.
        // SAFETY: no more than a signal.
        assert_eq!(unsafe { libc::raise(libc::SIGSTOP) }, 0);
    }
    comm.all_reduce(BufMut::from(&mut buffer), Op::Sum).unwrap();
    say("done");
    read();
}

#[test]
fn a_stopped_rank_is_named_by_all_others_once_and_again_when_it_goes_on() {
    for (tcp, elements) in [(false, "9"), (true, "9"), (false, "700000"), (true, "700000")] {
        let variables = if tcp { &[("COLLECTIVES_TCP", "1")][..] } else { &[] };
        let mut group = start(4, Setting { role: elements, variables, ..Setting::default() });
        let mut processes = Vec::new();
        for child in &group {
            let together = child.hear("together");
            let (backend, process) = together.split_once(' ').unwrap();
            assert_eq!(backend, if tcp { "tcp" } else { "shm" });
            processes.push(process.parse::<i32>().unwrap());
        }
        for child in &mut group {
            child.tell("go");
        }
        for rank in [0, 1, 3] {
            let expected = format!("(\"all_reduce\", 2, {elements}) [(2, 1)]");
            assert_eq!(group[rank].hear("stall"), expected, "rank {rank}, tcp {tcp}");
        }
        let stopped = rustix::process::Pid::from_raw(processes[2]).unwrap();
        rustix::process::kill_process(stopped, rustix::process::Signal::CONT).unwrap();
        for rank in [0, 1, 3] {
            assert_eq!(group[rank].hear("stall"), format!("(\"all_reduce\", 2, {elements}) []"), "rank {rank}");
            group[rank].hear("done");
        }
        group[2].hear("done");
    }
}
