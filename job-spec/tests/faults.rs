//! Each rule of the job language with a file that breaks it: the exact faults, with line, column and suggestion.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use job_spec::{DOCUMENT_BYTES_MAX, parse, parse_bytes};

/// Adds a command after the text, so that it is not the missing command that is reported.
#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    exact(&format!("{text}\ncommand: run\n"), expected);
}

/// All faults, without the name of the file.
#[track_caller]
fn exact(text: &str, expected: &[&str]) {
    let faults = parse(text, "f").expect_err(text).to_string();
    let found: Vec<&str> = faults.lines().map(|line| line.strip_prefix("f:").unwrap()).collect();
    assert_eq!(found, expected, "\n{text}");
}

#[test]
fn all_faults_are_reported_at_once_in_file_order() {
    let text = include_str!("files/many-faults.yml");
    let faults = parse(text, "many-faults.yml").unwrap_err().to_string();
    assert_eq!(faults, include_str!("files/many-faults.txt").trim_end());
}

#[test]
fn unknown_fields_are_faults_with_a_suggestion() {
    refused(
        "resources:\n  instance_cout: 2",
        &[r#"2:3: resources.instance_cout: unknown field; did you mean "instance_count"?"#],
    );
    refused("instance_count: 2", &[r#"1:1: instance_count: unknown field; did you mean "resources.instance_count"?"#]);
    refused("timeout: 2", &[r#"1:1: timeout: unknown field; did you mean "limits.timeout"?"#]);
    refused(
        "environmentVariables: {}",
        &[r#"1:1: environmentVariables: unknown field; did you mean "environment_variables"?"#],
    );
    refused("env: {}", &[r#"1:1: env: unknown field; did you mean "environment_variables"?"#]);
    refused("x_muster: {}", &[r#"1:1: x_muster: unknown field; did you mean "x-muster"?"#]);
    refused("x-muster: {gpus: 1}", &[r#"1:12: x-muster.gpus: unknown field; did you mean "gpus_per_rank"?"#]);
    refused("gpu_per_rank: 1", &[r#"1:1: gpu_per_rank: unknown field; did you mean "x-muster.gpus_per_rank"?"#]);
    refused("bananas: 1", &["1:1: bananas: unknown field"]);
    refused("\"b\\na\": 1", &[r#"1:1: "b\na": unknown field"#]);
    refused(
        "resources: {process_count_per_instance: 2}",
        &[
            r#"1:13: resources.process_count_per_instance: unknown field; did you mean "distribution.process_count_per_instance"?"#,
        ],
    );
    refused("environment: {imgae: x}", &[r#"1:15: environment.imgae: unknown field; did you mean "image"?"#]);
    refused("services: {lab: {tpye: ssh}}", &[r#"1:18: services.lab.tpye: unknown field; did you mean "type"?"#]);
}

#[test]
fn other_kinds_of_jobs_are_refused_by_name() {
    refused(
        "type: sweep\ntrial: {}\nsearch_space: {}",
        &["1:7: type: sweep jobs are not supported: Muster runs command jobs"],
    );
    refused("type: Pipeline", &["1:7: type: pipeline jobs are not supported: Muster runs command jobs"]);
    refused("type: comand", &[r#"1:7: type: must be one of command, but is "comand"; did you mean "command"?"#]);
    refused(
        "jobs: {}\nsearch_space: {}",
        &[
            "1:1: jobs: belongs to pipeline jobs: Muster runs command jobs",
            "2:1: search_space: belongs to sweep jobs: Muster runs command jobs",
        ],
    );
}

#[test]
fn a_command_must_be_there_and_fit() {
    exact("type: command", &["1:1: command: is missing"]);
    exact("command:", &["1:1: command: has no value: give it one or leave the field out"]);
    exact("command: '  '", &["1:10: command: is empty"]);
    exact("command: [a]", &["1:10: command: must be text, but is a list"]);
    exact("command: {a: b}", &["1:10: command: must be text, but is a mapping"]);
    exact("command: \"a\\0b\"", &["1:10: command: contains a NUL character"]);
    let long = "x".repeat(16 * 1024 + 1);
    exact(&format!("command: {long}"), &["1:10: command: has 16385 bytes, more than 16384: put it into a script"]);
    exact("- a", &["1:1: must be a mapping, but is a list"]);
    exact("just text", &["1:1: must be a mapping, but is text"]);
}

#[test]
fn numbers_are_checked_with_their_bounds() {
    refused("resources: {instance_count: 0}", &["1:29: resources.instance_count: is 0, but must be from 1 to 4096"]);
    refused(
        "resources: {instance_count: many}",
        &[r#"1:29: resources.instance_count: must be a whole number from 1 to 4096, but is "many""#],
    );
    refused(
        "resources: {instance_count: 1_000}",
        &[
            r#"1:29: resources.instance_count: must be a whole number from 1 to 4096, but is "1_000"; did you mean "1000"?"#,
        ],
    );
    refused(
        "resources: {instance_count: 2.0}",
        &[r#"1:29: resources.instance_count: must be a whole number from 1 to 4096, but is "2.0""#],
    );
    refused(
        "resources: {instance_count: [2]}",
        &["1:29: resources.instance_count: must be a whole number from 1 to 4096, but is a list"],
    );
    refused(
        "resources: {instance_count: }",
        &["1:13: resources.instance_count: has no value: give it one or leave the field out"],
    );
    refused("resources: 2", &["1:12: resources: must be a mapping, but is a whole number"]);
    refused("limits: {timeout: 0}", &["1:19: limits.timeout: is 0, but must be from 1 to 315360000"]);
    refused("x-muster: {gpus_per_rank: -1}", &["1:27: x-muster.gpus_per_rank: is -1, but must be from 0 to 128"]);
    refused("x-muster: {cpus_per_rank: 0}", &["1:27: x-muster.cpus_per_rank: is 0, but must be from 1 to 4096"]);
    refused("x-muster: {max_restarts: -1}", &["1:26: x-muster.max_restarts: is -1, but must be from 0 to 1000000"]);
    refused(
        "x-muster: {priority: 99999999}",
        &["1:22: x-muster.priority: is 99999999, but must be from -1000000 to 1000000"],
    );
    refused(
        "x-muster: {grace: 0}",
        &[r#"1:19: x-muster.grace: must be a number of seconds from 0.001 to 3600, but is "0""#],
    );
    refused(
        "x-muster: {restart_backoff: 1m}",
        &[r#"1:29: x-muster.restart_backoff: must be a number of seconds from 0.001 to 3600, but is "1m""#],
    );
}

#[test]
fn booleans_are_true_or_false() {
    refused(
        "x-muster: {spread: yes}",
        &[r#"1:20: x-muster.spread: must be true or false, but is "yes"; did you mean "true"?"#],
    );
    refused(
        "x-muster: {spread: off}",
        &[r#"1:20: x-muster.spread: must be true or false, but is "off"; did you mean "false"?"#],
    );
    refused("x-muster: {spread: 1}", &[r#"1:20: x-muster.spread: must be true or false, but is "1""#]);
}

#[test]
fn memory_and_queue_have_a_form() {
    let units = "is not an amount of memory: write bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB";
    refused(
        "x-muster: {memory_per_rank: 4Gi}",
        &[&format!(r#"1:29: x-muster.memory_per_rank: "4Gi" {units}; did you mean "4GiB"?"#)],
    );
    refused("x-muster: {memory_per_rank: lots}", &[&format!(r#"1:29: x-muster.memory_per_rank: "lots" {units}"#)]);
    refused(
        "x-muster: {memory_per_rank: 1KB}",
        &[r#"1:29: x-muster.memory_per_rank: "1KB" must be from 1MiB to 1024TiB, or 0 for no limit"#],
    );
    refused(
        "x-muster: {queue: a//b}",
        &[&format!(r#"1:19: x-muster.queue: "a//b" is no name of a queue: {}"#, types::QUEUE_NAME_RULE)],
    );
}

#[test]
fn checkpoints_cannot_be_switched_off() {
    let message = "cannot be switched off: a restart goes on from the last checkpoint if the job saved one";
    refused("x-muster: {checkpoint: false}", &[&format!("1:24: x-muster.checkpoint: {message}")]);
    refused("x-muster: {checkpoint: {resume: false}}", &[&format!("1:33: x-muster.checkpoint.resume: {message}")]);
    refused("x-muster: {checkpoint: {every: 5}}", &["1:25: x-muster.checkpoint.every: unknown field"]);
}

#[test]
fn distributions_are_checked() {
    refused("distribution: {process_count_per_instance: 2}", &["1:1: distribution.type: is missing"]);
    refused(
        "distribution: {type: ray}",
        &["1:22: distribution.type: ray is not supported: use pytorch, mpi or tensorflow"],
    );
    refused(
        "distribution: {type: pytroch}",
        &[
            r#"1:22: distribution.type: must be one of pytorch, mpi, tensorflow, but is "pytroch"; did you mean "pytorch"?"#,
        ],
    );
    refused(
        "distribution: {type: tensorflow, process_count_per_instance: 2}",
        &["1:34: distribution.process_count_per_instance: unknown field"],
    );
    refused("distribution: {type: mpi, worker_count: 2}", &["1:27: distribution.worker_count: unknown field"]);
    refused(
        "resources: {instance_count: 2}\ndistribution: {type: tensorflow, worker_count: 2, parameter_server_count: 1}",
        &["2:1: distribution: 2 workers and 1 parameter servers cannot be shared out evenly over 2 instances: \
         make resources.instance_count a divisor of 3"],
    );
    refused(
        "resources: {instance_count: 4096}\ndistribution: {type: pytorch, process_count_per_instance: 2}",
        &["2:1: distribution: the job has 8192 ranks, more than 4096"],
    );
}

#[test]
fn inputs_are_checked() {
    refused("inputs: [a]", &["1:9: inputs: must be a mapping, but is a list"]);
    refused("inputs: {a: [1]}", &["1:13: inputs.a: must be text, but is a list"]);
    refused("inputs: {a: }", &[r#"1:10: inputs.a: has no value: write "" for an empty one"#]);
    refused(
        "inputs: {1a: x}",
        &["1:10: inputs.1a: must be named with 1 to 255 letters, digits and _, and not begin with a digit"],
    );
    refused("inputs: {lr: 1, LR: 2}", &["1:17: inputs.LR: shares the variable MUSTER_INPUT_LR with lr"]);
    refused("inputs: {a: {type: uri_file}}", &["1:10: inputs.a.path: is missing"]);
    refused(
        "inputs: {a: {type: uri_fil, path: x}}",
        &[
            "1:20: inputs.a.type: must be one of uri_file, uri_folder, mltable, mlflow_model, custom_model, triton_model, \
         string, number, integer, boolean, but is \"uri_fil\"; did you mean \"uri_file\"?",
        ],
    );
    refused(
        "inputs: {a: {type: mltable, path: x}}",
        &["1:20: inputs.a.type: mltable inputs are not supported: use uri_file or uri_folder"],
    );
    refused(
        "inputs: {a: {type: uri_file, path: x, mode: copy}}",
        &[
            r#"1:45: inputs.a.mode: must be one of ro_mount, download, direct, eval_mount, eval_download, but is "copy""#,
        ],
    );
    refused(
        "inputs: {a: {type: uri_file, pth: x}}",
        &["1:10: inputs.a.path: is missing", r#"1:30: inputs.a.pth: unknown field; did you mean "path"?"#],
    );
    refused(
        "inputs: {a: {type: integer, value: 1.5}}",
        &[r#"1:36: inputs.a.value: "1.5" does not fit the type integer"#],
    );
    refused(
        "inputs: {a: {type: boolean, default: 1}}",
        &[r#"1:38: inputs.a.default: "1" does not fit the type boolean"#],
    );
    refused("inputs: {a: {type: number, value: x}}", &[r#"1:35: inputs.a.value: "x" does not fit the type number"#]);
    refused("inputs: {a: {type: string}}", &["1:10: inputs.a.value: is missing"]);
}

#[test]
fn paths_must_be_local() {
    for (path, scheme) in [
        ("azureml:digits:1", "azureml:"),
        ("azureml://datastores/d/paths/p", "azureml:"),
        ("https://example.org/a.csv", "https:"),
        ("WASBS://c@a/p", "wasbs:"),
        ("runs:/1/model", "runs:"),
        // What was used against other trackers.
        ("http:///#/../../../../etc/", "http:"),
        ("http://169.254.169.254/latest/meta-data", "http:"),
    ] {
        refused(
            &format!("inputs: {{a: {{path: '{path}'}}}}"),
            &[&format!("1:20: inputs.a.path: path must be a local file or folder: {scheme} is not supported")],
        );
    }
    refused("code: git+https://example.org/r", &["1:7: code: code must be a local folder: git+ is not supported"]);
    refused("code: ''", &["1:7: code: code must be a local folder, but is empty"]);
    refused(
        "code: ${{inputs.a}}",
        &["1:7: code: code must be a local folder: expressions are for the command and environment_variables"],
    );
    refused(
        "code: \"a\\tb\"",
        &["1:7: code: code must be a local folder of at most 4096 bytes without control characters"],
    );
}

#[test]
fn outputs_are_checked() {
    refused("outputs: {a: 1}", &["1:14: outputs.a: must be a mapping, but is a whole number"]);
    refused(
        "outputs: {a-b: }",
        &["1:11: outputs.a-b: must be named with 1 to 255 letters, digits and _, and not begin with a digit"],
    );
    refused(
        "outputs: {a: {type: folder}}",
        &[
            "1:21: outputs.a.type: must be one of uri_file, uri_folder, mltable, mlflow_model, custom_model, triton_model, \
         but is \"folder\"",
        ],
    );
    refused(
        "outputs: {a: {mode: ro_mount}}",
        &[
            r#"1:21: outputs.a.mode: must be one of rw_mount, mount, upload, direct, but is "ro_mount"; did you mean "rw_mount"?"#,
        ],
    );
}

#[test]
fn environment_variables_and_tags_are_checked() {
    refused(
        "environment_variables: {A: }",
        &[r#"1:25: environment_variables.A: has no value: write "" for an empty one"#],
    );
    refused("environment_variables: {A: {b: c}}", &["1:28: environment_variables.A: must be text, but is a mapping"]);
    refused(
        "environment_variables: {'A=B': c}",
        &[r#"1:25: environment_variables."A=B": "A=B" cannot name a variable"#],
    );
    refused("environment_variables: {'': c}", &[r#"1:25: environment_variables."": "" cannot name a variable"#]);
    for name in ["MUSTER_RANK", "MUSTER_INPUT_X", "MUSTER_OUTPUT_"] {
        refused(
            &format!("environment_variables: {{{name}: 1}}"),
            &[&format!("1:25: environment_variables.{name}: is set by Muster for each rank and cannot be chosen")],
        );
    }
    refused("tags: {a: \"x\\ny\"}", &["1:11: tags.a: a tag and its value must each be one line of at most 256 bytes"]);
    refused("display_name: \"x\\ny\"", &["1:15: display_name: must be one line without control characters"]);
    refused("experiment_name: ' '", &["1:18: experiment_name: must have 1 to 256 bytes"]);
    refused("description: \"\\e[31m\"", &["1:14: description: has control characters"]);
}

#[test]
fn expressions_must_name_what_is_declared() {
    exact(
        "command: run ${{inputs.dta}} ${{outputs.model}}\ninputs: {data: 1}\noutputs: {model: }",
        &[r#"1:14: command: the job has no inputs named "dta"; did you mean "inputs.data"?"#],
    );
    exact(
        "command: run ${{inputs.model}}\noutputs: {model: }",
        &[r#"1:14: command: the job has no inputs named "model"; did you mean "outputs.model"?"#],
    );
    exact(
        "command: run\nenvironment_variables:\n  A: x${{outputs.y}}",
        &[r#"3:7: environment_variables.A: the job has no outputs named "y""#],
    );
    exact("command: run ${{inputs.a", &["1:14: command: the expression is not closed with }} on its line"]);
    exact(
        "command: ${{search_space.lr}}",
        &["1:10: command: search_space belongs to sweep jobs: Muster runs command jobs"],
    );
    exact("command: ${{input.a}}", &[r#"1:10: command: expression "input.a" does not start with inputs. or outputs."#]);
    exact(
        "command: ${{inputs.a.b}}",
        &[r#"1:10: command: expression "inputs.a.b" names a group, and Muster has no groups of inputs"#],
    );
}

#[test]
fn expressions_have_their_place_in_any_kind_of_text() {
    let block = "command: |\n  first\n  second ${{inputs.a}}\n    third ${{inputs.b}}\ninputs: {a: 1}";
    exact(block, &[r#"4:11: command: the job has no inputs named "b""#]);
    let folded = "command: >-\n  first\n  ü ${{outputs.b}} \n";
    exact(folded, &[r#"3:5: command: the job has no outputs named "b""#]);
    let quoted = "command: \"a \\\n  ${{inputs.b}}\"";
    exact(quoted, &[r#"2:3: command: the job has no inputs named "b""#]);
    let escaped = "command: \"\\x24{{inputs.b}}\"";
    exact(escaped, &[r#"1:10: command: the job has no inputs named "b""#]);
    let alias = "tags: {t: &x 'a ${{inputs.b}}'}\ncommand: *x";
    exact(alias, &[r#"1:17: command: the job has no inputs named "b""#]);
    let windows = "# ö\r\ncommand: |\r\n  a\r\n  ${{inputs.b}}\r\n";
    exact(windows, &[r#"4:3: command: the job has no inputs named "b""#]);
}

#[test]
fn a_faulty_input_is_no_reason_to_call_its_uses_unknown() {
    exact("command: run ${{inputs.a}}\ninputs: {a: {type: uri_file}}", &["2:10: inputs.a.path: is missing"]);
}

#[test]
fn files_are_bounded() {
    let long = format!("command: run\n#{}", "x".repeat(DOCUMENT_BYTES_MAX));
    exact(&long, &[&format!("1:1: the file has {} bytes, more than {DOCUMENT_BYTES_MAX}", long.len())]);
    let variables: Vec<String> = (0..200).map(|i| format!("  V{i}: {}", "x".repeat(240))).collect();
    let large = format!("command: run\nenvironment_variables:\n{}\n", variables.join("\n"));
    let faults = parse(&large, "f").unwrap_err().to_string();
    assert!(faults.starts_with("f:1:1: the job takes about ") && faults.contains("more than 49152"), "{faults}");
    let tags: Vec<String> = (0..300).map(|i| format!("t{i}: ")).collect();
    refused(&format!("tags: {{{}}}", tags.join(", ")), &["1:7: tags: has 300 entries, more than 256"]);
}

#[test]
fn malformed_yaml_is_a_fault_with_its_place() {
    for (text, place) in [
        ("command: [", "2:1"),
        ("command: 'x", "1:10"),
        ("command: run\n bad: x", "2:5"),
        ("command: run\n\tx: 1", "1:10"),
        ("a: b: c", "1:5"),
        ("command: run\ncommand: run", "2:1: key \"command\" stands in line 1 already"),
        ("command: run\n---\ncommand: run", "2:1: a second document starts here"),
    ] {
        let faults = parse(text, "f").unwrap_err().to_string();
        assert!(faults.starts_with(&format!("f:{place}")), "{text:?}: {faults}");
    }
}

#[test]
fn bytes_that_are_not_text_are_a_fault_with_their_place() {
    let faults = parse_bytes(b"command: run\nx: \xff", "f").unwrap_err().to_string();
    assert_eq!(faults, "f:2:4: the file is not UTF-8 text from here on");
    assert!(parse_bytes(b"\xef\xbb\xbfcommand: run", "f").is_ok(), "a byte order mark is no fault");
}
