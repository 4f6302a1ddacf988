//! The job language: an Azure ML CLI v2 command job in YAML goes in, a validated job comes out, with all faults at once.
//!
//! ```text
//! text --parse--> Draft (checked, nothing read from disk) --resolve--> Prepared (hashed, ready to upload and submit)
//! ```
//!
//! `parse` is pure: text in, values out. Only `snapshot` (behind `resolve`) reads files and runs `git`.
//! `prepare` is both in one, and reports every fault that it can find in one go, each with its place in the file.

mod distance;
mod expression;
mod faults;
mod fields;
mod job;
mod quantity;
mod snapshot;
mod yaml;

pub use expression::{ExpandError, Kind, expand};
pub use faults::{Fault, Faults};
pub use snapshot::{Prepared, Upload, UploadSource, resolve};

use std::collections::BTreeMap;
use std::path::Path;
use types::{InputKind, JobSpec};

/// Longest job file in bytes: five times what the largest job needs, so comments are free.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// A job file that was read and found sound, before the files that it names were looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Name of the job file, as faults quote it.
    pub file: String,
    /// Complete but for what only the disk knows: `code` is `None`, data inputs are missing from `inputs` (both are
    /// filled by `resolve`), and an absent display or experiment name is empty.
    pub spec: JobSpec,
    /// The local code folder.
    pub code: Option<LocalPath>,
    /// Inputs that are local files or folders, by name.
    pub data: BTreeMap<String, DataInput>,
    /// What the file asks for and Muster does not use; in file order. For people, not a reason to refuse the job.
    pub warnings: Vec<Fault>,
}

/// A path in a job file and where it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPath {
    /// As written, without a `file:` prefix; relative to the folder of the job file.
    pub written: String,
    /// The field (`inputs.digits.path`).
    pub field: String,
    /// 1-based line of the value.
    pub line: usize,
    /// 1-based column of the value, in characters.
    pub column: usize,
}

/// An input that is uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataInput {
    /// File or folder.
    pub kind: InputKind,
    /// Where it is.
    pub path: LocalPath,
}

/// Reads the text of a job file; `file` is its name in faults. Touches no file.
pub fn parse(text: &str, file: &str) -> Result<Draft, Faults> {
    job::conclude(job::read(text, file))
}

/// Reads the bytes of a job file; as `parse`, and bytes that are not UTF-8 are a fault.
pub fn parse_bytes(bytes: &[u8], file: &str) -> Result<Draft, Faults> {
    job::conclude(read_bytes(bytes, file))
}

/// Reads the bytes of a job file and resolves what it names, relative to `folder`. Where the file itself has faults, nothing
/// is hashed, but what it names and is not there is among them. Blocks as `resolve` does.
pub fn prepare(bytes: &[u8], file: &str, folder: &Path) -> Result<Prepared, Faults> {
    let (draft, mut report) = read_bytes(bytes, file);
    if !report.is_sound()
        && let Some(draft) = &draft
    {
        snapshot::look(draft, folder, &mut report);
    }
    resolve(job::conclude((draft, report))?, folder)
}

fn read_bytes(bytes: &[u8], file: &str) -> (Option<Draft>, faults::Report) {
    match std::str::from_utf8(bytes) {
        Ok(text) => job::read(text, file),
        Err(error) => {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let good = std::str::from_utf8(good).unwrap_or_default();
            let mark = yaml::mark_after(good);
            let mut report = faults::Report::new(file);
            report.fault(mark, "", "the file is not UTF-8 text from here on");
            (None, report)
        }
    }
}
