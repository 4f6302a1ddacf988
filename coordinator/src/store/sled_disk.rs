//! The log on sled: the only place that knows it. Every value carries a checksum over its key and bytes.
//!
//! Three habits of sled 0.34.7 are met here. Its `flush` ends in `sync_file_range`, which is no barrier against a power
//! cut, so `sync` flushes the file itself as well. Values near a segment's size go to blob files that no flush of the log
//! file covers, and a page holds up to 17 values, so a record is cut into parts that keep a full page well inside a
//! segment. A torn `snap.*` file (sled's own index, not ours) makes `open` fail although all data is there, so these are
//! removed before: sled then reads its log instead.

use super::disk::{DiskError, Fact, LogDisk, Record};
use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

/// Bytes of one part: 17 of them, and twice that while a page splits, fit in sled's segment of 512 KiB.
const PART_BYTES: usize = 12 * 1024;
/// Parts of one record: what a `u16` numbers.
const PARTS_MAX: usize = u16::MAX as usize;
/// Bytes of pages that sled keeps in memory; our own cache of entries is in front of it.
const CACHE_BYTES: u64 = 16 << 20;

const RECORD: u8 = b'e';
const FACT: u8 = b'f';

/// A sled database of records and facts.
pub struct SledDisk {
    db: sled::Db,
    /// The log file, held open to be flushed.
    file: File,
}

impl SledDisk {
    /// Opens or makes the database in `folder`. sled panics on some kinds of damage: that is reported as damage.
    pub fn open(folder: &Path) -> Result<Self, DiskError> {
        let opened = std::panic::catch_unwind(|| Self::open_unguarded(folder));
        opened.unwrap_or_else(|_| Err(corrupt("db", "the storage engine gave up while reading it")))
    }

    fn open_unguarded(folder: &Path) -> Result<Self, DiskError> {
        remove_index_files(folder).map_err(|source| DiskError::Io { what: "remove old index files", source })?;
        let config = sled::Config::new()
            .path(folder)
            .flush_every_ms(None)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::HighThroughput);
        let db = config.open().map_err(|error| engine("open", error))?;
        let file = File::open(folder.join("db")).map_err(|source| DiskError::Io { what: "open", source })?;
        let disk = Self { db, file };
        disk.sync()?;
        // The names of the files that sled made must survive as well; it makes no others later.
        daemon::files::sync_folder(folder).map_err(|source| DiskError::Io { what: "flush the folder of", source })?;
        Ok(disk)
    }

    fn visit(
        range: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
        visit: &mut dyn FnMut(Record) -> Result<bool, DiskError>,
    ) -> Result<(), DiskError> {
        let mut parts = Parts::default();
        for pair in range {
            let (key, value) = pair.map_err(|error| engine("read", error))?;
            let (index, part) = parse_record_key(&key)?;
            if let Some(record) = parts.take(index, part, unseal(&key, &value)?)?
                && !visit(record)?
            {
                return Ok(());
            }
        }
        parts.finish()
    }
}

impl LogDisk for SledDisk {
    fn append(&self, records: &[Record]) -> Result<(), DiskError> {
        for record in records {
            let parts = split(&record.bytes)?;
            let count = parts.len() as u16;
            let sealed = |part: usize, bytes: &[u8]| {
                let key = record_key(record.index, part as u16);
                if part == 0 { (key, seal(&key, &[&count.to_le_bytes(), bytes])) } else { (key, seal(&key, &[bytes])) }
            };
            // Only what must not be torn is a batch: sled writes its buffer out twice for each, and wakes all its threads.
            let written = if let [bytes] = parts[..] {
                let (key, value) = sealed(0, bytes);
                self.db.insert(key, value).map(drop)
            } else {
                let mut batch = sled::Batch::default();
                for (part, bytes) in parts.into_iter().enumerate() {
                    let (key, value) = sealed(part, bytes);
                    batch.insert(&key, value);
                }
                self.db.apply_batch(batch)
            };
            written.map_err(|error| engine("append", error))?;
        }
        Ok(())
    }

