//! The journal: what is acknowledged comes back after a crash at any byte, nothing that was forgotten does, and damage is told
//! from a torn end.

use crate::store::disk::{DiskError, Fact, LogDisk, Record};
use crate::store::journal::{Change, Changes, Journal};
use crate::store::journaled::Journaled;
use crate::store::sled_disk::SledDisk;
use proptest::prelude::*;
use std::path::Path;
use tempfile::TempDir;

const PAGE: usize = 4096;
const HALF: usize = 4 << 20;

fn changes(index: u64, bytes: usize) -> Changes {
    let mut changes = Changes::default();
    changes.record(&record(index, bytes)).unwrap();
    changes.fact(Fact::Committed, &index.to_le_bytes()).unwrap();
    changes
}

fn record(index: u64, bytes: usize) -> Record {
    Record { index, bytes: vec![index as u8; bytes] }
}

fn indexes(read: &[Changes]) -> Vec<u64> {
    let all = read.iter().flat_map(|changes| changes.read().unwrap());
    all.filter_map(|change| if let Change::Record { index, .. } = change { Some(index) } else { None }).collect()
}

fn reopen(folder: &Path) -> Result<Vec<u64>, DiskError> {
    Journal::open(folder).map(|(_, read)| indexes(&read))
}

/// Writes groups of these sizes, the engine always `behind` groups behind. The number and record of each that must come back.
fn written(sizes: &[usize], behind: u64) -> (TempDir, Vec<(u64, u64)>) {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, read) = Journal::open(folder.path()).unwrap();
    assert!(read.iter().all(Changes::is_empty), "a new journal holds nothing");
    let mut of_group = vec![];
    for (index, bytes) in sizes.iter().enumerate() {
        let overwritten = journal.overwrites(bytes + 64).unwrap_or(0);
        let floor = (journal.sequence().saturating_sub(behind)).max(overwritten) + 1;
        let sequence = journal.write(&mut changes(index as u64, *bytes), floor).unwrap();
        of_group.push((sequence, floor, index as u64));
    }
    let floor = of_group.last().map_or(1, |last| last.1);
    let kept = of_group.into_iter().filter(|(sequence, ..)| *sequence >= floor);
    (folder, kept.map(|(sequence, _, index)| (sequence, index)).collect())
}

#[test]
fn groups_come_back_in_order_from_the_floor_on() {
    for (count, bytes, behind) in
        [(1, 10, 0), (9, 5_000, 3), (600, 10_000, 40), (1_500, 10_000, 200), (5, 2_000_000, 1)]
    {
        let (folder, kept) = written(&vec![bytes; count], behind);
        let kept: Vec<u64> = kept.into_iter().map(|(_, index)| index).collect();
        assert_eq!(reopen(folder.path()).unwrap(), kept, "{count} of {bytes}, {behind} behind");
        assert_eq!(kept.last(), Some(&(count as u64 - 1)));
    }
}

#[test]
fn a_journal_that_is_used_again_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    for life in 0..60_u64 {
        let (mut journal, read) = Journal::open(folder.path()).unwrap();
        assert_eq!(indexes(&read).last().copied(), (life * 20).checked_sub(1), "life {life}");
        for index in life * 20..(life + 1) * 20 {
            let floor = journal.sequence() + 1;
            journal.write(&mut changes(index, 9_000), floor).unwrap();
        }
    }
}

