//! The short form of the simulation: a deliberate fault must be found.
//!
//! What it covers, and the long form: `docs/reliability.md`.

#![allow(clippy::unwrap_used)]

use clap::Parser;
use cluster_tests::sim::{Options, Summary, run_all};
use std::path::Path;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn simulate(arguments: &str) -> Summary {
    let arguments = std::iter::once("sim").chain(arguments.split(' '));
    let options = Arguments::try_parse_from(arguments).unwrap().options;
    run_all(Path::new(env!("CARGO_BIN_EXE_sim")), &options).unwrap()
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
