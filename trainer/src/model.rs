//! A multi-layer perceptron whose backward pass goes layer by layer, so that the gradients of a layer can be on their
//! way to the other ranks while those of the layers before it are still being computed.
//!
//! The tensor engine has no hook for "this gradient is ready". So each layer's input is a variable of its own, cut off
//! from the layer before; the engine's own backward pass of one layer then gives the gradients of its parameters and of
//! its input, and the latter starts the pass of the layer before:
//!
//! ```text
//! forward    x0 ─[layer 0]─ y0   x1 = copy of y0 ─[layer 1]─ y1   x2 = copy of y1 ─[layer 2]─ logits ─ loss
//! backward   gradients of layer 2, d(x2) ── d(y1) = d(x2) ── gradients of layer 1, d(x1) ── d(y0) = d(x1) ── layer 0
//! ```

use candle_core::backprop::GradStore;
use candle_core::{D, Device, Tensor, Var};

use crate::error::Error;
use crate::random::{self, Purpose};

/// One linear layer; `weight` is `[out, in]`.
#[derive(Debug)]
struct Layer {
    weight: Var,
    bias: Var,
}

/// See the module. Parameters are numbered weight, bias of layer 0, weight, bias of layer 1 and so on.
#[derive(Debug)]
pub(crate) struct Mlp {
    layers: Vec<Layer>,
    sizes: Vec<usize>,
}

/// One forward pass, kept for the backward pass.
pub(crate) struct Pass {
    /// Input of each layer; all but the first are variables.
    inputs: Vec<Tensor>,
    /// Output of each layer, the last being the logits.
    outputs: Vec<Tensor>,
}

impl Mlp {
    /// With `sizes` from features to classes; first values after He et al. (2015), uniform; biases are 0.
    pub(crate) fn new(sizes: &[usize], seed: u64) -> Result<Self, Error> {
        let mut rng = random::stream(seed, Purpose::Initial);
        let mut layers = Vec::new();
        for pair in sizes.windows(2) {
            let (inputs, outputs) = (pair[0], pair[1]);
            let bound = (6.0 / inputs as f64).sqrt();
            let weight = (0..inputs * outputs).map(|_| ((2.0 * random::unit(&mut rng) - 1.0) * bound) as f32).collect();
            layers.push(Layer {
                weight: Var::from_vec(weight, (outputs, inputs), &Device::Cpu)?,
                bias: Var::from_vec(vec![0_f32; outputs], outputs, &Device::Cpu)?,
            });
        }
        Ok(Mlp { layers, sizes: sizes.to_vec() })
    }

    /// Units from features to classes.
    pub(crate) fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Names and shapes of the parameters, in their order.
    pub(crate) fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let named = self.layers.iter().enumerate().flat_map(|(at, layer)| {
            [
                (format!("layers.{at}.weight"), layer.weight.dims().to_vec()),
                (format!("layers.{at}.bias"), layer.bias.dims().to_vec()),
            ]
        });
        named.collect()
    }

    /// Copies of all parameters' values.
    pub(crate) fn values(&self) -> Result<Vec<Vec<f32>>, Error> {
        self.variables().map(|variable| flat(variable)).collect()
    }

    /// Puts values in, in the order of [`Mlp::values`].
    pub(crate) fn set_values(&self, values: &[Vec<f32>]) -> Result<(), Error> {
        for (variable, values) in self.variables().zip(values) {
            variable.set(&Tensor::from_slice(values, variable.shape(), &Device::Cpu)?)?;
        }
        Ok(())
    }

    fn variables(&self) -> impl Iterator<Item = &Var> {
        self.layers.iter().flat_map(|layer| [&layer.weight, &layer.bias])
    }

    fn last(&self) -> usize {
        self.layers.len() - 1
    }

    /// Logits of a batch, with nothing kept for a backward pass.
    pub(crate) fn logits(&self, features: Vec<f32>, count: usize) -> Result<Tensor, Error> {
        let mut x = Tensor::from_vec(features, (count, self.sizes[0]), &Device::Cpu)?;
        for (at, layer) in self.layers.iter().enumerate() {
            let (weight, bias) = (layer.weight.as_detached_tensor(), layer.bias.as_detached_tensor());
            x = linear(&x, &weight, &bias, at < self.last())?;
        }
        Ok(x)
    }

    /// The forward pass of a step.
    pub(crate) fn forward(&self, features: Vec<f32>, count: usize) -> Result<Pass, Error> {
        let mut inputs = vec![Tensor::from_vec(features, (count, self.sizes[0]), &Device::Cpu)?];
        let mut outputs = Vec::with_capacity(self.layers.len());
        for (at, layer) in self.layers.iter().enumerate() {
            let output = linear(&inputs[at], &layer.weight, &layer.bias, at < self.last())?;
            if at < self.last() {
                // A copy of the values in a variable of its own: here the graph is cut.
                inputs.push(Var::from_tensor(&output.detach())?.into_inner());
            }
            outputs.push(output);
        }
        Ok(Pass { inputs, outputs })
    }

    /// The backward pass from `loss`, a scalar made of the logits. `ready` gets each parameter's number and gradient,
    /// the last parameter first, as soon as it is there.
    pub(crate) fn backward(
        &self,
        pass: &Pass,
        loss: &Tensor,
        mut ready: impl FnMut(usize, Vec<f32>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut gradients = loss.backward()?;
        for at in (0..self.layers.len()).rev() {
            let layer = &self.layers[at];
            ready(2 * at + 1, gradient(&gradients, &layer.bias)?)?;
            ready(2 * at, gradient(&gradients, &layer.weight)?)?;
            if at > 0 {
                let of_input = gradients.get(&pass.inputs[at]).ok_or_else(no_gradient)?;
                // d(sum(y * c))/dy = c for a constant c: this starts the layer before with exactly the input's
                // gradient.
                let start = pass.outputs[at - 1].mul(&of_input.detach())?.sum_all()?;
                gradients = start.backward()?;
            }
        }
        Ok(())
    }
}

