//! Where a job may run and how it may be treated: good files, and the exact faults of bad ones.
#![allow(clippy::unwrap_used)]

use job_spec::parse;
use types::{Constraints, Millis, PlaceLevel};

#[test]
fn a_job_says_where_it_may_run() {
    let text = "command: run
x-muster:
  queue: research/vision
  required: rack
  preferred: Worker
  worker_labels: {disk: nvme}
  devices: [NVIDIA H100, NVIDIA A100]
  preemptible: false
  estimate: 90
";
    let spec = parse(text, "f").unwrap().spec;
    let constraints = Constraints {
        required: Some(PlaceLevel::Rack),
        preferred: Some(PlaceLevel::Worker),
        labels: [("disk".to_owned(), "nvme".to_owned())].into(),
        devices: vec!["NVIDIA H100".into(), "NVIDIA A100".into()],
    };
    assert_eq!(spec.constraints, constraints);
    assert_eq!(
        (spec.queue.as_str(), spec.preemptible, spec.estimate),
        ("research/vision", false, Some(Millis(90_000)))
    );
    let one = parse("command: run\nx-muster: {devices: NVIDIA H100}\n", "f").unwrap().spec;
    assert_eq!(one.constraints.devices, ["NVIDIA H100"]);
    let none = parse("command: run\n", "f").unwrap().spec;
    assert_eq!((none.constraints, none.preemptible, none.estimate), (Constraints::default(), true, None));
}

#[test]
fn what_is_no_place_label_or_device_is_a_fault() {
    let text = "command: run
x-muster:
  required: row
  devices: [{a: b}]
  estimate: 1h
  preemptible: maybe
  worker_labels: [a]
";
    let faults = parse(text, "f").unwrap_err().to_string();
    let expected = [
        r#"f:3:13: x-muster.required: must be one of worker, rack, zone, but is "row""#,
        r#"f:4:13: x-muster.devices: must be product names of devices, such as "NVIDIA H100""#,
        r#"f:5:13: x-muster.estimate: must be a number of seconds from 0.001 to 315360000, but is "1h""#,
        r#"f:6:16: x-muster.preemptible: must be true or false, but is "maybe""#,
        "f:7:18: x-muster.worker_labels: must be a mapping, but is a list",
    ];
    assert_eq!(faults.lines().collect::<Vec<_>>(), expected);
}
