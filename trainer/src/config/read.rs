//! From fields to the configuration: ranges and defaults of each group. A faulty value reads as its default, so that
//! the reading goes on to the next fault; the caller drops the result where there was any.

use std::path::PathBuf;

use super::document::Value;
use super::fields::Fields;
use super::{
    Checkpoint, Column, Communication, Config, ConvNet, Data, Evaluate, Every, Generate, Gpt, Length, Metrics, Mlp,
    Model, Optimizer, PowerSgd, Schedule, ScheduleKind, Source, Tokens, Training, Wire,
};

/// Layers and units beyond these are a slip of the hand on the CPUs that this trainer is for.
const LAYERS_MAX: usize = 16;
const UNITS_MAX: u64 = 65_536;
/// Attention takes memory with the square of it.
const CONTEXT_MAX: u64 = 4_096;

pub(super) fn config(root: &mut Fields<'_>) -> Config {
    let data = group(root, "data", data);
    let is_text = matches!(data.source, Source::Text { .. });
    let training = group(root, "training", training);
    Config {
        model: group(root, "model", |fields| model(fields, is_text)),
        data,
        communication: group(root, "communication", |fields| communication(fields, training.shard_optimizer)),
        training,
        optimizer: group(root, "optimizer", optimizer),
        schedule: group(root, "schedule", schedule),
        evaluate: group(root, "evaluate", evaluate),
        generate: group(root, "generate", |fields| generate(fields, is_text)),
        metrics: group(root, "metrics", |fields| Metrics {
            every_steps: fields.whole("every_steps", 1..=u64::MAX).unwrap_or(5),
        }),
        checkpoint: group(root, "checkpoint", checkpoint),
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
    Text,
}

fn data(fields: &mut Fields<'_>) -> Data {
    let words = [
        ("digits", SourceWord::Digits),
        ("csv", SourceWord::Csv),
        ("npy", SourceWord::Npy),
        ("idx", SourceWord::Idx),
        ("text", SourceWord::Text),
    ];
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
        SourceWord::Text => return text(fields),
    };
    Data {
        source,
        scale: fields.number("scale", "a number above 0", |number| number > 0.0).unwrap_or(scale),
        standardize: fields.boolean("standardize").unwrap_or(false),
        test_fraction: share(fields, "test_fraction").unwrap_or(0.2),
        split_seed: fields.whole("split_seed", 0..=u64::MAX).unwrap_or(0),
    }
}

