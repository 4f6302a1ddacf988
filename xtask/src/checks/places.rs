//! Names that may stand in one place only, so that leaving sled, faking the clock or listing the settings stays easy.

use crate::fault::Fault;
use crate::source::{CodePath, RustFile, code_paths};
use crate::tree::Tree;

/// Names with a home.
struct Place {
    /// Says whether a path is one of the names.
    is_named: fn(&CodePath) -> bool,
    /// Files or folders where it may stand.
    homes: &'static [&'static str],
    /// May tests name it elsewhere?
    free_in_tests: bool,
    /// What to do instead.
    advice: &'static str,
}

/// Functions of `std::env` that read or change the variables; arguments and the current folder are not variables.
const VARIABLES: [&str; 6] = ["var", "var_os", "vars", "vars_os", "set_var", "remove_var"];

const PLACES: [Place; 3] = [
    Place {
        is_named: |path| path.segments[0] == "sled" && (path.is_import || path.segments.len() > 1),
        homes: &["coordinator/src/store/"],
        free_in_tests: false,
        advice: "sled stays behind the interface of `coordinator/src/store/`",
    },
    Place {
        is_named: |path| path.text().ends_with("SystemTime::now"),
        homes: &["daemon/src/clock.rs"],
        free_in_tests: false,
        advice: "take the time as an argument, or from `daemon::clock` at an edge",
    },
    Place {
        is_named: reads_environment,
        homes: &["daemon/src/environment.rs", "xtask/", "/build.rs"],
        free_in_tests: true,
        advice: "settings are read once through `daemon::environment` and handed on",
    },
];

/// Looks at every path that the code names.
pub fn check(tree: &Tree) -> Vec<Fault> {
    tree.rust().iter().flat_map(faults_of).collect()
}

fn faults_of(file: &RustFile) -> Vec<Fault> {
    let mut faults = Vec::new();
    for path in code_paths(&file.code) {
        for place in &PLACES {
            let is_excused = is_home(place, &file.path) || (place.free_in_tests && file.is_test(path.line));
            if (place.is_named)(&path) && !is_excused {
                let text = format!("`{}` has no place here: {}", path.text(), place.advice);
                faults.push(Fault::at(&file.path, path.line, text));
            }
        }
    }
    faults
}

fn is_home(place: &Place, file: &str) -> bool {
    place.homes.iter().any(|home| match home.strip_prefix('/') {
        Some(name) => file.ends_with(home) || file == name,
        None => file.starts_with(home),
    })
}

/// `std::env::var`, `env::var` after an import, or the function imported by name.
fn reads_environment(path: &CodePath) -> bool {
    let [.., module, function] = path.segments.as_slice() else { return false };
    module == "env" && (VARIABLES.contains(&function.as_str()) || function == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        check(&Tree::sample(&[(path, text)])).len()
    }

    #[test]
    fn sled_stays_in_the_store() {
        assert_eq!(faults("coordinator/src/store/database.rs", "use sled::Db;"), 0);
        assert_eq!(faults("coordinator/src/raft.rs", "use sled::Db;"), 1);
        assert_eq!(faults("coordinator/tests/store.rs", "fn f() { sled::open(p); }"), 1);
        assert_eq!(faults("coordinator/src/raft.rs", "fn f(sled: u8) { g(sled) } // sled::Db"), 0);
    }

    #[test]
    fn the_wall_clock_has_one_door() {
        assert_eq!(faults("daemon/src/clock.rs", "fn f() { std::time::SystemTime::now(); }"), 0);
        assert_eq!(faults("worker/src/a.rs", "fn f() { SystemTime::now(); }"), 1);
        assert_eq!(faults("worker/src/a.rs", "fn f() { Instant::now(); }"), 0);
    }

    #[test]
    fn the_environment_has_one_door() {
        for bad in ["fn f() { std::env::var(x); }", "fn f() { env::vars_os(); }", "use std::env::{args, var};"] {
            assert_eq!(faults("worker/src/a.rs", bad), 1, "{bad}");
            for home in ["daemon/src/environment.rs", "xtask/src/a.rs", "proto/build.rs", "worker/tests/a.rs"] {
                assert_eq!(faults(home, bad), 0, "{bad}");
            }
        }
        assert_eq!(faults("worker/src/a.rs", "fn f() { std::env::current_exe(); env!(\"X\"); command.env(a); }"), 0);
    }
}
