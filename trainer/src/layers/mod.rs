//! What models are made of: layers that compute forward and backward on flat `f32` slices, and chains of them.
//!
//! There is no automatic differentiation. Each layer writes its gradients where it is told to, which is memory that the
//! ranks sum without a copy, and says nothing more: so a chain can hand out the gradients of its last unit while it computes
//! those of the one before ([`Chain::backward_into`]). `docs/adr/0009-own-layers.md` says why.
//!
//! Every sum has one fixed order, and exponentials are computed here ([`math`]): the same input gives the same bits on all
//! machines whose processors have the same instructions for products.
//!
//! A batch of `count` samples is one slice, sample by sample. Images are `[height, width, channels]`, sequences
//! `[position, width]`, both laid flat.

mod attention;
mod chain;
mod conv;
mod embedding;
mod linear;
mod loss;
pub(crate) mod math;
mod norm;
mod pointwise;
mod pool;
#[cfg(test)]
mod tests;

pub use self::attention::CausalAttention;
pub use self::chain::{Chain, Residual};
pub use self::conv::{ChannelsLast, Conv};
pub use self::embedding::Embedding;
pub use self::linear::Linear;
pub use self::norm::Norm;
pub use self::pointwise::{Gelu, Relu};
pub use self::pool::MaxPool;

pub(crate) use self::chain::Gradients;
pub(crate) use self::loss::{Loss, cross_entropy};

/// One tensor that is learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Dotted, unique within its layer; a chain puts its unit's name before it.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// First values.
    pub initial: Initial,
}

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// All the same.
    Constant(f32),
    /// Evenly between minus and plus this.
    Uniform(f64),
}

impl Parameter {
    /// Named tensor of this shape.
    pub fn new(name: &str, shape: &[usize], initial: Initial) -> Self {
        Parameter { name: name.to_owned(), shape: shape.to_vec(), initial }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True where it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One step of a model. What `forward` must remember for `backward` the layer keeps itself; every `backward` follows a
/// `forward` with the same batch.
pub trait Layer: Send {
    /// Values of one sample before and after this layer.
    fn sizes(&self) -> (usize, usize);

    /// What it learns, in the order in which their values lie one after another in `parameters` below.
    fn parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }

    /// What is wrong with how it was put together, if anything is; looked at once, before it is used.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Fills `output` (`count` times the size after) from `input` (`count` times the size before).
    fn forward(&mut self, count: usize, parameters: &[f32], input: &[f32], output: &mut [f32]);

    /// The derivatives of the loss, given those for the output.
    fn backward(&mut self, pass: Backward<'_>);
}

/// What a layer's backward pass is given and fills.
pub struct Backward<'a> {
    /// Samples in the batch.
    pub count: usize,
    /// Values of the layer's parameters.
    pub parameters: &'a [f32],
    /// As in the forward pass.
    pub input: &'a [f32],
    /// As the forward pass left it.
    pub output: &'a [f32],
    /// Derivative of the loss by each value of the output.
    pub d_output: &'a [f32],
    /// To be overwritten with the derivatives by the input; empty where nobody wants them (the first layer).
    pub d_input: &'a mut [f32],
    /// The derivatives by the parameters are to be **added** to these.
    pub gradients: &'a mut [f32],
}

/// A buffer of exactly this length, whatever it held; memory is kept between batches.
pub(crate) fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    buffer.resize(length, 0.0);
    buffer
}
