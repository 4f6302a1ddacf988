//! TRAIN-3: a run that was ended and goes on from a checkpoint ends with the very bits of one that was not.

use super::*;
use std::io::{BufRead, BufReader};

const CONFIGS: [&str; 2] = [
    "
training: {epochs: 3, batch_size: 120, clip_norm: 1.0}
model: {hidden: [16]}
checkpoint: {every_steps: 7, keep: 100}
",
    "
training: {steps: 31, batch_size: 120}
model: {hidden: [12, 8]}
optimizer: {kind: sgd, learning_rate: 0.1, weight_decay: 0.001}
schedule: {kind: step, every_epochs: 1, factor: 0.5}
checkpoint: {every_epochs: 1, keep: 100}
evaluate: {every_epochs: 0}
",
];

pub(super) fn steps_saved(folder: &Path) -> Vec<u64> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> =
        names.filter_map(|name| name.strip_prefix("step-").map(|step| step.parse().unwrap())).collect();
    steps.sort_unstable();
    steps
}

fn resumed_runs_end_with_the_same_bits(world: usize) {
    for config in CONFIGS {
        let folder = tempfile::tempdir().unwrap();
        let whole = Gang::new(config, world).saving_to(folder.path()).succeed();
        let saved = steps_saved(folder.path());
        assert!(saved.len() >= 2, "{saved:?}");
        for step in saved {
            let from = folder.path().join(format!("step-{step}"));
            let resumed = Gang::new(config, world).resumed_from(&from).succeed();
            assert_eq!(resumed, Summary { resumed_from: Some(step), ..whole.clone() });
        }
    }
}

#[test]
fn a_resumed_run_of_1_rank_ends_with_the_same_bits() {
    resumed_runs_end_with_the_same_bits(1);
}

#[test]
fn a_resumed_run_of_3_ranks_ends_with_the_same_bits() {
    resumed_runs_end_with_the_same_bits(3);
}

#[test]
fn a_run_killed_in_its_middle_goes_on_from_what_it_told_its_worker() {
    let (config, folder) = (CONFIGS[0], tempfile::tempdir().unwrap());
    let whole = Gang::new(config, 3).succeed();
    // Slow, so that the kill comes in the middle: checkpoints are told of some steps after they were taken.
    let slow = config.replace("training: {", "training: {step_delay_ms: 5, ");
    let mut gang = Gang::new(&slow, 3).saving_to(folder.path());
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    gang.contexts[0].metrics = Metrics::new(Some(std::fs::File::from(writer)));
    let victim = Arc::clone(&gang.contexts[2].communicator);
    let running = std::thread::spawn(|| gang.run());
    let mut lines = BufReader::new(std::fs::File::from(reader)).lines();
    let told = lines.find_map(|line| line.unwrap().contains("\"step-14\"").then_some("step-14")).unwrap();
    victim.abort("killed");
    // Read on, so that the pipe never fills.
    lines.for_each(drop);
    for result in running.join().unwrap() {
        match result {
            Err(Error::Collective(error)) => assert_eq!(error.culprit(), Some(2), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    let resumed = Gang::new(config, 3).resumed_from(&folder.path().join(told)).succeed();
    assert_eq!(resumed.parameters_sha256, whole.parameters_sha256);
}

#[test]
fn another_number_of_ranks_goes_on_with_the_same_mathematics() {
    let (config, folder) = (CONFIGS[0], tempfile::tempdir().unwrap());
    let whole = Gang::new(config, 3).saving_to(folder.path()).succeed();
    let gang = Gang::new(config, 2).resumed_from(&folder.path().join("step-14"));
    let printed = gang.printed[0].clone();
    let resumed = gang.succeed();
    assert!((resumed.test_loss - whole.test_loss).abs() < 1e-3, "{resumed:?} {whole:?}");
    assert!(printed.text().contains("saved by 3 ranks, goes on with 2"), "{}", printed.text());
}

#[test]
fn ranks_that_begin_in_different_places_are_found_out() {
    let (config, folder) = (CONFIGS[0], tempfile::tempdir().unwrap());
    Gang::new(config, 1).saving_to(folder.path()).succeed();
    let mut gang = Gang::new(config, 3).resumed_from(&folder.path().join("step-14"));
    gang.contexts[1].resume_from = None;
    for result in gang.run() {
        match result {
            Err(Error::Unequal { what: "starting states", ranks }) => assert_eq!(ranks, [1]),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_damaged_checkpoint_ends_all_ranks_with_its_file_named() {
    let (config, folder) = (CONFIGS[0], tempfile::tempdir().unwrap());
    Gang::new(config, 1).saving_to(folder.path()).succeed();
    let from = folder.path().join("step-7");
    assert!(from.join("model.safetensors").is_file(), "one rank writes one part");
    std::fs::write(from.join("model.safetensors"), b"damaged").unwrap();
    let mut gang = Gang::new(config, 2);
    gang.contexts[1].resume_from = Some(from);
    let results = gang.run();
    match &results[1] {
        Err(Error::Checkpoint { path, .. }) => assert!(path.ends_with("step-7/model.safetensors")),
        other => panic!("{other:?}"),
    }
    match &results[0] {
        Err(Error::Collective(error)) => {
            assert_eq!(error.culprit(), Some(1));
            assert!(error.to_string().contains("model.safetensors is refused"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
