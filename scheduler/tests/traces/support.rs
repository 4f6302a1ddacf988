//! Where the traces are, what is said where there are none, and comparing.

use scheduler::model::{Placed, WorkerIndex};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

/// The text of a file below the folder of traces; nothing, said aloud, when there is no such folder.
#[allow(clippy::disallowed_methods)] // The one place where these tests read the environment: `daemon` is no part of this crate.
pub fn text(path: &str) -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let folder = PathBuf::from(variable("MUSTER_TRACES").unwrap_or_default());
    if folder.as_os_str().is_empty() {
        let line = format!("not tested here: {path}: MUSTER_TRACES names no folder of public traces\n");
        print!("{line}");
        // In the file too, for whoever ran the tests: cargo hides what a passing test says.
        if let Some(skips) = variable("MUSTER_TEST_SKIPS") {
            let mut file = OpenOptions::new().create(true).append(true).open(skips).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
        return None;
    }
    let path = folder.join(path);
    Some(std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Within `relative` of what was published.
pub fn is_near(ours: f64, published: f64, relative: f64) -> bool {
    (ours - published).abs() <= relative * published.abs()
}

/// A member on a machine of one device.
pub fn on(machine: u32) -> Placed {
    Placed { worker: WorkerIndex(machine), devices: 1 }
}
