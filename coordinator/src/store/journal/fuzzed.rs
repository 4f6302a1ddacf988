//! Journals as a fuzzer makes them: groups anywhere in either half, with any numbers, under right checksums.

use super::{Changes, FILE_BYTES, FILE_MAGIC, HALF, HEAD, Image, PAGE, checksum, code, head};
use crate::fuzzed::Input;

const SALT: u64 = 7;

/// A file of groups, each with where it lies, its two numbers and its changes. What is taken says each of its changes again, byte
/// for byte.
///
/// A group of the input: `flags u8 · page u8 · sequence u8 · floor u8 · bytes u16 · changes`. Of the flags 1 is the half, 2 a wrong
/// checksum, 4 and 8 sequence and floor counted from the last number down.
pub fn journal(bytes: &[u8]) {
    let mut image = vec![0; FILE_BYTES];
    image[..8].copy_from_slice(&FILE_MAGIC);
    image[8..16].copy_from_slice(&SALT.to_le_bytes());
    image[16..20].copy_from_slice(&checksum(SALT, &[&FILE_MAGIC]).to_le_bytes());
    let mut input = Input(bytes);
    while put(&mut image, &mut input).is_some() {}
    let Ok(read) = Image::check(&image).and_then(|image| image.read()) else { return };
    assert!(read.end <= HALF && read.last > 0, "the next group goes to {} after {}", read.end, read.last);
    for changes in &read.changes {
        let Ok(all) = changes.read() else { continue };
        let mut again = Changes::default();
        for change in all {
            let pushed = match change {
                super::Change::Record { index, bytes } => again.push(super::RECORD, index, bytes),
                super::Change::Fact { fact, value } => again.push(code(fact), 0, value),
            };
            assert!(pushed.is_ok(), "what was read cannot be written");
        }
        assert_eq!(again.read().ok(), changes.read().ok(), "what is written of a group is not what was read");
    }
}

fn put(image: &mut [u8], input: &mut Input<'_>) -> Option<()> {
    let [flags, page, sequence, floor] = input.take(4)?.first_chunk().copied()?;
    let changes = input.part()?;
    let number = |value: u8, from_the_end: bool| if from_the_end { u64::MAX - u64::from(value) } else { value.into() };
    let (sequence, floor) = (number(sequence, flags & 4 != 0), number(floor, flags & 8 != 0));
    let mut head = head(SALT, sequence, floor, changes).ok()?;
    if flags & 2 != 0 {
        head[HEAD - 1] ^= 1;
    }
    let start = PAGE + usize::from(flags & 1) * HALF + usize::from(page) * PAGE;
    image.get_mut(start..start + HEAD)?.copy_from_slice(&head);
    image.get_mut(start + HEAD..start + HEAD + changes.len())?.copy_from_slice(changes);
    Some(())
}

/// Sound ones: one group after the other, in both halves, and a damaged one before a good one.
pub fn journals() -> Vec<Vec<u8>> {
    let group = |flags: u8, page: u8, sequence: u8, floor: u8, changes: &[u8]| {
        let length = (changes.len() as u16).to_le_bytes();
        [&[flags, page, sequence, floor], &length[..], changes].concat()
    };
    let mut changes = Changes::default();
    let _ = changes.push(super::RECORD, 3, b"entry");
    let _ = changes.push(code(super::Fact::Vote), 0, b"vote");
    let changes = &changes.0[HEAD..];
    vec![
        group(0, 0, 1, 1, &[]),
        [group(0, 0, 1, 1, changes), group(0, 1, 2, 1, changes)].concat(),
        [group(0, 0, 1, 1, changes), group(1, 0, 2, 2, &[])].concat(),
        [group(0, 0, 1, 1, &[]), group(2, 1, 2, 1, changes), group(0, 2, 3, 1, &[])].concat(),
        group(12, 0, 1, 1, changes),
    ]
}
