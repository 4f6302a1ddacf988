//! Runs cargo for a check, keeps what it printed, and picks the places of faults out of it.

use crate::fault::Fault;
use anyhow::Context;
use std::path::Path;
use std::process::Command;

/// What a finished command left.
pub struct Finished {
    /// Exit status 0.
    pub success: bool,
    /// Standard output, damaged UTF-8 replaced.
    pub stdout: String,
    /// Standard error, damaged UTF-8 replaced.
    pub stderr: String,
}

/// Runs `cargo` in `root` to its end and keeps its output.
pub fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<Finished> {
    let output = Command::new("cargo")
        .args(arguments)
        .current_dir(root)
        .env("CARGO_TERM_COLOR", "never")
        .output()
        .with_context(|| format!("cannot run cargo {}", arguments.join(" ")))?;
    Ok(Finished {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The faults among lines like `a/b.rs:3:9: error: text` (cargo's short messages), each once, in order.
///
/// A crate is compiled as library and as tests, so cargo says most things twice.
pub fn compiler_faults(root: &Path, output: &str) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for line in output.lines() {
        let Some((place, text)) = line.split_once(": ") else { continue };
        if !text.starts_with("error") && !text.starts_with("warning") {
            continue;
        }
        let Some((path, line)) = split_place(place) else { continue };
        let fault = Fault::at(from_root(root, path), line, text);
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
    faults
}

/// Splits `path:line:column` or `path:line` (with a colon at the end or not).
pub fn split_place(place: &str) -> Option<(&str, usize)> {
    let mut parts = place.trim_end_matches(':').rsplitn(3, ':');
    let (last, middle, first) = (parts.next()?, parts.next()?, parts.next());
    match (first, middle.parse(), last.parse()) {
        (Some(path), Ok(line), Ok::<usize, _>(_)) => Some((path, line)),
        (None, Err(_), Ok(line)) => Some((middle, line)),
        _ => None,
    }
}

/// The path as seen from the root of the workspace.
pub fn from_root(root: &Path, path: &str) -> String {
    Path::new(path).strip_prefix(root).map_or_else(|_| path.to_owned(), |short| short.display().to_string())
}

/// The last `count` lines, for when nothing better was found.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn compiler_messages_become_faults_once() {
        let output = "    Checking types v0.1.0\n\
            types/src/ids.rs:4:9: error: unused variable: `x`\n\
            types/src/ids.rs:4:9: error: unused variable: `x`\n\
            /w/worker/src/lib.rs:1:1: warning: missing documentation\n\
            error: could not compile `types` (lib) due to 1 previous error\n";
        let faults = compiler_faults(Path::new("/w"), output);
        assert_eq!(
            faults,
            [
                Fault::at("types/src/ids.rs", 4, "error: unused variable: `x`"),
                Fault::at("worker/src/lib.rs", 1, "warning: missing documentation"),
            ]
        );
    }

    #[test]
    fn places_are_split() {
        assert_eq!(split_place("a.rs:3:9"), Some(("a.rs", 3)));
        assert_eq!(split_place("a.rs:3:"), Some(("a.rs", 3)));
        assert_eq!(split_place("a.rs"), None);
        assert_eq!(split_place("error"), None);
    }

    #[test]
    fn a_failing_command_is_not_an_error_of_ours() {
        let finished = cargo(Path::new("/"), &["no-such-subcommand-of-cargo"]).unwrap();
        assert!(!finished.success);
        assert!(finished.stderr.contains("no-such-subcommand-of-cargo"));
    }

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
