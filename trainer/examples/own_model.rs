//! A model of one's own in the built-in training: gated units, which the library does not have, around a residual block.
//!
//! `cargo run --release -p trainer --example own_model -- --training.epochs 10` trains alone on the built-in digits. As a
//! job's command it takes its rank from the environment like `muster train`, and all else (data, optimizer, checkpoints,
//! resume, metrics) is the same too.

use trainer::layers::{Backward, Chain, Layer, Linear, Norm, Residual};
use trainer::{Architecture, Task, TrainArgs};

/// Gated linear units (Dauphin et al., 2017) without parameters: the first half of the values, each times a sigmoid of its
/// partner in the second half.
struct Gate(usize);

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl Layer for Gate {
    fn sizes(&self) -> (usize, usize) {
        (2 * self.0, self.0)
    }

    fn forward(&mut self, _count: usize, _parameters: &[f32], input: &[f32], output: &mut [f32]) {
        for (input, output) in input.chunks_exact(2 * self.0).zip(output.chunks_exact_mut(self.0)) {
            let (values, gates) = input.split_at(self.0);
            for ((y, value), gate) in output.iter_mut().zip(values).zip(gates) {
                *y = value * sigmoid(*gate);
            }
        }
    }

    fn backward(&mut self, pass: Backward<'_>) {
        let samples = pass.input.chunks_exact(2 * self.0).zip(pass.d_output.chunks_exact(self.0));
        for ((input, d_output), d_input) in samples.zip(pass.d_input.chunks_exact_mut(2 * self.0)) {
            for at in 0..self.0 {
                let (value, open) = (input[at], sigmoid(input[self.0 + at]));
                d_input[at] = d_output[at] * open;
                d_input[self.0 + at] = d_output[at] * value * open * (1.0 - open);
            }
        }
    }
}

struct Gated {
    width: usize,
}

impl Architecture for Gated {
    fn name(&self) -> String {
        format!("gated-{}", self.width)
    }

    fn build(&self, task: &Task) -> Result<Chain, String> {
        let block = Chain::new()
            .named("norm", Norm::new(1, self.width))
            .named("both", Linear::new(self.width, 2 * self.width))
            .then(Gate(self.width));
        Ok(Chain::new()
            .named("in", Linear::new(task.inputs(), self.width))
            .named("block", Residual::new(block))
            .named("out", Linear::new(self.width, task.classes)))
    }
}

fn main() -> Result<(), trainer::Error> {
    let args = TrainArgs::parse(std::env::args().skip(1))?;
    trainer::run_with(args, &Gated { width: 64 }).map(drop)
}
