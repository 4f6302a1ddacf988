//! The kinds to choose from: of models, optimizers and schedules, each with the settings of its own.

use serde::Serialize;

/// What learns; sizes that follow from the data are taken from there.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Model {
    /// The default.
    Mlp(Mlp),
    /// For images.
    Conv(ConvNet),
    /// For text.
    Gpt(Gpt),
}

/// A multi-layer perceptron with rectified linear units.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mlp {
    /// Units of each hidden layer, up to 16 layers. Default: `[128, 64]`; `[]` is a linear model.
    pub hidden: Vec<usize>,
}

/// A convolutional network: blocks of convolution, rectified linear units and pooling by 2, then a perceptron.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConvNet {
    /// Channels after each block, 1 to 16 blocks. Default: `[16, 32]`.
    pub channels: Vec<usize>,
    /// Height and width of the patches, odd. Default: 3.
    pub kernel: usize,
    /// Units of each hidden layer of the perceptron. Default: `[64]`.
    pub hidden: Vec<usize>,
    /// `[height, width]` or `[channels, height, width]` of the images, where the data does not say so itself.
    pub image: Option<Vec<usize>>,
}

/// A small GPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gpt {
    /// Blocks of attention and perceptron. Default: 4.
    pub layers: usize,
    /// Parts of each attention; a divisor of the width. Default: 4.
    pub heads: usize,
    /// Values of each position. Default: 128.
    pub width: usize,
}

/// How gradients move parameters. The same rule holds for all parameters, biases included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Optimizer {
    /// Gradient descent with momentum.
    Sgd {
        /// The schedule's full rate. Default: 0.05.
        learning_rate: f64,
        /// Share of the last update that goes on. Default: 0.9.
        momentum: f64,
        /// Added to the gradient, times the parameter. Default: 0.
        weight_decay: f64,
    },
    /// Adam (Kingma and Ba, 2015), with weight decay as a part of the gradient.
    Adam {
        /// The schedule's full rate. Default: 0.003.
        learning_rate: f64,
        /// Decay of the mean. Default: 0.9.
        beta1: f64,
        /// Decay of the mean square. Default: 0.999.
        beta2: f64,
        /// Added to the divisor. Default: 1e-8.
        epsilon: f64,
        /// Added to the gradient, times the parameter. Default: 0.
        weight_decay: f64,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019). The default.
    AdamW {
        /// The schedule's full rate. Default: 0.003.
        learning_rate: f64,
        /// Decay of the mean. Default: 0.9.
        beta1: f64,
        /// Decay of the mean square. Default: 0.999.
        beta2: f64,
        /// Added to the divisor. Default: 1e-8.
        epsilon: f64,
        /// Parameters shrink by this times the rate. Default: 0.01.
        weight_decay: f64,
    },
}

/// How the learning rate goes over the steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Schedule {
    /// Default: cosine.
    #[serde(flatten)]
    pub kind: ScheduleKind,
    /// The rate rises evenly over this many first steps. Default: 20.
    pub warmup_steps: u64,
}

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ScheduleKind {
    /// The full rate.
    Constant,
    /// A straight line down to `minimum` at the end.
    Linear {
        /// Share of the full rate at the end. Default: 0.
        minimum: f64,
    },
    /// Half a cosine wave down to `minimum` at the end.
    Cosine {
        /// Share of the full rate at the end. Default: 0.
        minimum: f64,
    },
    /// Stairs.
    Step {
        /// Length of a stair in epochs. Default: 10.
        every_epochs: u64,
        /// From stair to stair. Default: 0.1.
        factor: f64,
    },
}

impl Optimizer {
    /// The schedule's full rate.
    pub(crate) fn learning_rate(&self) -> f64 {
        match self {
            Optimizer::Sgd { learning_rate, .. }
            | Optimizer::Adam { learning_rate, .. }
            | Optimizer::AdamW { learning_rate, .. } => *learning_rate,
        }
    }
}
