//! From fields to the configuration: ranges and defaults of each group. A faulty value reads as its default, so that
//! the reading goes on to the next fault; the caller drops the result where there was any.

use std::path::PathBuf;

use super::document::Value;
use super::fields::Fields;
use super::{
    Checkpoint, Column, Communication, Config, Data, Evaluate, Every, Length, Metrics, Model, Optimizer, Schedule,
    ScheduleKind, Source, Training,
};

/// Layers and units beyond these are a slip of the hand on the CPUs that this trainer is for.
const LAYERS_MAX: usize = 16;
const UNITS_MAX: u64 = 65_536;

pub(super) fn config(root: &mut Fields<'_>) -> Config {
    Config {
        data: group(root, "data", data),
        model: group(root, "model", model),
        training: group(root, "training", training),
        optimizer: group(root, "optimizer", optimizer),
        schedule: group(root, "schedule", schedule),
        evaluate: group(root, "evaluate", |fields| Evaluate {
            every_epochs: fields.whole("every_epochs", 0..=u64::MAX).unwrap_or(1),
        }),
        metrics: group(root, "metrics", |fields| Metrics {
            every_steps: fields.whole("every_steps", 1..=u64::MAX).unwrap_or(5),
        }),
        checkpoint: group(root, "checkpoint", checkpoint),
        communication: group(root, "communication", communication),
        output: root.text("output").map(PathBuf::from),
    }
}

fn group<'a, T>(root: &mut Fields<'a>, key: &'static str, read: impl FnOnce(&mut Fields<'a>) -> T) -> T {
    let mut fields = root.table(key);
    let value = read(&mut fields);
    fields.finish();
    value
}

#[derive(Clone, Copy)]
enum SourceWord {
    Digits,
    Csv,
    Npy,
    Idx,
}

fn data(fields: &mut Fields<'_>) -> Data {
    let words =
        [("digits", SourceWord::Digits), ("csv", SourceWord::Csv), ("npy", SourceWord::Npy), ("idx", SourceWord::Idx)];
    let word = fields.choice("source", &words).unwrap_or(SourceWord::Digits);
    let mut path = |key, why| fields.text_required(key, why).map(PathBuf::from).unwrap_or_default();
    let (source, scale) = match word {
        SourceWord::Digits => (Source::Digits, 16.0),
        SourceWord::Npy => {
            let features = path("features", "the .npy file with the samples");
            (Source::Npy { features, labels: path("labels", "the .npy file with the labels") }, 1.0)
        }
        SourceWord::Idx => {
            let images = path("images", "the IDX file with the samples");
            (Source::Idx { images, labels: path("labels", "the IDX file with the labels") }, 255.0)
        }
        SourceWord::Csv => {
            let path = path("path", "the file with one sample a line");
            let (label, header) = (label(fields), fields.boolean("header"));
            if header == Some(false) && matches!(label, Column::Name(_)) {
                fields.fault("label", "is a name, but header is false: give the column's index, from 0");
            }
            (Source::Csv { path, label, header, delimiter: delimiter(fields) }, 1.0)
        }
    };
    Data {
        source,
        scale: fields.number("scale", "a number above 0", |number| number > 0.0).unwrap_or(scale),
        standardize: fields.boolean("standardize").unwrap_or(false),
        test_fraction: share(fields, "test_fraction").unwrap_or(0.2),
        split_seed: fields.whole("split_seed", 0..=u64::MAX).unwrap_or(0),
    }
}

fn label(fields: &mut Fields<'_>) -> Column {
    let Some(node) = fields.take("label") else { return Column::Last };
    match &node.value {
        Value::Scalar { text, plain: true } if text.parse::<usize>().is_ok() => {
            Column::Index(text.parse().unwrap_or_default())
        }
        Value::Scalar { text, .. } if !text.is_empty() => Column::Name(text.clone()),
        other => {
            fields.fault("label", format!("expected a column's name or index, found {}", other.describe()));
            Column::Last
        }
    }
}

fn delimiter(fields: &mut Fields<'_>) -> char {
    let Some(text) = fields.text("delimiter") else { return ',' };
    if text == "tab" {
        return '\t';
    }
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(one), None)
            if one.is_ascii() && !one.is_ascii_alphanumeric() && !matches!(one, '"' | '\r' | '\n' | '.') =>
        {
            one
        }
        _ => {
            fields
                .fault("delimiter", format!("expected one character such as ; or |, or the word tab, found {text:?}"));
            ','
        }
    }
}

