//! `muster simulate`: needs no cluster; what it prints, draws and refuses.

use crate::support::program;
use serde_json::Value;
use std::process::{Command, Output};

/// Runs it to its end.
fn simulate(arguments: &[&str]) -> Output {
    Command::new(program()).arg("simulate").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The numbers of each policy, without those that depend on the machine.
fn numbers(arguments: &[&str]) -> Vec<Value> {
    let output = simulate(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut policies = answer["policies"].as_array().unwrap().clone();
    for policy in &mut policies {
        let fields = policy.as_object_mut().unwrap();
        fields.retain(|name, _| !name.starts_with("cycle_") && name != "starts_per_cpu_s");
    }
    policies
}

#[test]
fn policies_stand_side_by_side_and_a_seed_gives_the_same_numbers() {
    let arguments = "--generate philly --jobs 300 --cluster 4x8 --seed 5 --compare fifo,easy,las,fair-share --estimate-sigma 0.7 -o json";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let first = numbers(&arguments);
    let names: Vec<&str> = first.iter().filter_map(|policy| policy["policy"].as_str()).collect();
    assert_eq!(names, ["fifo", "easy", "las", "fair-share"]);
    assert!(first.iter().all(|policy| policy["jobs_done"] == 300), "{first:?}");
    assert_eq!(first, numbers(&arguments));
}

#[test]
fn a_trace_file_gives_a_table_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, picture) = (folder.path().join("jobs.csv"), folder.path().join("out.svg"));
    std::fs::write(&trace, "submit_s,run_s,gpus\n0,3600,8\n1,3600,8\n2,60,4\n").unwrap();
    let (trace, picture) = (trace.display().to_string(), picture.display().to_string());
    let output = simulate(&["--trace", &trace, "--cluster", "1x8", "--policy", "fifo", "--plot", &picture]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    // The second waits for the first, the third for both.
    for part in ["3 jobs", "fifo", "3 of 3", "makespan"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    assert!(table.lines().any(|line| line.starts_with("wait max") && line.contains("120.0 min")), "{table}");
    let picture = std::fs::read_to_string(&picture).unwrap();
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>") && picture.contains("jobs waiting"));
}

#[test]
fn every_fault_of_a_file_is_said_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("bad.csv");
    std::fs::write(&trace, "submit_s,run_s,gpus\nx,1,1\n0,1,1\n0,-1,0\n").unwrap();
    let output = simulate(&["--trace", &trace.display().to_string(), "--cluster", "1x8"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in ["bad.csv:2: `submit_s`", "bad.csv:4: `run_s`"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    for (arguments, part) in [
        ("--generate philly --cluster nowhere", "64x8/16"),
        ("--generate philly --policy best", "fair-share"),
        ("--generate philly --restart 5", "90s"),
        ("--cluster 8x8", "--trace"),
    ] {
        let output = simulate(&arguments.split(' ').collect::<Vec<_>>());
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(part), "{arguments}: {said}");
    }
}
