//! The NCCL backend over cudarc, on a stand-in for the libraries: the whole path of a call, deaths, aborts and
//! absences.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use collectives::nccl::{self, Limits, connect_over_with};
use collectives::{BufMut, Communicator, Error, Op, State};
use support::processes::{Child, Setting, join, read, say, start};
use support::standin::libraries;
use support::{PATIENCE, exact};

const LIMITS: Limits = Limits { timeout: PATIENCE, op_timeout: PATIENCE };

fn over(guard: &Arc<dyn Communicator>, limits: Limits) -> Arc<nccl::Communicator> {
    connect_over_with(Arc::clone(guard), guard.rank() as usize, limits).unwrap()
}

/// What each child does; in the parent, nothing.
#[test]
fn rank_of_a_group() {
    let Some((role, guard)) = join(PATIENCE) else { return };
    match role.as_str() {
        "results" => results(&guard),
        "available" => say(&match nccl::available() {
            Ok(info) => format!("available {} {:?}", info.devices.len(), info.version),
            Err(error) => format!("available {error}"),
        }),
        "fall back" => {
            let error = connect_over_with(Arc::clone(&guard), 0, LIMITS).map(drop).unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }), "{error}");
            guard.barrier().unwrap();
            say(&format!("unavailable {error}"));
        }
        "join in time" => {
            let limits = Limits { timeout: Duration::from_millis(800), ..LIMITS };
            let error = connect_over_with(Arc::clone(&guard), guard.rank() as usize, limits).map(drop).unwrap_err();
            assert!(matches!(guard.barrier(), Err(Error::Aborted { .. })));
            say(&format!("ended {:?} {error}", error.culprit()));
            read();
        }
        "leave first" => leave_first(&guard),
        "history" => history(&guard),
        "stall" => stall(&guard),
        "mismatch" => mismatch(&guard),
        "fail" => fail(&guard),
        "refused" => {
            let error = connect_over_with(Arc::clone(&guard), 0, LIMITS).map(drop).unwrap_err();
            // Nobody can go on with it: the ranks may have heard at different times.
            assert!(matches!(guard.barrier(), Err(Error::Aborted { .. })));
            say(&format!("refused {error}"));
        }
        "wait for the last" => wait_for_the_last(&guard, LIMITS),
        "time limit" => wait_for_the_last(&guard, Limits { op_timeout: Duration::from_millis(300), ..LIMITS }),
        role => panic!("{role}"),
    }
}

/// All ranks but the last enter an operation; the last one waits for its orders.
fn wait_for_the_last(guard: &Arc<dyn Communicator>, limits: Limits) {
    let comm = &*over(guard, limits);
    sum(comm).unwrap();
    say("together");
    let last = comm.rank() + 1 == comm.world_size();
    if last && read() == "abort" {
        comm.abort("operator said so");
    }
    // The last rank only looks; it sees what the others have come to.
    let error = if last {
        loop {
            if let Err(error) = comm.check() {
                break error;
            }
            std::thread::yield_now();
        }
    } else {
        sum(comm).unwrap_err()
    };
    let kind = if matches!(error, Error::Timeout { .. }) { "timeout" } else { "aborted" };
    say(&format!("ended {kind} {:?} {error}", error.culprit()));
    // COLL-6.
    assert!(matches!(comm.barrier(), Err(Error::Aborted { .. })));
    assert!(comm.check().is_err());
    // Keeps its handle, so that the others can only come free by themselves.
    read();
}

fn sum(comm: &nccl::Communicator) -> Result<(), Error> {
    let mut buffer = vec![1f32; 10_000];
    comm.all_reduce(BufMut::from(&mut buffer), Op::Sum)?;
    assert!(buffer.iter().all(|value| *value == comm.world_size() as f32));
    Ok(())
}

fn results(guard: &Arc<dyn Communicator>) {
    let comm = over(guard, LIMITS);
    assert_eq!((comm.backend(), comm.world_size()), ("nccl", guard.world_size()));
    for count in [0, 1, 20_011] {
        exact::all(&comm, count).unwrap();
    }
    comm.barrier().unwrap();
    comm.check().unwrap();
    drop(comm);
    guard.barrier().unwrap();
    say("done");
}

