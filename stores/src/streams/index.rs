//! What is known of streams without asking the disk: token and lengths of the jobs in use, and who waits for more bytes.

use super::compacted::{Fault, Reader};
use super::{StreamName, paths, raw};
use crate::disk::{At, FileError};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::Path;
use tokio::sync::watch;
use types::{AttemptNumber, JobId, RankIndex, StreamKind, Token};

/// One stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The newest token that wrote.
    pub(super) token: Token,
    /// Bytes of the stream in the file, some perhaps only in the page cache.
    pub(super) written: u64,
    /// Bytes on disk: all that readers and writers are told of.
    pub(super) flushed: u64,
    /// Bytes of the file that `written` takes: where the next frame of a raw one goes.
    pub(super) stored: u64,
    /// Bytes of the file that `flushed` takes.
    pub(super) stored_flushed: u64,
    /// What its file is.
    pub(super) form: Form,
}

impl Entry {
    /// A stream without a byte.
    pub(super) fn empty(token: Token) -> Self {
        Self { token, written: 0, flushed: 0, stored: 0, stored_flushed: 0, form: Form::Raw }
    }

    /// The same stream in another file, all of it on disk.
    pub(super) fn in_file(self, form: Form, length: u64, stored: u64) -> Self {
        Self { written: length, flushed: length, stored, stored_flushed: stored, form, ..self }
    }
}

/// What a stream's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Frames of its bytes; it may grow.
    Raw,
    /// Compressed.
    Compacted,
}

type Key = (AttemptNumber, RankIndex, StreamKind);

#[derive(Debug, Default)]
struct Job {
    streams: BTreeMap<Key, Entry>,
    used: u64,
}

impl Job {
    /// Everything known of it could be read from disk again.
    fn is_clean(&self) -> bool {
        self.streams.values().all(|entry| entry.written == entry.flushed)
    }
}

/// Jobs in use, least recently used ones forgotten; and the watchers of jobs that somebody follows.
#[derive(Debug)]
pub(super) struct Index {
    jobs: HashMap<JobId, Job>,
    jobs_max: usize,
    uses: u64,
    /// The job that the writer is busy with: not to be read from disk between its write and its flush.
    pinned: Option<JobId>,
    watchers: HashMap<JobId, watch::Sender<u64>>,
    watchers_at_sweep: usize,
}

impl Index {
    pub(super) fn new(jobs_max: usize) -> Self {
        Self {
            jobs: HashMap::new(),
            jobs_max: jobs_max.max(1),
            uses: 0,
            pinned: None,
            watchers: HashMap::new(),
            watchers_at_sweep: 0,
        }
    }

    /// The stream, if it has a file.
    pub(super) fn get(&mut self, root: &Path, name: &StreamName) -> Result<Option<Entry>, FileError> {
        Ok(self.job(root, name.job)?.streams.get(&key(name)).copied())
    }

    /// The same for the one writer, which is about to change the stream's file.
    pub(super) fn get_to_write(&mut self, root: &Path, name: &StreamName) -> Result<Option<Entry>, FileError> {
        self.pinned = Some(name.job);
        self.get(root, name)
    }

    /// How many streams the job has.
    pub(super) fn count(&mut self, root: &Path, job: JobId) -> Result<usize, FileError> {
        Ok(self.job(root, job)?.streams.len())
    }

    /// The job's streams in order of attempt, rank and kind.
    pub(super) fn streams(&mut self, root: &Path, job: JobId) -> Result<Vec<(StreamName, Entry)>, FileError> {
        let name = |(attempt, rank, kind): Key| StreamName { job, attempt, rank, kind };
        Ok(self.job(root, job)?.streams.iter().map(|(key, entry)| (name(*key), *entry)).collect())
    }

    /// Remembers what was just done to the stream's file.
    pub(super) fn put(&mut self, root: &Path, name: &StreamName, entry: Entry) -> Result<(), FileError> {
        self.job(root, name.job)?.streams.insert(key(name), entry);
        Ok(())
    }

    /// All that was written to the stream is on disk now. True when that is news.
    pub(super) fn set_flushed(&mut self, name: &StreamName) -> bool {
        let Some(entry) = self.jobs.get_mut(&name.job).and_then(|job| job.streams.get_mut(&key(name))) else {
            return false;
        };
        let news = entry.flushed != entry.written;
        entry.flushed = entry.written;
        entry.stored_flushed = entry.stored;
        news
    }

    /// The job has no streams any more; whoever follows it sees its channel close.
    pub(super) fn forget(&mut self, job: JobId) {
        self.jobs.remove(&job);
        self.watchers.remove(&job);
    }

