//! Event files that programs write for `TensorBoard` below the job's outputs: their scalars become lines of the rank's metrics
//! stream, as if the rank had written them on its pipe.
//!
//! ```text
//!  outputs/ ──walk──> files, held open ──records──> events ──points──> lines ──> metrics stream
//!              (1 s)    claims: whose?     CRC-32C            names made to fit; secrets taken out
//! ```
//!
//! The supervisor reads them, not the daemon, and keeps in memory how far: it lives as long as the rank does, so that a daemon
//! that restarts neither loses nor doubles a point. What a look does is bounded in names, bytes and lines, and so is what is held.

mod claims;
mod fuzzed;
mod records;
mod summary;
#[cfg(test)]
mod testing;
mod walk;

pub use fuzzed::{event_file, event_files};

use super::metrics::write_point;
use super::notices::{self, Notices};
use super::redact::{self, Patterns};
use super::spec::EventFiles;
use crate::owner::Owner;
use claims::Claims;
use records::{BUFFER_BYTES, Progress, Records};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use summary::Point;
use types::RankIndex;
use walk::{Found, Walk};

/// Between two looks, and between a walk's end and the next one's begin.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two parts of one look.
const GO_ON_AFTER: Duration = Duration::from_millis(20);
/// Files held open.
const FILES_MAX: usize = 128;
/// Lines are handed on before they are longer than this; one read may add to it once.
const LINES_BYTES: usize = 256 * 1024;

/// See the head of this file.
pub(super) struct Events<'a> {
    files: &'a EventFiles,
    owner: Option<Owner>,
    patterns: Option<Arc<Patterns>>,
    claims: Claims<'a>,
    walk: Option<Walk>,
    /// By inode, which no other file gets while it is open.
    read: BTreeMap<u64, EventFile>,
    /// The file after which the next look goes on.
    turn: u64,
    buffer: Vec<u8>,
    due: Duration,
    next_walk: Duration,
    notices: Notices,
    /// No rank is left that could take a file later.
    is_ending: bool,
}

struct EventFile {
    path: PathBuf,
    /// What stands before its tags: the folder below the output's own, with its slash.
    run: String,
    records: Records,
    /// Nothing more of it is read.
    stopped: bool,
}

/// What a look came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Whole lines for the metrics stream.
    pub(super) lines: Vec<u8>,
    /// Whole lines for stderr.
    pub(super) notices: Vec<u8>,
    /// All that was there is read.
    pub(super) is_done: bool,
}

