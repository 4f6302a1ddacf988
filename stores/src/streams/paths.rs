//! Where a stream's file lies, and which stream a file is.

use super::StreamName;
use std::path::{Path, PathBuf};
use types::{AttemptNumber, JobId, RankIndex, StreamKind, Token};

/// Jobs in one folder: a million jobs are a thousand folders of a thousand.
const JOBS_PER_FOLDER: u64 = 1_000;

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

/// The stream and token that a file in the job's folder stands for; nothing for a foreign file.
pub(super) fn parse(job: JobId, file_name: &str) -> Option<(StreamName, Token)> {
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
    (ours.file_name()?.to_str()? == file_name).then_some((name, token))
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
        assert_eq!(parse(JobId(12_345), text), Some((name, Token(99))));
        for foreign in
            ["", "2-7.stderr", "2-7.stderr.99.tmp", "02-7.stderr.99", "2-7.other.99", "a-7.stderr.9", "+2-7.stderr.9"]
        {
            assert_eq!(parse(JobId(1), foreign), None, "{foreign}");
        }
    }
}
