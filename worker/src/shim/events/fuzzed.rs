//! Event files as programs write them: records with any bytes in them, under right checksums.

use super::records::{BUFFER_BYTES, framed};
use super::{EventFile, Notices};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use types::RankIndex;

/// What all lines of one input may come to, beyond what any input of a fuzzer does.
const LINES_BYTES_MAX: usize = 4 << 20;

/// Records, each with its length in two bytes before it; the first byte tells whether the rest is a file as it is. Lines that come of
/// it are whole and of JSON.
pub fn event_file(bytes: &[u8]) {
    let Some((kind, mut rest)) = bytes.split_first() else { return };
    let mut content = Vec::new();
    if kind.is_multiple_of(2) {
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (record, after) = after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
            content.extend(framed(record));
            rest = after;
        }
    } else {
        content.extend_from_slice(rest);
    }
    let Ok(memory) = memfd_create("events", MemfdFlags::CLOEXEC) else { return };
    let mut file = File::from(memory);
    if file.write_all(&content).is_err() {
        return;
    }
    let (mut lines, mut notices) = (Vec::new(), Notices::new(RankIndex(0), "event files"));
    let mut events = EventFile::new(PathBuf::from("output/run/events.out.tfevents.1"), file);
    let mut buffer = vec![0; BUFFER_BYTES];
    while events.read(&mut buffer, &mut lines, &mut notices) && lines.len() < LINES_BYTES_MAX {}
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let json = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
        assert!(json.is_some_and(|json| json["name"].is_string() && json["value"].is_number()), "no line of JSON");
    }
    assert!(std::str::from_utf8(&notices.take()).is_ok(), "a notice that is no text");
}

/// The first event of a file, and one with a scalar.
pub fn event_files() -> Vec<Vec<u8>> {
    let record = |event: &[u8]| [&(event.len() as u16).to_le_bytes()[..], event].concat();
    // Event { wall_time: 1.0, step: 5, summary { value { tag: "a", simple_value: 0.5 } } }
    let scalar = b"\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x10\x05\x2a\x0a\x0a\x08\x0a\x01a\x15\x00\x00\x00\x3f";
    // The same with a tensor of one double in it.
    let tensor = b"\x10\x05\x2a\x15\x0a\x13\x0a\x01b\x42\x0e\x08\x02\x12\x00\x22\x08\x00\x00\x00\x00\x00\x00\xf0\x3f";
    let version = b"\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x1a\x0dbrain.Event:2";
    let all = [record(version), record(scalar), record(tensor)].concat();
    vec![[vec![0], all].concat(), [vec![0], record(scalar)].concat(), [vec![1], framed(scalar)].concat()]
}
