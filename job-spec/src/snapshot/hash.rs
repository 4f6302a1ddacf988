//! Streams a file through SHA-256 and notices if it changes meanwhile.

use super::error::SnapshotError;
use sha2::{Digest, Sha256};
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use types::{ContentHash, FileKind};

/// Large enough that system calls do not show beside hashing.
const BUFFER_BYTES: usize = 128 * 1024;
/// The owner may execute, as git sees it.
const EXECUTABLE: u32 = 0o100;

/// A file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hashed {
    pub(super) hash: ContentHash,
    pub(super) bytes: u64,
    pub(super) kind: FileKind,
}

impl Hashed {
    /// Stands in while only the path is checked.
    pub(super) const EMPTY: Hashed = Hashed { hash: ContentHash([0; 32]), bytes: 0, kind: FileKind::File };
}

/// Hashes files, one after the other, through one buffer.
pub(super) struct Hasher {
    buffer: Vec<u8>,
}

impl Hasher {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES] }
    }

    /// Hash of bytes in memory.
    pub(super) fn of_bytes(bytes: &[u8]) -> ContentHash {
        ContentHash(Sha256::digest(bytes).into())
    }

    /// Hashes a plain file that is no link; a pipe or device put in its place does not block.
    pub(super) fn file(&mut self, path: &Path) -> Result<Hashed, SnapshotError> {
        self.file_watched(path, &mut |_| ())
    }

    /// `watch` is told after each read how many bytes were read so far.
    fn file_watched(&mut self, path: &Path, watch: &mut dyn FnMut(u64)) -> Result<Hashed, SnapshotError> {
        let wrap = |source| SnapshotError::io(path, source);
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(wrap)?;
        let before = file.metadata().map_err(wrap)?;
        if !before.is_file() {
            return Err(SnapshotError::Changed(path.to_owned()));
        }
        let (hash, bytes) = self.stream(&mut file, before.len(), watch).map_err(wrap)?;
        let after = file.metadata().map_err(wrap)?;
        if bytes != before.len() || stamp(&before) != stamp(&after) {
            return Err(SnapshotError::Changed(path.to_owned()));
        }
        let kind = if before.mode() & EXECUTABLE == 0 { FileKind::File } else { FileKind::Executable };
        Ok(Hashed { hash, bytes, kind })
    }

    /// Reads to the end, or just past `expected` bytes: a file that grows as fast as it is read would never end.
    fn stream(
        &mut self,
        file: &mut File,
        expected: u64,
        watch: &mut dyn FnMut(u64),
    ) -> std::io::Result<(ContentHash, u64)> {
        let mut digest = Sha256::new();
        let mut bytes = 0_u64;
        while bytes <= expected {
            let read = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            digest.update(self.buffer.get(..read).unwrap_or_default());
            bytes += read as u64;
            watch(bytes);
        }
        Ok((ContentHash(digest.finalize().into()), bytes))
    }
}

fn stamp(metadata: &Metadata) -> (u64, i64, i64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_hash_is_sha_256_of_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let hashed = Hasher::new().file(&path).unwrap();
        assert_eq!(hashed.hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((hashed.bytes, hashed.kind), (3, FileKind::File));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o744)).unwrap();
        assert_eq!(Hasher::new().file(&path).unwrap().kind, FileKind::Executable);
    }

    #[test]
    fn a_file_longer_than_the_buffer_is_streamed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let content: Vec<u8> = (0..BUFFER_BYTES * 2 + 7).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let hashed = Hasher::new().file(&path).unwrap();
        assert_eq!(hashed.hash, Hasher::of_bytes(&content));
        assert_eq!(hashed.bytes, content.len() as u64);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let changes: [fn(&Path); 3] = [
            |path| OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap(),
            |path| OpenOptions::new().write(true).open(path).unwrap().set_len(5).unwrap(),
            |path| std::fs::write(path, vec![1; BUFFER_BYTES * 2]).unwrap(),
        ];
        for change in changes {
            std::fs::write(&path, vec![0; BUFFER_BYTES * 2]).unwrap();
            // The kernel's file times are coarse: make the change one that they show.
            let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000);
            OpenOptions::new().write(true).open(&path).unwrap().set_modified(old).unwrap();
            let mut once = Some(change);
            let result =
                Hasher::new().file_watched(&path, &mut |_| once.take().into_iter().for_each(|change| change(&path)));
            assert!(matches!(result, Err(SnapshotError::Changed(_))), "{result:?}");
        }
    }

    #[test]
    fn a_pipe_in_place_of_a_file_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert!(matches!(Hasher::new().file(&path), Err(SnapshotError::Changed(_))));
    }
}
