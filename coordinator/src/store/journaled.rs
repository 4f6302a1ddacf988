//! An engine with a journal in front: a group is acknowledged once the journal has it, and a thread brings it to the engine.
//!
//! ```text
//!  append, put ──> changes ──sync──> journal (one write, one flush) ──> queue ──> thread: engine, a flush for many groups
//!                                                                         └─ read, scan, get, truncate, remove wait for it
//! ```
//!
//! What only the journal has is bounded by its size: a writer that is faster than the engine waits when half of it is full.
//! Truncating is not journaled: the engine gets all, the journal forgets it, then the engine truncates. A removal may be
//! undone by a power cut for records that the journal still has; they lie before what is noted as purged, and go again.

use super::disk::{DiskError, Fact, LogDisk, Record};
use super::journal::{Change, Changes, GROUP_BYTES_MAX, Journal};
use std::collections::VecDeque;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// From so many waiting bytes on the engine takes all that wait, so that they share its flush.
const TAKE_BYTES: usize = 256 << 10;

/// See the head of this file. `D` is the engine.
pub struct Journaled<D: LogDisk + 'static> {
    shared: Arc<Shared<D>>,
    writing: Mutex<Writing>,
    thread: Option<JoinHandle<()>>,
}

/// Only the log's writer takes this, but for the end.
struct Writing {
    journal: Journal,
    /// Not yet in the journal.
    changes: Changes,
}

struct Shared<D> {
    disk: D,
    queue: Mutex<Queue>,
    /// Told of everything that changes in the queue.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Groups that the journal has and the engine may lack.
    groups: VecDeque<(u64, Changes)>,
    bytes: usize,
    /// The last group that was queued.
    last: u64,
    /// The last group that is flushed in the engine.
    applied: u64,
    /// Somebody waits until the engine has all.
    is_wanted: bool,
    is_over: bool,
    failure: Option<String>,
}

impl<D: LogDisk> Journaled<D> {
    /// Brings to the engine what only the journal had, and begins.
    pub(crate) fn start((journal, lacking): (Journal, Vec<Changes>), disk: D) -> Result<Self, DiskError> {
        for changes in &lacking {
            apply(&disk, &[changes])?;
        }
        if !lacking.is_empty() {
            disk.sync()?;
        }
        let last = journal.sequence();
        let queue = Queue { last, applied: last, ..Queue::default() };
        let shared = Arc::new(Shared { disk, queue: Mutex::new(queue), changed: Condvar::new() });
        let other = shared.clone();
        let thread = std::thread::Builder::new().name("raft-log-engine".to_owned()).spawn(move || other.run());
        let thread = thread.map_err(|source| DiskError::Io { what: "start the thread of", source })?;
        let writing = Mutex::new(Writing { journal, changes: Changes::default() });
        Ok(Self { shared, writing, thread: Some(thread) })
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More than the journal takes: to the engine at once. The journal then forgets what came before, which is older.
    fn sync_past(&self, writing: &mut Writing) -> Result<(), DiskError> {
        self.shared.all_applied()?;
        apply(&self.shared.disk, &[&std::mem::take(&mut writing.changes)])?;
        self.shared.disk.sync()?;
        self.forget(writing)
    }

    /// The engine has everything: the journal says so.
    fn forget(&self, writing: &mut Writing) -> Result<(), DiskError> {
        let floor = writing.journal.sequence() + 1;
        let sequence = writing.journal.write(&mut Changes::default(), floor)?;
        let mut queue = self.shared.queue();
        (queue.last, queue.applied) = (sequence, sequence);
        Ok(())
    }
}

impl<D: LogDisk> LogDisk for Journaled<D> {
    fn append(&self, records: &[Record]) -> Result<(), DiskError> {
        let mut writing = self.writing();
        records.iter().try_for_each(|record| writing.changes.record(record))
    }

    fn put(&self, fact: Fact, value: &[u8]) -> Result<(), DiskError> {
        self.writing().changes.fact(fact, value)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut writing = self.writing();
        if writing.changes.is_empty() {
            return Ok(());
        }
        let bytes = writing.changes.bytes();
        if bytes > GROUP_BYTES_MAX {
            return self.sync_past(&mut writing);
        }
        let wanted = writing.journal.overwrites(bytes).unwrap_or(0);
        let applied = self.shared.applied_up_to(wanted)?;
        let mut changes = std::mem::take(&mut writing.changes);
        let sequence = writing.journal.write(&mut changes, applied + 1)?;
        self.shared.push(sequence, changes);
        Ok(())
    }

