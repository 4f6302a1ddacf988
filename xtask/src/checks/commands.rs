//! The checks that are cargo's own: format, lints and tests, with their output cut down to places.

use super::{Context, Outcome};
use crate::fault::Fault;
use crate::process::{self, Finished};
use std::path::Path;

/// Lines of raw output that are shown when a failed command named no place.
const TAIL_LINES: usize = 40;

/// `cargo fmt` would change nothing.
pub fn format(context: &Context) -> anyhow::Result<Outcome> {
    let finished = process::cargo(&context.root, &["fmt", "--all", "--check"])?;
    let faults = unformatted(&context.root, &finished.stdout);
    Ok(outcome(&finished, faults, process::tail(&finished.stderr, TAIL_LINES)))
}

/// No lint warns, in tests and benchmarks neither. All crates are linted even when one fails.
pub fn clippy(context: &Context) -> anyhow::Result<Outcome> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "scheduler/measure,collectives/measure,stores/measure",
        "--locked",
        "--keep-going",
        "--message-format=short",
        "--",
        "-D",
        "warnings",
    ];
    let finished = process::cargo(&context.root, &arguments)?;
    let faults = process::compiler_faults(&context.root, &finished.stderr);
    Ok(outcome(&finished, faults, process::tail(&finished.stderr, TAIL_LINES)))
}

/// Every test passes; one that fails does not hide the others.
pub fn tests(context: &Context) -> anyhow::Result<Outcome> {
    let arguments = ["test", "--workspace", "--locked", "--no-fail-fast", "--message-format=short"];
    let finished = process::cargo(&context.root, &arguments)?;
    let mut faults = process::compiler_faults(&context.root, &finished.stderr);
    faults.retain(|fault| finished.success || fault.text.starts_with("error"));
    faults.extend(failed_tests(&finished.stdout));
    let printed = failure_output(&finished.stdout);
    if printed.is_empty() {
        return Ok(outcome(&finished, faults, process::tail(&finished.stderr, TAIL_LINES)));
    }
    Ok(Outcome { detail: printed, ..outcome(&finished, faults, String::new()) })
}

/// A command that succeeded has no faults; one that failed has at least one, and shows its output if it named no place.
fn outcome(finished: &Finished, mut faults: Vec<Fault>, detail: String) -> Outcome {
    if finished.success {
        return Outcome::default();
    }
    let has_places = faults.iter().all(|fault| !fault.path.is_empty()) && !faults.is_empty();
    if faults.is_empty() {
        faults.push(Fault::general("cargo failed"));
    }
    Outcome { faults, detail: if has_places { String::new() } else { detail } }
}

/// The places in lines like `Diff in /home/a/src/b.rs:12:`.
fn unformatted(root: &Path, output: &str) -> Vec<Fault> {
    let places = output.lines().filter_map(|line| line.strip_prefix("Diff in ")).filter_map(process::split_place);
    let fault = |(path, line)| Fault::at(process::from_root(root, path), line, "is not formatted: `cargo xtask fix`");
    places.map(fault).collect()
}

/// The names in lines like `test a::b ... FAILED`, each with the place of its panic if it printed one.
fn failed_tests(output: &str) -> Vec<Fault> {
    let failed = |line: &str| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        let (path, line) = panic_place(output, name).unwrap_or_default();
        Some(Fault::at(path, line, format!("test {name} failed")))
    };
    output.lines().filter_map(failed).collect()
}

/// Where the test panicked first: `thread 'a::b' (1) panicked at a/src/lib.rs:3:5:` below its own heading.
fn panic_place<'a>(output: &'a str, name: &str) -> Option<(&'a str, usize)> {
    let printed = output.split_once(&format!("---- {name} stdout ----\n"))?.1;
    let mut own = printed.lines().take_while(|line| !line.starts_with("---- ") && *line != "failures:");
    process::split_place(own.find_map(|line| line.split_once(" panicked at "))?.1)
}

/// What failed tests printed: everything between `failures:` and the list of names, for each test program.
fn failure_output(output: &str) -> String {
    let blocks = output.split("\nfailures:\n\n").skip(1).filter_map(|rest| rest.split("\nfailures:\n").next());
    let printed = blocks.filter(|block| block.starts_with("---- "));
    printed.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unformatted_places_are_found() {
        let output = "Diff in /w/a/src/b.rs:12:\n-x\n+y\nDiff in /w/a/src/c.rs:1:\n";
        let faults = unformatted(Path::new("/w"), output);
        let places: Vec<(&str, usize)> = faults.iter().map(|fault| (&*fault.path, fault.line)).collect();
        assert_eq!(places, [("a/src/b.rs", 12), ("a/src/c.rs", 1)]);
    }

    const FAILED: &str = "running 2 tests\ntest a::good ... ok\ntest a::bad ... FAILED\n\nfailures:\n\n\
        ---- a::bad stdout ----\nthread 'a::bad' panicked at a/src/lib.rs:3:5:\nassertion failed\n\n\n\
        failures:\n    a::bad\n\ntest result: FAILED. 1 passed; 1 failed\n";

    #[test]
    fn failed_tests_are_named_with_what_they_printed() {
        assert_eq!(failed_tests(FAILED), [Fault::at("a/src/lib.rs", 3, "test a::bad failed")]);
        assert_eq!(failed_tests("test a::mute ... FAILED\n"), [Fault::general("test a::mute failed")]);
        let printed = failure_output(FAILED);
        assert!(printed.contains("panicked at a/src/lib.rs:3:5") && !printed.contains("test result"), "{printed}");
    }

    #[test]
    fn a_failed_command_has_a_fault_even_without_a_place() {
        let finished = Finished { success: false, stdout: String::new(), stderr: "boom".to_owned() };
        let outcome = outcome(&finished, Vec::new(), "boom".to_owned());
        assert_eq!((outcome.faults.len(), outcome.detail.as_str()), (1, "boom"));
    }

    #[test]
    fn a_command_that_succeeded_has_none() {
        let finished = Finished { success: true, stdout: String::new(), stderr: String::new() };
        assert!(outcome(&finished, vec![Fault::at("a", 1, "warning")], String::new()).faults.is_empty());
    }
}
