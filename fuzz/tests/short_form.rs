//! Every target over its seeds, over the inputs that are kept, over some that are made of both, and over what is nested deep.

#![allow(clippy::unwrap_used)]

use fuzz::{TARGETS, Target, corpus};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// Inputs of each target that are made of its seeds.
const MADE: usize = 2_000;
/// Of those that touch files.
const MADE_ON_DISK: usize = 200;
const ON_DISK: [&str; 3] = ["stream", "spool", "journal"];

/// Bytes changed, put in, taken out, doubled, cut, or exchanged with those of another input.
fn made(chance: &mut ChaCha8Rng, from: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = from[chance.random_range(0..from.len())].clone();
    for _ in 0..chance.random_range(1..6) {
        let at = chance.random_range(0..=bytes.len());
        let end = (at + chance.random_range(0..32)).min(bytes.len());
        match chance.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] = chance.random(),
            1 if at < bytes.len() => bytes[at] ^= 1 << chance.random_range(0..8),
            2 => bytes.insert(at, chance.random()),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            _ => {
                let other = &from[chance.random_range(0..from.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[chance.random_range(0..=other.len())..]);
            }
        }
    }
    bytes
}

fn short_form(of: impl Fn(Target) -> Option<usize>) {
    for target in TARGETS {
        let Some(count) = of(target) else { continue };
        let mut inputs = (target.seeds)();
        assert!(!inputs.is_empty(), "{} has no seeds", target.name);
        inputs.extend(corpus(target.name).into_iter().map(|(_, bytes)| bytes));
        let run = |bytes: &[u8]| {
            let ran = std::panic::catch_unwind(|| (target.run)(bytes));
            assert!(ran.is_ok(), "{}: {:?}", target.name, String::from_utf8_lossy(bytes));
        };
        for bytes in &inputs {
            run(bytes);
        }
        let mut chance = ChaCha8Rng::seed_from_u64(1);
        (0..count).for_each(|_| run(&made(&mut chance, &inputs)));
    }
}

#[test]
fn no_bytes_from_outside_bring_a_reader_down() {
    short_form(|target| (!ON_DISK.contains(&target.name)).then_some(MADE));
}

#[test]
fn no_file_brings_a_store_down() {
    short_form(|target| ON_DISK.contains(&target.name).then_some(MADE_ON_DISK));
}

#[test]
fn what_is_kept_belongs_to_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "nothing reads corpus/{name}");
    }
}

/// What is nested, as the formats open it.
const OPENERS: [&[u8]; 7] = [b"[", b"{\"a\":", b"[{\"a\":", b"{a: ", b"- ", b"? ", b"(["];
/// As a thread of the runtime has it.
const STACK_BYTES: usize = 2 << 20;

/// What takes the stack ends the process here.
#[test]
fn no_reader_follows_bytes_as_deep_as_they_go() {
    let nested = || {
        for target in TARGETS.iter().filter(|target| !ON_DISK.contains(&target.name)) {
            for opener in OPENERS {
                // Some targets are told by a first byte what it is.
                let [text, kind] = [&b""[..], &[0][..]].map(|before| [before, &opener.repeat(100_000)].concat());
                (target.run)(&text);
                (target.run)(&kind);
            }
        }
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(nested).unwrap().join().unwrap();
}
