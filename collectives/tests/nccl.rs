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
use collectives::{Buf, BufMut, Communicator, DType, Element, Error, Op};
use half::{bf16, f16};
use support::PATIENCE;
use support::processes::{Child, Setting, join, read, say, start};

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
    connect_over_with(Arc::clone(guard), guard.rank() as usize % 2, limits).unwrap()
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

/// Small whole numbers: exact in every type and in every order of summation.
trait Small: Element + PartialEq + std::fmt::Debug {
    fn of(value: i32) -> Self;
}
macro_rules! small {
    ($($type:ty: $of:expr),*) => { $(impl Small for $type { fn of(value: i32) -> Self { $of(value) } })* };
}
small!(f32: |v| v as f32, f64: f64::from, i32: |v| v, i64: i64::from,
    f16: |v| f16::from_f32(v as f32), bf16: |v| bf16::from_f32(v as f32));

fn value(rank: u32, at: usize) -> i32 {
    // Multiples of six, so that averages over two and three ranks are whole.
    6 * ((at as i32 + 3 * rank as i32) % 7 - 2)
}

fn expected(op: Op, world: u32, at: usize) -> i32 {
    let values = (0..world).map(|rank| value(rank, at));
    match op {
        Op::Sum => values.sum(),
        Op::Avg => values.sum::<i32>() / world as i32,
        Op::Min => values.min().unwrap(),
        Op::Max => values.max().unwrap(),
    }
}

fn vector<T: Small>(count: usize, value: impl Fn(usize) -> i32) -> Vec<T> {
    (0..count).map(|at| T::of(value(at))).collect()
}

fn host<T: Small>(comm: &nccl::Communicator, count: usize) {
    let (rank, world) = (comm.rank(), comm.world_size());
    let whole = count * world as usize;
    for op in Op::ALL {
        let mut buffer: Vec<T> = vector(count, |at| value(rank, at));
        comm.all_reduce(BufMut::from(&mut buffer), op).unwrap();
        assert_eq!(buffer, vector(count, |at| expected(op, world, at)), "all_reduce {op} {}", T::DTYPE);
        let source: Vec<T> = vector(whole, |at| value(rank, at));
        let mut part = vec![T::default(); count];
        comm.reduce_scatter(Buf::from(&source), BufMut::from(&mut part), op).unwrap();
        let start = rank as usize * count;
        assert_eq!(part, vector(count, |at| expected(op, world, start + at)), "reduce_scatter {op} {}", T::DTYPE);
    }
    let mine: Vec<T> = vector(count, |at| value(rank, at));
    let mut all = vec![T::default(); whole];
    comm.all_gather(Buf::from(&mine), BufMut::from(&mut all)).unwrap();
    assert_eq!(all, vector(whole, |at| value((at / count.max(1)) as u32, at % count.max(1))));
    let mut copy = mine;
    comm.broadcast(BufMut::from(&mut copy), world - 1).unwrap();
    assert_eq!(copy, vector(count, |at| value(world - 1, at)));
}

fn device(comm: &nccl::Communicator) {
    let (rank, world, stream) = (comm.rank(), comm.world_size(), comm.stream());
    let mine: Vec<f32> = vector(1000, |at| value(rank, at));
    let sums: Vec<f32> = vector(1000, |at| expected(Op::Sum, world, at));
    let mut buckets: Vec<_> = (0..3).map(|_| stream.clone_htod(&mine).unwrap()).collect();
    comm.all_reduce_many_device(&mut buckets, Op::Sum).unwrap();
    for bucket in &mut buckets {
        assert_eq!(stream.clone_dtoh(bucket).unwrap(), sums);
        comm.broadcast_device(bucket, 0).unwrap();
    }
    let mut one = stream.clone_htod(&mine).unwrap();
    comm.all_reduce_device(&mut one, Op::Sum).unwrap();
    assert_eq!(stream.clone_dtoh(&one).unwrap(), sums);
    let mut gathered = stream.alloc_zeros::<f32>(1000 * world as usize).unwrap();
    comm.all_gather_device(&one, &mut gathered).unwrap();
    comm.reduce_scatter_device(&gathered, &mut one, Op::Max).unwrap();
    assert_eq!(stream.clone_dtoh(&one).unwrap(), sums);
    assert!(matches!(comm.all_gather_device(&gathered, &mut one), Err(Error::Invalid { .. })));
}

fn results(guard: &Arc<dyn Communicator>) {
    let comm = over(guard, LIMITS);
    assert_eq!((comm.backend(), comm.world_size()), ("nccl", guard.world_size()));
    for count in [0, 1, 20_011] {
        for dtype in DType::ALL {
            match dtype {
                DType::F32 => host::<f32>(&comm, count),
                DType::F64 => host::<f64>(&comm, count),
                DType::F16 => host::<f16>(&comm, count),
                DType::BF16 => host::<bf16>(&comm, count),
                DType::I32 => host::<i32>(&comm, count),
                DType::I64 => host::<i64>(&comm, count),
            }
        }
    }
    device(&comm);
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
    assert_eq!(say(&libraries().both, "available"), "2 (2, 27, 3)");
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
