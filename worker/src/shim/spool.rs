//! One stream of a rank: from its pipe to its spool, byte for byte.
//!
//! When the stream's budget is used up, or the disk is full, the pipe is no longer read and the rank waits in its write:
//! output is delayed, never dropped. Only past a bound that the operator has set for a whole stream is it dropped, and that is said.

use super::redact::{Patterns, Redactor};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use stores::spool::SpoolWriter;
use types::StreamKind;

/// Read at once: a pipe's size, so that one read empties it.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// Reads before other streams and signals get their turn.
const READS_AT_ONCE: usize = 8;

/// How bytes are taken: within the budget while the rank lives, beyond it when it is gone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    Final,
}

pub(super) struct Stream {
    pub(super) kind: StreamKind,
    pipe: Option<OwnedFd>,
    /// A pipe with a name is kept open for writing: who opens it late must not wait for a reader that has left.
    _kept: Option<OwnedFd>,
    /// Read from the pipe but not written: there was no room.
    unwritten: Vec<u8>,
    blocked: bool,
    told: bool,
    /// Keeps secrets out of it.
    redactor: Option<Redactor>,
    /// Bytes that are kept; what comes after them is read and dropped. 0 = all.
    pub(super) bytes_max: u64,
    cut: Cut,
}

/// Whether bytes were dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    No,
    Now,
    Told,
}

/// Gets each piece of a stream in order.
pub(super) type Observer<'a> = &'a mut dyn FnMut(&[u8]);

impl Stream {
    /// Makes the pipe; its other end goes to the rank.
    pub(super) fn new(kind: StreamKind) -> io::Result<(Self, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        Ok((Self::of(kind, read, None), write))
    }

    /// As `new`, with a name by which any process below the rank can open it: frameworks close descriptors that they do not
    /// know before they start their own processes. Whoever made it removes the name.
    pub(super) fn named(kind: StreamKind, path: &Path) -> io::Result<(Self, OwnedFd)> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let open = |flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        let read = open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        let write = open(OFlags::WRONLY)?;
        let kept = write.try_clone()?;
        Ok((Self::of(kind, read, Some(kept)), write))
    }

    fn of(kind: StreamKind, read: OwnedFd, kept: Option<OwnedFd>) -> Self {
        Self {
            kind,
            pipe: Some(read),
            _kept: kept,
            unwritten: Vec::new(),
            blocked: false,
            told: false,
            redactor: None,
            bytes_max: 0,
            cut: Cut::No,
        }
    }

    /// From now on nothing of these passes.
    pub(super) fn redact(&mut self, patterns: Arc<Patterns>) {
        self.redactor = Some(Redactor::new(patterns));
    }

    /// Said once of a stream of which bytes were dropped.
    pub(super) fn newly_cut(&mut self) -> Option<StreamKind> {
        let is_new = self.cut == Cut::Now;
        if is_new {
            self.cut = Cut::Told;
        }
        is_new.then_some(self.kind)
    }

    /// Bytes that were read and could not be written.
    pub(super) fn unwritten(&self) -> u64 {
        self.unwritten.len() as u64
    }

    /// Waits for room: look again a little later.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The pipe to wait for; none when it is at its end or there is no room for more.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| !self.blocked).map(AsFd::as_fd)
    }

    /// Moves what is there and has room.
    pub(super) fn pump(&mut self, spool: &mut SpoolWriter, buffer: &mut [u8], seen: Observer<'_>) {
        self.write_rest(spool, Phase::Live);
        for _ in 0..READS_AT_ONCE {
            if self.blocked || !self.step(spool, buffer, seen, Phase::Live) {
                return;
            }
        }
    }

    /// Adds some bytes of the supervisor's own, after what is there.
    pub(super) fn insert(&mut self, spool: &mut SpoolWriter, bytes: &[u8]) {
        let written = if self.unwritten.is_empty() { self.write(spool, bytes, Phase::Final) } else { 0 };
        self.unwritten.extend_from_slice(&bytes[written..]);
    }

    /// Adds some bytes of the supervisor's own as if the rank had written them: what finds no room within the budget waits, and
    /// the rank with it.
    pub(super) fn offer(&mut self, spool: &mut SpoolWriter, bytes: &[u8]) {
        let bytes = &bytes[..self.room(spool, bytes.len())];
        let written = if self.unwritten.is_empty() { self.write(spool, bytes, Phase::Live) } else { 0 };
        self.unwritten.extend_from_slice(&bytes[written..]);
    }

    /// After the last writer is gone: moves all that is left, beyond the budget too (a pipe holds little). False when
    /// there is no room at all: try again later.
    pub(super) fn drain(&mut self, spool: &mut SpoolWriter, buffer: &mut [u8], seen: Observer<'_>) -> bool {
        self.write_rest(spool, Phase::Final);
        while !self.blocked && self.step(spool, buffer, seen, Phase::Final) {}
        if !self.blocked
            && let Some(rest) = self.redactor.as_mut().map(Redactor::end)
        {
            self.pass(spool, &rest, seen, Phase::Final);
        }
        !self.blocked
    }

    /// One read and its write. False when nothing more is there now.
    fn step(&mut self, spool: &mut SpoolWriter, buffer: &mut [u8], seen: Observer<'_>, phase: Phase) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let count = match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => {
                self.pipe = None;
                return false;
            }
            Ok(count) => count,
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => return false,
            Err(_) => {
                self.pipe = None;
                return false;
            }
        };
        match self.redactor.as_mut().map(|redactor| redactor.push(&buffer[..count])) {
            Some(clean) => self.pass(spool, &clean, seen, phase),
            None => self.pass(spool, &buffer[..count], seen, phase),
        }
        !self.blocked
    }

    fn pass(&mut self, spool: &mut SpoolWriter, bytes: &[u8], seen: Observer<'_>, phase: Phase) {
        if !bytes.is_empty() {
            seen(bytes);
            let bytes = &bytes[..self.room(spool, bytes.len())];
            let written = self.write(spool, bytes, phase);
            self.unwritten.extend_from_slice(&bytes[written..]);
        }
    }

    /// How many of so many bytes are kept.
    fn room(&mut self, spool: &SpoolWriter, bytes: usize) -> usize {
        if self.cut != Cut::No {
            return 0;
        }
        let left = self.bytes_max.saturating_sub(spool.length(self.kind) + self.unwritten());
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if self.bytes_max == 0 || bytes <= left {
            return bytes;
        }
        self.cut = Cut::Now;
        left
    }

    fn write_rest(&mut self, spool: &mut SpoolWriter, phase: Phase) {
        self.blocked = false;
        if !self.unwritten.is_empty() {
            let rest = std::mem::take(&mut self.unwritten);
            let written = self.write(spool, &rest, phase);
            self.unwritten = rest[written..].to_vec();
        }
    }

    /// Writes as much as there is room for.
    fn write(&mut self, spool: &mut SpoolWriter, bytes: &[u8], phase: Phase) -> usize {
        let taken = match phase {
            Phase::Live => spool.append(self.kind, bytes),
            Phase::Final => spool.append_final(self.kind, bytes),
        };
        let (count, reason) = match taken {
            Ok(taken) => (taken.bytes, taken.blocked.map(|blocked| format!("{blocked:?} is full"))),
            Err(error) => (0, Some(error.to_string())),
        };
        if let Some(reason) = reason {
            self.blocked = true;
            if !std::mem::replace(&mut self.told, true) {
                super::say(format_args!("{} waits: {reason}", self.kind.name()));
            }
        }
        count
    }
}

