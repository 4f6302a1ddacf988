//! The NCCL backend over cudarc, on a stand-in for the libraries: the whole path of a call, deaths, aborts and
//! absences.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

mod support;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use collectives::nccl::{self, Limits, connect_over_with};
use collectives::{BufMut, Communicator, Error, Op};
use support::processes::{Child, Setting, join, read, say, start};
use support::{PATIENCE, exact};

/// Folders to look for libraries in.
struct Libraries {
    /// Driver and NCCL.
    both: PathBuf,
    driver_only: PathBuf,
    /// The driver, and a library of NCCL's name with other functions.
    broken: PathBuf,
}

/// Builds the stand-in once per process.
fn libraries() -> &'static Libraries {
    static LIBRARIES: OnceLock<(tempfile::TempDir, Libraries)> = OnceLock::new();
    let build = || {
        let root = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/lib.rs");
        let library = root.path().join("libstandin.so");
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "standin", "-o"]);
        assert!(rustc.arg(&library).arg(&source).status().unwrap().success());
        let folder = |name: &str, links: &[(&Path, &str)]| {
            let folder = root.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            for (target, link) in links {
                symlink(target, folder.join(link)).unwrap();
            }
            folder
        };
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.split_whitespace().find(|word| word.contains("/libc.so")).unwrap();
        let (cuda, nccl) = ("libcuda.so.1", "libnccl.so.2");
        let libraries = Libraries {
            both: folder("both", &[(&library, cuda), (&library, nccl)]),
            driver_only: folder("driver", &[(&library, cuda)]),
            broken: folder("broken", &[(&library, cuda), (Path::new(libc), nccl)]),
        };
        (root, libraries)
    };
    &LIBRARIES.get_or_init(build).1
}

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
fn the_versioned_name_is_found_and_what_is_missing_is_named() {
    let say = |path: &Path, role| start(1, Setting { role, libraries: &[path], ..Setting::default() })[0].hear(role);
    assert_eq!(say(&libraries().both, "available"), "3 (2, 27, 3)");
    let text = say(&libraries().driver_only, "available");
    assert!(text.contains("libnccl.so.2") && text.contains("unavailable"), "{text}");
    let text = say(&libraries().broken, "available");
    assert!(text.contains("ncclGetVersion"), "{text}");
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
