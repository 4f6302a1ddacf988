//! What reads bytes that somebody else wrote, as a fuzzer calls it: any bytes go in, and nothing may panic, hang, or be taken that does
//! not come out again as it went in (`IN-1`).
//!
//! `tests/short_form.rs` runs each over its seeds, over what is kept in `corpus`, and over some thousand inputs that are made of them,
//! in seconds, on any machine. `cargo xtask fuzz` has libFuzzer look for more, led by which code an input reaches.
//!
//! What is private to a crate stands there, in files called `fuzzed.rs`; sums and ciphers that guard a format are set right by the
//! target, so that what lies behind them is reached.

mod files;
mod formats;
mod tokens;
mod wire;

use std::path::Path;

/// One entry.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it reads.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Some that are sound, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 18] = [
    Target { name: "job-file", run: formats::job_file, seeds: formats::job_files },
    Target { name: "job-wire", run: formats::job_wire, seeds: formats::job_wires },
    Target { name: "tree", run: formats::tree, seeds: formats::trees },
    Target { name: "state", run: formats::state, seeds: formats::states },
    Target { name: "command", run: formats::command, seeds: formats::commands },
    Target { name: "session", run: wire::session, seeds: wire::sessions },
    Target { name: "call", run: coordinator::fuzzed::call, seeds: coordinator::fuzzed::calls },
    Target { name: "frame", run: collectives::fuzzed::frame, seeds: collectives::fuzzed::frames },
    Target { name: "metrics", run: metrics, seeds: worker::fuzzed::metric_texts },
    Target { name: "event-file", run: worker::fuzzed::event_file, seeds: worker::fuzzed::event_files },
    Target { name: "token", run: tokens::token, seeds: tokens::tokens },
    Target { name: "jwt", run: tokens::jwt, seeds: tokens::jwts },
    Target { name: "header", run: coordinator::fuzzed::header, seeds: coordinator::fuzzed::headers },
    Target { name: "journal", run: coordinator::fuzzed::journal, seeds: coordinator::fuzzed::journals },
    Target { name: "log", run: coordinator::fuzzed::log, seeds: coordinator::fuzzed::logs },
    Target { name: "snapshot", run: coordinator::fuzzed::snapshot, seeds: coordinator::fuzzed::snapshots },
    Target { name: "stream", run: files::stream, seeds: files::streams },
    Target { name: "spool", run: files::spool, seeds: files::spools },
];

/// A rank's metrics, as its supervisor and as the API reads them.
fn metrics(bytes: &[u8]) {
    worker::fuzzed::metrics(bytes);
    coordinator::fuzzed::metric_lines(bytes);
}

/// Inputs of one target that are kept with the project, by their files' names: what fuzzing came to, and what once broke.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<(String, Vec<u8>)> = files
        .filter_map(|file| Some((file.file_name().to_string_lossy().into_owned(), std::fs::read(file.path()).ok()?)))
        .collect();
    all.sort();
    all
}
