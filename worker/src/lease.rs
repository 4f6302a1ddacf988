//! `LEASE-1` on the worker's side: one small file says until when ranks may live, by the machine's boot clock.
//!
//! The daemon rewrites the file on each acknowledged heartbeat, in place; each rank's supervisor reads it by itself, so
//! that a dead or stopped daemon cannot keep ranks alive past the lease. The deadline counts from when the confirmed
//! heartbeat was *sent*: the leader counts from when it received it, which is later.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// The daemon's side of the lease file.
#[derive(Debug)]
pub(crate) struct LeaseFile {
    file: File,
}

impl LeaseFile {
    /// Opens or makes the file. A deadline that stands there stays: it may keep adopted ranks alive.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file })
    }

    /// Moves the deadline. Never back: an acknowledgement that was overtaken by a later one changes nothing.
    pub(crate) fn renew(&self, deadline: Duration) -> io::Result<()> {
        if read(&self.file).is_some_and(|standing| standing >= deadline) {
            return Ok(());
        }
        self.write(deadline)
    }

    /// Sets the deadline whatever stood there.
    pub(crate) fn write(&self, deadline: Duration) -> io::Result<()> {
        let ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let mut bytes = [0_u8; 16];
        bytes[..8].copy_from_slice(&ms.to_le_bytes());
        bytes[8..].copy_from_slice(&(!ms).to_le_bytes());
        self.file.write_all_at(&bytes, 0)
    }

    /// The deadline that stands; none = never granted, or damaged.
    #[cfg(test)]
    pub(crate) fn deadline(&self) -> Option<Duration> {
        read(&self.file)
    }
}

/// The deadline in boot time; none when there is none or the file is damaged, which a supervisor takes as over.
///
/// The second half is the complement of the first: a read that races a write is seen and repeated.
pub(crate) fn read(file: &File) -> Option<Duration> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let mut bytes = [0_u8; 16];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let (first, second) = bytes.split_at(8);
        let ms = u64::from_le_bytes(first.try_into().ok()?);
        if u64::from_le_bytes(second.try_into().ok()?) == !ms {
            return Some(Duration::from_millis(ms));
        }
        std::thread::yield_now();
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_moves_forward_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        let lease = LeaseFile::open(&path).unwrap();
        assert_eq!(lease.deadline(), None);
        lease.renew(Duration::from_millis(500)).unwrap();
        lease.renew(Duration::from_millis(400)).unwrap();
        assert_eq!(read(&File::open(&path).unwrap()), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_damaged_lease_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        std::fs::write(&path, [7_u8; 16]).unwrap();
        assert_eq!(read(&File::open(&path).unwrap()), None);
        std::fs::write(&path, [7_u8; 3]).unwrap();
        assert_eq!(read(&File::open(&path).unwrap()), None);
    }
}