/// Tokens are not scaled, and the test part is the end of the text, so fewer fields are known here.
fn text(fields: &mut Fields<'_>) -> Data {
    let path = fields.text_required("path", "the file with the text").map(PathBuf::from).unwrap_or_default();
    let words = [("characters", Tokens::Characters), ("bytes", Tokens::Bytes)];
    let tokens = fields.choice("tokens", &words).unwrap_or(Tokens::Characters);
    let context = fields.whole("context", 1..=CONTEXT_MAX).unwrap_or(64) as usize;
    let source = Source::Text { path, tokens, context };
    let test_fraction = share(fields, "test_fraction").unwrap_or(0.1);
    Data { source, scale: 1.0, standardize: false, test_fraction, split_seed: 0 }
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

#[derive(Clone, Copy)]
enum ModelWord {
    Mlp,
    Conv,
    Gpt,
}

fn model(fields: &mut Fields<'_>, is_text: bool) -> Model {
    let words = [("mlp", ModelWord::Mlp), ("conv", ModelWord::Conv), ("gpt", ModelWord::Gpt)];
    let word = fields.choice("kind", &words);
    let read = match word.unwrap_or(if is_text { ModelWord::Gpt } else { ModelWord::Mlp }) {
        ModelWord::Mlp => Model::Mlp(Mlp { hidden: layers(fields, "hidden", 0, &[128, 64]) }),
        ModelWord::Conv => Model::Conv(conv(fields)),
        ModelWord::Gpt => Model::Gpt(gpt(fields)),
    };
    match (&read, is_text) {
        (Model::Gpt(_), false) => fields.fault("kind", "gpt learns from text: set data.source to text"),
        (Model::Mlp(_) | Model::Conv(_), true) => fields.fault("kind", "only gpt learns from data.source text"),
        _ => {}
    }
    read
}

fn layers(fields: &mut Fields<'_>, key: &'static str, least: usize, default: &[u64]) -> Vec<usize> {
    let sizes = fields.wholes(key, 1..=UNITS_MAX).unwrap_or_else(|| default.to_vec());
    if sizes.len() > LAYERS_MAX {
        fields.fault(key, format!("expected at most {LAYERS_MAX} layers, found {}", sizes.len()));
    }
    if sizes.len() < least {
        fields.fault(key, "expected at least one number, found none");
    }
    sizes.into_iter().map(|units| units as usize).collect()
}

fn conv(fields: &mut Fields<'_>) -> ConvNet {
    let kernel = fields.whole("kernel", 1..=31).unwrap_or(3) as usize;
    if kernel.is_multiple_of(2) {
        fields.fault("kernel", format!("expected an odd number, so that a patch has a middle, found {kernel}"));
    }
    let image: Option<Vec<usize>> =
        fields.wholes("image", 1..=UNITS_MAX).map(|sizes| sizes.into_iter().map(|size| size as usize).collect());
    if image.as_ref().is_some_and(|sizes| sizes.len() != 2 && sizes.len() != 3) {
        fields.fault("image", "expected [height, width] or [channels, height, width]");
    }
    ConvNet {
        channels: layers(fields, "channels", 1, &[16, 32]),
        kernel,
        hidden: layers(fields, "hidden", 0, &[64]),
        image,
    }
}

fn gpt(fields: &mut Fields<'_>) -> Gpt {
    let layers = fields.whole("layers", 1..=64).unwrap_or(4) as usize;
    let heads = fields.whole("heads", 1..=64).unwrap_or(4) as usize;
    let width = fields.whole("width", 1..=8192).unwrap_or(128) as usize;
    if !width.is_multiple_of(heads) {
        let at = if fields.has("heads") { "heads" } else { "width" };
        fields.fault(at, format!("the width of {width} has no {heads} equal parts"));
    }
    Gpt { layers, heads, width }
}

fn evaluate(fields: &mut Fields<'_>) -> Evaluate {
    let every_epochs = fields.whole("every_epochs", 0..=u64::MAX).unwrap_or(1);
    let patience = fields.whole("patience", 1..=1_000_000);
    if patience.is_some() && every_epochs == 0 {
        fields.fault("patience", "needs looks at the test data: every_epochs is 0");
    }
    let minimum_improvement =
        fields.number("minimum_improvement", "a number of at least 0", |number| number >= 0.0).unwrap_or(0.0);
    Evaluate { every_epochs, patience, minimum_improvement }
}

fn generate(fields: &mut Fields<'_>, is_text: bool) -> Generate {
    let generate = Generate {
        tokens: fields.whole("tokens", 0..=100_000).unwrap_or(200) as usize,
        prompt: fields.text("prompt"),
        temperature: fields.number("temperature", "a number above 0", |number| number > 0.0).unwrap_or(0.8),
        seed: fields.whole("seed", 0..=u64::MAX).unwrap_or(1),
    };
    if !is_text && fields.has("prompt") {
        fields.fault("prompt", "only a model of text goes on from a prompt");
    }
    generate
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
        micro_batch: fields.whole("micro_batch", 1..=1_048_576).map(|samples| samples as usize),
        shard_optimizer: fields.boolean("shard_optimizer").unwrap_or(false),
        seed: fields.whole("seed", 0..=u64::MAX).unwrap_or(1),
        clip_norm: fields.number("clip_norm", "a number above 0", |number| number > 0.0),
        prefetch: fields.whole("prefetch", 0..=64).unwrap_or(1) as usize,
        step_delay_ms: fields.whole("step_delay_ms", 0..=60_000).unwrap_or(0),
    }
}

#[derive(Clone, Copy)]
enum OptimizerWord {
    Sgd,
    Adam,
    AdamW,
}

