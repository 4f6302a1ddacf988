//! Where a stream's file lies, and which stream a file is.

use super::StreamName;
use crate::disk::{At, FileError};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use types::{AttemptNumber, JobId, RankIndex, StreamKind, Token};

/// Jobs in one folder: a million jobs are a thousand folders of a thousand.
const JOBS_PER_FOLDER: u64 = 1_000;

/// What a compacted file's name has at its end.
const COMPACTED: &str = ".compacted";

/// The folder that holds the job's folder.
pub(super) fn bucket(root: &Path, job: JobId) -> PathBuf {
    root.join((job.0 / JOBS_PER_FOLDER).to_string())
}

/// The job's own folder.
pub(super) fn job_folder(root: &Path, job: JobId) -> PathBuf {
    bucket(root, job).join(job.to_string())
}

/// The stream's file.
pub(super) fn file(root: &Path, name: &StreamName, token: Token) -> PathBuf {
    let StreamName { job, attempt, rank, kind } = name;
    job_folder(root, *job).join(format!("{attempt}-{rank}.{}.{token}", kind.name()))
}

/// The stream's file once it is compacted.
pub(super) fn compacted(root: &Path, name: &StreamName, token: Token) -> PathBuf {
    let mut path = file(root, name, token).into_os_string();
    path.push(COMPACTED);
    path.into()
}

/// The stream and token that a file in the job's folder stands for, and whether it is a compacted one; nothing for a foreign file.
pub(super) fn parse(job: JobId, file_name: &str) -> Option<(StreamName, Token, bool)> {
    let raw_name = file_name.strip_suffix(COMPACTED);
    let (file_name, is_compacted) = (raw_name.unwrap_or(file_name), raw_name.is_some());
    let mut parts = file_name.split('.');
    let (attempt, rank) = parts.next()?.split_once('-')?;
    let (kind, token) = (parts.next()?, parts.next()?);
    let attempt: AttemptNumber = attempt.parse().ok()?;
    let rank: RankIndex = rank.parse().ok()?;
    let kind = StreamKind::ALL.into_iter().find(|known| known.name() == kind)?;
    let name = StreamName { job, attempt, rank, kind };
    let token: Token = token.parse().ok()?;
    // Only the one spelling that we write: "007" or a further part is not ours.
    let ours = file(Path::new(""), &name, token);
    (ours.file_name()?.to_str()? == file_name).then_some((name, token, is_compacted))
}

/// The names below a folder that are numbers.
pub(super) fn numbers_in(folder: &Path) -> Result<BTreeSet<u64>, FileError> {
    let listing = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        result => result.at("list", folder)?,
    };
    let mut numbers = BTreeSet::new();
    for entry in listing {
        numbers.extend(entry.at("list", folder)?.file_name().to_str().and_then(|text| text.parse::<u64>().ok()));
    }
    Ok(numbers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_tells_its_stream_and_foreign_names_tell_nothing() {
        let name =
            StreamName { job: JobId(12_345), attempt: AttemptNumber(2), rank: RankIndex(7), kind: StreamKind::Stderr };
        let path = file(Path::new("/s"), &name, Token(99));
        assert_eq!(path, Path::new("/s/12/12345/2-7.stderr.99"));
        let text = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(parse(JobId(12_345), text), Some((name, Token(99), false)));
        let path = compacted(Path::new("/s"), &name, Token(99));
        assert_eq!(path, Path::new("/s/12/12345/2-7.stderr.99.compacted"));
        assert_eq!(parse(JobId(12_345), "2-7.stderr.99.compacted"), Some((name, Token(99), true)));
        for foreign in [
            "",
            "2-7.stderr",
            "2-7.stderr.99.tmp",
            "2-7.stderr.99.compacting",
            "2-7.stderr.99.compacted.compacted",
            "02-7.stderr.99",
            "2-7.other.99",
            "a-7.stderr.9",
            "+2-7.stderr.9",
        ] {
            assert_eq!(parse(JobId(1), foreign), None, "{foreign}");
        }
    }
}