fn model(fields: &mut Fields<'_>) -> Model {
    let hidden = fields.wholes("hidden", 1..=UNITS_MAX).unwrap_or_else(|| vec![128, 64]);
    if hidden.len() > LAYERS_MAX {
        fields.fault("hidden", format!("expected at most {LAYERS_MAX} layers, found {}", hidden.len()));
    }
    Model { hidden: hidden.into_iter().map(|units| units as usize).collect() }
}

fn training(fields: &mut Fields<'_>) -> Training {
    let epochs = fields.whole("epochs", 1..=1_000_000);
    let steps = fields.whole("steps", 1..=u64::from(u32::MAX));
    if fields.has("epochs") && fields.has("steps") {
        fields.fault("steps", "stands beside epochs: only one of them can end the training");
    }
    Training {
        length: steps.map_or(Length::Epochs(epochs.unwrap_or(30)), Length::Steps),
        batch_size: fields.whole("batch_size", 1..=1_048_576).unwrap_or(64) as usize,
        seed: fields.whole("seed", 0..=u64::MAX).unwrap_or(1),
        clip_norm: fields.number("clip_norm", "a number above 0", |number| number > 0.0),
        step_delay_ms: fields.whole("step_delay_ms", 0..=60_000).unwrap_or(0),
    }
}

fn optimizer(fields: &mut Fields<'_>) -> Optimizer {
    let adamw = fields.choice("kind", &[("sgd", false), ("adamw", true)]).unwrap_or(true);
    let rate = fields.number("learning_rate", "a number above 0", |number| number > 0.0);
    let decay = fields.number("weight_decay", "a number of at least 0", |number| number >= 0.0);
    let below_one = |fields: &mut Fields<'_>, key, default| {
        fields.number(key, "a number from 0 to below 1", |number| (0.0..1.0).contains(&number)).unwrap_or(default)
    };
    if !adamw {
        return Optimizer::Sgd {
            learning_rate: rate.unwrap_or(0.05),
            momentum: below_one(fields, "momentum", 0.9),
            weight_decay: decay.unwrap_or(0.0),
        };
    }
    Optimizer::AdamW {
        learning_rate: rate.unwrap_or(0.003),
        beta1: below_one(fields, "beta1", 0.9),
        beta2: below_one(fields, "beta2", 0.999),
        epsilon: fields.number("epsilon", "a number above 0", |number| number > 0.0).unwrap_or(1e-8),
        weight_decay: decay.unwrap_or(0.01),
    }
}

fn schedule(fields: &mut Fields<'_>) -> Schedule {
    let kind = match fields.choice("kind", &[("constant", 0), ("cosine", 1), ("step", 2)]).unwrap_or(1) {
        0 => ScheduleKind::Constant,
        1 => ScheduleKind::Cosine {
            minimum: fields
                .number("minimum", "a number from 0 to 1", |number| (0.0..=1.0).contains(&number))
                .unwrap_or(0.0),
        },
        _ => ScheduleKind::Step {
            every_epochs: fields.whole("every_epochs", 1..=1_000_000).unwrap_or(10),
            factor: fields
                .number("factor", "a number above 0, at most 1", |number| number > 0.0 && number <= 1.0)
                .unwrap_or(0.1),
        },
    };
    Schedule { kind, warmup_steps: fields.whole("warmup_steps", 0..=u64::from(u32::MAX)).unwrap_or(20) }
}

fn checkpoint(fields: &mut Fields<'_>) -> Checkpoint {
    let steps = fields.whole("every_steps", 1..=u64::from(u32::MAX));
    let epochs = fields.whole("every_epochs", 1..=1_000_000);
    if fields.has("every_steps") && fields.has("every_epochs") {
        fields.fault("every_epochs", "stands beside every_steps: give one of them");
    }
    Checkpoint {
        every: steps.map(Every::Steps).or(epochs.map(Every::Epochs)),
        keep: fields.whole("keep", 1..=10_000).unwrap_or(3),
        folder: fields.text("folder").map(PathBuf::from),
        resume_from: fields.text("resume_from").map(PathBuf::from),
    }
}

fn communication(fields: &mut Fields<'_>) -> Communication {
    Communication {
        bucket_bytes: fields.whole("bucket_bytes", 1024..=1 << 30).unwrap_or(256 * 1024) as usize,
        rendezvous_timeout_s: fields.whole("rendezvous_timeout_s", 1..=86_400).unwrap_or(60),
        operation_timeout_s: fields.whole("operation_timeout_s", 1..=86_400).unwrap_or(300),
    }
}

fn share(fields: &mut Fields<'_>, key: &'static str) -> Option<f64> {
    fields.number(key, "a number above 0 and below 1", |number| number > 0.0 && number < 1.0)
}
