//! The short form of the simulation: a clean seed, a deliberate fault that must be found, and that a simulation ends and leaves
//! nothing behind, whatever becomes of it.
//!
//! What it covers, and the long form: `docs/reliability.md`.

#![allow(clippy::unwrap_used)]

use clap::Parser;
use cluster_tests::sim::{Options, Summary, run_all};
use cluster_tests::{PATIENCE, until};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SIM: &str = env!("CARGO_BIN_EXE_sim");

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn simulate(arguments: &str) -> Summary {
    let arguments = std::iter::once("sim").chain(arguments.split(' '));
    let options = Arguments::try_parse_from(arguments).unwrap().options;
    run_all(Path::new(SIM), &options).unwrap()
}

fn is_found(broken: &str, invariant: &str) {
    let summary = simulate(&format!("--seed 1 --seeds 3 --seconds 5 --until-found --jobs 1 --break {broken}"));
    let found = summary.failed.iter().any(|(_, what)| what.contains(invariant));
    assert!(found, "{broken} in {} seeds: {:?}", summary.seeds, summary.failed);
}

#[test]
fn ranks_that_start_before_their_gang_is_prepared_are_found() {
    is_found("half-a-gang", "I3");
}

/// Power fails everywhere, a leader starts again at once, another loses its place with a plan on its way: it once found a read
/// that was too old, and a loop that never slept.
#[test]
fn seed_20_is_clean_and_repeats_exactly() {
    let summary = simulate("--seed 20 --seconds 3 --jobs 1");
    assert_eq!((summary.seeds, summary.repeated), (1, 1));
    assert_eq!(summary.failed, []);
}

#[test]
fn a_seed_that_does_not_end_is_given_up_with_its_place_and_its_last_events() {
    let ended = Command::new(SIM).args(["--seed", "1", "--wall", "1"]).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(!ended.status.success());
    assert!(text.contains("guard: seed 1 did not end within 1 s of wall time; its thread is in "), "{text}");
    assert!(text.contains("its last events:") && text.contains("seed 1: trace "), "{text}");
}

#[tokio::test]
async fn a_simulation_that_is_killed_leaves_no_files() {
    let mut killed = Command::new(SIM).args(["--seed", "1"]).stdout(Stdio::null()).spawn().unwrap();
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = parent.join(format!("muster-sim-{}", killed.id()));
    until("its files are there", PATIENCE, async || folder.join("1").is_dir().then_some(())).await.unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    until("its files are gone", PATIENCE, async || (!folder.exists()).then_some(())).await.unwrap();
}
