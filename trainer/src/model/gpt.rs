//! A small GPT (Radford et al., 2019): token and position vectors, blocks of causal attention and a perceptron each with
//! normalization before them, and the next token's logits at every position.

use super::{Architecture, Task};
use crate::config;
use crate::layers::{CausalAttention, Chain, Embedding, Gelu, Linear, Norm, Residual};

/// See the module.
pub(super) struct Gpt(pub(super) config::Gpt);

impl Architecture for Gpt {
    fn name(&self) -> String {
        "gpt".to_owned()
    }

    fn build(&self, task: &Task) -> Result<Chain, String> {
        let &[positions] = task.shape.as_slice() else { return Err("learns from text".to_owned()) };
        if !task.tokens {
            return Err("learns from text: set data.source to text".to_owned());
        }
        let config::Gpt { layers, heads, width } = self.0;
        let linear = |inputs: usize, outputs: usize, share: f64| {
            // A deviation of 0.02, as usual; of less where a block's result is added to what passes by it.
            Linear::new(inputs, outputs).at_positions(positions).beginning_within(0.02 * 3_f64.sqrt() * share)
        };
        let last = 1.0 / (2.0 * layers as f64).sqrt();
        let mut chain = Chain::new().named("embedding", Embedding::new(task.classes, positions, width));
        for at in 0..layers {
            let attention = Chain::new()
                .named("norm", Norm::new(positions, width))
                .named("query_key_value", linear(width, 3 * width, 1.0))
                .then(CausalAttention::new(positions, width, heads))
                .named("output", linear(width, width, last));
            let perceptron = Chain::new()
                .named("norm", Norm::new(positions, width))
                .named("up", linear(width, 4 * width, 1.0))
                .then(Gelu::new(positions * 4 * width))
                .named("down", linear(4 * width, width, last));
            chain = chain
                .named(&format!("blocks.{at}.attention"), Residual::new(attention))
                .named(&format!("blocks.{at}.perceptron"), Residual::new(perceptron));
        }
        Ok(chain.named("norm", Norm::new(positions, width)).named("head", linear(width, task.classes, 1.0)))
    }

    fn detail(&self, task: &Task) -> String {
        let config::Gpt { layers, heads, width } = self.0;
        format!(
            "{layers} layers of {heads} heads, width {width}, {} positions, {} tokens",
            task.positions, task.classes
        )
    }
}
