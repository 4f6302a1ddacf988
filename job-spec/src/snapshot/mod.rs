//! Snapshots: turns the paths of a draft into content hashes and a list of what to upload. The only file access here.
//!
//! The same content gives the same hash, whatever the order, times or owners of the files: a snapshot holds relative
//! paths, bytes and the executable bit, nothing else. What is read is bounded in number, size and depth; nothing is
//! held in memory but one buffer and the list. A file may still change between here and its upload: whoever uploads
//! it hashes again and refuses what does not match.

mod error;
mod git;
mod hash;
mod ignored;
mod take;

use crate::faults::{Fault, Mark, Report};
use crate::{DataInput, Draft, Faults, LocalPath};
use error::SnapshotError;
use hash::Hasher;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use take::Snapshot;
use types::{CodeSnapshot, ContentHash, FileKind, Input, InputKind, JobSpec, Limits, Tree, TreeEntry};

/// What the file is called that says how code differed from its commit.
const DIFF_FILE: &str = "uncommitted.diff";

/// A job that is ready: upload what the cluster lacks of `uploads`, then submit `spec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Complete.
    pub spec: JobSpec,
    /// Every blob that the job refers to, each hash once, in the order of the hashes.
    pub uploads: Vec<Upload>,
    /// The draft's, and those of the snapshots. For people.
    pub warnings: Vec<Fault>,
}

impl Prepared {
    /// Keeps to itself how the code differed from its commit: it holds lines that the snapshot has not any more.
    pub fn leave_out_git_diff(&mut self) {
        let git = self.spec.code.as_mut().and_then(|code| code.git.as_mut());
        let Some(diff) = git.and_then(|git| git.diff.take()) else { return };
        let list = self.uploads.iter().find(|upload| upload.hash == diff);
        let tree: Option<Tree> = list.and_then(|upload| match &upload.source {
            UploadSource::Bytes(json) => serde_json::from_slice(json).ok(),
            UploadSource::File(_) => None,
        });
        let file = tree.and_then(|tree| tree.entries().first().map(|entry| entry.hash));
        let is_of_it = |upload: &Upload| upload.hash == diff || Some(upload.hash) == file;
        // A file of the snapshot with the same bytes is still to be sent.
        self.uploads.retain(|upload| !(is_of_it(upload) && matches!(upload.source, UploadSource::Bytes(_))));
    }
}

/// One blob of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// SHA-256 of the bytes.
    pub hash: ContentHash,
    /// Size in bytes.
    pub bytes: u64,
    /// Where the bytes are.
    pub source: UploadSource,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadSource {
    /// In this file, unless it has changed since: hash while sending.
    File(PathBuf),
    /// Here: the JSON of a `types::Tree`.
    Bytes(Vec<u8>),
}

/// Hashes the code folder and the data inputs of a draft; `folder` is that of the job file, to which their paths are
/// relative. Blocks on the disk and, for at most a few seconds, on `git`; call it where blocking is fine.
///
/// An absent experiment name becomes the folder's name, and an absent display name the experiment's.
pub fn resolve(draft: Draft, folder: &Path) -> Result<Prepared, Faults> {
    let mut resolver = Resolver { report: Report::new(&draft.file), folder, uploads: BTreeMap::new() };
    let mut spec = draft.spec;
    spec.code = draft.code.as_ref().and_then(|code| resolver.code(code));
    for (name, input) in &draft.data {
        if let Some(data) = resolver.data(input) {
            spec.inputs.insert(name.clone(), data);
        }
    }
    if spec.experiment_name.is_empty() {
        spec.experiment_name = folder_name(folder);
    }
    if spec.display_name.is_empty() {
        spec.display_name.clone_from(&spec.experiment_name);
    }
    if !resolver.report.is_sound() {
        return Err(resolver.report.into_faults());
    }
    let uploads = resolver.uploads.into_values().collect();
    let mut warnings = draft.warnings;
    warnings.extend(resolver.report.into_warnings());
    Ok(Prepared { spec, uploads, warnings })
}