    fn truncate_after(&self, last: Option<u64>) -> Result<(), DiskError> {
        self.sync()?;
        let mut writing = self.writing();
        self.shared.all_applied()?;
        self.forget(&mut writing)?;
        self.shared.disk.truncate_after(last)?;
        self.shared.disk.sync()
    }

    fn remove(&self, indexes: RangeInclusive<u64>, records_max: usize) -> Result<bool, DiskError> {
        self.shared.all_applied()?;
        self.shared.disk.remove(indexes, records_max)
    }

    fn read(&self, indexes: Range<u64>, bytes_max: usize) -> Result<Vec<Record>, DiskError> {
        self.shared.all_applied()?;
        self.shared.disk.read(indexes, bytes_max)
    }

    fn scan(&self, visit: &mut dyn FnMut(Record) -> Result<(), DiskError>) -> Result<(), DiskError> {
        self.shared.all_applied()?;
        self.shared.disk.scan(visit)
    }

    fn get(&self, fact: Fact) -> Result<Option<Vec<u8>>, DiskError> {
        self.shared.all_applied()?;
        self.shared.disk.get(fact)
    }
}

impl<D: LogDisk> Drop for Journaled<D> {
    fn drop(&mut self) {
        // The next start then finds nothing to bring over; what fails here is found in the journal.
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.shared.all_applied().and_then(|()| self.forget(&mut writing)) {
            tracing::warn!(%error, "the journal of the raft store was left as it is");
        }
        drop(writing);
        self.shared.queue().is_over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<D: LogDisk> Shared<D> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, sequence: u64, changes: Changes) {
        let mut queue = self.queue();
        queue.bytes += changes.bytes();
        queue.last = sequence;
        queue.groups.push_back((sequence, changes));
        if queue.bytes >= TAKE_BYTES {
            self.changed.notify_all();
        }
    }

    /// Waits until the engine has every group.
    fn all_applied(&self) -> Result<(), DiskError> {
        let last = self.queue().last;
        self.applied_up_to(last).map(drop)
    }

    /// Waits until the engine has this group, and says which is the last that it has.
    fn applied_up_to(&self, sequence: u64) -> Result<u64, DiskError> {
        let mut queue = self.queue();
        while queue.applied < sequence && queue.failure.is_none() {
            queue.is_wanted = true;
            self.changed.notify_all();
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        match &queue.failure {
            None => Ok(queue.applied),
            Some(failure) => {
                Err(DiskError::Io { what: "bring the journal to", source: io::Error::other(failure.clone()) })
            }
        }
    }

    /// The thread. After a failure it takes nothing more, and who waits is told.
    fn run(&self) {
        let mut queue = self.queue();
        loop {
            while !queue.is_over && !queue.is_wanted && queue.bytes < TAKE_BYTES {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.is_over {
                return;
            }
            let groups: Vec<(u64, Changes)> = queue.groups.drain(..).collect();
            queue.bytes = 0;
            queue.is_wanted = false;
            drop(queue);
            let taken = self.take(&groups);
            queue = self.queue();
            match (taken, groups.last()) {
                (Ok(()), Some((last, _))) => queue.applied = queue.applied.max(*last),
                (Ok(()), None) => {}
                (Err(failure), _) => {
                    tracing::error!(failure, "the engine of the raft store has stopped");
                    queue.failure = Some(failure);
                    self.changed.notify_all();
                    return;
                }
            }
            self.changed.notify_all();
        }
    }

    fn take(&self, groups: &[(u64, Changes)]) -> Result<(), String> {
        let changes: Vec<&Changes> = groups.iter().map(|(_, changes)| changes).collect();
        // sled panics on some kinds of damage.
        let taken =
            std::panic::catch_unwind(AssertUnwindSafe(|| apply(&self.disk, &changes).and_then(|()| self.disk.sync())));
        match taken {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ DiskError::Io { .. })) => Err(std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), |source| format!("{error} the database: {source}"))),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the storage engine gave up while writing".to_owned()),
        }
    }
}

/// Gives the groups' changes to the engine: the records in order, and of each fact the last value.
fn apply(disk: &dyn LogDisk, groups: &[&Changes]) -> Result<(), DiskError> {
    let mut records = Vec::new();
    let mut facts: Vec<(Fact, &[u8])> = Vec::new();
    for changes in groups {
        for change in changes.read()? {
            match change {
                Change::Record { index, bytes } => records.push(Record { index, bytes: bytes.to_vec() }),
                Change::Fact { fact, value } => {
                    facts.retain(|(other, _)| *other != fact);
                    facts.push((fact, value));
                }
            }
        }
    }
    disk.append(&records)?;
    facts.into_iter().try_for_each(|(fact, value)| disk.put(fact, value))
}