/// Pages that differ, by their offsets in the file.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    (0..after.len()).step_by(PAGE).filter(|at| after[*at..*at + PAGE] != before[*at..*at + PAGE]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A power cut leaves any part of the pages of the last write: all that was acknowledged before is there.
    #[test]
    fn a_torn_last_group_costs_nothing_that_was_acknowledged(
        sizes in prop::collection::vec(1_usize..60_000, 1..400), last_bytes in 9_000_usize..60_000, behind in 0_u64..60,
        kept_pages in any::<u16>(), garbage in any::<bool>(),
    ) {
        let (folder, kept) = written(&sizes, behind);
        let path = folder.path().join("journal");
        let before = std::fs::read(&path).unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        let overwritten = journal.overwrites(last_bytes + 64).unwrap_or(0);
        let floor = journal.sequence().saturating_sub(behind).max(overwritten) + 1;
        let last = sizes.len() as u64;
        journal.write(&mut changes(last, last_bytes), floor).unwrap();
        let after = std::fs::read(&path).unwrap();
        let mut torn = before.clone();
        let pages = changed(&before, &after);
        let in_half = |at: usize| usize::from(at >= PAGE + HALF);
        for (number, at) in pages.iter().enumerate() {
            // A turn to the other half first flushes a page of its own in this one.
            let is_closing = pages.iter().filter(|other| in_half(**other) == in_half(*at)).count() == 1;
            if is_closing || kept_pages >> (number % 16) & 1 == 1 {
                torn[*at..*at + PAGE].copy_from_slice(&after[*at..*at + PAGE]);
            } else if garbage {
                torn[*at + 2_000..*at + PAGE].fill(0xA5);
            }
        }
        std::fs::write(&path, &torn).unwrap();
        let found = reopen(folder.path()).unwrap();
        // What the engine had to have by then need not come back; what it may lack must.
        let from = found.first().copied().unwrap_or(last);
        let needed = kept.iter().find(|(sequence, _)| *sequence >= floor).map_or(last, |(_, index)| *index);
        prop_assert!(from <= needed, "{from}, needed from {needed}");
        let whole: Vec<u64> = (from..last).collect();
        prop_assert!(found == whole || found == (from..=last).collect::<Vec<_>>(), "{found:?} of {whole:?}");
    }
}

#[test]
fn a_cut_while_the_halves_turn_needs_nothing_of_what_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = Journal::open(folder.path()).unwrap();
    let mut index = 0;
    let (before, overwritten) = loop {
        if let Some(overwritten) = journal.overwrites(9_064).filter(|overwritten| *overwritten > 0) {
            break (std::fs::read(&path).unwrap(), overwritten);
        }
        // The engine is a whole half behind.
        let floor = journal.sequence().saturating_sub(345).max(1);
        journal.write(&mut changes(index, 9_000), floor).unwrap();
        index += 1;
    };
    journal.write(&mut changes(index, 9_000), overwritten + 1).unwrap();
    let after = std::fs::read(&path).unwrap();
    let pages = changed(&before, &after);
    assert_eq!(pages.len(), 4, "one that closes the half, three of the group");
    // The second page of the new group did not get there.
    let start = if pages[0] < PAGE + HALF && pages[1] >= PAGE + HALF { pages[1] } else { pages[0] };
    let mut torn = after.clone();
    torn[start + PAGE..start + 2 * PAGE].copy_from_slice(&before[start + PAGE..start + 2 * PAGE]);
    std::fs::write(&path, torn).unwrap();
    let found = reopen(folder.path()).unwrap();
    assert_eq!(found.last(), Some(&(index - 1)));
    assert!(found.windows(2).all(|pair| pair[0] + 1 == pair[1]) && found.len() > 300, "{found:?}");
    std::fs::write(&path, after).unwrap();
    assert_eq!(reopen(folder.path()).unwrap().last(), Some(&index));
}

#[test]
fn damage_before_the_last_group_is_refused() {
    let (folder, kept) = written(&vec![9_000; 700], 30);
    let path = folder.path().join("journal");
    let good = std::fs::read(&path).unwrap();
    let last = kept.last().unwrap().1 as u8;
    let mut refused = 0;
    // The bytes of a record say which it is; those from the floor on are needed, but the last may be a torn end.
    for (at, pair) in good.chunks(PAGE).enumerate() {
        let index = pair[1_000];
        let is_needed =
            pair[999] == index && pair[..8] == *b"MUSTGRP1" && kept.iter().any(|(_, kept)| *kept as u8 == index);
        if !is_needed || index == last {
            continue;
        }
        let mut bad = good.clone();
        bad[at * PAGE + 1_000] ^= 4;
        std::fs::write(&path, bad).unwrap();
        refused += usize::from(matches!(reopen(folder.path()), Err(DiskError::Corrupt { .. })));
    }
    assert!(refused >= kept.len() - 1, "{refused} of {}", kept.len());
    for bad in [&good[..good.len() - 1], &[&good[..], &[0]].concat(), &[&[0; 20], &good[20..]].concat()] {
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(reopen(folder.path()), Err(DiskError::Corrupt { .. })));
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::write(folder.path().join("db"), b"").unwrap();
    assert!(matches!(reopen(folder.path()), Err(DiskError::Corrupt { .. })));
}

