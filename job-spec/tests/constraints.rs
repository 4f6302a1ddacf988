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
  tolerations: [only-vision, spot]
  spread: rack
  group: serving
  away_from: serving
";
    let spec = parse(text, "f").unwrap().spec;
    let constraints = Constraints {
        required: Some(PlaceLevel::Rack),
        preferred: Some(PlaceLevel::Worker),
        labels: [("disk".to_owned(), "nvme".to_owned())].into(),
        devices: vec!["NVIDIA H100".into(), "NVIDIA A100".into()],
        tolerations: ["only-vision".to_owned(), "spot".to_owned()].into(),
        group: "serving".into(),
        away_from: "serving".into(),
    };
    assert_eq!(spec.gang.spread, Some(PlaceLevel::Rack));
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
  spread: everywhere
  away_from: not a name
";
    let faults = parse(text, "f").unwrap_err().to_string();
    let expected = [
        r#"f:3:13: x-muster.required: must be one of worker, switch, rack, block, zone, but is "row""#,
        r#"f:4:13: x-muster.devices: must be product names of devices, such as "NVIDIA H100""#,
        r#"f:5:13: x-muster.estimate: must be a number of seconds from 0.001 to 315360000, but is "1h""#,
        r#"f:6:16: x-muster.preemptible: must be true or false, but is "maybe""#,
        "f:7:18: x-muster.worker_labels: must be a mapping, but is a list",
        r#"f:8:11: x-muster.spread: must be one of true, false, worker, switch, rack, block, zone, but is "everywhere""#,
        "f:9:14: x-muster.away_from: must be a name of 1 to 63 letters, digits, '.', '_', '-' and '/'",
    ];
    assert_eq!(faults.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_elastic_job_says_with_how_few_instances_it_can_run() {
    let text = "command: run\nresources: {instance_count: 4}\nx-muster: {min_instances: 2, tolerations: spot}\n";
    let spec = parse(text, "f").unwrap().spec;
    assert_eq!((spec.gang.instances, spec.gang.fewest(), spec.gang.is_elastic()), (4, 2, true));
    assert_eq!(spec.constraints.tolerations, ["spot".to_owned()].into());
    let plain = parse("command: run\nresources: {instance_count: 4}\n", "f").unwrap().spec;
    assert_eq!((plain.gang.fewest(), plain.gang.is_elastic()), (4, false));
}

#[test]
fn more_instances_than_there_are_and_names_that_no_taint_has_are_faults() {
    let text = "command: run
resources: {instance_count: 2}
x-muster:
  min_instances: 3
  tolerations: [fine, 'not fine']
";
    let faults = parse(text, "f").unwrap_err().to_string();
    let expected = [
        "f:4:18: x-muster.min_instances: is 3, but must be from 1 to 2",
        "f:5:23: x-muster.tolerations: must be names of taints, such as only-vision",
    ];
    assert_eq!(faults.lines().collect::<Vec<_>>(), expected);
    let roles = "command: run
resources: {instance_count: 2}
distribution: {type: tensorflow, worker_count: 2}
x-muster: {min_instances: 1}
";
    let faults = parse(roles, "f").unwrap_err().to_string();
    assert!(faults.starts_with("f:4:27: x-muster.min_instances: the roles of a tensorflow job"), "{faults}");
}
