//! The spool's promises: every byte once and in order, bounded disk, and restarts of either side change nothing.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::os::unix::fs::MetadataExt;

const BUDGET: SpoolBudget = SpoolBudget { bytes_per_stream_max: BUDGET_BYTES_MIN, disk_free_min: 0 };
const OUT: StreamKind = StreamKind::Stdout;

fn source(from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// Bytes of disk that the stream's file holds.
fn disk_bytes(folder: &Path, kind: StreamKind) -> u64 {
    std::fs::metadata(path(folder, kind)).unwrap().blocks() * 512
}

#[test]
fn a_flood_without_a_newline_is_held_back_shipped_whole_and_never_fills_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SpoolWriter::open(folder.path(), BUDGET).unwrap();
    let mut reader = SpoolReader::open(folder.path()).unwrap();
    let total = 24 << 20;
    let (mut offered, mut shipped, mut times_blocked) = (0_u64, 0_u64, 0);
    while shipped < total {
        while offered < total {
            let data = source(offered, 64 * 1024);
            let taken = writer.append(OUT, &data).unwrap();
            offered += taken.bytes as u64;
            if let Some(blocked) = taken.blocked {
                assert_eq!(blocked, Blocked::Budget);
                times_blocked += 1;
                break;
            }
        }
        assert_eq!(writer.append(StreamKind::Stderr, b"e").unwrap().bytes, 1, "a flood does not hold up stderr");
        let bytes = reader.read_at(OUT, shipped, 1 << 20).unwrap();
        assert!(bytes == source(shipped, bytes.len()));
        shipped += bytes.len() as u64;
        reader.acknowledge(OUT, shipped).unwrap();
        if reader.frees_disk() {
            assert!(disk_bytes(folder.path(), OUT) <= BUDGET_BYTES_MIN + (64 << 10));
        }
    }
    assert!(times_blocked > 3);
    assert_eq!(reader.length(OUT).unwrap(), total, "offsets stay absolute");
    assert!(matches!(reader.read_at(OUT, 0, 1), Err(SpoolError::Released { released, .. }) if released == total));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn restarts_of_shim_and_daemon_lose_and_double_nothing(
        steps in proptest::collection::vec((0..4_u8, 1..700_000_usize), 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::open(folder.path(), BUDGET).unwrap();
        let mut reader = SpoolReader::open(folder.path()).unwrap();
        let (mut written, mut shipped) = (0_u64, 0_u64);
        for (step, size) in steps {
            match step {
                0 => written += writer.append(OUT, &source(written, size)).unwrap().bytes as u64,
                1 => {
                    let bytes = reader.read_at(OUT, shipped, size).unwrap();
                    prop_assert!(bytes == source(shipped, bytes.len()));
                    shipped += bytes.len() as u64;
                    reader.acknowledge(OUT, shipped).unwrap();
                }
                2 => {
                    reader = SpoolReader::open(folder.path()).unwrap();
                    prop_assert_eq!(reader.acknowledged(OUT), shipped);
                }
                _ => writer = SpoolWriter::open(folder.path(), BUDGET).unwrap(),
            }
            prop_assert_eq!(writer.length(OUT), written);
            prop_assert_eq!(reader.length(OUT).unwrap(), written);
            prop_assert!(written - reader.released(OUT) <= BUDGET_BYTES_MIN);
        }
    }
}

#[test]
fn lost_or_damaged_marks_mean_sending_again_and_never_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SpoolWriter::open(folder.path(), BUDGET).unwrap();
    let mut reader = SpoolReader::open(folder.path()).unwrap();
    let length = 3 << 20;
    assert_eq!(writer.append(OUT, &source(0, length)).unwrap().bytes, length);
    let small = source(0, 5_000);
    writer.append(StreamKind::Metrics, &small).unwrap();
    reader.acknowledge(OUT, (2 << 20) + 77).unwrap();
    reader.acknowledge(StreamKind::Metrics, 4_999).unwrap();
    assert_eq!(reader.released(OUT), 2 << 20);
    assert_eq!(reader.released(StreamKind::Metrics), 0);
    let frees_disk = reader.frees_disk();
    drop(reader);
    for damage in ["missing", "damaged"] {
        let marks = folder.path().join("marks");
        if damage == "missing" {
            std::fs::remove_file(marks).unwrap();
        } else {
            std::fs::write(marks, [7; 72]).unwrap();
        }
        let mut reader = SpoolReader::open(folder.path()).unwrap();
        assert_eq!(reader.acknowledged(StreamKind::Metrics), 0);
        assert_eq!(&reader.read_at(StreamKind::Metrics, 0, 9_000).unwrap()[..], &small[..]);
        if frees_disk {
            assert_eq!(reader.released(OUT), 2 << 20);
            let bytes = reader.read_at(OUT, 2 << 20, 2 << 20).unwrap();
            assert!(bytes == source(2 << 20, 1 << 20));
        }
    }
}

