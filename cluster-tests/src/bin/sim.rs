//! Simulates the control plane from seeds: one seed in this process, or many in processes of their own.
//!
//! The random bytes of this process follow from the seed, so that hash orders, tokio's choices among ready branches and every
//! library's own chance do too. That is done at the one place that all of them ask: the C library's `getrandom`, which this
//! program brings itself.

use clap::Parser;
use cluster_tests::sim::{Chance, Options, Report, Scratch, guarded, run_all, self_test};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Every deliberate fault, one after the other, over these seeds: each must be found
    #[arg(long)]
    self_test: bool,
    /// Prints the report of one seed as JSON
    #[arg(long, hide = true)]
    json: bool,
}

/// None: before the seed is known, every byte is the same.
static RANDOM: Mutex<Option<Chance>> = Mutex::new(None);

/// In place of the C library's.
///
/// # Safety
///
/// `bytes` must be valid for `count` bytes, as for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(bytes: *mut u8, count: usize, _flags: u32) -> isize {
    if count > 0 {
        // SAFETY: the caller says so.
        let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, count) };
        let mut random = RANDOM.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            *byte = random.as_mut().map_or(0x5a, |chance| chance.draw() as u8);
        }
    }
    count as isize
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { options, self_test: is_self_test, json } = Arguments::parse();
    let began = Instant::now();
    if is_self_test {
        let all = self_test(&std::env::current_exe()?, &options)?;
        return Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if options.seeds > 1 || (options.seed.is_multiple_of(20) && !json && !options.print) {
        let summary = run_all(&std::env::current_exe()?, &options)?;
        summary.print(&options, began);
        return Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let report = one(&options)?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(ExitCode::SUCCESS);
    }
    for what in &report.violations {
        println!("VIOLATION {what}");
    }
    if !report.violations.is_empty() && !options.print {
        println!("its last events:");
        report.last.iter().for_each(|event| println!("  {event}"));
    }
    let (hash, events, seconds) = (report.hash, report.events, began.elapsed().as_secs_f64());
    let virtual_seconds = report.virtual_ms as f64 / 1_000.0;
    println!(
        "seed {}: trace {hash:016x} of {events} events, {virtual_seconds:.1} virtual s in {seconds:.1} s, {:?}",
        options.seed, report.counts
    );
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one(options: &Options) -> anyhow::Result<Report> {
    let (plan, scratch) = (options.plan(), Scratch::begin()?);
    *RANDOM.lock().unwrap_or_else(PoisonError::into_inner) = Some(Chance::new(plan.seed, "process"));
    guarded(plan, scratch.folder().to_owned(), options.wall())
}
