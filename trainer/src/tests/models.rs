//! What holds for the perceptron holds for every kind of model, one's own included.

use super::resume::steps_saved;
use super::*;
use crate::layers::{Chain, Gelu, Linear, Norm, Residual};
use crate::{Architecture, Task};

const CONV: &str = "
model: {kind: conv, channels: [4, 8], hidden: [16]}
training: {steps: 60, batch_size: 120}
optimizer: {learning_rate: 0.02}
schedule: {warmup_steps: 3}
checkpoint: {every_steps: 25, keep: 100}
";

/// Eleven characters again and again, so that runs of twelve begin with each of them.
fn text(folder: &Path) -> String {
    let path = folder.join("text.txt");
    std::fs::write(&path, "abcd efghi ".repeat(200)).unwrap();
    format!(
        "
data: {{source: text, path: {}, context: 12}}
model: {{layers: 2, heads: 2, width: 16}}
training: {{steps: 150, batch_size: 16}}
optimizer: {{learning_rate: 0.01}}
schedule: {{warmup_steps: 3}}
checkpoint: {{every_steps: 60, keep: 100}}
generate: {{tokens: 30, prompt: 'ab', temperature: 0.1}}
",
        path.display()
    )
}

/// TRAIN-1, TRAIN-2, TRAIN-3
fn is_exact(config: &str) -> Summary {
    let folder = tempfile::tempdir().unwrap();
    let whole = Gang::new(config, 3).saving_to(folder.path()).succeed();
    assert_eq!(Gang::new(config, 3).succeed(), whole);
    let saved = steps_saved(folder.path());
    assert_eq!(saved.len(), 2, "{saved:?}");
    for step in saved {
        let from = folder.path().join(format!("step-{step}"));
        let resumed = Gang::new(config, 3).resumed_from(&from).succeed();
        assert_eq!(resumed, Summary { resumed_from: Some(step), ..whole.clone() });
    }
    whole
}

#[test]
fn a_convolutional_net_is_exact_and_learns() {
    assert!(is_exact(CONV).test_accuracy > 0.7);
}

#[test]
fn a_gpt_is_exact_and_writes_what_it_has_learned() {
    let folder = tempfile::tempdir().unwrap();
    let summary = is_exact(&text(folder.path()));
    assert!(summary.test_accuracy > 0.95, "{summary:?}");
    assert_eq!(summary.sample.as_deref(), Some("abcd efghi abcd efghi abcd efghi"));
}

#[test]
fn bytes_that_are_no_text_are_learned_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes");
    std::fs::write(&path, [0xff, 0x00, 0xfe, b'a'].repeat(60)).unwrap();
    let from = format!("data: {{source: text, path: {}, context: 8", path.display());
    let model = "}\nmodel: {layers: 1, heads: 1, width: 8}\ntraining: {steps: 3}\ngenerate: {tokens: 5}";
    assert_eq!(Gang::new(&format!("{from}, tokens: bytes{model}"), 2).succeed().steps, 3);
    let refused = Gang::new(&format!("{from}{model}"), 1).run().remove(0).unwrap_err().to_string();
    assert!(refused.contains("bytes:1: is not UTF-8 text here: set data.tokens to bytes"), "{refused}");
}

#[test]
fn a_prompt_of_unknown_characters_is_refused_before_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let mut gang = Gang::new(&text(folder.path()).replace("'ab'", "'aXb'"), 1);
    gang.contexts[0].checkpoint_folder = Some(folder.path().join("saved"));
    let refused = gang.run().remove(0).unwrap_err().to_string();
    assert!(refused.contains("generate.prompt: the text that was learned from has no 'X'"), "{refused}");
    assert!(!folder.path().join("saved/step-60").exists());
}

/// TRAIN-4
#[test]
fn portions_of_a_batch_add_up_to_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    for config in [CONV.to_owned(), text(folder.path())] {
        let whole = Gang::new(&config, 2).succeed();
        let portions = config.replace("batch_size", "micro_batch: 7, batch_size");
        let added = Gang::new(&portions, 2).succeed();
        assert!((added.test_loss - whole.test_loss).abs() < 1e-2 * (1.0 + whole.test_loss), "{added:?} {whole:?}");
        assert_eq!(Gang::new(&portions, 2).succeed(), added);
    }
}

#[test]
fn the_test_loss_ends_a_training_that_no_longer_improves() {
    // A rate at which nothing is learned any more after the first epochs, and the resumed run stops at the same step.
    let config = "
model: {hidden: [16]}
training: {epochs: 60, batch_size: 120}
optimizer: {learning_rate: 0.05}
evaluate: {patience: 2, minimum_improvement: 0.05}
checkpoint: {every_epochs: 1, keep: 100}
";
    let folder = tempfile::tempdir().unwrap();
    let gang = Gang::new(config, 2).saving_to(folder.path());
    let printed = gang.printed[0].clone();
    let whole = gang.succeed();
    assert!(whole.steps < 60 * 12, "{whole:?}");
    assert!(printed.text().contains("ends early"), "{}", printed.text());
    let before = whole.steps - 12;
    let resumed = Gang::new(config, 2).resumed_from(&folder.path().join(format!("step-{before}"))).succeed();
    assert_eq!(resumed, Summary { resumed_from: Some(before), ..whole });
}

/// A model that is not built in.
struct Own;

impl Architecture for Own {
    fn name(&self) -> String {
        "own".to_owned()
    }

    fn build(&self, task: &Task) -> Result<Chain, String> {
        let block =
            Chain::new().named("norm", Norm::new(1, 24)).named("linear", Linear::new(24, 24)).then(Gelu::new(24));
        Ok(Chain::new()
            .named("in", Linear::new(task.inputs(), 24))
            .named("block", Residual::new(block))
            .named("out", Linear::new(24, task.classes)))
    }
}

#[test]
fn a_model_of_ones_own_trains_and_is_not_taken_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::parse("t", "training: {epochs: 12}\ncheckpoint: {every_epochs: 6}", &[]).unwrap();
    let alone = || Gang::new("", 1).saving_to(folder.path()).contexts.remove(0);
    let summary = train(&config, &Own, alone()).unwrap();
    assert!(summary.test_accuracy > 0.85, "{summary:?}");
    let from = folder.path().join(format!("step-{}", summary.steps));
    let refused = Gang::new("training: {epochs: 12}", 1).resumed_from(&from).run().remove(0).unwrap_err();
    assert!(refused.to_string().contains("another configuration"), "{refused}");
}

#[test]
fn a_model_that_does_not_fit_the_data_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.csv");
    let rows: Vec<String> = (0..20).map(|row| format!("{row},1,2,{}", row % 2)).collect();
    std::fs::write(&path, rows.join("\n")).unwrap();
    let refused = |model: &str| {
        let text = format!("data: {{source: csv, path: {}}}\nmodel: {model}", path.display());
        Gang::new(&text, 1).run().remove(0).unwrap_err()
    };
    let error = refused("{kind: conv}");
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("the samples have the shape [3]: say model.image"), "{error}");
    let error = refused("{kind: conv, image: [2, 2]}").to_string();
    assert!(error.contains("an image of [2, 2] has 4 values, but a sample has 3"), "{error}");
}
