//! A small file system over a folder, which a daemon sees and can be filled: in a mount namespace that only those see who enter it.

use anyhow::Context as _;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Puts a small file system with the same files over a folder, and keeps it until its input ends.
const SCRIPT: &str = r#"
cp -a "$1" "$1.before" && mount -t tmpfs -o size=40m tmpfs "$1" && cp -a "$1.before/." "$1" && echo ready && exec cat
"#;

/// One of 40 MB.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Child,
    folder: PathBuf,
}

impl SmallDisk {
    /// None when this user may not mount.
    pub fn over(folder: &Path) -> anyhow::Result<Option<Self>> {
        let mut holder = Command::new("unshare")
            .args(["-m", "sh", "-c", SCRIPT, "small-disk"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        let output = holder.stdout.take();
        let disk = Self { holder, folder: folder.to_owned() };
        BufReader::new(output.context("no output")?).read_line(&mut said)?;
        Ok((said == "ready\n").then_some(disk))
    }

    /// Runs what follows with a sight of it.
    pub fn wrapper(&self) -> Vec<OsString> {
        ["nsenter", "-m", "-t", &self.holder.id().to_string()].map(OsString::from).into()
    }

    /// A file in it, as seen from here.
    fn file(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.folder.strip_prefix("/").unwrap_or(&self.folder)).join(name)
    }

    /// Leaves not a byte of room.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut filler = File::create(self.file("filler"))?;
        for bytes in [vec![1; 64 << 10], vec![1; 1]] {
            while filler.write_all(&bytes).is_ok() {}
        }
        Ok(())
    }

    /// Gives back what `fill` took.
    pub fn make_room(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.file("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
