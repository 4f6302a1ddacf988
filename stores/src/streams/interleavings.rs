//! `LOG-1` on one disk: whatever is sent, twice, late or with gaps, and whatever is cut off by a crash, what was told as
//! length is read back exactly once, in order.
#![allow(clippy::unwrap_used)]

use super::tests::{LIMITS, name, read_all, source};
use super::*;
use proptest::prelude::*;
use std::path::Path;
use types::Token;

#[derive(Clone, Debug)]
enum Step {
    /// Bytes from `back` before the end on.
    Send {
        stream: usize,
        back: u64,
        count: usize,
    },
    /// Bytes from beyond the end.
    Gap {
        stream: usize,
        by: u64,
        count: usize,
    },
    /// By a writer that is late.
    Late {
        stream: usize,
        count: usize,
    },
    /// By a writer with a newer token.
    Newer {
        stream: usize,
        count: usize,
    },
    Flush,
    /// Its compacted file, if all of it is flushed.
    Compact(usize),
    /// `kill -9`: the page cache stays.
    Killed,
    /// Power cut: of the files' bytes that were not flushed, this many thousandths are on disk, and then zeros.
    PowerCut(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3_usize, 0..300_u64, 0..600_usize).prop_map(|(stream, back, count)| Step::Send { stream, back, count }),
        2 => (0..3_usize, 1..300_u64, 1..600_usize).prop_map(|(stream, by, count)| Step::Gap { stream, by, count }),
        1 => (0..3_usize, 1..100_usize).prop_map(|(stream, count)| Step::Late { stream, count }),
        1 => (0..3_usize, 1..100_usize).prop_map(|(stream, count)| Step::Newer { stream, count }),
        4 => Just(Step::Flush),
        3 => (0..3_usize).prop_map(Step::Compact),
        1 => Just(Step::Killed),
        1 => (0..=1_000_u64).prop_map(Step::PowerCut),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A store and what its writers know of it.
struct World<'a> {
    folder: &'a Path,
    limits: StreamLimits,
    store: StreamStore,
    streams: [StreamName; 3],
    tokens: [u64; 3],
    written: [u64; 3],
    acknowledged: [u64; 3],
}

impl<'a> World<'a> {
    fn new(folder: &'a Path, limits: StreamLimits) -> Self {
        Self {
            folder,
            limits,
            store: StreamStore::open(folder, limits).unwrap(),
            streams: [name(1, 0), name(1, 1), name(2_001, 0)],
            tokens: [10; 3],
            written: [0; 3],
            acknowledged: [0; 3],
        }
    }

    fn step(self, step: &Step) -> Self {
        match *step {
            Step::Send { stream, back, count } => self.send(stream, back, count),
            Step::Gap { stream, by, count } => self.gap(stream, by, count),
            Step::Late { stream, count } => self.late(stream, count),
            Step::Newer { stream, count } => {
                let mut world = self;
                world.tokens[stream] += 1;
                world.send(stream, 0, count)
            }
            Step::Flush => self.flush(),
            Step::Compact(stream) => self.compact(stream),
            Step::Killed => self.killed(),
            Step::PowerCut(thousandths) => self.power_cut(thousandths),
        }
    }

    fn send(mut self, stream: usize, back: u64, count: usize) -> Self {
        let (name, end) = (self.streams[stream], self.written[stream]);
        let offset = end.saturating_sub(back);
        let token = Token(self.tokens[stream]);
        let outcome = self.store.append(&name, token, offset, &source(&name, offset, count)).unwrap();
        self.written[stream] = end.max(offset + count as u64);
        assert_eq!(outcome.length, self.written[stream]);
        assert_eq!(outcome.taken as u64, self.written[stream] - end);
        self
    }

    fn gap(self, stream: usize, by: u64, count: usize) -> Self {
        let (name, end) = (self.streams[stream], self.written[stream]);
        let data = source(&name, end + by, count);
        let outcome = self.store.append(&name, Token(self.tokens[stream]), end + by, &data).unwrap();
        assert_eq!(outcome, AppendOutcome { length: end, taken: 0 });
        self
    }

