//! A compacted file gives back what it was made from, from any offset, and says so when it cannot.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::fs::File;
use std::path::{Path, PathBuf};

fn make(folder: &Path, pieces: &[&[u8]]) -> (PathBuf, Footer, u64) {
    let path = folder.join("file");
    let mut writer = Writer::new(File::create(&path).unwrap()).unwrap();
    for piece in pieces {
        writer.write(piece).unwrap();
    }
    let (_, footer, stored) = writer.finish().unwrap();
    (path, footer, stored)
}

/// Lines as a rank writes them: some of it repeats, some does not.
fn lines(bytes: usize) -> Vec<u8> {
    let line = |step: usize| format!("step {step} loss 0.{:07}\n", step.wrapping_mul(7_919) % 10_000_000);
    (0..).flat_map(|step| line(step).into_bytes()).take(bytes).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_part_reads_back_as_it_was_written(
        bytes in 0..700_000_usize,
        cut in 0..700_000_usize,
        parts in proptest::collection::vec((0..720_000_u64, 0..600_000_usize), 6),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let text = lines(bytes);
        let (first, rest) = text.split_at(cut.min(bytes));
        let (path, footer, stored) = make(folder.path(), &[first, rest]);
        prop_assert_eq!(std::fs::metadata(&path).unwrap().len(), stored);
        prop_assert_eq!(Reader::footer(&path).unwrap().0, footer);
        let reader = Reader::open(&path).unwrap();
        for (offset, count) in parts {
            let begin = (offset as usize).min(bytes);
            let end = (begin + count).min(bytes);
            prop_assert!(reader.read(offset, count).unwrap() == text[begin..end]);
        }
        let mut whole = Vec::new();
        let read: Result<(), Fault> = reader.whole(|block| {
            whole.extend_from_slice(block);
            Ok(())
        });
        read.unwrap();
        prop_assert!(whole == text);
    }
}

/// One flipped bit anywhere is found before a byte that it touches is handed out: every byte of the file is covered.
#[test]
fn a_flipped_bit_anywhere_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(2 * BLOCK_BYTES + 100);
    let (path, _, stored) = make(folder.path(), &[&text]);
    let good = std::fs::read(&path).unwrap();
    let tail = good.len() - 200..good.len();
    for at in (0..good.len()).step_by(stored as usize / 60).chain(tail) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bad).unwrap();
        let outcome = Reader::open(&path).and_then(|reader| reader.whole(|_| Ok::<_, Fault>(())));
        assert!(matches!(outcome, Err(Fault::Damaged(_))), "bit {at}: {outcome:?}");
        if let Ok(reader) = Reader::open(&path) {
            for begin in (0..text.len()).step_by(BLOCK_BYTES) {
                let part = reader.read(begin as u64, BLOCK_BYTES);
                assert!(part.is_err() || part.unwrap() == text[begin..(begin + BLOCK_BYTES).min(text.len())]);
            }
        }
    }
    for length in [0, 10, FOOTER_BYTES, good.len() - 1] {
        std::fs::write(&path, &good[..length]).unwrap();
        assert!(matches!(Reader::footer(&path), Err(Fault::Damaged(_))), "{length}");
    }
}

/// A footer of another format is not misread, however sound it is.
#[test]
fn another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _, _) = make(folder.path(), &[b"text"]);
    let mut bytes = std::fs::read(&path).unwrap();
    let footer = bytes.len() - FOOTER_BYTES;
    bytes[footer + 8] = 2;
    let crc = crc32fast::hash(&bytes[footer..footer + FOOTER_BYTES - 4]);
    bytes[footer + FOOTER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let Err(Fault::Damaged(why)) = Reader::open(&path) else { panic!("it was read") };
    assert!(why.contains("format is 2"), "{why}");
}
