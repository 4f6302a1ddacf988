//! `cargo xtask release`: the program as it is shipped, with the list of what it is made of inside it (`cargo auditable`: section `.dep-v0`,
//! which `cargo audit bin` and scanners of images read), the bill of materials beside it, and the SHA-256 of both.

use super::sbom;
use crate::{process, tree};
use anyhow::Context as _;
use std::process::{Command, ExitCode};

/// Where cargo puts it.
const FOLDER: &str = "target/release";
const PROGRAM: &str = "muster";
const BILL: &str = "muster.cdx.json";
const SUMS: &str = "SHA256SUMS";
/// Name of the section with the list.
const SECTION: &[u8] = b".dep-v0\0";

/// Builds it.
pub fn run() -> anyhow::Result<ExitCode> {
    let root = tree::find_root()?;
    let found = process::cargo(&root, &["auditable", "--version"])?;
    anyhow::ensure!(found.success, "cargo-auditable is not here: cargo install --locked cargo-auditable");
    let build = ["auditable", "build", "--release", "--locked", "--package", "cli"];
    let status = Command::new("cargo").args(build).current_dir(&root).status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "the release was not built");
    let folder = root.join(FOLDER);
    let program = std::fs::read(folder.join(PROGRAM)).with_context(|| format!("cannot read {FOLDER}/{PROGRAM}"))?;
    anyhow::ensure!(has_list(&program), "{FOLDER}/{PROGRAM} has no list of what it is made of");
    sbom::write(&root, &folder.join(BILL))?;
    let summed = Command::new("sha256sum").args([PROGRAM, BILL]).current_dir(&folder).output();
    let summed = summed.context("cannot run sha256sum")?;
    anyhow::ensure!(summed.status.success(), "sha256sum: {}", String::from_utf8_lossy(&summed.stderr));
    std::fs::write(folder.join(SUMS), &summed.stdout).with_context(|| format!("cannot write {FOLDER}/{SUMS}"))?;
    print!("{}", String::from_utf8_lossy(&summed.stdout));
    println!("in {FOLDER}");
    Ok(ExitCode::SUCCESS)
}

fn has_list(program: &[u8]) -> bool {
    program.windows(SECTION.len()).any(|window| window == SECTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_the_list_is_told_from_one_with_it() {
        assert!(has_list(b"\x7fELF..\0.text\0.dep-v0\0.data\0"));
        assert!(!has_list(b"\x7fELF..\0.text\0.dep-v1\0.data\0") && !has_list(b""));
    }
}
