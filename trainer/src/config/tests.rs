//! Faults are found all at once, each in its place; what is right reads back as it was meant.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

fn parse(text: &str) -> Config {
    Config::parse("train.yml", text, &[]).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn faults(text: &str, overrides: &[&str]) -> Vec<String> {
    let overrides: Vec<String> = overrides.iter().map(|one| (*one).to_owned()).collect();
    match Config::parse("train.yml", text, &overrides) {
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
        Ok(config) => panic!("{config:?}"),
    }
}

#[test]
fn every_fault_is_reported_at_once_with_its_line() {
    let text = "\
data:
  source: csv
  test_fraction: 1.5
model:
  hidden: [64, zero, 0]
traning:
  epochs: 3
training:
  epochs: 2
  steps: 4
  batch_sise: 32
optimizer:
  kind: adamax
  learning_rate: -1
";
    let found = faults(text, &["schedule.kind=wavy", "nonsense"]);
    let starts = [
        "train.yml:2: data.path: is missing",
        "train.yml:3: data.test_fraction: expected a number above 0 and below 1, found \"1.5\"",
        "train.yml:5: model.hidden: expected a whole number from 1 to 65536, found \"zero\"",
        "train.yml:5: model.hidden: expected a whole number from 1 to 65536, found \"0\"",
        "train.yml:6: traning: unknown field; did you mean \"training\"?",
        "train.yml:10: training.steps: stands beside epochs",
        "train.yml:11: training.batch_sise: unknown field; did you mean \"batch_size\"?",
        "train.yml:13: optimizer.kind: expected one of sgd, adam, adamw, found \"adamax\"",
        "train.yml:14: optimizer.learning_rate: expected a number above 0, found \"-1\"",
        "--nonsense: key=value was expected",
        "--schedule.kind: expected one of constant, linear, cosine, step",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found:?} is not {start:?}");
    }
}

#[test]
fn an_empty_file_is_the_documented_defaults() {
    let config = parse("");
    assert_eq!(config.data.source, Source::Digits);
    assert_eq!((config.data.scale, config.data.test_fraction, config.data.standardize), (16.0, 0.2, false));
    assert_eq!(config.model, Model::Mlp(Mlp { hidden: vec![128, 64] }));
    assert_eq!((config.training.length, config.training.batch_size), (Length::Epochs(30), 64));
    assert!(matches!(config.optimizer, Optimizer::AdamW { learning_rate: 0.003, beta2: 0.999, .. }));
    assert_eq!(config.schedule.kind, ScheduleKind::Cosine { minimum: 0.0 });
    assert_eq!((config.checkpoint.every, config.checkpoint.keep, config.output), (None, 3, None));
}

#[test]
fn the_readme_shows_exactly_the_defaults() {
    let readme = include_str!("../../README.md");
    let shown = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(parse(shown), parse(""));
}

#[test]
fn fields_that_do_not_belong_to_the_kind_are_unknown() {
    assert!(faults("optimizer: {kind: sgd, beta1: 0.5}", &[])[0].contains("optimizer.beta1: unknown field"));
    assert!(faults("data: {source: digits, path: x}", &[])[0].contains("data.path: unknown field"));
    assert!(faults("schedule: {kind: constant, minimum: 0}", &[])[0].contains("schedule.minimum: unknown field"));
}

#[test]
fn a_model_that_does_not_fit_the_data_is_a_fault_of_its_own_line() {
    let found = faults("data:\n  source: digits\nmodel:\n  kind: gpt\n  heads: 3\n  layers: 0\n", &[]);
    assert!(found[0].starts_with("train.yml:4: model.kind: gpt learns from text"), "{found:?}");
    assert!(found[1].starts_with("train.yml:5: model.heads: the width of 128 has no 3 equal parts"), "{found:?}");
    assert!(found[2].starts_with("train.yml:6: model.layers: expected a whole number from 1 to 64"), "{found:?}");
    let found = faults("data: {source: text, path: a, scale: 2}\nmodel: {kind: conv, kernel: 2, channels: []}", &[]);
    for wanted in
        ["data.scale: unknown", "model.kind: only gpt", "model.kernel: expected an odd", "model.channels: expected at"]
    {
        assert!(found.iter().any(|fault| fault.contains(wanted)), "{wanted}: {found:?}");
    }
    assert!(faults("model: {kind: conv, image: [8]}", &[])[0].contains("expected [height, width]"));
    assert!(faults("evaluate: {every_epochs: 0, patience: 2}", &[])[0].contains("needs looks at the test data"));
    assert!(faults("generate: {prompt: a}", &[])[0].contains("only a model of text"));
}

