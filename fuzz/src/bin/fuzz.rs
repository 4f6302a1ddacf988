//! One target under libFuzzer: `fuzz --target=NAME [libFuzzer's own arguments] FOLDER..`, as `cargo xtask fuzz` calls it.
//!
//! `--seeds=FOLDER` writes the target's sound inputs there first. libFuzzer passes over arguments that begin with two dashes.

#![no_main]

use fuzz::{TARGETS, Target};
use std::path::Path;
use std::process::exit;
use std::sync::OnceLock;

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn choose() {
    let argument = |name: &str| std::env::args().find_map(|argument| Some(argument.strip_prefix(name)?.to_owned()));
    if argument("--list").is_some() {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        exit(0);
    }
    let name = argument("--target=").unwrap_or_default();
    let Some(target) = TARGETS.into_iter().find(|target| target.name == name) else {
        eprintln!("there is no target {name:?}; there are {}", TARGETS.map(|target| target.name).join(", "));
        exit(2);
    };
    if let Some(folder) = argument("--seeds=") {
        for (number, bytes) in (target.seeds)().into_iter().enumerate() {
            let file = Path::new(&folder).join(format!("seed-{number}"));
            if let Err(error) = std::fs::write(&file, bytes) {
                eprintln!("cannot write {}: {error}", file.display());
                exit(2);
            }
        }
    }
    let _ = CHOSEN.set(target);
}

libfuzzer_sys::fuzz_target!(init: choose(), |bytes: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        (target.run)(bytes);
    }
});
