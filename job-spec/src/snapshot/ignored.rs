//! What a snapshot leaves out: `.amlignore` of its folder, else every `.gitignore` in it; and always `.git`.
//!
//! As in Azure ML an `.amlignore` takes the place of `.gitignore`. Files above the folder have no say: the same
//! content must give the same hash wherever it lies. Data folders obey `.amlignore` only: a `.gitignore` there is
//! usually what keeps the data out of git.

use super::error::SnapshotError;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const AMLIGNORE: &str = ".amlignore";
const GITIGNORE: &str = ".gitignore";
/// Longest ignore file in bytes.
const BYTES_MAX: u64 = 1024 * 1024;

/// What kind of folder is snapshotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// Code: `.amlignore`, else `.gitignore`.
    Code,
    /// Data: `.amlignore`.
    Data,
}

/// The patterns in force at the folder that is being read: one set for each folder on the way to it that has some.
pub(super) struct Ignored {
    file: Option<&'static str>,
    stack: Vec<(usize, Gitignore)>,
    /// Patterns that were not understood.
    pub(super) warnings: Vec<String>,
}

impl Ignored {
    /// Chooses the ignore file for a snapshot of `root`.
    pub(super) fn new(root: &Path, rules: Rules) -> Self {
        let file = match rules {
            _ if root.join(AMLIGNORE).is_file() => Some(AMLIGNORE),
            Rules::Code => Some(GITIGNORE),
            Rules::Data => None,
        };
        Self { file, stack: Vec::new(), warnings: Vec::new() }
    }

    /// Reads the patterns of a folder before its entries are looked at. `real` is where it is, `shown` its path in the
    /// snapshot, `depth` the number of folders above it.
    pub(super) fn enter(&mut self, real: &Path, shown: &Path, depth: usize) -> Result<(), SnapshotError> {
        let Some(name) = self.file else { return Ok(()) };
        let path = real.join(name);
        let Some(text) = read(&path)? else { return Ok(()) };
        let shown_path = path.to_string_lossy();
        let mut builder = GitignoreBuilder::new(shown);
        for (n, line) in text.lines().enumerate() {
            if let Err(error) = builder.add_line(None, line) {
                self.warnings.push(format!("line {} of {shown_path:?} is no pattern and is skipped: {error}", n + 1));
            }
        }
        match builder.build() {
            Ok(patterns) => self.stack.push((depth, patterns)),
            Err(error) => self.warnings.push(format!("{shown_path:?} is skipped: {error}")),
        }
        Ok(())
    }

    /// Forgets the patterns of the folder at `depth` once it was read.
    pub(super) fn leave(&mut self, depth: usize) {
        self.stack.retain(|(at, _)| *at < depth);
    }

    /// True for what is left out; the innermost file that says something decides, as in git.
    pub(super) fn matches(&self, shown: &Path, is_folder: bool) -> bool {
        if shown.file_name().is_some_and(|name| name == ".git") {
            return true;
        }
        let verdicts = self.stack.iter().rev().map(|(_, patterns)| patterns.matched(shown, is_folder));
        verdicts.into_iter().find(|verdict| !verdict.is_none()).is_some_and(|verdict| verdict.is_ignore())
    }
}

fn read(path: &PathBuf) -> Result<Option<String>, SnapshotError> {
    if !path.is_file() {
        return Ok(None);
    }
    let wrap = |source| SnapshotError::io(path, source);
    let mut bytes = Vec::new();
    File::open(path).map_err(wrap)?.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrap)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(wrap(std::io::Error::other(format!("an ignore file may have {BYTES_MAX} bytes"))));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
