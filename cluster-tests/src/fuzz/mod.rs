//! What reads bytes that somebody else wrote, as a fuzzer calls it: any bytes go in, and nothing may panic, hang, or be taken that does
//! not come out again as it went in (`IN-1`).
//!
//! The test here runs each over its seeds and over some thousand inputs that are made of them, in seconds, on any machine.

mod disk;
mod formats;
mod tokens;

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
pub const TARGETS: [Target; 9] = [
    Target { name: "job-file", run: formats::job_file, seeds: formats::job_files },
    Target { name: "job-wire", run: formats::job_wire, seeds: formats::job_wires },
    Target { name: "tree", run: formats::tree, seeds: formats::trees },
    Target { name: "state", run: formats::state, seeds: formats::states },
    Target { name: "command", run: formats::command, seeds: formats::commands },
    Target { name: "token", run: tokens::token, seeds: tokens::tokens },
    Target { name: "jwt", run: tokens::jwt, seeds: tokens::jwts },
    Target { name: "stream", run: disk::stream, seeds: disk::streams },
    Target { name: "spool", run: disk::spool, seeds: disk::spools },
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sim::Chance;

    /// Inputs of each target that are made of its seeds.
    const MADE: usize = 2_000;
    /// Of those that touch files.
    const MADE_ON_DISK: usize = 200;

    /// Bytes changed, put in, taken out, doubled, cut, or exchanged with those of another input.
    fn made(chance: &mut Chance, from: &[Vec<u8>]) -> Vec<u8> {
        let pick = |chance: &mut Chance| from[chance.between(0, from.len() as u64) as usize].clone();
        let mut bytes = pick(chance);
        for _ in 0..chance.between(1, 6) {
            let at = chance.between(0, bytes.len() as u64 + 1) as usize;
            let end = (at + chance.between(0, 32) as usize).min(bytes.len());
            match chance.between(0, 6) {
                0 if at < bytes.len() => bytes[at] = chance.draw() as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << chance.between(0, 8),
                2 => bytes.insert(at, chance.draw() as u8),
                3 => drop(bytes.drain(at..end)),
                4 => bytes.truncate(at),
                _ => {
                    let other = pick(chance);
                    let from = chance.between(0, other.len() as u64 + 1) as usize;
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
            }
        }
        bytes
    }

    fn short_form(of: impl Fn(Target) -> Option<usize>) {
        for target in TARGETS {
            let Some(count) = of(target) else { continue };
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for bytes in &seeds {
                (target.run)(bytes);
            }
            let mut chance = Chance::new(1, target.name);
            for _ in 0..count {
                let bytes = made(&mut chance, &seeds);
                let run = std::panic::catch_unwind(|| (target.run)(&bytes));
                assert!(run.is_ok(), "{}: {:?}", target.name, String::from_utf8_lossy(&bytes));
            }
        }
    }

    fn is_on_disk(target: Target) -> bool {
        ["stream", "spool"].contains(&target.name)
    }

    #[test]
    fn no_bytes_from_outside_bring_a_reader_down() {
        short_form(|target| (!is_on_disk(target)).then_some(MADE));
    }

    #[test]
    fn no_file_brings_a_store_down() {
        short_form(|target| is_on_disk(target).then_some(MADE_ON_DISK));
    }
}
