//! One stream of a rank: from its pipe to its spool file, byte for byte, no more on disk than the budget.
//!
//! The daemon punches holes where a majority of coordinators has the bytes, so that the blocks in use are what nobody else
//! has. When they reach the budget, or the disk is full, the pipe is no longer read and the rank waits in its write:
//! output is delayed, never dropped.

use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Read at once: a pipe's size, so that one read empties it.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// Reads before other streams and signals get their turn.
const READS_AT_ONCE: usize = 8;
/// Bytes between looks at the blocks in use: a look is a system call.
const BYTES_BETWEEN_LOOKS: u64 = 1 << 20;

pub(super) struct Spool {
    pipe: Option<OwnedFd>,
    file: File,
    length: u64,
    bytes_max: u64,
    looked_at: u64,
    /// Read from the pipe but not written: the disk was full.
    unwritten: Vec<u8>,
    blocked: bool,
    first_fault: Option<io::Error>,
}

impl Spool {
    /// Makes the file and the pipe; the pipe's other end goes to the rank.
    pub(super) fn new(path: &Path, bytes_max: u64) -> io::Result<(Self, OwnedFd)> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let length = file.metadata()?.len();
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        let spool = Self {
            pipe: Some(read),
            file,
            length,
            bytes_max,
            looked_at: 0,
            unwritten: Vec::new(),
            blocked: false,
            first_fault: None,
        };
        Ok((spool, write))
    }

    pub(super) fn length(&self) -> u64 {
        self.length
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

    /// Moves what is there, within the budget. `seen` gets each piece in order.
    pub(super) fn pump(&mut self, buffer: &mut [u8], seen: &mut dyn FnMut(&[u8])) {
        self.blocked = !self.write_rest() || self.over_budget();
        for _ in 0..READS_AT_ONCE {
            if self.blocked || !self.step(buffer, seen) {
                return;
            }
            self.blocked |= self.over_budget();
        }
    }

    /// After the last writer is gone: moves all that is left, whatever the budget (a pipe holds little). False when the
    /// disk is full: try again later.
    pub(super) fn drain(&mut self, buffer: &mut [u8], seen: &mut dyn FnMut(&[u8])) -> bool {
        self.blocked = !self.write_rest();
        while !self.blocked && self.step(buffer, seen) {}
        !self.blocked
    }

    /// One read and its write. False when nothing more is there now.
    fn step(&mut self, buffer: &mut [u8], seen: &mut dyn FnMut(&[u8])) -> bool {
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
        seen(&buffer[..count]);
        let written = self.write(&buffer[..count]);
        self.unwritten.extend_from_slice(&buffer[written..count]);
        self.blocked |= !self.unwritten.is_empty();
        !self.blocked
    }

    fn write_rest(&mut self) -> bool {
        if self.unwritten.is_empty() {
            return true;
        }
        let rest = std::mem::take(&mut self.unwritten);
        let written = self.write(&rest);
        self.unwritten = rest[written..].to_vec();
        self.unwritten.is_empty()
    }

    /// Writes as much as there is room for.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write_at(&bytes[done..], self.length) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    self.length += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if self.first_fault.is_none() {
                        eprintln!("output waits: cannot write the spool: {error}");
                        self.first_fault = Some(error);
                    }
                    break;
                }
            }
        }
        done
    }

    fn over_budget(&mut self) -> bool {
        let due = self.blocked || self.length - self.looked_at >= BYTES_BETWEEN_LOOKS.min(self.bytes_max / 4);
        if due {
            self.looked_at = self.length;
            let used = self.file.metadata().map_or(0, |facts| facts.blocks() * 512);
            return used >= self.bytes_max;
        }
        false
    }
}

/// The last lines of a stream, for the reason of a failure.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let keep = types::Limits::STDERR_TAIL_BYTES;
        self.bytes.extend_from_slice(&bytes[bytes.len().saturating_sub(keep)..]);
        // Trimmed at twice the size: not on each write.
        if self.bytes.len() > 2 * keep {
            self.bytes.drain(..self.bytes.len() - keep);
        }
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
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_whole_lines_within_its_limits() {
        let mut tail = Tail::default();
        for line in 0..10_000 {
            tail.push(format!("line {line}\n").as_bytes());
        }
        let text = tail.text();
        assert_eq!(text.lines().count(), 20);
        assert!(text.starts_with("line 9980\n") && text.ends_with("line 9999"));
        let mut tail = Tail::default();
        tail.push(&[0xff; 100_000]);
        assert!(tail.text().len() <= types::Limits::STDERR_TAIL_BYTES);
        assert_eq!(Tail::default().text(), "");
    }

    #[test]
    fn past_its_budget_a_spool_stops_reading_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        let (mut spool, write) = Spool::new(&path, 256 * 1024).unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut sent = 0_u64;
        while !spool.is_blocked() {
            while let Ok(count) = rustix::io::write(&write, &[b'x'; 4096]) {
                sent += count as u64;
            }
            spool.pump(&mut buffer, &mut |_| {});
        }
        assert!(spool.waits_for().is_none());
        assert!(spool.length() < 1 << 20);
        // The daemon frees what was shipped, and the reading goes on.
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        rustix::fs::fallocate(&file, flags, 0, spool.length()).unwrap();
        drop(write);
        while spool.length() < sent {
            spool.pump(&mut buffer, &mut |_| {});
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), sent);
    }
}
