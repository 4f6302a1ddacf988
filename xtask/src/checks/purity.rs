//! The pure crates take values and return values: no clock, files, network, threads, environment, hash order or chance.
//!
//! Tests in them may do as they like: what must be the same on every replica is what runs in production.

use crate::fault::Fault;
use crate::source::{CodePath, RustFile, code_paths};
use crate::tree::Tree;

/// Sources of the crates that hold the rule.
const PURE: [&str; 4] = ["types/src/", "job-spec/src/", "scheduler/src/", "cluster-state/src/"];

/// Modules of the standard library that reach outside.
const MODULES: [(&str, &str); 8] = [
    ("std::fs", "files"),
    ("std::os", "the operating system"),
    ("std::net", "the network"),
    ("std::thread", "threads"),
    ("std::env", "the environment"),
    ("std::process", "processes"),
    ("tokio", "the runtime"),
    ("rand", "chance"),
];

/// Types whose use gives a different answer from run to run; named alone after an import, so any path that ends in them.
const TYPES: [(&str, &str); 5] = [
    ("Instant", "a clock"),
    ("SystemTime", "a clock"),
    ("HashMap", "hash order"),
    ("HashSet", "hash order"),
    ("RandomState", "chance"),
];

/// The one exception: a snapshot of the user's code folder is made by reading it, and by asking git about it.
const SNAPSHOT: [&str; 2] = ["job-spec/src/snapshot/", "job-spec/src/snapshot.rs"];
/// What that takes: files, the `git` command, and a thread that gives it a deadline. Never a clock, chance or a socket.
const SNAPSHOT_MAY_USE: [&str; 4] = ["std::fs", "std::os", "std::process", "std::thread"];

/// Looks at every path that production code of the pure crates names.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let pure = tree.rust().iter().filter(|file| PURE.iter().any(|crate_| file.path.starts_with(crate_)));
    pure.flat_map(faults_of).collect()
}

fn faults_of(file: &RustFile) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for path in code_paths(&file.code) {
        let Some(reach) = reaches(&file.path, &path) else { continue };
        if !file.is_test(path.line) {
            let text = format!("`{}` brings {reach} into a pure crate: take the value as an argument", path.text());
            faults.push(Fault::at(&file.path, path.line, text));
        }
    }
    faults.dedup();
    faults
}

/// What the path reaches for, if it may not.
fn reaches(file: &str, path: &CodePath) -> Option<&'static str> {
    let is_snapshot = SNAPSHOT.iter().any(|place| file.starts_with(place));
    let is_exempt = |module: &str| is_snapshot && SNAPSHOT_MAY_USE.contains(&module);
    // A lone word is no crate: it may be a field or a variable.
    let is_path = path.is_import || path.segments.len() > 1;
    let module = MODULES.iter().find(|(module, _)| is_path && path.begins_with(module) && !is_exempt(module));
    let named = |name: &str| path.segments.iter().any(|segment| segment == name);
    let is_globbed = |name: &str| {
        let home = if name.starts_with("Hash") { "std::collections::*" } else { "std::time::*" };
        path.text() == home && name != "RandomState"
    };
    module.or_else(|| TYPES.iter().find(|(name, _)| named(name) || is_globbed(name))).map(|&(_, reach)| reach)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        check(&Tree::sample(&[(path, text)])).len()
    }

    #[test]
    fn values_are_pure() {
        let text = "use std::collections::{BTreeMap, BTreeSet};\nuse std::time::Duration;\n// std::fs and HashMap\n\
            fn f(rand: u8, x: X) -> u8 { x.tokio + rand + \"std::env\".len() }\n";
        assert_eq!(faults("scheduler/src/core.rs", text), 0);
    }

    #[test]
    fn reaching_outside_is_a_fault() {
        for bad in [
            "use std::time::Instant;",
            "use std::{collections::{BTreeMap, HashMap}, fmt};",
            "use std::time::*;",
            "use std::*;",
            "fn f() { std::fs::read(x); }",
            "fn f() { let now = SystemTime::now(); }",
            "use std::env;",
            "use std::net::SocketAddr;",
            "fn f() { std::thread::yield_now(); }",
            "fn f() { rand::random() }",
            "use tokio;",
            "fn f() -> std::process::Command {}",
        ] {
            for crate_ in ["types", "job-spec", "scheduler", "cluster-state"] {
                assert_eq!(faults(&format!("{crate_}/src/a.rs"), bad), 1, "{bad}");
            }
            assert_eq!(faults("worker/src/a.rs", bad), 0, "{bad}");
        }
    }

    #[test]
    fn only_the_snapshot_reads_files() {
        let text = "use std::fs::File;\nuse std::process::Command;\n";
        assert_eq!(faults("job-spec/src/snapshot/walk.rs", text), 0);
        assert_eq!(faults("job-spec/src/snapshot.rs", text), 0);
        assert_eq!(faults("job-spec/src/parse.rs", text), 2);
        for bad in ["use std::time::SystemTime;", "use std::env;", "use std::net::TcpStream;"] {
            assert_eq!(faults("job-spec/src/snapshot/walk.rs", bad), 1, "{bad}");
        }
    }

    #[test]
    fn tests_may_do_as_they_like() {
        let text = "#[cfg(test)]\nmod tests {\n    use std::collections::HashSet;\n}\n";
        assert_eq!(faults("types/src/a.rs", text), 0);
        assert_eq!(faults("types/tests/a.rs", "use std::fs;"), 0);
    }
}
