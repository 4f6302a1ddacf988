//! Proves that the invariants find what they are there for: every deliberate fault, one after the other, until a seed shows it.

use super::Break;
use super::seeds::{Options, name, run_all};
use clap::ValueEnum;
use std::path::Path;
use std::time::Instant;

/// True when every fault was found within the seeds that the options name. Prints a line for each.
pub fn self_test(program: &Path, options: &Options) -> anyhow::Result<bool> {
    let mut all = true;
    for broken in Break::value_variants() {
        let options = Options { broken: Some(*broken), until_found: true, quiet: true, ..options.clone() };
        let began = Instant::now();
        let summary = run_all(program, &options)?;
        let told = if let Some((seed, what)) = summary.found(Some(*broken)) {
            format!("seed {seed}: {}", what.split("; ").next().unwrap_or_default())
        } else {
            all = false;
            format!("NOT FOUND in {} seeds", summary.seeds)
        };
        println!("{:<22} {:>6.1} s  {told}", name(*broken), began.elapsed().as_secs_f64());
    }
    Ok(all)
}