fn optimizer(fields: &mut Fields<'_>) -> Optimizer {
    let words = [("sgd", OptimizerWord::Sgd), ("adam", OptimizerWord::Adam), ("adamw", OptimizerWord::AdamW)];
    let word = fields.choice("kind", &words).unwrap_or(OptimizerWord::AdamW);
    let rate = fields.number("learning_rate", "a number above 0", |number| number > 0.0);
    let decay = fields.number("weight_decay", "a number of at least 0", |number| number >= 0.0);
    let below_one = |fields: &mut Fields<'_>, key, default| {
        fields.number(key, "a number from 0 to below 1", |number| (0.0..1.0).contains(&number)).unwrap_or(default)
    };
    if matches!(word, OptimizerWord::Sgd) {
        return Optimizer::Sgd {
            learning_rate: rate.unwrap_or(0.05),
            momentum: below_one(fields, "momentum", 0.9),
            weight_decay: decay.unwrap_or(0.0),
        };
    }
    let learning_rate = rate.unwrap_or(0.003);
    let (beta1, beta2) = (below_one(fields, "beta1", 0.9), below_one(fields, "beta2", 0.999));
    let epsilon = fields.number("epsilon", "a number above 0", |number| number > 0.0).unwrap_or(1e-8);
    match word {
        OptimizerWord::Adam => {
            Optimizer::Adam { learning_rate, beta1, beta2, epsilon, weight_decay: decay.unwrap_or(0.0) }
        }
        _ => Optimizer::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay: decay.unwrap_or(0.01) },
    }
}

fn schedule(fields: &mut Fields<'_>) -> Schedule {
    let minimum = |fields: &mut Fields<'_>| {
        fields.number("minimum", "a number from 0 to 1", |number| (0.0..=1.0).contains(&number)).unwrap_or(0.0)
    };
    let words = [("constant", 0), ("linear", 1), ("cosine", 2), ("step", 3)];
    let kind = match fields.choice("kind", &words).unwrap_or(2) {
        0 => ScheduleKind::Constant,
        1 => ScheduleKind::Linear { minimum: minimum(fields) },
        2 => ScheduleKind::Cosine { minimum: minimum(fields) },
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

fn communication(fields: &mut Fields<'_>, sharded: bool) -> Communication {
    let wire = fields.choice("wire", &[("native", Wire::Native), ("bf16", Wire::Bf16)]).unwrap_or(Wire::Native);
    let encrypt = fields.boolean("encrypt").unwrap_or(false);
    let power_sgd = fields.has("power_sgd").then(|| {
        let mut fields = fields.table("power_sgd");
        let rank = fields.whole("rank", 1..=256).unwrap_or(1) as usize;
        if !fields.has("rank") {
            fields.fault("rank", "is missing: columns of the thin matrices, 1 to 4 as a rule");
        }
        fields.finish();
        PowerSgd { rank }
    });
    if power_sgd.is_none() {
        fields.take("power_sgd");
    }
    let local_steps = fields.whole("local_steps", 1..=1_000_000);
    let outer_learning_rate = fields.number("outer_learning_rate", "a number above 0", |number| number > 0.0);
    let outer_momentum =
        fields.number("outer_momentum", "a number from 0 to below 1", |number| (0.0..1.0).contains(&number));
    if sharded {
        let refused = [
            ("wire", wire == Wire::Bf16, "rounds whole sums only"),
            ("power_sgd", power_sgd.is_some(), "needs all gradients on each rank"),
            ("local_steps", local_steps.is_some(), "needs all of the optimizer's memory on each rank"),
        ];
        for (key, _, why) in refused.into_iter().filter(|(_, set, _)| *set) {
            fields.fault(key, format!("{why}, and training.shard_optimizer is true"));
        }
    }
    if power_sgd.is_some() && local_steps.is_some() {
        fields.fault("local_steps", "stands beside power_sgd: between meetings no gradients are sent");
    }
    Communication {
        bucket_bytes: fields.whole("bucket_bytes", 1024..=1 << 30).unwrap_or(256 * 1024) as usize,
        first_bucket_bytes: fields.whole("first_bucket_bytes", 1024..=1 << 30).unwrap_or(64 * 1024) as usize,
        rendezvous_timeout_s: fields.whole("rendezvous_timeout_s", 1..=86_400).unwrap_or(60),
        operation_timeout_s: fields.whole("operation_timeout_s", 1..=86_400).unwrap_or(300),
        streams: fields.whole("streams", 1..=8).unwrap_or(1) as u8,
        encrypt,
        wire,
        power_sgd,
        local_steps,
        outer_learning_rate: outer_learning_rate.unwrap_or(0.7),
        outer_momentum: outer_momentum.unwrap_or(0.9),
    }
}

fn share(fields: &mut Fields<'_>, key: &'static str) -> Option<f64> {
    fields.number(key, "a number above 0 and below 1", |number| number > 0.0 && number < 1.0)
}
