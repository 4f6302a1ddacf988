//! `cargo xtask verify`: runs every check, prints a line for each with its time, then all faults with their places.

use crate::checks::{ALL, Check, Context, Outcome};
use crate::fault::Fault;
use crate::tree;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Options of `cargo xtask verify`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Leaves out the last check, `cargo test`.
    #[arg(long)]
    no_tests: bool,
    /// Runs only this check; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(ALL.map(|check| check.name)))]
    only: Vec<String>,
}

/// Runs the chosen checks; exits with 1 on faults.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    run_checks(ALL.iter().filter(|check| is_chosen(arguments, check.name)))
}

fn is_chosen(arguments: &Arguments, name: &str) -> bool {
    let named = arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    named && !(arguments.no_tests && name == "tests")
}

/// Runs these checks one after another; a check that cannot run is a fault too.
pub fn run_checks<'a>(chosen: impl Iterator<Item = &'a Check>) -> anyhow::Result<ExitCode> {
    let context = Context::read(tree::find_root()?)?;
    let (mut run, mut faults) = (0, 0);
    for check in chosen {
        let started = Instant::now();
        let outcome = (check.run)(&context)
            .unwrap_or_else(|error| Outcome::from(vec![Fault::general(format!("cannot check: {error:#}"))]));
        report(check, &outcome, started.elapsed());
        run += 1;
        faults += outcome.faults.len();
    }
    match faults {
        0 => println!("{run} checks, no faults"),
        1 => println!("{run} checks, 1 fault"),
        _ => println!("{run} checks, {faults} faults"),
    }
    Ok(ExitCode::from(u8::from(faults > 0)))
}

fn report(check: &Check, outcome: &Outcome, took: Duration) {
    let verdict = match outcome.faults.len() {
        0 => "ok".to_owned(),
        1 => "1 fault".to_owned(),
        count => format!("{count} faults"),
    };
    println!("{:<10} {verdict:<12} {:>8.2} s  {}", check.name, took.as_secs_f64(), check.rule);
    for fault in &outcome.faults {
        println!("  {fault}");
    }
    for line in outcome.detail.lines() {
        println!("  | {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(no_tests: bool, only: &[&str]) -> Vec<&'static str> {
        let arguments = Arguments { no_tests, only: only.iter().map(|&name| name.to_owned()).collect() };
        ALL.iter().map(|check| check.name).filter(|name| is_chosen(&arguments, name)).collect()
    }

    #[test]
    fn all_checks_run_unless_told_otherwise() {
        assert_eq!(chosen(false, &[]).len(), ALL.len());
        assert_eq!(chosen(true, &[]).len(), ALL.len() - 1);
        assert_eq!(chosen(false, &["heads", "docs"]).len(), 2);
    }

    #[test]
    fn a_check_that_cannot_run_is_a_fault() {
        fn broken(_: &Context) -> anyhow::Result<Outcome> {
            anyhow::bail!("no cargo here")
        }
        let check = Check { name: "broken", rule: "", cost: crate::checks::Cost::Text, run: broken };
        let code = run_checks([&check].into_iter());
        assert!(code.is_ok_and(|code| format!("{code:?}") == format!("{:?}", ExitCode::from(1))));
    }
}