/// Rank 0, which the stand-in's hub lives with, ends as soon as it can.
fn leave_first(guard: &Arc<dyn Communicator>) {
    let comm = over(guard, LIMITS);
    let mut buffer = vec![1f32; 4_000_000];
    let summed = comm.all_reduce(BufMut::from(&mut buffer), Op::Sum);
    if comm.rank() > 0 {
        say(&format!("done {summed:?}"));
    }
}

/// What the recorder has of each operation, without its times.
fn history(guard: &Arc<dyn Communicator>) {
    let comm = over(guard, LIMITS);
    sum(&comm).unwrap();
    comm.broadcast(BufMut::from(&mut [1f64; 3][..]), 1).unwrap();
    comm.barrier().unwrap();
    for entry in comm.history() {
        assert!(entry.ended_ns.unwrap() >= entry.entered_ns);
        let line = entry.to_string();
        let (start, rest) = line.split_once(r#","entered_ns""#).unwrap();
        say(&format!("{start} {}", rest.split_once(r#","state""#).unwrap().1));
    }
    assert!(guard.history().iter().all(|entry| entry.transport != collectives::Transport::Nccl));
}

/// As in `tests/stall.rs`: the last rank stops itself, or its process, or only does not come.
fn stall(guard: &Arc<dyn Communicator>) {
    let comm = over(guard, LIMITS);
    comm.watch_stalls(
        Duration::from_millis(600),
        Box::new(|stall| {
            let behind: Vec<_> = stall.behind.iter().map(|behind| (behind.rank, behind.sequence)).collect();
            say(&format!("stall {} {} {behind:?}", stall.operation.kind, stall.operation.sequence));
        }),
    );
    sum(&comm).unwrap();
    // Whoever has ended a broadcast cannot know that others have entered it.
    comm.broadcast(BufMut::from(&mut [1f32; 3][..]), 0).unwrap();
    say(&format!("together {}", std::process::id()));
    read();
    sum(&comm).unwrap();
    say("done");
    read();
}

fn mismatch(guard: &Arc<dyn Communicator>) {
    let comm = over(guard, LIMITS);
    sum(&comm).unwrap();
    let mut buffer = vec![1f32; 10 + usize::from(comm.rank() == 2)];
    let error = comm.all_reduce(BufMut::from(&mut buffer), Op::Sum).unwrap_err();
    let kind = if matches!(error, Error::Mismatch { .. }) { "mismatch" } else { "aborted" };
    say(&format!("ended {kind} {:?} {error}", error.culprit()));
    assert!(matches!(comm.barrier(), Err(Error::Aborted { .. })));
    read();
}

fn fail(guard: &Arc<dyn Communicator>) {
    let comm = over(guard, LIMITS);
    sum(&comm).unwrap();
    let error = sum(&comm).unwrap_err();
    assert_eq!(comm.history().last().unwrap().state, State::Failed);
    say(&format!("ended {:?} {error}", error.culprit()));
    read();
}

fn group(world: usize, role: &str) -> Vec<Child> {
    start(world, Setting { role, libraries: &[&libraries().both], ..Setting::default() })
}

#[test]
fn all_operations_and_types_over_two_and_three_ranks() {
    for world in [2, 3] {
        for child in group(world, "results") {
            child.hear("done");
        }
    }
}

#[test]
fn a_rank_that_ends_with_its_last_operation_takes_it_from_no_other() {
    // Who is taken from comes late only now and then.
    for _ in 0..4 {
        for child in &group(3, "leave first")[1..] {
            assert_eq!(child.hear("done"), "Ok(())");
        }
    }
}

#[test]
fn the_versioned_name_is_found_and_what_is_missing_is_named() {
    let say = |path: &Path, role| start(1, Setting { role, libraries: &[path], ..Setting::default() })[0].hear(role);
    assert_eq!(say(&libraries().both, "available"), "3 (2, 27, 3)");
    let text = say(&libraries().driver_only, "available");
    assert!(text.contains("libnccl.so.2") && text.contains("unavailable"), "{text}");
    let text = say(&libraries().broken, "available");
    assert!(text.contains("ncclGetVersion"), "{text}");
    let text = say(&libraries().lacking, "available");
    assert!(text.contains("ncclCommFinalize") && text.contains("unavailable"), "{text}");
}

#[test]
fn a_library_without_one_function_sends_all_back_to_tcp() {
    let folders: [&Path; 2] = [&libraries().both, &libraries().lacking];
    let group = start(2, Setting { role: "fall back", libraries: &folders, ..Setting::default() });
    assert!(group[0].hear("unavailable").contains("another rank"));
    assert!(group[1].hear("unavailable").contains("ncclCommFinalize"));
}

#[test]
fn one_rank_without_the_library_sends_all_back_to_tcp() {
    let folders: [&Path; 2] = [&libraries().both, &libraries().driver_only];
    let group = start(2, Setting { role: "fall back", libraries: &folders, ..Setting::default() });
    assert!(group[0].hear("unavailable").contains("another rank"));
    assert!(group[1].hear("unavailable").contains("libnccl.so.2"));
}

#[test]
fn two_ranks_on_one_device_both_hear_why_nccl_refuses_them() {
    let started = Instant::now();
    for child in group(2, "refused") {
        let text = child.hear("refused");
        assert!(text.contains("joining the group") && text.contains("Duplicate GPU detected"), "{text}");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// Kills or orders the last of three ranks and hears what the others have come to.
fn last_of_three(variables: &[(&str, &str)], role: &str, last: impl FnOnce(&mut Child)) -> Vec<String> {
    let mut group = start(3, Setting { role, libraries: &[&libraries().both], variables });
    for child in &group {
        child.hear("together");
    }
    let started = Instant::now();
    last(&mut group[2]);
    let ends = group[..2].iter().map(|child| child.hear("ended")).collect();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    ends
}

#[test]
fn coll_4_a_killed_rank_is_noticed_within_a_second_and_blamed() {
    for end in last_of_three(&[("STANDIN_SILENT", "1")], "wait for the last", Child::kill) {
        assert!(end.starts_with("aborted Some(2)"), "{end}");
    }
}

#[test]
fn coll_4_an_error_of_nccl_is_explained_by_the_death_behind_it() {
    for end in last_of_three(&[], "wait for the last", Child::kill) {
        assert!(end.starts_with("aborted Some(2)") && !end.contains("code"), "{end}");
    }
}

#[test]
fn coll_4_the_watchdog_frees_a_thread_that_nccl_does_not_give_back() {
    let blocks = [("STANDIN_BLOCKS", "1"), ("STANDIN_SILENT", "1")];
    for end in last_of_three(&blocks, "wait for the last", |child| child.tell("abort")) {
        assert!(end.starts_with("aborted Some(2)") && end.contains("operator said so"), "{end}");
    }
    for end in last_of_three(&blocks, "wait for the last", Child::kill) {
        assert!(end.starts_with("aborted Some(2)"), "{end}");
    }
}

#[test]
fn abort_reaches_all_ranks_with_its_cause() {
    for end in last_of_three(&[], "wait for the last", |child| child.tell("abort")) {
        assert!(end.starts_with("aborted Some(2)") && end.contains("operator said so"), "{end}");
    }
}

#[test]
fn the_time_limit_ends_the_operation_on_all_ranks_and_blames_nobody() {
    let mut group = group(3, "time limit");
    for child in &group {
        child.hear("together");
    }
    group[2].tell("look");
    let ends: Vec<_> = group.iter().map(|child| child.hear("ended")).collect();
    assert!(ends.iter().all(|end| end.contains("None")), "{ends:?}");
    // The first to run out of time tells the others; both may run out at once.
    assert!(ends[..2].iter().any(|end| end.starts_with("timeout")), "{ends:?}");
    assert!(ends[2].starts_with("aborted"), "{ends:?}");
}

#[test]
fn every_operation_is_recorded() {
    for child in group(2, "history") {
        let entry = |at: u32, kind: &str, dtype: &str, op: &str, root: &str, elements: u32| {
            let what = format!(r#""kind":"{kind}","dtype":{dtype},"op":{op},"root":{root},"elements":{elements}"#);
            let start = format!(r#"{{"sequence":{at},{what},"transport":"nccl","method":"nccl""#);
            assert_eq!(child.hear(""), format!(r#"{start} :"done","waiting_for":null}}"#));
        };
        entry(1, "all_reduce", r#""f32""#, r#""sum""#, "null", 10_000);
        entry(2, "broadcast", r#""f64""#, "null", "1", 3);
        entry(3, "barrier", "null", "null", "null", 0);
    }
}

/// Three ranks of which the last is late for the third operation, until it is told to go on. It answers where it is, if it can;
/// else the others only know that it was in the first.
fn late(stopped: bool) {
    let mut group = group(3, "stall");
    let process = |child: &Child| rustix::process::Pid::from_raw(child.hear("together").parse().unwrap()).unwrap();
    let processes: Vec<_> = group.iter().map(process).collect();
    let last = processes[2];
    let signal = |signal| rustix::process::kill_process(last, signal).unwrap();
    if stopped {
        signal(rustix::process::Signal::STOP);
    }
    group[..2].iter_mut().for_each(|child| child.tell("go"));
    for child in &group[..2] {
        let expected = if stopped { "all_reduce 3 [(2, 1)]" } else { "all_reduce 3 [(2, 2)]" };
        assert_eq!(child.hear("stall"), expected);
    }
    if stopped {
        signal(rustix::process::Signal::CONT);
    }
    group[2].tell("go");
    for child in &group[..2] {
        let mut line = child.hear("");
        // One that is awake again may first be seen to be there and behind.
        while line.starts_with("stall all_reduce 3 [(2") {
            line = child.hear("");
        }
        let mut lines = [line, child.hear("")];
        // They come from two threads.
        lines.sort();
        assert_eq!(lines, ["done", "stall all_reduce 3 []"]);
    }
    group[2].hear("done");
}

#[test]
fn a_rank_that_does_not_come_is_named_with_where_it_is() {
    late(false);
}

#[test]
fn a_rank_that_is_stopped_whole_is_named_too() {
    late(true);
}

#[test]
fn coll_5_calls_that_differ_are_found_where_nccl_waits_for_ever() {
    let ends: Vec<_> = group(3, "mismatch").iter().map(|child| child.hear("ended")).collect();
    for end in &ends {
        assert!(end.contains("Some(2)"), "{ends:?}");
        assert!(end.contains("all_reduce(sum, 10 f32)") && end.contains("all_reduce(sum, 11 f32)"), "{ends:?}");
    }
    assert!(ends[2].starts_with("mismatch") && ends[..2].iter().any(|end| end.starts_with("mismatch")), "{ends:?}");
}

#[test]
fn an_asynchronous_error_in_the_middle_ends_all_and_blames_its_rank() {
    let variables = [("STANDIN_FAILS", "1:2"), ("STANDIN_SILENT", "1")];
    let setting = Setting { role: "fail", libraries: &[&libraries().both], variables: &variables };
    let group = start(3, setting);
    for (rank, child) in group.iter().enumerate() {
        let end = child.hear("ended");
        assert!(end.contains("code 3") && end.contains("all_reduce(sum, 10000 f32)"), "{end}");
        assert!(end.starts_with(if rank == 1 { "None" } else { "Some(1)" }), "{end}");
    }
}

#[test]
fn a_join_that_hangs_ends_by_its_time_limit_on_all_ranks() {
    for variable in ["STANDIN_JOIN_HANGS", "STANDIN_JOIN_BLOCKS"] {
        let setting = Setting { role: "join in time", libraries: &[&libraries().both], variables: &[(variable, "1")] };
        for child in start(3, setting) {
            let end = child.hear("ended");
            assert!(end.starts_with("None") && end.contains("joining the group"), "{variable}: {end}");
        }
    }
}