impl<'a> Events<'a> {
    pub(super) fn new(
        files: &'a EventFiles,
        rank: RankIndex,
        owner: Option<Owner>,
        patterns: Option<Arc<Patterns>>,
    ) -> Self {
        Self {
            files,
            owner,
            patterns,
            claims: Claims::new(files, rank),
            walk: None,
            read: BTreeMap::new(),
            turn: 0,
            buffer: Vec::new(),
            due: Duration::ZERO,
            next_walk: Duration::ZERO,
            notices: Notices::new(rank, "event files"),
            is_ending: false,
        }
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// There is no room for lines now.
    pub(super) fn put_off(&mut self, now: Duration) {
        self.due = now + GO_ON_AFTER;
    }

    /// The rank is gone: whatever is there is looked for once more.
    pub(super) fn begin_last(&mut self) {
        self.is_ending = true;
        self.walk = Some(Walk::begin(&self.files.outputs));
    }

    /// There is no more time for the rest.
    pub(super) fn late(&mut self) -> Look {
        self.notices.say(format_args!("its event files could not be read to their ends"));
        Look { lines: Vec::new(), notices: self.notices.take(), is_done: true }
    }

    /// Looks for files, and reads what is new in those that are known; `main` is the rank's own process.
    pub(super) fn look(&mut self, now: Duration, main: i32) -> Look {
        if let Err(error) = Owner::act(self.owner, || {
            self.go_on_walking(now, main);
            Ok(())
        }) {
            self.notices.say(format_args!("event files cannot be looked for: {error}"));
            self.walk = None;
        }
        let (lines, has_more) = self.read_files();
        let is_walking = self.walk.is_some();
        self.due = now + if is_walking || has_more { GO_ON_AFTER } else { LOOK_EVERY };
        let notices = self.notices.take();
        let clean = |lines| redact::clean(self.patterns.as_ref(), lines);
        Look { lines: clean(lines), notices: clean(notices), is_done: !is_walking && !has_more }
    }

    fn go_on_walking(&mut self, now: Duration, main: i32) {
        if self.walk.is_none() && now < self.next_walk {
            return;
        }
        let mut walk = self.walk.take().unwrap_or_else(|| Walk::begin(&self.files.outputs));
        let Self { read, claims, notices, is_ending, .. } = self;
        let mut found = Vec::new();
        let mut is_full = false;
        let has_more = walk.step(
            &mut |file: &Found, others: usize| {
                let is_new = !read.contains_key(&file.inode);
                is_full |= is_new && read.len() + others >= FILES_MAX;
                is_new && read.len() + others < FILES_MAX && claims.take(&file.path, main, *is_ending)
            },
            &mut found,
        );
        if is_full {
            notices.say_once("full", format_args!("only {FILES_MAX} event files are read at a time"));
        }
        self.read.extend(found.into_iter().map(|(found, file)| (found.inode, EventFile::new(found.path, file))));
        if has_more {
            self.walk = Some(walk);
        } else {
            self.next_walk = now + LOOK_EVERY;
        }
    }

    /// Whether there is more than was read.
    fn read_files(&mut self) -> (Vec<u8>, bool) {
        self.read.retain(|_, file| !(file.stopped && file.records.is_removed()));
        let (before, after): (Vec<u64>, Vec<u64>) = self.read.keys().partition(|inode| **inode <= self.turn);
        let (mut lines, mut has_more) = (Vec::new(), false);
        for inode in after.into_iter().chain(before) {
            if lines.len() >= LINES_BYTES {
                return (lines, true);
            }
            let Some(file) = self.read.get_mut(&inode) else { continue };
            self.turn = inode;
            self.buffer.resize(BUFFER_BYTES, 0);
            has_more |= file.read(&mut self.buffer, &mut lines, &mut self.notices);
        }
        (lines, has_more)
    }
}

impl EventFile {
    fn new(path: PathBuf, file: File) -> Self {
        // The first part names the output, the last one the file.
        let folder = path.parent().map(|folder| folder.iter().skip(1).collect::<PathBuf>()).unwrap_or_default();
        let mut run = folder.to_string_lossy().into_owned();
        if !run.is_empty() {
            run.push('/');
        }
        Self { path, run, records: Records::new(file), stopped: false }
    }

    /// One read of it: whether there is more.
    fn read(&mut self, buffer: &mut [u8], lines: &mut Vec<u8>, notices: &mut Notices) -> bool {
        if self.stopped {
            return false;
        }
        let Self { records, run, .. } = self;
        let mut each =
            |event: &[u8]| summary::points(event, &mut |point| write_line(run, point, lines, notices)).is_ok();
        match records.read(buffer, &mut each) {
            Ok(Progress::More) => true,
            Ok(Progress::AtEnd) => {
                // Who has it open may still write: only its writer's last bytes, which the next look gets, are at stake.
                self.stopped = records.is_removed();
                false
            }
            Err(fault) => {
                self.stopped = true;
                let path = self.path.display().to_string();
                notices.say(format_args!("event file {path:?}: {fault}; nothing more of it is read"));
                false
            }
        }
    }
}

fn write_line(run: &str, point: Point<'_>, lines: &mut Vec<u8>, notices: &mut Notices) {
    let name = notices::name(run, point.tag, notices);
    if !point.value.is_finite() {
        let told = format_args!("values that are no finite numbers are left out, the first one is of {name:?}");
        return notices.say_once("finite", told);
    }
    let time = Some(point.wall_time).filter(|time| time.is_finite() && *time >= 0.0);
    write_point(lines, &name, point.value, u64::try_from(point.step).ok(), time);
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