    fn truncate_after(&self, last: Option<u64>) -> Result<(), DiskError> {
        let from = last.map_or(0, |last| last.saturating_add(1));
        let mut batch = sled::Batch::default();
        for key in self.db.range(record_key(from, 0)..=record_key(u64::MAX, u16::MAX)).keys().rev() {
            batch.remove(key.map_err(|error| engine("truncate", error))?);
        }
        self.db.apply_batch(batch).map_err(|error| engine("truncate", error))
    }

    fn remove(&self, indexes: RangeInclusive<u64>, records_max: usize) -> Result<bool, DiskError> {
        let range = record_key(*indexes.start(), 0)..=record_key(*indexes.end(), u16::MAX);
        let mut batch = sled::Batch::default();
        let mut records = 0;
        for key in self.db.range(range).keys() {
            let key = key.map_err(|error| engine("purge", error))?;
            records += usize::from(parse_record_key(&key)?.1 == 0);
            if records > records_max {
                self.db.apply_batch(batch).map_err(|error| engine("purge", error))?;
                return Ok(true);
            }
            batch.remove(key);
        }
        self.db.apply_batch(batch).map_err(|error| engine("purge", error))?;
        Ok(false)
    }

    fn read(&self, indexes: Range<u64>, bytes_max: usize) -> Result<Vec<Record>, DiskError> {
        let mut records = Vec::new();
        if indexes.is_empty() {
            return Ok(records);
        }
        let mut bytes = 0;
        let range = record_key(indexes.start, 0)..record_key(indexes.end, 0);
        Self::visit(self.db.range(range), &mut |record| {
            bytes += record.bytes.len();
            if bytes <= bytes_max || records.is_empty() {
                records.push(record);
            }
            Ok(bytes < bytes_max)
        })?;
        Ok(records)
    }

    fn scan(&self, visit: &mut dyn FnMut(Record) -> Result<(), DiskError>) -> Result<(), DiskError> {
        // sled panics on some kinds of damage, and here is where it first reads every page.
        let scanned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let range = record_key(0, 0)..=record_key(u64::MAX, u16::MAX);
            Self::visit(self.db.range(range), &mut |record| visit(record).map(|()| true))
        }));
        scanned.unwrap_or_else(|_| Err(corrupt("db", "the storage engine gave up while reading it")))
    }

    fn put(&self, fact: Fact, value: &[u8]) -> Result<(), DiskError> {
        let key = fact_key(fact);
        let sealed = seal(&key, &[value]);
        self.db.insert(key, sealed).map(drop).map_err(|error| engine("write", error))
    }

    fn get(&self, fact: Fact) -> Result<Option<Vec<u8>>, DiskError> {
        let key = fact_key(fact);
        let value = self.db.get(key).map_err(|error| engine("read", error))?;
        value.map(|value| unseal(&key, &value).map(<[u8]>::to_vec)).transpose()
    }

    fn sync(&self) -> Result<(), DiskError> {
        let synced = self.flush();
        if synced.is_err() {
            // sled flushes once more as its last handle goes, and panics where that fails too. A coordinator whose flush
            // failed is about to end: a handle that never goes keeps it from panicking on its way.
            std::mem::forget(self.db.clone());
        }
        synced
    }
}

impl SledDisk {
    fn flush(&self) -> Result<(), DiskError> {
        self.db.flush().map_err(|error| engine("flush", error))?;
        // Without this, 36 of 100 simulated power cuts left a store that lost entries or did not open.
        // Bytes and length: the time of the last change is not worth a write to the disk of its own.
        self.file.sync_data().map_err(|source| DiskError::Io { what: "flush the file of", source })
    }
}

/// Puts the parts of a record together again, and notices a part that is missing.
#[derive(Default)]
struct Parts {
    record: Option<(Record, u16, u16)>,
}

