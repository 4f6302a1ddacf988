//! Every layer's backward pass against differences of its forward pass, and its values against a plain loop.

use super::*;
use crate::random::{self, Purpose};
use proptest::prelude::*;

fn noise(seed: u64, length: usize) -> Vec<f32> {
    let mut rng = random::stream(seed, Purpose::Split);
    (0..length).map(|_| 2.0 * random::unit(&mut rng) as f32 - 1.0).collect()
}

fn length(layer: &dyn Layer) -> usize {
    layer.parameters().iter().map(Parameter::len).sum()
}

/// A number made of the output, whose derivative by each output value is that of `weights`.
fn measure(layer: &mut dyn Layer, count: usize, parameters: &[f32], input: &[f32], weights: &[f32]) -> f64 {
    let mut output = vec![f32::NAN; weights.len()];
    layer.forward(count, parameters, input, &mut output);
    output.iter().zip(weights).map(|(value, weight)| f64::from(*value) * f64::from(*weight)).sum()
}

/// Derivatives by input and parameters against differences, and that gradients are added and not overwritten.
fn backward_is_the_slope_of_forward(layer: &mut dyn Layer, input: Vec<f32>, tolerance: f64) {
    let (before, after) = layer.sizes();
    let count = input.len() / before;
    let parameters: Vec<f32> = noise(2, length(layer)).iter().map(|value| 0.5 + value / 2.0).collect();
    let weights = noise(3, count * after);
    let mut output = vec![f32::NAN; count * after];
    layer.forward(count, &parameters, &input, &mut output);
    let (mut d_input, mut gradients) = (vec![f32::NAN; input.len()], vec![1.0; parameters.len()]);
    layer.backward(Backward {
        count,
        parameters: &parameters,
        input: &input,
        output: &output,
        d_output: &weights,
        d_input: &mut d_input,
        gradients: &mut gradients,
    });
    let step = 1e-2_f32;
    let mut slope = |values: &[f32], at: usize, by_input: bool| {
        let mut measured = |by: f32| {
            let mut moved = values.to_vec();
            moved[at] += by;
            if by_input {
                measure(layer, count, &parameters, &moved, &weights)
            } else {
                measure(layer, count, &moved, &input, &weights)
            }
        };
        (measured(step) - measured(-step)) / (2.0 * f64::from(step))
    };
    for at in (0..input.len()).step_by(input.len() / 60 + 1) {
        let (found, wanted) = (f64::from(d_input[at]), slope(&input, at, true));
        assert!((found - wanted).abs() < tolerance, "by input {at}: {found} {wanted}");
    }
    for at in (0..parameters.len()).step_by(parameters.len() / 60 + 1) {
        let (found, wanted) = (f64::from(gradients[at]) - 1.0, slope(&parameters, at, false));
        assert!((found - wanted).abs() < tolerance, "by parameter {at}: {found} {wanted}");
    }
}

#[test]
fn linear() {
    backward_is_the_slope_of_forward(&mut Linear::new(5, 7), noise(1, 15), 1e-3);
    backward_is_the_slope_of_forward(&mut Linear::new(9, 4).at_positions(3), noise(1, 54), 1e-3);
}

#[test]
fn pointwise() {
    // Away from the kink of the first one.
    let input: Vec<f32> = noise(1, 24).iter().map(|value| value + 0.2 * value.signum()).collect();
    backward_is_the_slope_of_forward(&mut Relu::new(8), input, 1e-3);
    backward_is_the_slope_of_forward(&mut Gelu::new(8), noise(1, 24).iter().map(|value| 3.0 * value).collect(), 1e-3);
}

#[test]
fn norm() {
    backward_is_the_slope_of_forward(&mut Norm::new(3, 11), noise(1, 66), 3e-3);
}

#[test]
fn attention() {
    let mut layer = CausalAttention::new(5, 6, 2);
    backward_is_the_slope_of_forward(&mut layer, noise(1, 2 * 5 * 18), 3e-3);
}

#[test]
fn convolution_and_pooling() {
    backward_is_the_slope_of_forward(&mut Conv::new((4, 5), 2, 3, 3), noise(1, 3 * 40), 3e-3);
    backward_is_the_slope_of_forward(&mut Conv::new((2, 2), 1, 2, 5), noise(1, 8), 3e-3);
    backward_is_the_slope_of_forward(&mut Conv::new((3, 3), 4, 2, 1), noise(1, 36), 3e-3);
    // Distinct values, further apart than the step.
    let input = (0..2 * 5 * 4 * 3).map(|at| (at * 37 % 120) as f32 / 20.0).collect();
    backward_is_the_slope_of_forward(&mut MaxPool::new((5, 4), 3), input, 1e-3);
    backward_is_the_slope_of_forward(&mut ChannelsLast::new(3, 4), noise(1, 24), 1e-3);
}

