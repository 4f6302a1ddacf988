//! The short form of the fault matrix: one cluster under load, one fault each of five kinds, all checks.
//!
//! The long form, row by row: `docs/reliability.md`.

#![allow(clippy::unwrap_used)]

use clap::Parser;
use cluster_tests::matrix::{self, Options};
use std::path::Path;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_over_mixed_faults_under_load() {
    let arguments = ["matrix", "--row", "26", "--count", "5", "--workers", "4"];
    let mut options = Arguments::try_parse_from(arguments).unwrap().options;
    options.muster = Some(env!("CARGO_BIN_EXE_muster-under-test").into());
    let results = matrix::run(&options, Path::new(env!("CARGO_BIN_EXE_matrix"))).await.unwrap();
    assert!(results.iter().all(matrix::Line::is_good), "{:?}", results[0].violations());
    println!("{}", matrix::text(&results));
}
