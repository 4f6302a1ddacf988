//! The files of the repository, read once: checks look at this value and never at the disk.
//!
//! What git ignores is not part of the tree. Without git (an unpacked archive) the folders are walked instead.

use crate::source::RustFile;
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kinds of text that checks read; other files are only known to exist.
const TEXT_ENDINGS: [&str; 9] = [".rs", ".md", ".toml", ".proto", ".sh", ".yml", ".yaml", ".py", ".json"];
/// Text files with other endings or none.
const TEXT_FILES: [&str; 2] = [".ci/run", "Cargo.lock"];

/// Every file of the repository by its path from the root.
#[derive(Default)]
pub struct Tree {
    paths: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    rust: Vec<RustFile>,
}

impl Tree {
    /// Reads the tree below `root`.
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        let listed = match listed_by_git(root) {
            Some(paths) => paths,
            None => walked(root)?,
        };
        let mut files = Vec::new();
        for path in listed {
            let full = root.join(&path);
            // Deleted but still in git's index, or a link: not a file of the tree.
            if !std::fs::symlink_metadata(&full).is_ok_and(|metadata| metadata.is_file()) {
                continue;
            }
            let text = if is_text(&path) {
                let bytes = std::fs::read(&full).with_context(|| format!("cannot read {path}"))?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            } else {
                None
            };
            files.push((path, text));
        }
        Ok(Self::from_files(files))
    }

    fn from_files(files: Vec<(String, Option<String>)>) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.paths.insert(path.clone());
            if let Some(text) = text {
                tree.texts.insert(path, text);
            }
        }
        let is_rust = |path: &str| Path::new(path).extension().is_some_and(|ending| ending == "rs");
        tree.rust = crate::source::read_all(tree.texts.iter().filter(|(path, _)| is_rust(path)));
        tree
    }

    /// All Rust files, by path.
    pub fn rust(&self) -> &[RustFile] {
        &self.rust
    }

    /// Text files whose path ends so, by path.
    pub fn texts<'a>(&'a self, ending: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.texts.iter().filter(move |(path, _)| path.ends_with(ending)).map(|(path, text)| (&**path, &**text))
    }

    /// The text of one file.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// Is there a file or folder at this path from the root (no `..` in it)? The root itself is there.
    pub fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        path.is_empty()
            || self.paths.contains(path)
            || self.paths.range(inside.clone()..).next().is_some_and(|next| next.starts_with(&inside))
    }

    /// A tree for a check's own tests.
    #[cfg(test)]
    pub fn sample(files: &[(&str, &str)]) -> Self {
        Self::from_files(files.iter().map(|(path, text)| ((*path).to_owned(), Some((*text).to_owned()))).collect())
    }
}

/// The folder of the workspace that the current folder is in.
pub fn find_root() -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let is_root = |folder: &Path| {
        std::fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| text.contains("[workspace]"))
    };
    let root = here.ancestors().find(|folder| is_root(folder));
    root.map(Path::to_path_buf).with_context(|| format!("no workspace at or above {}", here.display()))
}

/// Cargo builds beside this program, wherever that is.
pub fn target_folder(root: &Path) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?;
    Ok(program.ancestors().nth(2).map_or_else(|| root.join("target"), Path::to_path_buf))
}

fn is_text(path: &str) -> bool {
    TEXT_ENDINGS.iter().any(|ending| path.ends_with(ending)) || TEXT_FILES.contains(&path)
}

/// Tracked files, and new ones that git does not ignore; nothing where git or its repository is absent.
fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(arguments).current_dir(root).output().ok()?;
    let names = String::from_utf8_lossy(&output.stdout);
    let paths: Vec<String> = names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

/// Files below `root`, without hidden folders (but `.ci` and `.cargo`), build output and virtual environments.
fn walked(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() && is_walked(&path, &entry.file_name().to_string_lossy()) {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path.strip_prefix(root)?.display().to_string());
            }
        }
    }
    Ok(files)
}

fn is_walked(folder: &Path, name: &str) -> bool {
    let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
    let generated = ["CACHEDIR.TAG", "pyvenv.cfg"].iter().any(|mark| folder.join(mark).exists());
    !hidden && !generated && name != "target" && name != "node_modules"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_and_their_folders_exist() {
        let tree = Tree::sample(&[("docs/adr/0001.md", "x"), ("docs-old.md", "")]);
        for there in ["docs/adr/0001.md", "docs/adr", "docs/", "docs", ""] {
            assert!(tree.exists(there), "{there}");
        }
        for absent in ["docs/ad", "docs/adr/0002.md", "docs-old", "adr"] {
            assert!(!tree.exists(absent), "{absent}");
        }
    }

    #[test]
    fn both_ways_of_listing_find_this_file() {
        let root = find_root().unwrap();
        let me = "xtask/src/tree.rs".to_owned();
        assert!(walked(&root).unwrap().contains(&me));
        assert!(Tree::read(&root).unwrap().text(&me).is_some());
    }

    #[test]
    fn build_output_is_not_walked() {
        let root = find_root().unwrap();
        assert!(walked(&root).unwrap().iter().all(|path| !path.starts_with("target/") && !path.starts_with(".git/")));
    }
}
