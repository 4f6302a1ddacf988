//! `STREAM-1` and `STREAM-2`: of a growing stream's file, whatever was cut, left as zeros or changed, a prefix of the stream is served
//! and all that was flushed is there, or the file is said to be damaged.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::streams::compacted::Fault;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn source(from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A file as the store writes it.
struct Stream {
    _folder: tempfile::TempDir,
    path: PathBuf,
    file: File,
    written: u64,
    stored: u64,
    flushed: u64,
    /// Bytes of the file that a flush has put on disk.
    durable: u64,
}

impl Stream {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        Self { _folder: folder, path, file, written: 0, stored: 0, flushed: 0, durable: 0 }
    }

    fn append(&mut self, count: usize) {
        let frames = Frames::new(self.stored, self.written, self.flushed, &source(self.written, count));
        self.file.write_all_at(&frames.bytes, frames.at).unwrap();
        let (taken, stored) = frames.taken(frames.bytes.len()).unwrap();
        assert_eq!(taken, count);
        (self.written, self.stored) = (self.written + count as u64, stored);
    }

    fn flush(&mut self) {
        (self.flushed, self.durable) = (self.written, self.stored);
        seal(&self.file, self.stored, self.flushed);
    }

    fn recover(&mut self) -> Recovered {
        let found = recover(&self.file).unwrap();
        (self.written, self.flushed, self.stored, self.durable) =
            (found.length, found.length, found.stored, found.stored);
        found
    }

    /// What a reader gets before the end or damage, and whether it came upon damage.
    fn served(&self, step: usize) -> (Vec<u8>, bool) {
        let reader = Reader::open(&self.path).unwrap();
        let mut all = Vec::new();
        while (all.len() as u64) < self.flushed {
            let count = step.min((self.flushed - all.len() as u64) as usize);
            match reader.read(all.len() as u64, count) {
                Ok(bytes) => all.extend(bytes),
                Err(Fault::Damaged(_)) => return (all, true),
                Err(Fault::Io(error)) => panic!("{error}"),
            }
        }
        (all, false)
    }
}

use super::recovery::Recovered;

fn flip(path: &Path, at: u64, mask: u8) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ mask], at).unwrap();
}

#[test]
fn any_part_reads_as_it_was_written_whatever_the_sizes_of_appends() {
    let mut stream = Stream::new();
    let block = BLOCK_DATA_MAX as usize;
    for count in [1, 100, block, block - 1, 3 * block + 7, 2, block - 200, 30, 300_000] {
        stream.append(count);
    }
    for _ in 0..5_000 {
        stream.append(37);
    }
    stream.flush();
    let reader = Reader::open(&stream.path).unwrap();
    for offset in (0..stream.written).step_by(10_007).chain([0, stream.written - 1]) {
        for count in [1, 100, 70_000] {
            let count = count.min((stream.written - offset) as usize);
            assert!(reader.read(offset, count).unwrap() == source(offset, count), "{count} from {offset}");
        }
    }
    let found = stream.recover();
    assert_eq!((found.length, found.cut), (stream.written, 0));
}

#[test]
fn a_frame_never_crosses_a_block_and_where_none_fits_nothing_stands() {
    for first in BLOCK_DATA_MAX - 60..=BLOCK_DATA_MAX {
        let mut stream = Stream::new();
        stream.append(first as usize);
        stream.append(50);
        stream.flush();
        assert!(stream.served(1 << 20) == (source(0, first as usize + 50), false), "{first}");
        let found = stream.recover();
        assert_eq!((found.length, found.cut), (first + 50, 0), "{first}");
    }
}

#[test]
fn zeros_behind_what_was_flushed_are_no_bytes_of_the_rank() {
    let mut stream = Stream::new();
    stream.append(1_000);
    stream.flush();
    stream.append(5_000);
    // As ext4 may leave it: the new size, and neither frame nor seal.
    stream.file.set_len(stream.durable).unwrap();
    stream.file.set_len(4_096).unwrap();
    let found = stream.recover();
    assert_eq!((found.length, found.cut), (1_000, 4_096 - stream.durable));
    stream.append(10);
    stream.flush();
    assert!(stream.served(99) == (source(0, 1_010), false));
}

