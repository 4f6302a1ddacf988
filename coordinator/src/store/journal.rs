//! A small file in front of the engine: what a group of writes changed, flushed at once by one call.
//!
//! ```text
//!  page 0    magic · salt u64 · crc32
//!  half A    group, group, ...    each from the start of a page; halves are written in turn, and used again
//!  half B    group, group, ...
//!
//!  group     magic · sequence u64 · floor u64 · bytes u32 · crc32 · changes    (zeros to the end of the page)
//!  change    kind u8 · index u64 · bytes u32 · bytes
//! ```
//!
//! Groups are numbered without a gap. A group is flushed before the next is written, so after a power cut only the last can
//! be torn, and no page of an older one was touched. `floor` is the first group that the engine may lack: all before it are
//! flushed there. Opening gives the groups from the last one's floor on. The last page of a half is kept for an empty group
//! that says, before the other half is overwritten, that the engine has what lies there. The checksums begin with a salt that
//! only this file knows: what a user stores never passes for a group, wherever a page of it lies.

pub mod fuzzed;

use super::disk::{DiskError, Fact, Record};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What is written at once; a torn page is the last group's own.
const PAGE: usize = 4096;
/// Bytes of each half.
const HALF: usize = 4 << 20;
/// Bytes of the file, which never grows: to flush it is to flush its bytes, and nothing about it.
const FILE_BYTES: usize = PAGE + 2 * HALF;
/// Bytes of a group with its head, at most; more goes past the journal.
pub(crate) const GROUP_BYTES_MAX: usize = HALF / 2;
const FILE_MAGIC: [u8; 8] = *b"MUSTJRNL";
const GROUP_MAGIC: [u8; 8] = *b"MUSTGRP1";
/// Bytes of a group's head.
const HEAD: usize = 32;
const NAME: &str = "journal";
const RECORD: u8 = 0;

/// The changes of one group, encoded behind the room for its head.
#[derive(Debug)]
pub(crate) struct Changes(Vec<u8>);

impl Default for Changes {
    fn default() -> Self {
        Self(vec![0; HEAD])
    }
}

impl Changes {
    /// Adds a record.
    pub(crate) fn record(&mut self, record: &Record) -> Result<(), DiskError> {
        self.push(RECORD, record.index, &record.bytes)
    }

    /// Sets a fact.
    pub(crate) fn fact(&mut self, fact: Fact, value: &[u8]) -> Result<(), DiskError> {
        self.push(code(fact), 0, value)
    }

    /// Bytes with the head.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() == HEAD
    }

    fn push(&mut self, kind: u8, index: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let length =
            u32::try_from(bytes.len()).map_err(|error| failed("encode a change for", io::Error::other(error)))?;
        self.0.push(kind);
        self.0.extend_from_slice(&index.to_le_bytes());
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    /// Its changes in order.
    pub(crate) fn read(&self) -> Result<Vec<Change<'_>>, DiskError> {
        let mut rest = self.0.get(HEAD..).unwrap_or_default();
        let mut changes = Vec::new();
        while !rest.is_empty() {
            let (change, after) = Change::split(rest).ok_or_else(|| corrupt("has a group of no known form"))?;
            changes.push(change);
            rest = after;
        }
        Ok(changes)
    }
}

/// One change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// A record at the end of the log.
    Record { index: u64, bytes: &'a [u8] },
    /// A fact's new value.
    Fact { fact: Fact, value: &'a [u8] },
}

impl<'a> Change<'a> {
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (kind, rest) = bytes.split_first()?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let change = match *kind {
            RECORD => Self::Record { index: u64::from_le_bytes(*index), bytes: value },
            kind => Self::Fact { fact: Fact::ALL.into_iter().find(|fact| code(*fact) == kind)?, value },
        };
        Some((change, rest))
    }
}

fn code(fact: Fact) -> u8 {
    match fact {
        Fact::Vote => 1,
        Fact::Purged => 2,
        Fact::Committed => 3,
    }
}

/// The open file, and where the next group goes.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    salt: u64,
    /// 0 or 1.
    half: usize,
    /// Offset in the half.
    position: usize,
    /// Of the last group.
    sequence: u64,
    /// The last group in the other half: zero when there is none.
    other_last: u64,
}

