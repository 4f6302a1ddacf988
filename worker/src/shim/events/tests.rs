//! From files as programs write them to lines of the metrics stream.

use super::testing::{event, record, scalar_value, tensor_value};
use super::*;
use std::io::Write as _;

/// Outputs of a job, and looks at them.
struct Outputs {
    folder: tempfile::TempDir,
    files: EventFiles,
}

impl Outputs {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = EventFiles { outputs: folder.path().to_owned(), claims: None, is_first: true };
        Self { folder, files }
    }

    fn events(&self) -> Events<'_> {
        Events::new(&self.files, RankIndex(0), None, None)
    }

    fn append(&self, path: &str, bytes: &[u8]) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
    }
}

/// Looks until nothing is left: the lines and what is told.
fn all(events: &mut Events<'_>) -> (String, String) {
    let (mut lines, mut notices) = (Vec::new(), Vec::new());
    events.begin_last();
    for _ in 0..10_000 {
        let look = events.look(Duration::ZERO, 0);
        lines.extend(look.lines);
        notices.extend(look.notices);
        if look.is_done {
            return (String::from_utf8(lines).unwrap(), String::from_utf8(notices).unwrap());
        }
    }
    panic!("there is no end");
}

fn point(step: i64, tag: &str, value: f32) -> Vec<u8> {
    record(&event(1_764_000_000.25, step, &[scalar_value(tag, value)]))
}

#[test]
fn points_come_once_each_as_they_are_written() {
    let outputs = Outputs::new();
    let mut events = outputs.events();
    assert_eq!(all(&mut events), Default::default());
    let file = "logs/events.out.tfevents.1764000000.host.7.0";
    outputs.append(file, &point(1, "loss", 0.5));
    let line =
        |step, value| format!("{{\"name\":\"loss\",\"value\":{value},\"step\":{step},\"time\":1764000000.25}}\n");
    assert_eq!(all(&mut events), (line(1, "0.5"), String::new()));
    let next = [point(2, "loss", 0.1), point(3, "loss", -1e-9)].concat();
    let (now, later) = next.split_at(next.len() - 3);
    outputs.append(file, now);
    assert_eq!(all(&mut events).0, line(2, "0.1"));
    outputs.append(file, later);
    assert_eq!(all(&mut events).0, line(3, "-1e-9"));
    assert_eq!(all(&mut events), Default::default());
}

#[test]
fn folders_below_an_output_keep_the_same_tag_apart() {
    let outputs = Outputs::new();
    let name = "events.out.tfevents.1764000000.host.7.0.v2";
    outputs.append(&format!("logs/{name}"), &point(1, "loss", 1.0));
    outputs.append(&format!("logs/a/train/{name}"), &point(1, "loss", 2.0));
    outputs.append(&format!("logs/a/validation/{name}"), &point(1, "loss", 3.0));
    outputs.append(name, &point(1, "above", 4.0));
    let (lines, _) = all(&mut outputs.events());
    for wanted in [
        "{\"name\":\"loss\",\"value\":1.0,",
        "{\"name\":\"a/train/loss\",\"value\":2.0,",
        "{\"name\":\"a/validation/loss\",\"value\":3.0,",
        "{\"name\":\"above\",\"value\":4.0,",
    ] {
        assert_eq!(lines.matches(wanted).count(), 1, "{wanted} in {lines}");
    }
}

#[test]
fn a_damaged_file_is_told_once_and_stops_alone() {
    let outputs = Outputs::new();
    let (bad, good) = ("logs/events.out.tfevents.1.h", "logs/events.out.tfevents.2.h");
    let mut damaged = point(2, "lost", 0.5);
    damaged[20] ^= 1;
    outputs.append(bad, &[point(1, "kept", 0.5), damaged, point(3, "after", 0.5)].concat());
    outputs.append(good, &point(1, "other", 0.5));
    let mut events = outputs.events();
    let (lines, notices) = all(&mut events);
    assert!(lines.contains("kept") && lines.contains("other") && !lines.contains("lost") && !lines.contains("after"));
    let at = point(1, "kept", 0.5).len();
    assert_eq!(
        notices,
        format!("muster: rank 0: event file {bad:?}: a record at byte {at} is damaged; nothing more of it is read\n")
    );
    outputs.append(bad, &point(4, "after", 0.5));
    outputs.append(good, &point(2, "other", 0.25));
    let (lines, notices) = all(&mut events);
    assert!(lines.contains("0.25") && !lines.contains("after"));
    assert_eq!(notices, "");
}

#[test]
fn what_json_has_no_number_for_is_left_out_and_told() {
    let outputs = Outputs::new();
    let infinite = super::testing::bytes_field(4, &[0, 0x7c]);
    let half = tensor_value("half", 19, &[infinite]);
    let values = [scalar_value("a", f32::NAN), scalar_value("b", f32::INFINITY), scalar_value("c", 1.0), half];
    outputs.append("o/events.out.tfevents.1.h", &record(&event(f64::NAN, -1, &values)));
    let (lines, notices) = all(&mut outputs.events());
    assert_eq!(lines, "{\"name\":\"c\",\"value\":1.0}\n");
    assert!(
        notices
            .starts_with("muster: rank 0: values that are no finite numbers are left out, the first one is of \"a\"")
    );
}

#[test]
fn a_file_that_is_removed_and_made_anew_is_another_one() {
    let outputs = Outputs::new();
    let file = "logs/events.out.tfevents.1.h";
    let mut events = outputs.events();
    for n in 0..3_u8 {
        outputs.append(file, &point(1, "loss", f32::from(n)));
        assert!(all(&mut events).0.contains(&format!("\"value\":{n}.0")));
        std::fs::remove_file(outputs.folder.path().join(file)).unwrap();
        assert_eq!(all(&mut events).0, "");
    }
    assert!(events.read.len() <= 1);
}

#[test]
fn many_files_and_points_come_in_bounded_parts() {
    let outputs = Outputs::new();
    for n in 0..FILES_MAX + 3 {
        outputs.append(&format!("logs/events.out.tfevents.{n}.h"), &point(1, &format!("metric {n}"), 0.5));
    }
    let long: Vec<u8> = (0..20_000).flat_map(|step| point(step, "loss", 0.5)).collect();
    let mut events = outputs.events();
    let (lines, notices) = all(&mut events);
    assert_eq!(lines.lines().count(), FILES_MAX);
    assert_eq!(notices, "muster: rank 0: only 128 event files are read at a time\n");
    let path = events.read.values().next().unwrap().path.clone();
    outputs.append(path.to_str().unwrap(), &long);
    events.begin_last();
    let (mut count, mut looks) = (0, 0);
    loop {
        let look = events.look(Duration::ZERO, 0);
        assert!(look.lines.len() < LINES_BYTES + 4 * BUFFER_BYTES);
        count += String::from_utf8(look.lines).unwrap().lines().count();
        looks += 1;
        if look.is_done {
            break;
        }
    }
    assert_eq!(count, 20_000);
    assert!(looks > 2);
}
