//! Logs as a fuzzer makes them: what an engine gives back, behind its checksums.

use super::super::log::encode;
use super::{DiskError, Fact, LogDisk, Mark, ReadLog, Record, decode, decode_entry};
use crate::fuzzed::Input;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

/// An engine that holds these, and is only read.
struct Found {
    facts: [Option<Vec<u8>>; 3],
    records: Vec<Record>,
}

fn fixed<T>() -> Result<T, DiskError> {
    Err(DiskError::Io { what: "write", source: std::io::ErrorKind::ReadOnlyFilesystem.into() })
}

impl LogDisk for Found {
    fn append(&self, _: &[Record]) -> Result<(), DiskError> {
        fixed()
    }

    fn truncate_after(&self, _: Option<u64>) -> Result<(), DiskError> {
        fixed()
    }

    fn remove(&self, _: RangeInclusive<u64>, _: usize) -> Result<bool, DiskError> {
        fixed()
    }

    fn read(&self, _: Range<u64>, _: usize) -> Result<Vec<Record>, DiskError> {
        fixed()
    }

    fn scan(&self, visit: &mut dyn FnMut(Record) -> Result<(), DiskError>) -> Result<(), DiskError> {
        self.records.iter().cloned().try_for_each(visit)
    }

    fn put(&self, _: Fact, _: &[u8]) -> Result<(), DiskError> {
        fixed()
    }

    fn get(&self, fact: Fact) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(Fact::ALL.iter().position(|other| *other == fact).and_then(|at| self.facts[at].clone()))
    }

    fn sync(&self) -> Result<(), DiskError> {
        fixed()
    }
}

/// The mark, the three facts and the records, each with its length before it; of a record the first byte is how far its index is
/// from the one before. A log that is taken has no gap, and each entry is read again as it was.
pub fn log(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mark = input.part().and_then(|mark| decode::<Mark>(mark).ok()).unwrap_or_default();
    let facts = [(); 3].map(|()| input.part().filter(|fact| !fact.is_empty()).map(<[u8]>::to_vec));
    let (mut records, mut index) = (Vec::new(), 0_u64);
    while let Some(part) = input.part() {
        let Some((step, bytes)) = part.split_first() else { continue };
        index = index.saturating_add((*step).into());
        records.push(Record { index, bytes: bytes.to_vec() });
    }
    let (disk, path) = (Found { facts, records }, Path::new("log"));
    let Ok(read) = ReadLog::read(&disk, path, mark) else { return };
    let purged = read.cache.purged.map(|purged| purged.index);
    let kept = disk.records.iter().filter(|record| purged.is_none_or(|purged| record.index > purged));
    let mut last = purged;
    for record in kept {
        assert!(last.is_none_or(|last| last.checked_add(1) == Some(record.index)), "a log with a gap is taken");
        last = Some(record.index);
        let entry = decode_entry(path, record).ok();
        let again = entry.as_ref().and_then(|entry| encode(entry).ok());
        let again = again.and_then(|bytes| decode_entry(path, &Record { index: record.index, bytes }).ok());
        assert!(entry.is_some() && again == entry, "entry {} is read again as another", record.index);
    }
    assert_eq!(read.cache.last.map(|last| last.index), last, "the log ends elsewhere than its records");
}

/// With nothing in it, and with two entries.
pub fn logs() -> Vec<Vec<u8>> {
    let mark = postcard::to_stdvec(&Mark::default()).unwrap_or_default();
    let part = |bytes: &[u8]| [&(bytes.len() as u16).to_le_bytes()[..], bytes].concat();
    let begin = [part(&mark), part(&[]), part(&[]), part(&[])].concat();
    // A leader's term and number, the index, and no command.
    let entry = |step: u8, index: u8| part(&[step, 1, 1, index, 0]);
    let vote = [part(&mark), part(&[1, 1, 1, 1]), part(&[1, 1, 4]), part(&[]), entry(5, 5)].concat();
    vec![begin.clone(), [begin, entry(0, 0), entry(1, 1)].concat(), vote]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::tests::entry;

    fn refused(indexes: &[u64]) -> String {
        let record = |index: &u64| Record { index: *index, bytes: encode(&entry(1, *index, 0)).unwrap() };
        let disk = Found { facts: [None, None, None], records: indexes.iter().map(record).collect() };
        ReadLog::read(&disk, Path::new("log"), Mark::default()).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_entry_that_comes_again_is_refused_in_words() {
        assert!(refused(&[0, 0]).contains("entry 0 is there where entry 1 should be"), "{}", refused(&[0, 0]));
        assert!(refused(&[0, 1, 1]).contains("entry 1 is there where entry 2 should be"));
        assert!(refused(&[0, 3]).contains("entries 1 to 2 are missing"));
        assert_eq!(refused(&[0, 1, 2]), "");
    }
}