    fn late(self, stream: usize, count: usize) -> Self {
        let (name, end) = (self.streams[stream], self.written[stream]);
        let result = self.store.append(&name, Token(self.tokens[stream] - 1), end, &vec![0xff; count]);
        // A stream without a byte belongs to nobody yet; then the late writer is the first one, and no test of this.
        if let Err(error) = result {
            assert!(matches!(error, StreamError::OlderToken { .. }) && error.is_refusal());
            return self;
        }
        assert_eq!(end, 0);
        assert!(self.store.delete_job(name.job).unwrap());
        self.deleted(name.job)
    }

    fn deleted(mut self, job: JobId) -> Self {
        for stream in 0..3 {
            if self.streams[stream].job == job {
                self.written[stream] = 0;
                self.acknowledged[stream] = 0;
            } else {
                // Deleting flushes the others too.
                self.acknowledged[stream] = self.written[stream];
            }
        }
        self
    }

    fn flush(mut self) -> Self {
        self.store.flush().unwrap();
        self.acknowledged = self.written;
        self
    }

    fn compact(self, stream: usize) -> Self {
        let name = self.streams[stream];
        let ended = self.written[stream] == self.acknowledged[stream] && self.written[stream] > 0;
        let wanted = ended && self.store.is_raw(&name).unwrap();
        let made = self.store.compact(&name).unwrap();
        assert!(!wanted || matches!(made, Compaction::Made { .. }), "{name}: {made:?}");
        self
    }

    /// The page cache stays: nothing is lost.
    fn killed(self) -> Self {
        let world = self.opened_again();
        for (stream, name) in world.streams.iter().enumerate() {
            assert_eq!(world.store.length(name).unwrap(), world.written[stream]);
        }
        world
    }

    fn power_cut(self, thousandths: u64) -> Self {
        let files = self.streams.map(|name| {
            let (durable, stored) = self.store.stored(&name)?;
            self.store.is_raw(&name).unwrap().then(|| (find_file(self.folder, &name), durable, stored))
        });
        for (path, durable, stored) in files.into_iter().flatten() {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            let kept = durable + (stored - durable) * thousandths / 1_000;
            file.set_len(kept).unwrap();
            // As ext4 may: the new size is there, its bytes are not.
            file.set_len(kept.next_multiple_of(4_096)).unwrap();
        }
        let mut world = self.opened_again();
        for (stream, name) in world.streams.iter().enumerate() {
            let length = world.store.length(name).unwrap();
            assert!((world.acknowledged[stream]..=world.written[stream]).contains(&length), "{name}: {length}");
            world.written[stream] = length;
        }
        world
    }

    fn opened_again(self) -> Self {
        let Self { folder, limits, store, streams, tokens, written, acknowledged } = self;
        drop(store);
        let store = StreamStore::open(folder, limits).unwrap();
        Self { folder, limits, store, streams, tokens, written, acknowledged }
    }

    fn check(&self) {
        for (stream, name) in self.streams.iter().enumerate() {
            let length = self.store.length(name).unwrap();
            assert!(length >= self.acknowledged[stream], "{name}: {length} < {}", self.acknowledged[stream]);
            assert!(length <= self.written[stream]);
            assert!(read_all(&self.store, name, 177) == source(name, 0, length as usize), "{name} differs");
        }
    }
}

fn find_file(root: &Path, name: &StreamName) -> std::path::PathBuf {
    let folder = paths::job_folder(root, name.job);
    let mut files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
    let ours = |entry: &std::fs::DirEntry| {
        paths::parse(name.job, entry.file_name().to_str().unwrap()).is_some_and(|(found, ..)| found == *name)
    };
    files.find(ours).unwrap().path()
}

fn check_interleaving(steps: &[Step], limits: StreamLimits) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), limits);
    for step in steps {
        world = world.step(step);
        world.check();
    }
    // In the end each worker delivers all of its spool from where the store says.
    for stream in 0..3 {
        while world.written[stream] < 5_000 {
            world = world.send(stream, 0, 1_000);
        }
    }
    world = world.flush();
    world.check();
    let world = world.power_cut(0);
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn acknowledged_bytes_are_read_back_exactly_once_in_order(steps in steps()) {
        check_interleaving(&steps, LIMITS);
    }

    #[test]
    fn and_so_with_one_open_file_and_one_job_in_memory(steps in steps()) {
        check_interleaving(&steps, StreamLimits { open_files_max: 1, jobs_cached_max: 1, ..LIMITS });
    }
}
