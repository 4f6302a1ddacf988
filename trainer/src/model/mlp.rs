//! The multi-layer perceptron: linear layers with rectified linear units between them.

use super::{Architecture, Task};
use crate::config;
use crate::layers::{Chain, Linear, Relu};

/// See the module.
pub(super) struct Mlp(pub(super) config::Mlp);

impl Architecture for Mlp {
    fn name(&self) -> String {
        "mlp".to_owned()
    }

    fn build(&self, task: &Task) -> Result<Chain, String> {
        if task.tokens {
            return Err("learns from samples with a class each, not from text".to_owned());
        }
        Ok(perceptron(Chain::new(), "layers", task.inputs(), &self.0.hidden, task.classes))
    }

    fn detail(&self, task: &Task) -> String {
        let sizes = [task.inputs()].into_iter().chain(self.0.hidden.iter().copied()).chain([task.classes]);
        sizes.map(|size| size.to_string()).collect::<Vec<_>>().join("-")
    }
}

/// Adds linear layers `name.0`, `name.1` and so on from `inputs` over `hidden` to `outputs` values.
pub(super) fn perceptron(chain: Chain, name: &str, inputs: usize, hidden: &[usize], outputs: usize) -> Chain {
    let (mut chain, mut before) = (chain, inputs);
    for (at, units) in hidden.iter().enumerate() {
        chain = chain.named(&format!("{name}.{at}"), Linear::new(before, *units)).then(Relu::new(*units));
        before = *units;
    }
    chain.named(&format!("{name}.{}", hidden.len()), Linear::new(before, outputs))
}
