//! The fault matrix with real processes: a cluster under load, faults by a seeded plan, and the invariants after each run.
//!
//! ```text
//!  rows ──> run ── Cluster (3 coordinators, 6 workers; hosts of their own where a row cuts links)
//!                ├─ load      clients that submit, cancel, read, write, watch; gangs whose ranks bear witness and print
//!                ├─ strikes   one fault after the other, each followed by a whole cluster
//!                └─ checks    I1 I2 I5 I6 I9 I10 I11 I12 I13, over the clients' history, the ranks' records, all coordinators
//! ```
//!
//! What is done when follows from the seed; what real processes make of it does not, so a seed that failed may pass again. What
//! failed is therefore kept: history, data directories, logs. `docs/reliability.md` has the table of all rows.

mod checks;
mod history;
mod load;
mod rows;
mod run;
mod strikes;
pub mod witness;

use crate::bench::{Table, Times, ms};
use anyhow::Context as _;
use checks::Counts;
use rows::{ROWS, Row, Run};
use run::{Outcome, Setup};
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strikes::Strike;
use tokio::time::Instant;

/// What is run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rows to run; every row that this program runs when left out
    #[arg(long = "row", value_name = "N")]
    pub rows: Vec<u8>,
    /// Faults of each row; each has its own usual number
    #[arg(long, value_name = "N")]
    pub count: Option<usize>,
    /// Seed of the first run; the next run has the next one
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The program under test; when left out, `muster` beside this one
    #[arg(long, value_name = "FILE")]
    pub muster: Option<PathBuf>,
    /// Folder for clusters, and for what is kept of those that failed
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Workers of each cluster
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub workers: usize,
    /// Lists the rows and runs none
    #[arg(long)]
    pub list: bool,
}

/// What came of one row: a line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    row: Row,
    strike: Strike,
    runs: usize,
    whole: Outcome,
    seconds: f64,
}

/// The rows as a table, and who runs each.
pub fn list() -> String {
    let mut table = Table::new("The fault matrix", &["row", "fault", "run by"]);
    for Row { number, fault, run } in ROWS {
        let by = match run {
            Run::Here(strike) => format!("matrix --row {number} ({} faults)", strike.usual()),
            Run::Elsewhere(by) => by.to_owned(),
        };
        table.row([number.to_string(), fault.to_owned(), by]);
    }
    table.text()
}

/// Runs the rows; `program` is this one, which ranks run too. Tells what fails as soon as it does.
pub async fn run(options: &Options, program: &Path) -> anyhow::Result<Vec<Line>> {
    let beside = || program.parent().map(|folder| folder.join("muster")).unwrap_or_default();
    let setup = Setup {
        muster: options.muster.clone().unwrap_or_else(beside),
        witness: program.to_owned(),
        folder: options.dir.clone().unwrap_or_else(std::env::temp_dir),
        workers: options.workers,
    };
    anyhow::ensure!(setup.muster.is_file(), "there is no program {}: --muster names one", setup.muster.display());
    std::fs::create_dir_all(&setup.folder)?;
    let mut results = Vec::new();
    for row in wanted(&options.rows)? {
        results.push(one_row(options, &setup, row).await?);
    }
    Ok(results)
}

fn wanted(numbers: &[u8]) -> anyhow::Result<Vec<(Row, Strike)>> {
    let here = |row: &Row| match row.run {
        Run::Here(strike) => Some((*row, strike)),
        Run::Elsewhere(_) => None,
    };
    if numbers.is_empty() {
        return Ok(ROWS.iter().filter_map(here).collect());
    }
    let find = |number: &u8| {
        let row = ROWS.iter().find(|row| row.number == *number).with_context(|| format!("there is no row {number}"))?;
        let by = if let Run::Elsewhere(by) = row.run { by } else { "" };
        here(row).with_context(|| format!("row {number} is run by `{by}`"))
    };
    numbers.iter().map(find).collect()
}

async fn one_row(options: &Options, setup: &Setup, (row, strike): (Row, Strike)) -> anyhow::Result<Line> {
    let count = options.count.unwrap_or(strike.usual());
    let begun = Instant::now();
    let (mut whole, mut runs, mut seed) = (Outcome::default(), 0, options.seed);
    while whole.faults < count {
        let faults = strike.in_a_run().min(count - whole.faults);
        let outcome = run::run(setup, strike, faults, seed).await?;
        for violation in &outcome.violations {
            eprintln!("VIOLATION in row {}, seed {seed}: {violation}", row.number);
        }
        if let Some(kept) = &outcome.kept {
            eprintln!("kept in {}; again: matrix --row {} --seed {seed} --count {faults}", kept.display(), row.number);
        }
        runs += 1;
        seed += 1;
        whole.faults += outcome.faults.max(1);
        whole.times.extend(outcome.times);
        whole.violations.extend(outcome.violations);
        whole.counts.add(outcome.counts);
        eprintln!("row {}: {} of {count} faults, {} violations", row.number, whole.faults, whole.violations.len());
    }
    Ok(Line { row, strike, runs, whole, seconds: begun.elapsed().as_secs_f64() })
}

impl Line {
    /// Did everything hold?
    pub fn is_good(&self) -> bool {
        self.whole.violations.is_empty()
    }

    /// What did not hold.
    pub fn violations(&self) -> &[String] {
        &self.whole.violations
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let times = Times::of(self.whole.times.clone());
        let in_ms = |time: Duration| (!self.whole.times.is_empty()).then_some(time.as_secs_f64() * 1_000.0);
        let Counts { submits, operations, ranks, log_bytes } = self.whole.counts;
        json!({
            "row": self.row.number,
            "fault": self.row.fault,
            "runs": self.runs,
            "faults": self.whole.faults,
            "violations": self.whole.violations,
            "figure": self.strike.figure(),
            "figures": self.whole.times.len(),
            "p50_ms": in_ms(times.median()),
            "p99_ms": in_ms(times.per_mille(990)),
            "max_ms": in_ms(times.max()),
            "submits": submits,
            "operations": operations,
            "rank_attempts": ranks,
            "log_bytes": log_bytes,
            "seconds": self.seconds,
        })
    }
}

/// A line for each row, and what its figures are.
pub fn text(results: &[Line]) -> String {
    let columns = [
        "row",
        "fault",
        "runs",
        "faults",
        "violations",
        "p50 ms",
        "p99 ms",
        "max ms",
        "submits",
        "reads and writes",
        "log MB",
    ];
    let mut table = Table::new("The fault matrix", &columns);
    for Line { row, runs, whole, .. } in results {
        let times = Times::of(whole.times.clone());
        let told = |time| if whole.times.is_empty() { "-".to_owned() } else { ms(time) };
        let [p50, p99, max] = [times.median(), times.per_mille(990), times.max()].map(told);
        table.row([
            row.number.to_string(),
            row.fault.to_owned(),
            runs.to_string(),
            whole.faults.to_string(),
            whole.violations.len().to_string(),
            p50,
            p99,
            max,
            whole.counts.submits.to_string(),
            whole.counts.operations.to_string(),
            format!("{:.1}", whole.counts.log_bytes as f64 / 1e6),
        ]);
    }
    let mut text = table.text();
    for Line { row, strike, whole, seconds, .. } in results {
        let (number, figure, times) = (row.number, strike.figure(), whole.times.len());
        let _ = writeln!(text, "- row {number}: {figure}, {times} times; {seconds:.0} s in all");
    }
    text
}
