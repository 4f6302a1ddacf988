//! `LEASE-1` on the worker's side: one small file says until when ranks may live, by the machine's boot clock.
//!
//! The daemon rewrites the file on each acknowledged heartbeat, in place; each rank's supervisor reads it by itself, so
//! that a dead or stopped daemon cannot keep ranks alive past the lease. The deadline counts from when the confirmed
//! heartbeat was *sent*: the leader counts from when it received it, which is later. A deadline of another boot is over.

use crate::process;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const RECORD_BYTES: usize = 24;
/// Reads of a record that is being written.
const TRIES: usize = 100;

/// The lease file, as the daemon and the supervisors hold it open.
#[derive(Debug)]
pub(crate) struct Lease {
    file: File,
    /// Which boot: its clock's readings mean nothing in another.
    boot: u64,
}

impl Lease {
    /// For the daemon: opens or makes the file. A deadline that stands there stays: it may keep adopted ranks alive.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, boot: process::boot_number()? })
    }

    /// For a supervisor: to read only.
    pub(crate) fn watch(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, boot: process::boot_number()? })
    }

    /// Moves the deadline. Never back: an acknowledgement that was overtaken by a later one changes nothing.
    pub(crate) fn renew(&self, deadline: Duration) -> io::Result<()> {
        if self.deadline().is_some_and(|standing| standing >= deadline) {
            return Ok(());
        }
        let ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let mut bytes = [0_u8; RECORD_BYTES];
        for (place, value) in bytes.chunks_exact_mut(8).zip([ms, self.boot, check(ms, self.boot)]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        self.file.write_all_at(&bytes, 0)
    }

    /// The deadline in boot time; none when there is none, it is of another boot, or the file is damaged: which a
    /// supervisor takes as over. A read that races a write is seen by its check and repeated.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        for _ in 0..TRIES {
            let mut bytes = [0_u8; RECORD_BYTES];
            self.file.read_exact_at(&mut bytes, 0).ok()?;
            let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
            let (ms, boot) = (number(0)?, number(8)?);
            if number(16)? == check(ms, boot) {
                return (boot == self.boot).then_some(Duration::from_millis(ms));
            }
            std::thread::yield_now();
        }
        None
    }
}

fn check(ms: u64, boot: u64) -> u64 {
    !(ms ^ boot.rotate_left(32))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_moves_forward_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        let lease = Lease::open(&path).unwrap();
        assert_eq!(lease.deadline(), None);
        lease.renew(Duration::from_millis(500)).unwrap();
        lease.renew(Duration::from_millis(400)).unwrap();
        assert_eq!(Lease::watch(&path).unwrap().deadline(), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_damaged_lease_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        for bytes in [&[7_u8; RECORD_BYTES][..], &[7_u8; 3], &[]] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Lease::watch(&path).unwrap().deadline(), None);
        }
    }

    #[test]
    fn a_lease_of_another_boot_is_over_and_stands_in_no_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        let mut before = Lease::open(&path).unwrap();
        before.boot += 1;
        // The machine had been up for a month.
        before.renew(Duration::from_hours(720)).unwrap();
        let after = Lease::open(&path).unwrap();
        assert_eq!(after.deadline(), None);
        after.renew(Duration::from_secs(24)).unwrap();
        assert_eq!(Lease::watch(&path).unwrap().deadline(), Some(Duration::from_secs(24)));
    }
}
