//! Streams from their pipes to their spool, and the last lines of one.

use super::*;

#[test]
fn a_tail_is_whole_lines_within_its_limits() {
    let mut tail = Tail::default();
    for line in 0..10_000 {
        tail.push(format!("line {line}\n").as_bytes());
    }
    let text = tail.text();
    assert_eq!(text.lines().count(), 20);
    assert!(text.starts_with("line 9980\n") && text.ends_with("line 9999"));
    let mut tail = Tail::default();
    tail.push(&vec![0xff; 100_000]);
    assert!(tail.text().len() <= types::Limits::STDERR_TAIL_BYTES);
    assert_eq!(Tail::default().text(), "");
}

#[test]
fn what_came_after_a_moment_is_known_as_far_as_it_is_kept() {
    let mut tail = Tail::default();
    tail.push(b"before");
    let then = tail.count();
    assert_eq!(tail.since(then), "");
    tail.push(b"after");
    assert_eq!(tail.since(then), "after");
    tail.push(&vec![b'x'; 100_000]);
    assert!(tail.since(then).len() < 100_000 && tail.since(then).ends_with("xxx"));
}

#[test]
fn past_its_bound_a_stream_is_read_on_and_not_kept_and_that_is_said_once() {
    use stores::spool::{BUDGET_BYTES_MIN, SpoolBudget};
    let folder = tempfile::tempdir().unwrap();
    let budget = SpoolBudget { bytes_per_stream_max: BUDGET_BYTES_MIN, disk_free_min: 0 };
    let mut spool = SpoolWriter::open(folder.path(), budget).unwrap();
    let (mut stream, write) = Stream::new(StreamKind::Stdout).unwrap();
    stream.bytes_max = 10;
    let (mut buffer, mut seen) = (vec![0; BUFFER_BYTES], 0);
    for (text, kept, said) in [("12345", 5, false), ("6789012", 10, true), ("345", 10, false)] {
        rustix::io::write(&write, text.as_bytes()).unwrap();
        stream.pump(&mut spool, &mut buffer, &mut |bytes| seen += bytes.len());
        assert_eq!((spool.length(StreamKind::Stdout), stream.newly_cut().is_some()), (kept, said), "{text}");
    }
    assert_eq!((seen, stream.unwritten(), stream.is_blocked()), (15, 0, false));
    stream.insert(&mut spool, b"the supervisor's");
    assert_eq!(spool.length(StreamKind::Stdout), 26);
}

#[test]
fn a_line_of_the_supervisor_stands_after_what_waits_for_room() {
    use stores::spool::{BUDGET_BYTES_MIN, SpoolBudget, SpoolReader};
    let folder = tempfile::tempdir().unwrap();
    let budget = SpoolBudget { bytes_per_stream_max: BUDGET_BYTES_MIN, disk_free_min: 0 };
    let mut spool = SpoolWriter::open(folder.path(), budget).unwrap();
    let (mut stream, write) = Stream::new(StreamKind::Metrics).unwrap();
    rustix::io::write(&write, b"rank\n").unwrap();
    let mut buffer = vec![0; BUFFER_BYTES];
    stream.pump(&mut spool, &mut buffer, &mut |_| {});
    stream.insert(&mut spool, b"supervisor\n");
    stream.unwritten = b"waits\n".to_vec();
    stream.insert(&mut spool, b"last\n");
    drop(write);
    assert!(stream.drain(&mut spool, &mut buffer, &mut |_| {}));
    assert_eq!(SpoolReader::open(folder.path()).unwrap().length(StreamKind::Metrics).unwrap(), 27);
    let text = std::fs::read_dir(folder.path()).unwrap().flatten().filter_map(|file| std::fs::read(file.path()).ok());
    assert!(text.into_iter().any(|text| text.ends_with(b"rank\nsupervisor\nwaits\nlast\n")));
}

#[test]
fn what_is_offered_past_the_budget_waits_and_comes_in_order() {
    use stores::spool::{BUDGET_BYTES_MIN, SpoolBudget, SpoolReader};
    let folder = tempfile::tempdir().unwrap();
    let budget = SpoolBudget { bytes_per_stream_max: BUDGET_BYTES_MIN, disk_free_min: 0 };
    let mut spool = SpoolWriter::open(folder.path(), budget).unwrap();
    let (mut stream, _write) = Stream::new(StreamKind::Metrics).unwrap();
    let mut sent = 0;
    while !stream.is_blocked() {
        stream.offer(&mut spool, &[b'x'; 5_000]);
        sent += 5_000;
    }
    stream.offer(&mut spool, b"last");
    assert_eq!(stream.unwritten(), sent + 4 - BUDGET_BYTES_MIN);
    let mut reader = SpoolReader::open(folder.path()).unwrap();
    reader.acknowledge(StreamKind::Metrics, BUDGET_BYTES_MIN).unwrap();
    let mut buffer = vec![0; BUFFER_BYTES];
    stream.pump(&mut spool, &mut buffer, &mut |_| {});
    assert_eq!((stream.unwritten(), spool.length(StreamKind::Metrics)), (0, sent + 4));
}

#[test]
fn past_its_budget_a_stream_is_not_read_and_loses_nothing() {
    use stores::spool::{BUDGET_BYTES_MIN, SpoolBudget, SpoolReader};
    let folder = tempfile::tempdir().unwrap();
    let budget = SpoolBudget { bytes_per_stream_max: BUDGET_BYTES_MIN, disk_free_min: 0 };
    let mut spool = SpoolWriter::open(folder.path(), budget).unwrap();
    let (mut stream, write) = Stream::new(StreamKind::Stdout).unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut sent = 0_u64;
    while !stream.is_blocked() {
        while let Ok(count) = rustix::io::write(&write, &[b'x'; 4096]) {
            sent += count as u64;
        }
        stream.pump(&mut spool, &mut buffer, &mut |_| {});
    }
    assert!(stream.waits_for().is_none());
    assert_eq!(spool.length(StreamKind::Stdout), BUDGET_BYTES_MIN);
    // The daemon releases what was shipped, and the reading goes on.
    let mut reader = SpoolReader::open(folder.path()).unwrap();
    reader.acknowledge(StreamKind::Stdout, BUDGET_BYTES_MIN).unwrap();
    drop(write);
    while spool.length(StreamKind::Stdout) < sent {
        stream.pump(&mut spool, &mut buffer, &mut |_| {});
    }
    assert_eq!(reader.length(StreamKind::Stdout).unwrap(), sent);
    assert_eq!(stream.unwritten(), 0);
}