#[test]
fn the_last_flush_of_a_silent_stream_is_told_as_damaged_and_not_cut_off() {
    for at in [0, 5, 27, 28, 500, 1_027] {
        let mut stream = Stream::new();
        stream.append(1_000);
        stream.flush();
        flip(&stream.path, at, 0x40);
        let found = stream.recover();
        assert_eq!((found.length, found.cut), (1_000, 0), "{at}");
        assert_eq!(stream.served(100), (Vec::new(), true), "{at}");
        // What comes after it is kept, and readable.
        for count in [10, 70_000] {
            let from = stream.written;
            stream.append(count);
            stream.flush();
            let recovered = stream.recover();
            assert_eq!((recovered.length, recovered.cut), (from + count as u64, 0), "{at}");
            let read = Reader::open(&stream.path).unwrap().read(from, count).unwrap();
            assert!(read == source(from, count), "{count} from {from} behind damage at {at}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let small = (1..400_usize).prop_map(Step::Append);
    let large = (1..200_000_usize).prop_map(Step::Append);
    proptest::collection::vec(prop_oneof![6 => small, 2 => large, 2 => Just(Step::Flush)], 1..25)
}

fn written(steps: &[Step]) -> Stream {
    let mut stream = Stream::new();
    for step in steps {
        match step {
            Step::Append(count) => stream.append(*count),
            Step::Flush => stream.flush(),
        }
    }
    stream
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn after_a_power_cut_all_that_was_flushed_is_there_and_a_prefix_of_the_rest(
        steps in steps(), kept in 0..=1_000_u64, zeros in 0..10_000_u64, hole in 0..=1_000_u64,
    ) {
        let mut stream = written(&steps);
        let (acknowledged, all) = (stream.flushed, stream.written);
        let size = stream.file.metadata().unwrap().len();
        let rest = size.saturating_sub(stream.durable);
        // A part of the file that was not flushed is there, perhaps with a hole, and then zeros.
        let end = stream.durable + rest * kept / 1_000;
        stream.file.set_len(end).unwrap();
        let begin = stream.durable + (end - stream.durable) * hole / 1_000;
        let count = (end - begin).min(5_000) as usize;
        stream.file.write_all_at(&vec![0; count], begin).unwrap();
        stream.file.set_len(end + zeros).unwrap();
        let found = stream.recover();
        prop_assert!((acknowledged..=all).contains(&found.length), "{} of {acknowledged}..{all}", found.length);
        prop_assert!(stream.served(7_777) == (source(0, found.length as usize), false));
        stream.append(1_000);
        stream.flush();
        prop_assert!(stream.served(100_000) == (source(0, found.length as usize + 1_000), false));
    }

    #[test]
    fn after_any_flip_what_is_served_was_written_and_what_is_not_is_told(
        steps in steps(), place in 0..1_000_000_u64, bit in 0..8_u32,
    ) {
        let mut stream = written(&steps);
        stream.append(1);
        stream.flush();
        let all = stream.written;
        let size = stream.file.metadata().unwrap().len();
        flip(&stream.path, size * place / 1_000_000, 1 << bit);
        let found = stream.recover();
        prop_assert_eq!(found.length, all);
        let (served, is_damaged) = stream.served(7_777);
        prop_assert!(served == source(0, served.len()));
        prop_assert!(is_damaged || served.len() as u64 == all);
        stream.append(1_000);
        stream.flush();
        prop_assert_eq!(stream.recover().length, all + 1_000);
        let read = Reader::open(&stream.path).unwrap().read(all, 1_000);
        prop_assert!(read.is_ok_and(|read| read == source(all, 1_000)), "what comes behind damage is readable");
    }

    #[test]
    fn a_file_cut_anywhere_or_of_anything_is_a_prefix_and_never_a_panic(
        steps in steps(), kept in 0..=1_000_u64, garbage in proptest::collection::vec(any::<u8>(), 0..500), at in 0..=1_000_u64,
    ) {
        let mut stream = written(&steps);
        stream.flush();
        let size = stream.file.metadata().unwrap().len() * kept / 1_000;
        stream.file.set_len(size).unwrap();
        stream.file.write_all_at(&garbage, size * at / 1_000).unwrap();
        stream.recover();
        let (served, _) = stream.served(7_777);
        prop_assert!(served == source(0, served.len()));
    }
}