#[test]
fn what_is_for_slow_links_is_checked() {
    let communication = parse("communication: {streams: 4, wire: bf16, power_sgd: {rank: 3}}").communication;
    let expected = (4, Wire::Bf16, Some(PowerSgd { rank: 3 }), None);
    let Communication { streams, wire, power_sgd, local_steps, .. } = communication;
    assert_eq!((streams, wire, power_sgd, local_steps), expected);
    assert_eq!(parse("communication: {power_sgd: null}"), parse(""));
    let found = faults("communication:\n  streams: 9\n  wire: f16\n  power_sgd: {}\n  local_steps: 0\n", &[]);
    let starts = [
        "train.yml:2: communication.streams: expected a whole number from 1 to 8",
        "train.yml:3: communication.wire: expected one of native, bf16",
        "train.yml:4: communication.power_sgd.rank: is missing",
        "train.yml:5: communication.local_steps: expected a whole number from 1 to 1000000",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    assert!(found.iter().zip(starts).all(|(found, start)| found.starts_with(start)), "{found:#?}");
    assert!(
        faults("communication: {power_sgd: {rank: 1}, local_steps: 2}", &[])[0].contains("stands beside power_sgd")
    );
    for one in ["wire: bf16", "power_sgd: {rank: 1}", "local_steps: 2"] {
        let text = format!("training: {{shard_optimizer: true}}\ncommunication: {{{one}}}");
        assert!(faults(&text, &[])[0].contains("training.shard_optimizer is true"), "{one}");
    }
    let hash = |text: &str| (parse(text).course_hash(), parse(text).gang_hash());
    let base = hash("");
    for other in ["power_sgd: {rank: 1}", "local_steps: 2"] {
        assert_ne!(hash(&format!("communication: {{{other}}}")).0, base.0, "{other}");
    }
    for way in ["streams: 2", "wire: bf16"] {
        let (course, gang) = hash(&format!("communication: {{{way}}}"));
        assert!(course == base.0 && gang != base.1, "{way}");
    }
}

#[test]
fn text_is_learned_by_a_gpt_unless_said_otherwise() {
    let config = parse("data: {source: text, path: a.txt}");
    assert_eq!(config.model, Model::Gpt(Gpt { layers: 4, heads: 4, width: 128 }));
    let source = Source::Text { path: PathBuf::from("a.txt"), tokens: Tokens::Characters, context: 64 };
    assert_eq!((config.data.source, config.data.test_fraction), (source, 0.1));
}

#[test]
fn types_are_not_guessed() {
    assert!(faults("data: {standardize: yes}", &[])[0].contains("expected true or false"));
    assert!(faults("training: {seed: '1'}", &[])[0].contains("expected a whole number"));
    assert!(faults("training: {batch_size: 6.5}", &[])[0].contains("expected a whole number"));
    assert!(faults("training: [1]", &[])[0].contains("expected a group of fields, found a list"));
    assert!(faults("training: {clip_norm: .nan}", &[])[0].contains("expected a number"));
    assert!(faults("data: {source: csv, path: a, header: false, label: kind}", &[])[0].contains("header is false"));
    assert!(faults("data: {source: csv, path: a, delimiter: ab}", &[])[0].contains("one character"));
    assert!(!faults("- 1", &[]).is_empty());
}

#[test]
fn overrides_go_before_the_file() {
    let overrides = ["training.epochs=2", "model.hidden=[8, 4]", "output=/a: b#c", "data.source=digits"];
    let overrides: Vec<String> = overrides.iter().map(|one| (*one).to_owned()).collect();
    let config = Config::parse("train.yml", "training: {epochs: 9}\nmodel: {hidden: []}", &overrides).unwrap();
    assert_eq!(config.model, Model::Mlp(Mlp { hidden: vec![8, 4] }));
    assert_eq!(config.training.length, Length::Epochs(2));
    assert_eq!(config.output, Some(PathBuf::from("/a: b#c")));
}

#[test]
fn the_course_hash_sees_what_matters_alone() {
    let base = parse("data: {source: csv, path: /a}").course_hash();
    for same in ["data: {source: csv, path: /b}", "data: {source: csv, path: /a}\noutput: /o\ncheckpoint: {keep: 9}"] {
        assert_eq!(parse(same).course_hash(), base, "{same}");
    }
    assert_eq!(parse("data: {source: csv, path: /a}\ntraining: {step_delay_ms: 5}").course_hash(), base);
    for same in ["training: {micro_batch: 3, shard_optimizer: true, prefetch: 0}", "evaluate: {every_epochs: 2}"] {
        assert_eq!(parse(&format!("data: {{source: csv, path: /a}}\n{same}")).course_hash(), base, "{same}");
    }
    for other in [
        "model: {kind: conv}",
        "evaluate: {patience: 3}",
        "training: {seed: 2}",
        "optimizer: {learning_rate: 0.1}",
        "schedule: {warmup_steps: 1}",
    ] {
        assert_ne!(parse(&format!("data: {{source: csv, path: /a}}\n{other}")).course_hash(), base, "{other}");
    }
}

#[test]
fn ranks_must_be_told_the_same_way_of_going_together() {
    let base = parse("").gang_hash();
    for other in
        ["training: {shard_optimizer: true}", "communication: {bucket_bytes: 2048}", "checkpoint: {every_steps: 3}"]
    {
        assert_ne!(parse(other).gang_hash(), base, "{other}");
    }
    assert_eq!(parse("output: /a\ncheckpoint: {folder: /b}").gang_hash(), base);
}

#[test]
fn a_missing_or_huge_file_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: PathBuf| Config::load(&TrainArgs { config: Some(path), overrides: Vec::new() });
    assert!(matches!(load(folder.path().join("none.yml")), Err(Error::Io { .. })));
    let huge = folder.path().join("huge.yml");
    std::fs::write(&huge, vec![b'#'; 300_000]).unwrap();
    assert!(load(huge).unwrap_err().to_string().contains("larger than"));
    let binary = folder.path().join("binary.yml");
    std::fs::write(&binary, b"a: 1\n\xff").unwrap();
    assert!(load(binary).unwrap_err().to_string().contains("binary.yml:2: is not UTF-8"));
}
