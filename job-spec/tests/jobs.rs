//! Good job files: what Muster makes of each field, the defaults, and the examples that people copy from.
#![allow(clippy::unwrap_used, clippy::panic)]

use job_spec::parse;
use std::collections::BTreeMap;
use std::path::Path;
use types::{Distribution, Input, InputKind, Millis, PlaceLevel, RankResources, RestartPolicy, Workspace};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_file_with_every_field_is_read() {
    let draft = parse(include_str!("files/full.yml"), "full.yml").unwrap();
    let spec = &draft.spec;
    assert_eq!(spec.display_name, "Digits, two by two");
    assert_eq!(spec.experiment_name, "digits");
    assert_eq!(spec.description, "Trains on digits.\nTwice.\n");
    assert_eq!(spec.tags, map(&[("team", "vision"), ("urgent", ""), ("answer", "42")]));
    assert!(spec.command.contains("--file ${{ inputs.labels }}"), "expressions stay in the text");
    let variables = map(&[
        ("TEXT", "words"),
        ("NUMBER", "1e-3"),
        ("QUOTED", "007"),
        ("FLAG", "true"),
        ("MODEL", "${{outputs.model}}/best"),
        ("OLD", "yes"),
    ]);
    assert_eq!(spec.environment_variables, variables);
    let literals = [("lr", "0.01"), ("name", "x"), ("epochs", "3"), ("fast", "false"), ("seed", "7")];
    let literals: BTreeMap<_, _> = literals.map(|(k, v)| (k.to_owned(), Input::Literal(v.to_owned()))).into();
    assert_eq!(spec.inputs, literals);
    assert_eq!(spec.outputs.keys().collect::<Vec<_>>(), ["model", "report", "scratch"]);
    assert_eq!(spec.outputs["model"].description, "The best one");
    assert_eq!((spec.gang.instances, spec.gang.ranks_per_instance), (2, 4));
    assert_eq!(spec.gang.per_rank, RankResources { cpus: 4, memory_bytes: 4 << 30, gpus: 1 });
    assert_eq!((spec.gang.distribution, spec.gang.spread), (Distribution::PyTorch, Some(PlaceLevel::Worker)));
    assert_eq!(spec.timeout, Some(Millis(3_600_000)));
    assert_eq!((spec.grace, spec.priority, spec.queue.as_str()), (Millis(30_000), -5, "research"));
    assert_eq!(spec.workspace.as_ref().map(Workspace::as_str), Some("vision"));
    assert_eq!(spec.restart, RestartPolicy { max_restarts: 3, backoff: Millis(500) });
    assert!(spec.code.is_none());
}

#[test]
fn paths_are_handed_on_with_their_place() {
    let draft = parse(include_str!("files/full.yml"), "full.yml").unwrap();
    let code = draft.code.unwrap();
    assert_eq!((code.written.as_str(), code.field.as_str(), code.line, code.column), ("./src", "code", 10, 7));
    let data: Vec<_> = draft.data.iter().map(|(n, d)| (n.as_str(), d.kind, d.path.written.as_str())).collect();
    let expected = [
        ("digits", InputKind::Folder, "data/digits"),
        ("labels", InputKind::File, "./labels.csv"),
        ("plain", InputKind::Folder, "../shared"),
    ];
    assert_eq!(data, expected);
    let labels = &draft.data["labels"].path;
    assert_eq!((labels.field.as_str(), labels.line, labels.column), ("inputs.labels.path", 24, 34));
}

#[test]
fn what_is_not_used_is_warned_about() {
    let draft = parse(include_str!("files/full.yml"), "full.yml").unwrap();
    let warnings: Vec<String> = draft.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.join("\n"), include_str!("files/full.warnings.txt").trim_end());
}

#[test]
fn a_command_alone_is_a_job_with_defaults() {
    let draft = parse("command: echo hello", "f").unwrap();
    let spec = draft.spec;
    assert_eq!((spec.gang.instances, spec.gang.ranks_per_instance), (1, 1));
    assert_eq!(spec.gang.per_rank, RankResources { cpus: 1, memory_bytes: 0, gpus: 0 });
    assert_eq!((spec.gang.distribution, spec.gang.spread), (Distribution::None, None));
    assert_eq!((spec.timeout, spec.grace), (None, Millis(10_000)));
    assert_eq!((spec.priority, spec.queue.as_str()), (0, "default"));
    assert_eq!(spec.restart, RestartPolicy { max_restarts: 0, backoff: Millis(1_000) });
    assert!(draft.warnings.is_empty() && draft.code.is_none() && draft.data.is_empty());
}

#[test]
fn the_name_is_shown_where_there_is_no_display_name() {
    assert_eq!(parse("command: a\nname: n", "f").unwrap().spec.display_name, "n");
    assert_eq!(parse("command: a\nname: n\ndisplay_name: d", "f").unwrap().spec.display_name, "d");
}

#[test]
fn tensorflow_counts_are_shared_out() {
    let gang = |text: &str| parse(&format!("command: a\n{text}"), "f").unwrap().spec.gang;
    let alone = gang("resources: {instance_count: 3}\ndistribution: {type: tensorflow}");
    assert_eq!(alone.distribution, Distribution::TensorFlow { worker_count: 3, parameter_server_count: 0 });
    assert_eq!(alone.world_size(), 3);
    let served = gang(
        "resources: {instance_count: 2}\ndistribution: {type: tensorflow, worker_count: 3, parameter_server_count: 1}",
    );
    assert_eq!((served.instances, served.ranks_per_instance), (2, 2));
}

#[test]
fn anchors_and_merge_keys_save_typing() {
    let text = "command: a\ntags: &t {k: v, l: 1}\nenvironment_variables:\n  <<: *t\n  l: 2\n";
    let spec = parse(text, "f").unwrap().spec;
    assert_eq!(spec.environment_variables, map(&[("k", "v"), ("l", "2")]));
}

#[test]
fn every_example_is_sound() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(examples).unwrap() {
        let folder = entry.unwrap().path();
        let file = folder.join("job.yml");
        if !file.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let draft = parse(&text, &file.display().to_string()).unwrap_or_else(|faults| panic!("{faults}"));
        let prepared = job_spec::resolve(draft, &folder).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(prepared.warnings.is_empty(), "{:?}", prepared.warnings);
        seen.push(folder.file_name().unwrap().to_string_lossy().into_owned());
    }
    for name in ["hello", "mpi", "pytorch-ddp"] {
        assert!(seen.iter().any(|example| example == name), "{name} is missing among {seen:?}");
    }
}
