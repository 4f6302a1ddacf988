//! The disk below one coordinator's log: what was not flushed when it crashes is gone, but for a part from its beginning.

use super::chance::Chance;
use coordinator::store::{DiskError, Fact, LogDisk, Record};
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a disk breaks its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lies {
    /// A flush does nothing.
    pub about_flushes: bool,
    /// A vote is not flushed: a crash takes it back to the one that this life began with.
    pub about_votes: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    records: BTreeMap<u64, Vec<u8>>,
    facts: [Option<Vec<u8>>; 3],
}

#[derive(Clone, Debug)]
enum Write {
    Append(Vec<Record>),
    Truncate(Option<u64>),
    Remove(RangeInclusive<u64>, usize),
    Put(Fact, Vec<u8>),
}

impl Content {
    /// True when a removal left records in its range.
    fn take(&mut self, write: &Write) -> bool {
        match write {
            Write::Append(records) => {
                self.records.extend(records.iter().map(|record| (record.index, record.bytes.clone())));
            }
            Write::Truncate(last) => drop(self.records.split_off(&last.map_or(0, |last| last + 1))),
            Write::Remove(range, most) => {
                let gone: Vec<u64> = self.records.range(range.clone()).take(*most).map(|(index, _)| *index).collect();
                for index in gone {
                    self.records.remove(&index);
                }
                return self.records.range(range.clone()).next().is_some();
            }
            Write::Put(fact, value) => self.facts[place(*fact)] = Some(value.clone()),
        }
        false
    }
}

fn place(fact: Fact) -> usize {
    match fact {
        Fact::Vote => 0,
        Fact::Purged => 1,
        Fact::Committed => 2,
    }
}

#[derive(Debug)]
struct Inner {
    now: Content,
    flushed: Content,
    since: Vec<Write>,
    /// When this life began.
    first_vote: Option<Vec<u8>>,
    lies: Lies,
}

/// A disk; what is read is what was written, flushed or not.
#[derive(Debug)]
pub struct Disk(Mutex<Inner>);

impl Disk {
    /// With nothing on it.
    pub fn empty(lies: Lies) -> Self {
        Self::holding(Content::default(), lies)
    }

    fn holding(content: Content, lies: Lies) -> Self {
        let first_vote = content.facts[place(Fact::Vote)].clone();
        let inner = Inner { now: content.clone(), flushed: content, since: Vec::new(), first_vote, lies };
        Self(Mutex::new(inner))
    }

    /// What the next life finds after a crash now: all that was flushed, and of the rest as many writes as chance says.
    pub fn after_crash(&self, chance: &mut Chance) -> Self {
        let inner = self.lock();
        let mut content = inner.flushed.clone();
        let kept = chance.between(0, inner.since.len() as u64 + 1) as usize;
        for write in &inner.since[..kept] {
            content.take(write);
        }
        if inner.lies.about_votes {
            content.facts[place(Fact::Vote)].clone_from(&inner.first_vote);
        }
        Self::holding(content, inner.lies)
    }

    /// A record as it was written.
    pub fn record(&self, index: u64) -> Option<Vec<u8>> {
        self.lock().now.records.get(&index).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, write: Write) -> bool {
        let mut inner = self.lock();
        let more = inner.now.take(&write);
        inner.since.push(write);
        more
    }
}

impl LogDisk for Disk {
    fn append(&self, records: &[Record]) -> Result<(), DiskError> {
        self.write(Write::Append(records.to_vec()));
        Ok(())
    }

    fn truncate_after(&self, last: Option<u64>) -> Result<(), DiskError> {
        self.write(Write::Truncate(last));
        Ok(())
    }

    fn remove(&self, indexes: RangeInclusive<u64>, records_max: usize) -> Result<bool, DiskError> {
        Ok(self.write(Write::Remove(indexes, records_max)))
    }

    fn read(&self, indexes: Range<u64>, bytes_max: usize) -> Result<Vec<Record>, DiskError> {
        let inner = self.lock();
        let (mut records, mut bytes) = (Vec::new(), 0);
        for (index, found) in inner.now.records.range(indexes) {
            bytes += found.len();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(Record { index: *index, bytes: found.clone() });
        }
        Ok(records)
    }

    fn scan(&self, visit: &mut dyn FnMut(Record) -> Result<(), DiskError>) -> Result<(), DiskError> {
        let records = self.lock().now.records.clone();
        records.into_iter().try_for_each(|(index, bytes)| visit(Record { index, bytes }))
    }

    fn put(&self, fact: Fact, value: &[u8]) -> Result<(), DiskError> {
        self.write(Write::Put(fact, value.to_vec()));
        Ok(())
    }

    fn get(&self, fact: Fact) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.lock().now.facts[place(fact)].clone())
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut inner = self.lock();
        if !inner.lies.about_flushes {
            for write in std::mem::take(&mut inner.since) {
                inner.flushed.take(&write);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(index: u64) -> Record {
        Record { index, bytes: vec![index as u8] }
    }

    #[test]
    fn what_was_flushed_survives_every_crash_and_the_rest_from_its_beginning() {
        let disk = Disk::empty(Lies::default());
        disk.append(&[record(0), record(1)]).unwrap();
        disk.sync().unwrap();
        for index in 2..5 {
            disk.append(&[record(index)]).unwrap();
        }
        let mut chance = Chance::new(1, "test");
        let mut lengths = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let after = disk.after_crash(&mut chance).read(0..9, usize::MAX).unwrap();
            assert_eq!(after, (0..after.len() as u64).map(record).collect::<Vec<_>>());
            lengths.insert(after.len());
        }
        assert_eq!(lengths, [2, 3, 4, 5].into());
    }

    #[test]
    fn a_disk_that_lies_loses_what_it_said_was_flushed() {
        let disk = Disk::empty(Lies { about_flushes: true, ..Lies::default() });
        disk.append(&[record(0)]).unwrap();
        disk.sync().unwrap();
        let mut chance = Chance::new(1, "test");
        assert!((0..20).any(|_| disk.after_crash(&mut chance).record(0).is_none()));
    }
}