impl Pass {
    /// What the last layer gave.
    pub(crate) fn logits(&self) -> Result<&Tensor, Error> {
        self.outputs.last().ok_or_else(|| Error::Internal("a model without layers".to_owned()))
    }
}

/// Sum over the batch of minus the logarithm of the right class's probability, as a scalar.
pub(crate) fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor, Error> {
    let labels = Tensor::from_slice(labels, (labels.len(), 1), &Device::Cpu)?;
    let right = candle_nn::ops::log_softmax(logits, D::Minus1)?.gather(&labels, 1)?;
    Ok(right.sum_all()?.neg()?)
}

fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, rectified: bool) -> Result<Tensor, Error> {
    let z = x.matmul(&weight.t()?)?.broadcast_add(bias)?;
    Ok(if rectified { z.relu()? } else { z })
}

fn gradient(gradients: &GradStore, variable: &Var) -> Result<Vec<f32>, Error> {
    flat(gradients.get(variable).ok_or_else(no_gradient)?)
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

fn no_gradient() -> Error {
    Error::Internal("the backward pass gave no gradient".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn batch(count: usize, width: usize, classes: u32) -> (Vec<f32>, Vec<u32>) {
        let mut rng = random::stream(9, Purpose::Split);
        let features = (0..count * width).map(|_| random::unit(&mut rng) as f32 - 0.5).collect();
        (features, (0..count as u32).map(|at| at * 7 % classes).collect())
    }

    /// The whole graph at once, by the engine alone.
    fn plain_backward(model: &Mlp, features: &[f32], labels: &[u32]) -> Vec<Vec<f32>> {
        let mut x = Tensor::from_slice(features, (labels.len(), model.sizes[0]), &Device::Cpu).unwrap();
        for (at, layer) in model.layers.iter().enumerate() {
            x = linear(&x, &layer.weight, &layer.bias, at < model.last()).unwrap();
        }
        let loss = cross_entropy(&x, labels).unwrap().affine(1.0 / labels.len() as f64, 0.0).unwrap();
        let gradients = loss.backward().unwrap();
        model.variables().map(|variable| flat(gradients.get(variable).unwrap()).unwrap()).collect()
    }

    #[test]
    fn layerwise_backward_equals_the_engines_own() {
        for sizes in [&[5, 3][..], &[5, 8, 3], &[64, 128, 64, 10], &[7, 6, 5, 4, 3, 2]] {
            let model = Mlp::new(sizes, 3).unwrap();
            let (features, labels) = batch(33, sizes[0], *sizes.last().unwrap() as u32);
            let expected = plain_backward(&model, &features, &labels);
            let pass = model.forward(features, labels.len()).unwrap();
            let loss = cross_entropy(pass.logits().unwrap(), &labels).unwrap();
            let loss = loss.affine(1.0 / labels.len() as f64, 0.0).unwrap();
            let mut order = Vec::new();
            model
                .backward(&pass, &loss, |at, gradient| {
                    assert!(gradient.iter().any(|value| *value != 0.0));
                    assert_eq!(gradient, expected[at], "parameter {at} of {sizes:?}");
                    order.push(at);
                    Ok(())
                })
                .unwrap();
            assert_eq!(order, (0..2 * (sizes.len() - 1)).rev().collect::<Vec<_>>());
        }
    }

    #[test]
    fn gradients_equal_differences_of_the_loss() {
        let model = Mlp::new(&[4, 6, 3], 1).unwrap();
        let (features, labels) = batch(8, 4, 3);
        let loss = || -> f64 {
            let logits = model.logits(features.clone(), 8).unwrap();
            f64::from(cross_entropy(&logits, &labels).unwrap().to_scalar::<f32>().unwrap())
        };
        let gradients: Vec<Vec<f32>> = plain_backward(&model, &features, &labels);
        let values = model.values().unwrap();
        for (at, gradient) in gradients.iter().enumerate() {
            let mut moved = values.clone();
            moved[at][0] += 1e-2;
            model.set_values(&moved).unwrap();
            let up = loss();
            moved[at][0] -= 2e-2;
            model.set_values(&moved).unwrap();
            let slope = (up - loss()) / 2e-2 / 8.0;
            model.set_values(&values).unwrap();
            assert!((slope - f64::from(gradient[0])).abs() < 2e-3, "parameter {at}: {slope} {}", gradient[0]);
        }
    }

    /// TRAIN-2
    #[test]
    fn products_do_not_depend_on_the_number_of_threads() {
        let model = Mlp::new(&[64, 300, 200, 10], 5).unwrap();
        let (features, labels) = batch(128, 64, 10);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| plain_backward(&model, &features, &labels))
        };
        let one = run(1);
        for threads in [2, 3] {
            assert_eq!(run(threads), one, "{threads} threads");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_model() {
        let values = |seed| Mlp::new(&[3, 4, 2], seed).unwrap().values().unwrap();
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
    }
}
