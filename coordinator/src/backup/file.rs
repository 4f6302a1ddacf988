//! The file of a backup: a head that says what it is, then sealed frames of one record each.

use super::{BackupError, PIECE_BYTES, Record};
use identity::{SALT_BYTES, SealingError, SealingKey, StreamOpener, StreamSealer};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Of the file and of what is in it.
pub(crate) const FORMAT: u32 = 2;
const MAGIC: &[u8; 8] = b"MUSTBKUP";
const HEAD_BYTES: usize = 8 + 4 + SALT_BYTES;
/// Bytes of a sealed record at most: a piece, its names, and what seals it.
const FRAME_BYTES_MAX: usize = 2 * PIECE_BYTES;

/// Makes the file's bytes, in order.
pub(crate) struct FrameWriter(StreamSealer);

impl FrameWriter {
    /// The writer, and the bytes that the file begins with.
    pub(crate) fn start(key: &SealingKey) -> Result<(Self, Vec<u8>), SealingError> {
        let salt: [u8; SALT_BYTES] = daemon::random::bytes().map_err(SealingError::Random)?;
        let head = [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &salt].concat();
        Ok((Self(StreamSealer::new(key, &salt)?), head))
    }

    /// The bytes of the next record.
    pub(crate) fn frame(&mut self, record: &Record) -> Result<Vec<u8>, SealingError> {
        let is_last = matches!(record, Record::End { .. });
        let mut sealed = postcard::to_stdvec(record).map_err(|_| SealingError::Sealing)?;
        self.0.seal(&mut sealed, is_last)?;
        let length = u32::try_from(sealed.len()).map_err(|_| SealingError::Sealing)?;
        Ok([&[u8::from(is_last)], length.to_le_bytes().as_slice(), &sealed].concat())
    }
}

/// Reads a file, record after record.
pub(crate) struct FrameReader {
    file: BufReader<File>,
    path: PathBuf,
    offset: u64,
    opener: StreamOpener,
}

impl FrameReader {
    pub(crate) fn open(path: &Path, key: &SealingKey) -> Result<Self, BackupError> {
        let file = File::open(path).map_err(BackupError::io("open", path))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let damaged = |what: String| BackupError::Damaged { path: path.to_owned(), what };
        let mut head = [0; HEAD_BYTES];
        file.read_exact(&mut head).map_err(|_| damaged("is too short to be a backup".to_owned()))?;
        let (magic, rest) = head.split_at(MAGIC.len());
        let (format, salt) = rest.split_at(4);
        if magic != MAGIC {
            return Err(damaged("is not a backup of a Muster cluster".to_owned()));
        }
        if format != FORMAT.to_le_bytes() {
            return Err(damaged(format!(
                "is a backup of another format than {FORMAT}, the one that this program reads"
            )));
        }
        let salt = salt.try_into().map_err(|_| damaged("is too short to be a backup".to_owned()))?;
        let opener = StreamOpener::new(key, salt);
        let opener = opener.map_err(|source| BackupError::Sealed { path: path.to_owned(), offset: 0, source })?;
        Ok(Self { file, path: path.to_owned(), offset: HEAD_BYTES as u64, opener })
    }

    /// The next record; none after the last. A file that ends before that is cut off.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, BackupError> {
        if self.opener.is_over() {
            let more = self.file.read(&mut [0]).map_err(BackupError::io("read", &self.path))?;
            return if more == 0 { Ok(None) } else { Err(self.damaged("goes on after its end")) };
        }
        let mut head = [0; 5];
        self.file.read_exact(&mut head).map_err(|error| self.short(error))?;
        let (is_last, length) = (head[0], u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize);
        if is_last > 1 || length > FRAME_BYTES_MAX {
            return Err(self.damaged(&format!("is damaged at byte {}", self.offset)));
        }
        let mut sealed = vec![0; length];
        self.file.read_exact(&mut sealed).map_err(|error| self.short(error))?;
        let opened = self.opener.open(sealed, is_last == 1);
        let opened =
            opened.map_err(|source| BackupError::Sealed { path: self.path.clone(), offset: self.offset, source })?;
        self.offset += (head.len() + length) as u64;
        let record = postcard::from_bytes(&opened);
        record.map(Some).map_err(|error| self.damaged(&format!("has a record that cannot be read: {error}")))
    }

    pub(crate) fn damaged(&self, what: &str) -> BackupError {
        BackupError::Damaged { path: self.path.clone(), what: what.to_owned() }
    }

    fn short(&self, error: std::io::Error) -> BackupError {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return self.damaged(&format!("is cut off at byte {}", self.offset));
        }
        BackupError::Io { what: "read", path: self.path.clone(), source: error }
    }
}