#[test]
fn a_users_bytes_never_pass_for_a_group() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(folder.path()).unwrap();
    journal.write(&mut changes(1, 9_000), 1).unwrap();
    // A group of another journal, later by its number, page by page inside a record of this one.
    let (other, _) = written(&[10; 50], 50);
    let forged = std::fs::read(other.path().join("journal")).unwrap();
    let start = PAGE * 30;
    let mut group = Changes::default();
    group.record(&Record { index: 2, bytes: forged[start - PAGE + 45..start + 8 * PAGE].to_vec() }).unwrap();
    let floor = journal.sequence();
    journal.write(&mut group, floor).unwrap();
    // Its head is torn: what lies in the pages behind it is looked at.
    let path = folder.path().join("journal");
    let mut torn = std::fs::read(&path).unwrap();
    let at = torn.windows(8).rposition(|bytes| bytes == b"MUSTGRP1").unwrap() / PAGE * PAGE;
    assert!(torn[at..at + 8] == *b"MUSTGRP1", "the forged heads begin a page");
    let head = PAGE + 4 * PAGE;
    torn[head..head + 32].fill(0);
    std::fs::write(&path, torn).unwrap();
    assert_eq!(reopen(folder.path()).unwrap(), [1]);
}

fn open(folder: &Path) -> Journaled<SledDisk> {
    let journal = Journal::open(folder).unwrap();
    Journaled::start(journal, SledDisk::open(folder).unwrap()).unwrap()
}

/// A copy of the files as a crash would leave them.
fn crashed(folder: &Path) -> (TempDir, Journaled<SledDisk>) {
    let copy = tempfile::tempdir().unwrap();
    super::damage::copy(folder, copy.path());
    let disk = open(copy.path());
    (copy, disk)
}

fn records(disk: &impl LogDisk) -> Vec<u64> {
    let mut found = vec![];
    disk.scan(&mut |record| {
        found.push(record.index);
        Ok(())
    })
    .unwrap();
    found
}

#[test]
fn what_was_flushed_is_there_after_a_crash_though_the_engine_never_saw_it() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path());
    for index in 0..40 {
        disk.append(&[record(index, 100)]).unwrap();
        disk.put(Fact::Vote, &[index as u8]).unwrap();
        disk.sync().unwrap();
    }
    disk.append(&[record(40, 100)]).unwrap();
    let (_copy, after) = crashed(folder.path());
    assert_eq!(records(&after), (0..40).collect::<Vec<_>>());
    assert_eq!(after.get(Fact::Vote).unwrap(), Some(vec![39]));
    assert_eq!(
        disk.read(38..99, usize::MAX).unwrap(),
        [record(38, 100), record(39, 100)],
        "a read waits for the engine"
    );
}

#[test]
fn what_was_truncated_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path());
    disk.append(&(0..60).map(|index| record(index, 100)).collect::<Vec<_>>()).unwrap();
    disk.sync().unwrap();
    disk.append(&[record(60, 100)]).unwrap();
    disk.truncate_after(Some(49)).unwrap();
    let (_copy, after) = crashed(folder.path());
    assert_eq!(records(&after), (0..50).collect::<Vec<_>>());
    disk.append(&[record(50, 7)]).unwrap();
    disk.sync().unwrap();
    let (_copy, after) = crashed(folder.path());
    assert_eq!(after.read(50..99, usize::MAX).unwrap(), [record(50, 7)]);
}

#[test]
fn more_than_a_half_holds_goes_past_the_journal_and_older_facts_stay_older() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path());
    disk.put(Fact::Vote, b"old").unwrap();
    disk.sync().unwrap();
    disk.append(&(0..9).map(|index| record(index, 1 << 20)).collect::<Vec<_>>()).unwrap();
    disk.put(Fact::Vote, b"new").unwrap();
    disk.sync().unwrap();
    let (_copy, after) = crashed(folder.path());
    assert_eq!(records(&after), (0..9).collect::<Vec<_>>());
    assert_eq!(after.get(Fact::Vote).unwrap().as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_writer_that_is_faster_than_the_engine_waits_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path());
    for index in 0..400 {
        disk.append(&[record(index, 60_000)]).unwrap();
        disk.sync().unwrap();
        if index % 100 == 99 {
            assert_eq!(disk.get(Fact::Vote).unwrap(), None, "and nothing is written while it is copied");
            let (_copy, after) = crashed(folder.path());
            assert_eq!(records(&after), (0..=index).collect::<Vec<_>>());
        }
    }
    drop(disk);
    let (journal, lacking) = Journal::open(folder.path()).unwrap();
    assert!(lacking.iter().all(Changes::is_empty), "an orderly end leaves nothing in the journal");
    drop(journal);
    let sled = SledDisk::open(folder.path()).unwrap();
    assert_eq!(records(&sled), (0..400).collect::<Vec<_>>());
}