#[test]
fn an_exit_is_not_held_up_by_a_full_budget() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SpoolWriter::open(folder.path(), BUDGET).unwrap();
    let full = source(0, BUDGET_BYTES_MIN as usize);
    assert_eq!(writer.append(OUT, &full).unwrap(), Taken { bytes: full.len(), blocked: None });
    assert_eq!(writer.append(OUT, b"x").unwrap(), Taken { bytes: 0, blocked: Some(Blocked::Budget) });
    let rest = vec![1; FINAL_BYTES_MAX as usize];
    assert_eq!(writer.append_final(OUT, &rest[..65_536]).unwrap(), Taken { bytes: 65_536, blocked: None });
    let taken = writer.append_final(OUT, &rest).unwrap();
    assert_eq!(taken, Taken { bytes: rest.len() - 65_536, blocked: Some(Blocked::Budget) });
}

#[test]
fn a_disk_that_must_be_left_to_others_blocks_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SpoolWriter::open(folder.path(), SpoolBudget { disk_free_min: u64::MAX, ..BUDGET }).unwrap();
    assert_eq!(writer.append(OUT, b"x").unwrap(), Taken { bytes: 0, blocked: Some(Blocked::Disk) });
    assert_eq!(writer.append_final(OUT, b"x").unwrap(), Taken { bytes: 1, blocked: None });
}

#[test]
fn a_rank_that_writes_nothing_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SpoolWriter::open(folder.path(), BUDGET).unwrap();
    let mut reader = SpoolReader::open(folder.path()).unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(writer.append(OUT, b"").unwrap(), Taken { bytes: 0, blocked: None });
    assert_eq!((reader.length(OUT).unwrap(), writer.room(OUT), files()), (0, Ok(BUDGET_BYTES_MIN), 0));
    writer.append(OUT, b"x").unwrap();
    assert_eq!((reader.length(OUT).unwrap(), files()), (1, 2), "the stream and its marks");
}

#[test]
fn a_spool_that_is_not_written_yet_is_empty_and_an_odd_acknowledgement_is_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("rank-0");
    let mut reader = SpoolReader::open(&place).unwrap();
    assert_eq!(reader.length(OUT).unwrap(), 0);
    assert!(reader.read_at(OUT, 5, 10).unwrap().is_empty());
    reader.acknowledge(OUT, u64::MAX).unwrap();
    assert_eq!(reader.acknowledged(OUT), 0);
    let mut writer = SpoolWriter::open(&place, BUDGET).unwrap();
    writer.append(OUT, b"hello").unwrap();
    reader.acknowledge(OUT, u64::MAX).unwrap();
    assert_eq!(reader.acknowledged(OUT), 5, "no more than there is");
    reader.acknowledge(OUT, 2).unwrap();
    assert_eq!(reader.acknowledged(OUT), 5, "never back");
    remove(&place).unwrap();
    remove(&place).unwrap();
    assert!(!place.exists());
}
