//! The same training on different numbers of ranks, again and again, and the example to its end.

use super::*;
use std::io::Read;

const SHORT: &str = "
training: {epochs: 2, batch_size: 100}
model: {hidden: [32]}
optimizer: {learning_rate: 0.02}
schedule: {warmup_steps: 3}
";

/// TRAIN-4
#[test]
fn worlds_of_1_2_and_4_train_to_the_same_loss() {
    let summaries = [1, 2, 4].map(|world| Gang::new(SHORT, world).succeed());
    for summary in &summaries {
        // 1,438 samples in batches of 100: the last one of an epoch has 38.
        assert_eq!(summary.steps, 30);
        assert!((summary.test_loss - summaries[0].test_loss).abs() < 1e-4, "{summaries:?}");
        assert!(summary.test_accuracy > 0.8, "{summaries:?}");
    }
}

/// TRAIN-4
#[test]
fn ranks_without_samples_in_a_batch_change_nothing() {
    let config = "
data: {test_fraction: 0.98}
training: {epochs: 3, batch_size: 3, clip_norm: 0.5}
model: {hidden: []}
optimizer: {kind: sgd, learning_rate: 0.1}
schedule: {kind: constant, warmup_steps: 0}
";
    // 36 samples in batches of 3 for 4 ranks: one is always idle.
    let summaries = [1, 4].map(|world| Gang::new(config, world).succeed());
    assert_eq!(summaries[0].steps, 36);
    assert!((summaries[0].test_loss - summaries[1].test_loss).abs() < 1e-5, "{summaries:?}");
}

/// TRAIN-2
#[test]
fn the_same_run_gives_the_same_bits_however_buckets_are_cut() {
    let run = |more: &str| Gang::new(&format!("{SHORT}{more}"), 3).succeed();
    let first = run("");
    let buckets =
        |bytes: usize, first: usize| format!("communication: {{bucket_bytes: {bytes}, first_bucket_bytes: {first}}}");
    for more in [String::new(), buckets(1024, 1024), buckets(9000, 5000)] {
        let more = more.as_str();
        assert_eq!(run(more), first, "{more:?}");
    }
    assert_ne!(run("data: {split_seed: 3}").parameters_sha256, first.parameters_sha256);
}

/// TRAIN-1
#[test]
fn all_ranks_say_that_they_are_equal_and_report_their_metrics() {
    let mut gang = Gang::new(SHORT, 2);
    let mut readers = Vec::new();
    for context in &mut gang.contexts {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        context.metrics = Metrics::new(Some(std::fs::File::from(writer)));
        readers.push(std::fs::File::from(reader));
    }
    let printed = gang.printed.clone();
    let summary = gang.succeed();
    let equal = format!("parameters {} are equal on all 2 ranks", &summary.parameters_sha256[..12]);
    assert!(printed[0].text().contains(&format!("rank 0: {equal}")), "{}", printed[0].text());
    assert_eq!(printed[1].text(), format!("rank 1: {equal}\n"));
    assert!(printed[0].text().contains("epoch 2/2  step 30/30  loss 0."), "{}", printed[0].text());
    let names = |mut reader: std::fs::File| {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let name = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["name"].to_string();
        text.lines().map(name).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
    };
    let names: Vec<String> = readers.into_iter().map(names).collect();
    let all = "\"gradient_norm\" \"learning_rate\" \"loss\" \"samples_per_second\" \"step_time\" \"test_accuracy\" \
               \"test_loss\" \"wait_share\"";
    assert_eq!(names, [all, "\"step_time\" \"wait_share\""]);
}

#[test]
fn the_example_reaches_its_accuracy_with_any_seed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits/train.yml");
    let text = std::fs::read_to_string(path).unwrap();
    // As it is with four ranks; then other seeds, where one rank is quicker.
    for (world, seed) in [(4, 1), (1, 2), (1, 3)] {
        let overrides = [format!("training.seed={seed}"), "training.step_delay_ms=0".to_owned()];
        let config = Config::parse("train.yml", &text, &overrides).unwrap();
        let mut gang = Gang::new("", world);
        gang.configs = vec![config; world];
        let summary = gang.succeed();
        assert!(summary.test_accuracy >= 0.97, "seed {seed}: {summary:?}");
    }
}