impl Parts {
    fn take(&mut self, index: u64, part: u16, bytes: &[u8]) -> Result<Option<Record>, DiskError> {
        let (mut record, seen, count) = match (self.record.take(), part) {
            (None, 0) => {
                let (count, rest) =
                    bytes.split_first_chunk::<2>().ok_or_else(|| corrupt(name(index), "has no number of parts"))?;
                (Record { index, bytes: rest.to_vec() }, 1, u16::from_le_bytes(*count))
            }
            (Some((mut record, seen, count)), part) if record.index == index && part == seen => {
                record.bytes.extend_from_slice(bytes);
                (record, seen + 1, count)
            }
            (Some((record, seen, count)), _) => {
                return Err(corrupt(name(record.index), format!("has {seen} of its {count} parts")));
            }
            (None, part) => return Err(corrupt(name(index), format!("begins with part {part}"))),
        };
        if seen >= count {
            record.bytes.shrink_to_fit();
            return Ok(Some(record));
        }
        self.record = Some((record, seen, count));
        Ok(None)
    }

    fn finish(self) -> Result<(), DiskError> {
        match self.record {
            None => Ok(()),
            Some((record, seen, count)) => Err(corrupt(name(record.index), format!("has {seen} of its {count} parts"))),
        }
    }
}

fn split(bytes: &[u8]) -> Result<Vec<&[u8]>, DiskError> {
    if bytes.is_empty() {
        return Ok(vec![bytes]);
    }
    let parts: Vec<&[u8]> = bytes.chunks(PART_BYTES).collect();
    if parts.len() > PARTS_MAX {
        let source = io::Error::new(io::ErrorKind::InvalidInput, format!("a record of {} bytes", bytes.len()));
        return Err(DiskError::Io { what: "append", source });
    }
    Ok(parts)
}

fn record_key(index: u64, part: u16) -> [u8; 11] {
    let mut key = [RECORD; 11];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&part.to_be_bytes());
    key
}

fn parse_record_key(key: &[u8]) -> Result<(u64, u16), DiskError> {
    let bad = || corrupt(format!("key {key:02x?}"), "is not a key of the log");
    let key: &[u8; 11] = key.try_into().map_err(|_| bad())?;
    let (_, index) = key[..9].split_last_chunk::<8>().ok_or_else(bad)?;
    let (_, part) = key.split_last_chunk::<2>().ok_or_else(bad)?;
    Ok((u64::from_be_bytes(*index), u16::from_be_bytes(*part)))
}

fn fact_key(fact: Fact) -> [u8; 2] {
    [
        FACT,
        match fact {
            Fact::Vote => b'v',
            Fact::Purged => b'p',
            Fact::Committed => b'c',
        },
    ]
}

fn seal(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    for part in parts {
        crc.update(part);
    }
    [&crc.finalize().to_le_bytes(), &*parts.concat()].concat()
}

fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], DiskError> {
    let bad = || {
        let named = parse_record_key(key).map_or_else(|_| format!("fact {key:?}"), |(index, _)| name(index));
        corrupt(named, "its checksum is wrong")
    };
    let (stored, value) = sealed.split_first_chunk::<4>().ok_or_else(bad)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(value);
    if crc.finalize().to_le_bytes() == *stored { Ok(value) } else { Err(bad()) }
}

fn name(index: u64) -> String {
    format!("entry {index}")
}

fn corrupt(key: impl Into<String>, what: impl Into<String>) -> DiskError {
    DiskError::Corrupt { key: key.into(), what: what.into() }
}

fn engine(what: &'static str, error: sled::Error) -> DiskError {
    match error {
        sled::Error::Corruption { .. } => corrupt("db", error.to_string()),
        sled::Error::Io(source) => DiskError::Io { what, source },
        other => DiskError::Io { what, source: io::Error::other(other.to_string()) },
    }
}

fn remove_index_files(folder: &Path) -> io::Result<()> {
    let listing = match std::fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for file in listing {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("snap.") {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_whose_flush_failed_is_not_closed_which_would_flush_again_and_panic() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = SledDisk::open(folder.path()).unwrap();
        disk.sync().unwrap();
        drop(disk);
        disk = SledDisk::open(folder.path()).unwrap();
        // What cannot be flushed: a device without a disk.
        disk.file = File::open("/dev/null").unwrap();
        assert!(matches!(disk.sync(), Err(DiskError::Io { .. })));
        drop(disk);
        // Its lock on the folder is still there: it was not closed.
        assert!(SledDisk::open(folder.path()).is_err());
    }
}