impl Journal {
    /// Opens the journal in `folder`, or makes it when there is no database yet. Gives the changes that the engine may lack.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Vec<Changes>), DiskError> {
        let path = folder.join(NAME);
        if !path.exists() {
            if folder.join("db").exists() {
                return Err(corrupt("is missing, although there is a database"));
            }
            create(folder, &path)?;
        }
        let bytes = std::fs::read(&path).map_err(|source| failed("read the journal of", source))?;
        let read = Image::check(&bytes)?.read()?;
        let file =
            OpenOptions::new().write(true).open(&path).map_err(|source| failed("open the journal of", source))?;
        let journal = Self {
            file,
            salt: read.salt,
            half: read.half,
            position: read.end,
            sequence: read.last,
            other_last: read.other_last,
        };
        Ok((journal, read.changes))
    }

    /// The last group's number.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The group that must be flushed in the engine before this many bytes may be written: they overwrite it. None when
    /// there is room.
    pub(crate) fn overwrites(&self, bytes: usize) -> Option<u64> {
        (self.position + bytes.next_multiple_of(PAGE) > HALF - PAGE).then_some(self.other_last)
    }

    /// Writes the next group and flushes it; its number is returned. What `overwrites` says must be in the engine, and below
    /// `floor`.
    pub(crate) fn write(&mut self, changes: &mut Changes, floor: u64) -> Result<u64, DiskError> {
        if self.overwrites(changes.bytes()).is_some() {
            if self.position < HALF {
                self.write_here(&mut Changes::default(), floor)?;
            }
            self.other_last = self.sequence;
            self.half = 1 - self.half;
            self.position = 0;
        }
        self.write_here(changes, floor)
    }

    fn write_here(&mut self, changes: &mut Changes, floor: u64) -> Result<u64, DiskError> {
        let sequence = self.sequence + 1;
        let buffer = &mut changes.0;
        let length = buffer.len();
        let head = head(self.salt, sequence, floor, buffer.get(HEAD..).unwrap_or_default())?;
        buffer[..HEAD].copy_from_slice(&head);
        // Whole pages: the file system need not read what it overwrites.
        buffer.resize(length.next_multiple_of(PAGE), 0);
        let offset = (PAGE + self.half * HALF + self.position) as u64;
        self.file.write_all_at(buffer, offset).map_err(|source| failed("write the journal of", source))?;
        self.file.sync_data().map_err(|source| failed("flush the journal of", source))?;
        self.position += buffer.len();
        self.sequence = sequence;
        buffer.truncate(length);
        Ok(sequence)
    }
}

fn head(salt: u64, sequence: u64, floor: u64, changes: &[u8]) -> Result<[u8; HEAD], DiskError> {
    let length = u32::try_from(changes.len()).map_err(|error| failed("encode a group for", io::Error::other(error)))?;
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&GROUP_MAGIC);
    head[8..16].copy_from_slice(&sequence.to_le_bytes());
    head[16..24].copy_from_slice(&floor.to_le_bytes());
    head[24..28].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(salt, &[&head[8..28], changes]);
    head[28..].copy_from_slice(&crc.to_le_bytes());
    Ok(head)
}

fn checksum(salt: u64, parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_le_bytes());
    for part in parts {
        crc.update(part);
    }
    crc.finalize()
}

/// Zeros and a first, empty group, under a temporary name first: a journal that is there is whole.
fn create(folder: &Path, path: &Path) -> Result<(), DiskError> {
    let salt = daemon::random::bytes()
        .map(u64::from_le_bytes)
        .map_err(|source| failed("draw the salt for the journal of", source))?;
    let mut bytes = vec![0; FILE_BYTES];
    bytes[..8].copy_from_slice(&FILE_MAGIC);
    bytes[8..16].copy_from_slice(&salt.to_le_bytes());
    let crc = checksum(salt, &[&FILE_MAGIC]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes[PAGE..PAGE + HEAD].copy_from_slice(&head(salt, 1, 1, &[])?);
    std::fs::create_dir_all(folder)
        .and_then(|()| daemon::files::write_atomically(path, &bytes))
        .map_err(|source| failed("make the journal of", source))
}

/// A journal's bytes as they were found.
struct Image<'a> {
    bytes: &'a [u8],
    salt: u64,
}

/// One group as it was found.
#[derive(Clone, Copy)]
struct Group<'a> {
    sequence: u64,
    floor: u64,
    whole: &'a [u8],
}

/// What opening needs to know.
struct Read {
    salt: u64,
    half: usize,
    end: usize,
    last: u64,
    other_last: u64,
    changes: Vec<Changes>,
}

impl<'a> Image<'a> {
    fn check(bytes: &'a [u8]) -> Result<Self, DiskError> {
        if bytes.len() != FILE_BYTES {
            return Err(corrupt(format!("has {} bytes, not {FILE_BYTES}", bytes.len())));
        }
        let salt = number(&bytes[8..16]);
        if bytes[..8] != FILE_MAGIC || bytes[16..20] != checksum(salt, &[&FILE_MAGIC]).to_le_bytes() {
            return Err(corrupt("does not begin as a journal does"));
        }
        Ok(Self { bytes, salt })
    }