    /// A counter that rises when a stream of the job grew.
    pub(super) fn subscribe(&mut self, job: JobId) -> watch::Receiver<u64> {
        if let Some(sender) = self.watchers.get(&job) {
            return sender.subscribe();
        }
        // Receivers go away in silence. Looking for that each time the number doubles costs little and bounds the map.
        if self.watchers.len() > 2 * self.watchers_at_sweep + 16 {
            self.watchers.retain(|_, sender| sender.receiver_count() > 0);
            self.watchers_at_sweep = self.watchers.len();
        }
        let (sender, receiver) = watch::channel(0);
        self.watchers.insert(job, sender);
        receiver
    }

    /// Tells the job's followers, if there are any left.
    pub(super) fn notify(&mut self, job: JobId) {
        if let Some(sender) = self.watchers.get(&job) {
            if sender.receiver_count() == 0 {
                self.watchers.remove(&job);
            } else {
                sender.send_modify(|count| *count += 1);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.jobs.len(), self.watchers.len())
    }

    fn job(&mut self, root: &Path, job: JobId) -> Result<&mut Job, FileError> {
        self.uses += 1;
        if !self.jobs.contains_key(&job) {
            let streams = load(root, job)?;
            self.make_room();
            self.jobs.insert(job, Job { streams, used: 0 });
        }
        let known = self.jobs.entry(job).or_default();
        known.used = self.uses;
        Ok(known)
    }

    /// Forgets an eighth of the jobs, the least recently used ones that have nothing unflushed.
    fn make_room(&mut self) {
        if self.jobs.len() < self.jobs_max {
            return;
        }
        let may_go = |(id, job): &(&JobId, &Job)| job.is_clean() && self.pinned != Some(**id);
        let mut clean: Vec<(u64, JobId)> = self.jobs.iter().filter(may_go).map(|(id, job)| (job.used, *id)).collect();
        clean.sort_unstable();
        for (_, id) in clean.into_iter().take((self.jobs_max / 8).max(1)) {
            self.jobs.remove(&id);
        }
    }
}

fn key(name: &StreamName) -> Key {
    (name.attempt, name.rank, name.kind)
}

/// Reads a job's folder. What its files hold is on disk: the open of the store flushed what the life before left, and a
/// job is forgotten only when all of it is flushed.
fn load(root: &Path, job: JobId) -> Result<BTreeMap<Key, Entry>, FileError> {
    let folder = paths::job_folder(root, job);
    let mut streams: BTreeMap<Key, Entry> = BTreeMap::new();
    let listing = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(streams),
        result => result.at("list", &folder)?,
    };
    for file in listing {
        let file = file.at("list", &folder)?;
        let Some((name, token, is_compacted)) = file.file_name().to_str().and_then(|text| paths::parse(job, text))
        else {
            continue;
        };
        // One whose name was exchanged meanwhile is passed over: the writer, who did that, tells the index what it is now.
        let (form, found) = if is_compacted {
            (Form::Compacted, compacted_length(&file.path())?)
        } else {
            (Form::Raw, raw_length(&file.path())?)
        };
        let Some((length, stored)) = found else { continue };
        let entry = Entry::empty(token).in_file(form, length, stored);
        // A rename leaves one file a stream. Were there two, the newer token's is the stream; of raw and compacted, which a crash
        // can leave side by side, the longer, and the compacted one where both are whole.
        let rank = |entry: &Entry| (entry.token, entry.flushed, entry.form != Form::Raw);
        if streams.get(&key(&name)).is_none_or(|known| rank(known) < rank(&entry)) {
            streams.insert(key(&name), entry);
        }
    }
    Ok(streams)
}

/// Bytes of the stream and of its file, without what was never flushed, which is cut off here.
fn raw_length(path: &Path) -> Result<Option<(u64, u64)>, FileError> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.at("open", path)?,
    };
    let found = raw::recover(&file).at("recover", path)?;
    if found.cut > 0 {
        let (path, length, cut) = (path.display(), found.length, found.cut);
        tracing::warn!(%path, length, cut, "a stream's file ended with what was never flushed: cut off");
    }
    Ok(Some((found.length, found.stored)))
}

/// Nothing of a file that does not say how long its stream is: as if it were not there, so that it is fetched from other copies.
fn compacted_length(path: &Path) -> Result<Option<(u64, u64)>, FileError> {
    match Reader::footer(path) {
        Ok((footer, stored)) => Ok(Some((footer.length, stored))),
        Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(Fault::Io(error)) => Err(error).at("read", path),
        Err(Fault::Damaged(what)) => {
            tracing::error!(path = %path.display(), what, "a compacted stream is damaged: as if it were not here");
            Ok(None)
        }
    }
}