/// The last lines of a stream, for the reason of a failure.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    /// Of all that ever came.
    count: u64,
}

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.count += bytes.len() as u64;
        let keep = types::Limits::STDERR_TAIL_BYTES;
        self.bytes.extend_from_slice(&bytes[bytes.len().saturating_sub(keep)..]);
        // Trimmed at twice the size: not on each write.
        if self.bytes.len() > 2 * keep {
            self.bytes.drain(..self.bytes.len() - keep);
        }
    }

    /// All that is left of the stream: the framework's words may stand above a long traceback.
    pub(super) fn all(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// No line of the rank's is begun.
    pub(super) fn is_between_lines(&self) -> bool {
        self.bytes.last().is_none_or(|byte| *byte == b'\n')
    }

    /// How many bytes came until now.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What is left of what came after the first `count` bytes.
    pub(super) fn since(&self, count: u64) -> String {
        let new = usize::try_from(self.count - count).unwrap_or(usize::MAX).min(self.bytes.len());
        String::from_utf8_lossy(&self.bytes[self.bytes.len() - new..]).into_owned()
    }

    /// At most the limits' lines and bytes, from the start of a line where one is in reach.
    pub(super) fn text(&self) -> String {
        use types::Limits;
        let last = &self.bytes[self.bytes.len().saturating_sub(Limits::STDERR_TAIL_BYTES)..];
        let text = String::from_utf8_lossy(last);
        let lines: Vec<&str> = text.trim_end_matches('\n').split('\n').collect();
        let cut = self.bytes.len() > last.len() && lines.len() > 1;
        let from = lines.len().saturating_sub(Limits::STDERR_TAIL_LINES).max(usize::from(cut));
        let mut kept = lines[from..].join("\n");
        // Replacement characters are longer than what they replace.
        let mut start = kept.len().saturating_sub(Limits::STDERR_TAIL_BYTES);
        while !kept.is_char_boundary(start) {
            start += 1;
        }
        kept.split_off(start)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "spool_tests.rs"]
mod tests;