    fn half(&self, half: usize) -> &'a [u8] {
        let start = PAGE + half * HALF;
        &self.bytes[start..start + HALF]
    }

    fn group_at(&self, half: usize, position: usize) -> Option<Group<'a>> {
        let rest = self.half(half).get(position..)?;
        let head = rest.get(..HEAD)?;
        let length = u32::from_le_bytes(*head[24..].first_chunk::<4>()?) as usize;
        let whole = rest.get(..HEAD.checked_add(length)?)?;
        let crc = checksum(self.salt, &[&head[8..28], &whole[HEAD..]]);
        let (sequence, floor) = (number(&head[8..16]), number(&head[16..24]));
        // Groups are numbered from 1: zero stands for none.
        let good = head[..8] == GROUP_MAGIC && head[28..] == crc.to_le_bytes() && sequence > 0;
        good.then_some(Group { sequence, floor, whole })
    }

    /// The groups from a half's start that follow one another, and where they end.
    fn chain(&self, half: usize) -> (Vec<Group<'a>>, usize) {
        let (mut groups, mut position) = (Vec::<Group>::new(), 0);
        while let Some(group) = self.group_at(half, position)
            && groups.last().is_none_or(|last| last.sequence.checked_add(1) == Some(group.sequence))
        {
            position += group.whole.len().next_multiple_of(PAGE);
            groups.push(group);
        }
        (groups, position)
    }

    fn read(&self) -> Result<Read, DiskError> {
        let chains = [self.chain(0), self.chain(1)];
        let last_of = |half: usize| chains[half].0.last().map_or(0, |group| group.sequence);
        let half = usize::from(last_of(1) > last_of(0));
        let (newest, end) = &chains[half];
        let last = newest.last().ok_or_else(|| corrupt("has no group that is whole"))?;
        // Each was flushed before the next was written: a later one shows that what lies between was whole once.
        let later = |half: usize| {
            (chains[half].1..HALF)
                .step_by(PAGE)
                .filter_map(move |at| self.group_at(half, at))
                .any(|group| group.sequence > last.sequence)
        };
        if later(0) || later(1) {
            return Err(corrupt(format!("its group {} is damaged", last.sequence.saturating_add(1))));
        }
        let older = &chains[1 - half].0;
        let wanted: Vec<&Group> =
            older.iter().chain(newest).filter(|group| (last.floor..=last.sequence).contains(&group.sequence)).collect();
        // So many groups nobody has written, and the next one would have no number.
        let next =
            last.sequence.checked_add(1).ok_or_else(|| corrupt("has a group of the last number that there is"))?;
        let count = next.saturating_sub(last.floor);
        if wanted.len() as u64 != count || wanted.windows(2).any(|pair| pair[0].sequence >= pair[1].sequence) {
            return Err(corrupt(format!("has {} of the {count} groups from {} on", wanted.len(), last.floor)));
        }
        Ok(Read {
            salt: self.salt,
            half,
            end: *end,
            last: last.sequence,
            other_last: older.last().map_or(0, |group| group.sequence),
            changes: wanted.into_iter().map(|group| Changes(group.whole.to_vec())).collect(),
        })
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn corrupt(what: impl Into<String>) -> DiskError {
    DiskError::Corrupt { key: NAME.to_owned(), what: what.into() }
}

fn failed(what: &'static str, source: io::Error) -> DiskError {
    DiskError::Io { what, source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_number_zero_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        create(folder.path(), &path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let salt = number(&bytes[8..16]);
        bytes[PAGE..PAGE + HEAD].copy_from_slice(&head(salt, 0, 0, &[]).unwrap());
        std::fs::write(&path, &bytes).unwrap();
        let refused = Journal::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("no group that is whole"), "{refused}");
    }

    #[test]
    fn a_group_of_the_last_number_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        create(folder.path(), &path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let salt = number(&bytes[8..16]);
        for sequence in [u64::MAX, u64::MAX - 1] {
            bytes[PAGE..PAGE + HEAD].copy_from_slice(&head(salt, sequence, sequence, &[]).unwrap());
            std::fs::write(&path, &bytes).unwrap();
            let refused = Journal::open(folder.path()).err().map(|error| error.to_string());
            assert_eq!(refused.is_some_and(|words| words.contains("last number")), sequence == u64::MAX);
        }
    }
}
