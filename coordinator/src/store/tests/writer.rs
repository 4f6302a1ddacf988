//! Group commit: nothing is acknowledged before its flush, one flush serves all that wait, one failure ends it for good.

use crate::raft::types::TypeConfig;
use crate::store::cache::SharedCache;
use crate::store::disk::{DiskError, Fact, LogDisk, Record};
use crate::store::header::{Header, MarkFile};
use crate::store::writer::{Answer, Job, Work, Writer, WriterHandle};
use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Condvar, Mutex};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// What a flush does.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Flush {
    Wait,
    Succeed,
    Fail,
    Panic,
}

/// A disk in memory whose flush does as it is told.
pub(crate) struct Gate {
    flush: Mutex<(Flush, u32)>,
    told: Condvar,
    appended: Mutex<Vec<u64>>,
}

impl Gate {
    pub(crate) fn new(flush: Flush) -> Arc<Self> {
        Arc::new(Self { flush: Mutex::new((flush, 0)), told: Condvar::new(), appended: Mutex::default() })
    }

    pub(crate) fn tell(&self, flush: Flush) {
        self.flush.lock().unwrap().0 = flush;
        self.told.notify_all();
    }

    fn flushes(&self) -> u32 {
        self.flush.lock().unwrap().1
    }
}

impl LogDisk for Gate {
    fn append(&self, records: &[Record]) -> Result<(), DiskError> {
        self.appended.lock().unwrap().extend(records.iter().map(|record| record.index));
        Ok(())
    }
    fn truncate_after(&self, _: Option<u64>) -> Result<(), DiskError> {
        Ok(())
    }
    fn remove(&self, _: RangeInclusive<u64>, _: usize) -> Result<bool, DiskError> {
        Ok(false)
    }
    fn read(&self, _: Range<u64>, _: usize) -> Result<Vec<Record>, DiskError> {
        Ok(Vec::new())
    }
    fn scan(&self, _: &mut dyn FnMut(Record) -> Result<(), DiskError>) -> Result<(), DiskError> {
        Ok(())
    }
    fn put(&self, _: Fact, _: &[u8]) -> Result<(), DiskError> {
        Ok(())
    }
    fn get(&self, _: Fact) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(None)
    }
    fn sync(&self) -> Result<(), DiskError> {
        let mut flush = self.flush.lock().unwrap();
        flush.1 += 1;
        self.told.notify_all();
        flush = self.told.wait_while(flush, |flush| flush.0 == Flush::Wait).unwrap();
        let what = flush.0;
        drop(flush);
        match what {
            Flush::Fail => Err(DiskError::Io { what: "flush", source: io::Error::other("EIO") }),
            Flush::Panic => panic!("as sled does"),
            _ => Ok(()),
        }
    }
}

pub(crate) fn start(disk: &Arc<Gate>) -> (TempDir, WriterHandle) {
    let folder = tempfile::tempdir().unwrap();
    let header = Header::open(folder.path(), 1).unwrap();
    let writer = Writer {
        disk: disk.clone(),
        mark: MarkFile::open(folder.path(), &header).unwrap(),
        cache: Arc::new(SharedCache::default()),
        folder: folder.path().join("log-1"),
        first: 0,
        purged: None,
        committed: None,
        _lock: daemon::files::lock_folder(folder.path()).unwrap(),
    };
    (folder, writer.start().unwrap().0)
}

async fn append(writer: &WriterHandle, index: u64) -> oneshot::Receiver<io::Result<()>> {
    let (flushed, answer) = TypeConfig::oneshot();
    let records = vec![Record { index, bytes: vec![1] }];
    let answer_to = Answer::Flushed(IOFlushed::<TypeConfig>::signal(flushed));
    writer
        .send(Job { work: Work::Append { records, last: Some(super::log_id(1, index)) }, answer: answer_to })
        .await
        .unwrap();
    answer
}

#[tokio::test]
async fn one_flush_serves_all_that_wait_and_nothing_is_acknowledged_before() {
    let disk = Gate::new(Flush::Wait);
    let (_folder, writer) = start(&disk);
    let mut first = append(&writer, 0).await;
    let waiting = disk.clone();
    let reached = move || drop(waiting.told.wait_while(waiting.flush.lock().unwrap(), |flush| flush.1 == 0).unwrap());
    tokio::task::spawn_blocking(reached).await.unwrap();
    let mut rest = Vec::new();
    for index in 1..=200 {
        rest.push(append(&writer, index).await);
    }
    assert!(first.try_recv().is_err() && rest[0].try_recv().is_err(), "acknowledged before its flush");
    disk.tell(Flush::Succeed);
    first.await.unwrap().unwrap();
    for answer in rest {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(disk.flushes(), 2, "one for the first, one for the 200 that waited");
    assert_eq!(*disk.appended.lock().unwrap(), (0..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn after_one_failed_flush_nothing_more_is_written() {
    for failure in [Flush::Fail, Flush::Panic] {
        let disk = Gate::new(failure);
        let (_folder, writer) = start(&disk);
        assert!(append(&writer, 0).await.await.unwrap().is_err());
        disk.tell(Flush::Succeed);
        assert!(append(&writer, 1).await.await.unwrap().is_err());
        assert!(writer.complete(Work::Vote(super::vote(1))).await.is_err());
        assert_eq!(*disk.appended.lock().unwrap(), [0]);
    }
}
