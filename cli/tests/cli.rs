//! The binary from outside: help, bad usage, no cluster, bad job files, contexts, completions.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

/// `muster` with a home of its own.
fn muster(home: &Path, arguments: &[&str]) -> Output {
    command(home, arguments).output().unwrap()
}

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments).env_clear().env("HOME", home);
    command
}

/// A token of a cluster that is nowhere.
fn token() -> String {
    format!("muster_pat_{}.{}", "0".repeat(64), "1".repeat(64))
}

fn dead_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_has_examples_and_exit_codes() {
    let home = tempfile::tempdir().unwrap();
    let help = muster(home.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in ["demo", "coordinator", "worker", "submit", "jobs", "logs", "metrics", "lineage", "Exit codes"] {
        assert!(stdout(&help).contains(word), "{word} in {}", stdout(&help));
    }
    for command in [&["submit", "--help"][..], &["logs", "--help"], &["demo", "--help"], &["jobs", "list", "--help"]] {
        let help = muster(home.path(), command);
        assert_eq!(help.status.code(), Some(0), "{command:?}");
        assert!(stdout(&help).contains("Examples:"), "{command:?}");
    }
    assert!(stdout(&muster(home.path(), &["train", "--help"])).contains("--config"));
}

#[test]
fn bad_usage_is_2_and_says_what_was_meant() {
    let home = tempfile::tempdir().unwrap();
    for bad in [
        &["jbos"][..],
        &["jobs", "show"],
        &["jobs", "show", "seven"],
        &["jobs", "show", "0"],
        &["jobs", "list", "--phase", "sleeping", "--coordinators", "127.0.0.1:1"],
        &["logs", "7", "--stream", "stdin"],
        &["logs", "7", "--tail", "many"],
        &["--output", "xml", "jobs", "list"],
        &["contexts", "set", "x"],
        &["demo", "--stop", "--keep"],
    ] {
        let output = muster(home.path(), bad);
        assert_eq!(output.status.code(), Some(2), "{bad:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty(), "{bad:?}");
    }
    assert!(stderr(&muster(home.path(), &["jbos"])).contains("jobs"));
}

#[test]
fn without_a_cluster_it_is_4_with_every_address_and_a_hint() {
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (dead_address(), dead_address());
    let both = format!("{one},{two}");
    let job = home.path().join("job.yml");
    std::fs::write(&job, "command: echo hi\n").unwrap();
    for call in [&["submit", job.to_str().unwrap()][..], &["jobs", "list", "--watch"], &["logs", "1", "-f"]] {
        let bare = command(home.path(), call).env("MUSTER_COORDINATORS", &both).output().unwrap();
        assert_eq!(bare.status.code(), Some(4), "{call:?}: {}", stderr(&bare));
        assert!(stderr(&bare).contains("muster login") && stderr(&bare).contains(&two), "{}", stderr(&bare));
        let mut call_as = command(home.path(), call);
        let output = call_as.env("MUSTER_COORDINATORS", &both).env("MUSTER_ACCESS_TOKEN", token()).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{call:?}: {text}");
        assert!(text.contains(&one) && text.contains(&two) && text.contains("refused"), "{call:?}: {text}");
        assert!(text.contains("muster demo"), "{text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_bad_job_file_is_2_with_all_its_faults_before_any_call() {
    let home = tempfile::tempdir().unwrap();
    let job = home.path().join("job.yml");
    let inputs = "inputs:\n  one: {type: uri_file, path: absent.csv}\n  two: {path: job.yml}\n  three: {type: uri_folder, path: .}\n";
    let text = format!("comand: echo\nresources:\n  instance_cout: 2\ncode: ./missing\n{inputs}");
    std::fs::write(&job, text).unwrap();
    let output = muster(home.path(), &["submit", job.to_str().unwrap(), "--coordinators", &dead_address()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in ["job.yml:1:", "comand", "job.yml:3:", "instance_cout", "\"instance_count\""] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // What the disk lacks is said in the same go, in the order of the file.
    for (line, what) in
        [(4, "missing\" does not exist"), (6, "absent.csv\" does not exist"), (7, "job.yml\" is a file")]
    {
        let place = format!("job.yml:{line}:");
        assert!(text.lines().any(|said| said.contains(&place) && said.contains(what)), "{place} {what} in {text}");
    }
    assert!(!text.contains("job.yml:8:"), "{text}");
    let missing = muster(home.path(), &["submit", "/no/such/job.yml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("/no/such/job.yml"));
}

#[test]
fn a_missing_code_folder_is_2_with_its_line() {
    let home = tempfile::tempdir().unwrap();
    let job = home.path().join("job.yml");
    std::fs::write(&job, "command: echo\ncode: ./missing\n").unwrap();
    let output = muster(home.path(), &["submit", job.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("job.yml:2:") && stderr(&output).contains("missing"), "{}", stderr(&output));
}

#[test]
fn the_plan_of_a_sum_is_shown_for_each_size() {
    let home = tempfile::tempdir().unwrap();
    let plan = |more: &[&str]| {
        let output = muster(home.path(), &[&["collective", "plan", "-o", "json"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let here = plan(&["--world", "4", "--bytes", "4,16MiB"]);
    let sizes = here["sizes"].as_array().unwrap();
    assert_eq!((&sizes[0]["transport"], &here["world"]), (&"shm".into(), &4.into()));
    assert_eq!((&sizes[0]["method"], &sizes[1]["method"]), (&"line".into(), &"staged".into()));
    assert!(sizes[0]["estimate_us"].as_f64() < sizes[1]["estimate_us"].as_f64());
    let way = |hosts| {
        let apart = plan(&["--world", "32", "--hosts", hosts, "--bytes", "1M"]);
        (apart["sizes"][0]["transport"].clone(), apart["sizes"][0]["method"].clone())
    };
    assert_eq!(way("8"), ("tcp".into(), "hosts".into()), "four on each: on two levels");
    assert_eq!(way("32"), ("tcp".into(), "ring".into()), "one on each");
    let table = muster(home.path(), &["collective", "plan"]);
    assert!(stdout(&table).contains("ESTIMATE US") && stdout(&table).contains("134217728"), "{}", stdout(&table));
}

#[test]
fn sums_are_measured_between_processes_and_exact() {
    let home = tempfile::tempdir().unwrap();
    let ways = [
        ("shm", "f32", "2", false),
        ("tcp", "bf16", "3", false),
        ("tcp", "f32", "2", true),
        ("shm", "i64", "1", false),
    ];
    for (transport, dtype, world, encrypt) in ways {
        let arguments = ["bench", "all-reduce", "--transport", transport, "--dtype", dtype, "--world", world];
        let short = ["--bytes", "4,64KiB", "--seconds", "0.01", "-o", "json"].into_iter();
        let short: Vec<&str> = short.chain(encrypt.then_some("--encrypt")).collect();
        let output = muster(home.path(), &[&arguments[..], &short].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let went = if world == "1" { "local" } else { transport };
        assert_eq!((&value["transport"], &value["dtype"]), (&went.into(), &dtype.into()), "{value}");
        assert_eq!(value["encrypt"], encrypt);
        let rows = value["sizes"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| row["wrong"] == 0 && row["median_us"].as_f64() > Some(0.0)), "{value}");
        assert_eq!(rows[1]["bytes"], 65_536);
    }
}

#[test]
fn all_that_is_wrong_with_a_measurement_is_said_at_once() {
    let home = tempfile::tempdir().unwrap();
    for (arguments, parts) in [
        (
            &["bench", "all-reduce", "--world", "0", "--bytes", "4,x", "--seconds", "0"][..],
            &["--world 0", "x", "--seconds"][..],
        ),
        (&["bench", "all-reduce", "--encrypt"], &["--encrypt: is for --transport tcp"]),
        (&["bench", "all-reduce", "--world", "64", "--bytes", "2GiB"], &["64 ranks have no more than 64GiB together"]),
        (&["collective", "plan", "--world", "2", "--hosts", "3", "--bytes", "0"], &["--hosts 3", "--bytes 0"]),
    ] {
        let output = muster(home.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(parts.iter().all(|part| stderr(&output).contains(part)), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_good_job_file_is_checked_without_a_cluster() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("run.sh"), "echo hi\n").unwrap();
    let job = home.path().join("job.yml");
    std::fs::write(&job, "command: sh run.sh\ncode: .\nresources:\n  instance_count: 3\n").unwrap();
    let output = muster(home.path(), &["submit", "--check", job.to_str().unwrap(), "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let spec: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(spec["gang"]["instances"], 3);
    assert_eq!(spec["code"]["tree"].as_str().unwrap().len(), 64);
}

#[test]
fn contexts_are_set_used_listed_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| muster(home.path(), arguments);
    assert!(stdout(&run(&["contexts", "list"])).contains("no contexts"));
    assert!(run(&["contexts", "set", "lab", "--coordinators", "127.0.0.1:1,127.0.0.1:2"]).status.success());
    assert!(run(&["contexts", "use", "lab"]).status.success());
    let listed: serde_json::Value = serde_json::from_slice(&run(&["contexts", "list", "-o", "json"]).stdout).unwrap();
    assert_eq!(listed["current"], "lab");
    assert_eq!(listed["contexts"]["lab"]["coordinators"][1], "127.0.0.1:2");
    assert!(stderr(&run(&["jobs", "list"])).contains("127.0.0.1:2"));
    assert_eq!(run(&["--context", "nowhere", "jobs", "list"]).status.code(), Some(3));
    assert!(run(&["contexts", "remove", "lab"]).status.success());
    assert_eq!(run(&["contexts", "use", "lab"]).status.code(), Some(3));
}

#[test]
fn completions_name_the_commands() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = muster(home.path(), &["completions", shell]);
        assert!(script.status.success());
        assert!(stdout(&script).contains("cordon"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let mut child = command(home.path(), &["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn no_colours_where_nobody_sees_them() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["contexts", "list"], &["jbos"]] {
        let output = muster(home.path(), arguments);
        assert!(!stdout(&output).contains('\u{1b}') && !stderr(&output).contains('\u{1b}'), "{arguments:?}");
    }
}

#[test]
fn a_wrong_training_option_is_2() {
    let home = tempfile::tempdir().unwrap();
    let output = muster(home.path(), &["train", "--training.epochs"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn stopping_a_demo_that_never_was_is_3() {
    let home = tempfile::tempdir().unwrap();
    let output = muster(home.path(), &["demo", "--stop"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn a_demo_never_touches_a_folder_with_other_files() {
    let home = tempfile::tempdir().unwrap();
    let output = muster(home.path(), &["demo", "--dir", "/etc"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn a_look_ahead_on_the_live_cluster_refuses_what_it_would_ignore() {
    let home = tempfile::tempdir().unwrap();
    let bad = home.path().join("bad.yml");
    std::fs::write(&bad, "command: true\nresources:\n  instance_count: none\nwhatever: 1\n").unwrap();
    let (bad, live) = (bad.to_str().unwrap(), &["--coordinators", "127.0.0.1:1", "simulate", "--from-cluster"][..]);
    for (arguments, parts) in [
        ([live, &["--cluster", "4x8"]].concat(), &["--from-cluster", "--cluster"][..]),
        ([live, &["--policy", "fifo"]].concat(), &["--policy"]),
        (vec!["simulate", "--generate", "philly", "--submit", bad], &["--generate", "--submit"]),
        (vec!["simulate", "--submit", bad], &["--from-cluster"]),
        ([live, &["--submit", "nowhere.yml"]].concat(), &["nowhere.yml"]),
        ([live, &["--submit", bad]].concat(), &["bad.yml:3", "bad.yml:4"]),
    ] {
        let output = muster(home.path(), &arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(parts.iter().all(|part| stderr(&output).contains(part)), "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(muster(home.path(), live).status.code(), Some(4), "nobody there");
}