/// Notes which of the paths of a draft are not there, or not what they should be; reads nothing of what is.
pub(crate) fn look(draft: &Draft, folder: &Path, report: &mut Report) {
    let code = draft.code.iter().map(|path| (InputKind::Folder, path));
    let data = draft.data.values().map(|input| (input.kind, &input.path));
    for (kind, place) in code.chain(data) {
        if let Err(error) = take::look(&folder.join(&place.written), kind) {
            report.fault(mark(place), &place.field, error.to_string());
        }
    }
}

fn folder_name(folder: &Path) -> String {
    let name = folder.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let clean = name.filter(|name| !name.chars().any(char::is_control));
    clean.unwrap_or_else(|| "default".to_owned())
}

struct Resolver<'a> {
    report: Report,
    folder: &'a Path,
    uploads: BTreeMap<ContentHash, Upload>,
}

impl Resolver<'_> {
    fn code(&mut self, code: &LocalPath) -> Option<CodeSnapshot> {
        let path = self.folder.join(&code.written);
        let snapshot = take::folder(&path, ignored::Rules::Code);
        let files = snapshot.as_ref().ok().map(|snapshot| snapshot.tree.clone());
        let tree = self.keep(code, snapshot)?;
        let mut warn = |warning| self.report.warn(mark(code), &code.field, warning);
        let mut git = git::state(&path, &mut warn);
        if let (Some(git), Some(files)) = (git.as_mut().filter(|git| git.dirty), files) {
            let diff = git::diff(&path, &files, &mut warn);
            git.diff = diff.and_then(|diff| self.diff(diff));
        }
        Some(CodeSnapshot { tree, git })
    }

    /// A folder of one file.
    fn diff(&mut self, diff: Vec<u8>) -> Option<ContentHash> {
        let (hash, bytes) = (Hasher::of_bytes(&diff), diff.len() as u64);
        let entry = TreeEntry { path: DIFF_FILE.to_owned(), hash, bytes, kind: FileKind::File };
        let blob = tree_blob(&Tree::new(vec![entry]).ok()?).ok()?;
        let tree = blob.hash;
        self.uploads.entry(hash).or_insert(Upload { hash, bytes, source: UploadSource::Bytes(diff) });
        self.uploads.insert(tree, blob);
        Some(tree)
    }

    fn data(&mut self, input: &DataInput) -> Option<Input> {
        let path = self.folder.join(&input.path.written);
        let snapshot = match input.kind {
            InputKind::File => take::file(&path),
            InputKind::Folder => take::folder(&path, ignored::Rules::Data),
        };
        let tree = self.keep(&input.path, snapshot)?;
        Some(Input::Data { kind: input.kind, tree, origin: input.path.written.clone() })
    }

    /// Adds the blobs of a snapshot and gives the hash of its tree.
    fn keep(&mut self, place: &LocalPath, snapshot: Result<Snapshot, Vec<SnapshotError>>) -> Option<ContentHash> {
        match snapshot.and_then(|snapshot| Ok((tree_blob(&snapshot.tree)?, snapshot))) {
            Ok((blob, snapshot)) => {
                for warning in snapshot.warnings {
                    self.report.warn(mark(place), &place.field, warning);
                }
                let hash = blob.hash;
                self.uploads.extend(snapshot.files.into_iter().map(|upload| (upload.hash, upload)));
                self.uploads.insert(hash, blob);
                Some(hash)
            }
            Err(errors) => {
                for error in errors {
                    self.report.fault(mark(place), &place.field, error.to_string());
                }
                None
            }
        }
    }
}

fn mark(place: &LocalPath) -> Mark {
    Mark { line: place.line, column: place.column }
}

fn tree_blob(tree: &Tree) -> Result<Upload, Vec<SnapshotError>> {
    let json = serde_json::to_vec(tree).map_err(|error| vec![SnapshotError::Encode(error.to_string())])?;
    let hash = Hasher::of_bytes(&json);
    Ok(Upload { hash, bytes: json.len() as u64, source: UploadSource::Bytes(json) })
}

/// True as long as a snapshot of so many files and bytes is allowed.
fn within_limits(files: usize, bytes: u64) -> Result<(), SnapshotError> {
    if files > Limits::TREE_ENTRIES_MAX {
        return Err(SnapshotError::TooManyFiles);
    }
    if bytes > Limits::TREE_BYTES_MAX {
        return Err(SnapshotError::TooLarge);
    }
    Ok(())
}