#[test]
fn embedding() {
    let mut layer = Embedding::new(7, 3, 4);
    let input = [2.0, 6.0, 2.0, 0.0, 1.0, 2.0];
    let (mut output, parameters) = (vec![0.0; 24], noise(2, length(&layer)));
    layer.forward(2, &parameters, &input, &mut output);
    assert_eq!(output[4], parameters[6 * 4] + parameters[7 * 4 + 4]);
    let mut gradients = vec![0.0; parameters.len()];
    let d_output = vec![1.0; 24];
    let pass = Backward {
        count: 2,
        parameters: &parameters,
        input: &input,
        output: &output,
        d_output: &d_output,
        d_input: &mut [],
        gradients: &mut gradients,
    };
    layer.backward(pass);
    let of_tokens: Vec<f32> = gradients.chunks_exact(4).map(|row| row[0]).collect();
    assert_eq!(of_tokens, [1.0, 1.0, 3.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0]);
}

#[test]
fn chains_within_chains() {
    let inner = Chain::new().named("a", Linear::new(6, 4)).then(Relu::new(4)).named("b", Linear::new(4, 6));
    let mut chain = Chain::new()
        .named("first", Linear::new(3, 6))
        .named("block", Residual::new(inner.then(Relu::new(6))))
        .then(Gelu::new(6));
    let names: Vec<String> = chain.parameters().into_iter().map(|parameter| parameter.name).collect();
    let wanted = ["first.weight", "first.bias", "block.a.weight", "block.a.bias", "block.b.weight", "block.b.bias"];
    assert_eq!(names, wanted);
    assert_eq!(chain.check(3, 6), Ok(()));
    backward_is_the_slope_of_forward(&mut chain, noise(1, 12), 1e-2);
}

#[test]
fn chains_that_do_not_fit_are_refused() {
    let refused = |chain: Chain| chain.check(3, 2).unwrap_err();
    let broken = || Chain::new().named("one", Linear::new(3, 4)).named("two", Linear::new(5, 2));
    assert!(refused(broken()).contains("layer 1 \"two\" takes 5 values, but the one before it gives 4"));
    assert!(refused(Chain::new().named("outer", Residual::new(broken()))).contains("outer: layer 1"));
    let uneven = Chain::new().named("outer", Residual::new(Chain::new().named("", Linear::new(3, 2))));
    assert!(refused(uneven).contains("takes 3 values and gives 2"));
    assert!(refused(Chain::new().named("", Linear::new(3, 3))).contains("gives 3 values a sample, where 3 and 2"));
    assert!(refused(Chain::new()).contains("takes 0"));
    let twice = Chain::new().named("", Linear::new(3, 2)).named("", Linear::new(2, 2));
    assert!(refused(twice).contains("two parameters are called"));
}

#[test]
fn no_position_sees_a_later_one() {
    let mut layer = CausalAttention::new(4, 6, 3);
    let mut input = noise(1, 4 * 18);
    let (mut before, mut after) = (vec![0.0; 24], vec![0.0; 24]);
    layer.forward(1, &[], &input, &mut before);
    input[3 * 18..].fill(5.0);
    layer.forward(1, &[], &input, &mut after);
    assert_eq!(before[..18], after[..18]);
    assert_ne!(before[18..], after[18..]);
}

proptest! {
    /// TRAIN-2: what a sample gives depends neither on the batch around it nor on what a layer's buffers held before.
    #[test]
    fn convolutions_equal_a_plain_loop(
        height in 1..7_usize, width in 1..7_usize, inputs in 1..4_usize, outputs in 1..4_usize, half in 0..3_usize,
        counts in proptest::collection::vec(1..5_usize, 1..3),
    ) {
        let kernel = 2 * half + 1;
        let mut layer = Conv::new((height, width), inputs, outputs, kernel);
        let parameters = noise(2, length(&layer));
        for count in counts {
            let input = noise(1, count * layer.sizes().0);
            let mut output = vec![0.0; count * layer.sizes().1];
            layer.forward(count, &parameters, &input, &mut output);
            for (at, found) in output.iter().enumerate() {
                let (pixel, to) = (at / outputs, at % outputs);
                let (image, y, x) = (pixel / (height * width), pixel / width % height, pixel % width);
                let mut sum = parameters[outputs * kernel * kernel * inputs + to];
                for (row, column) in (0..kernel).flat_map(|row| (0..kernel).map(move |column| (row, column))) {
                    let (from_y, from_x) = (y + row, x + column);
                    if !(half..height + half).contains(&from_y) || !(half..width + half).contains(&from_x) {
                        continue;
                    }
                    for from in 0..inputs {
                        let weight = parameters[((to * kernel + row) * kernel + column) * inputs + from];
                        let place = ((image * height + from_y - half) * width + from_x - half) * inputs + from;
                        sum += weight * input[place];
                    }
                }
                prop_assert!((sum - found).abs() < 1e-4, "{sum} {found}");
            }
        }
    }
}
