//! Convolutions over images `[height, width, channels]`, as products of a matrix with patches of the image.

use super::linear;
use super::math::{self, Matrix};
use super::{Backward, Initial, Layer, Parameter, sized};

/// Patches are laid out for so many values at a time, 1 MiB: the next product finds them in the processor's cache.
const PATCH_VALUES_MAX: usize = 1 << 18;

/// Stride 1, with zeros around the image, so that height and width stay. Parameters: `weight` `[outputs, kernel, kernel,
/// inputs]`, `bias` `[outputs]`.
#[derive(Clone, Debug)]
pub struct Conv {
    height: usize,
    width: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    patches: Vec<f32>,
    d_patches: Vec<f32>,
}

impl Conv {
    /// From `inputs` to `outputs` channels, with an odd `kernel`.
    pub fn new((height, width): (usize, usize), inputs: usize, outputs: usize, kernel: usize) -> Self {
        Conv { height, width, inputs, outputs, kernel, patches: Vec::new(), d_patches: Vec::new() }
    }

    /// Values of one patch.
    fn patch(&self) -> usize {
        self.kernel * self.kernel * self.inputs
    }

    fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Images that are laid out together.
    fn together(&self) -> usize {
        (PATCH_VALUES_MAX / (self.pixels() * self.patch())).max(1)
    }

    /// Calls `each` with every run of values that lie side by side both in the patches of one image and in the image
    /// itself: where it starts in the patches, where in the image, and its length. Values outside the image have none.
    fn runs(&self, mut each: impl FnMut(usize, usize, usize)) {
        let (half, channels) = (self.kernel / 2, self.inputs);
        for y in 0..self.height {
            for x in 0..self.width {
                let patch = (y * self.width + x) * self.patch();
                // Columns of the kernel that lie inside the image.
                let first = half.saturating_sub(x);
                let last = self.kernel.min(self.width + half - x);
                for row in half.saturating_sub(y)..self.kernel.min(self.height + half - y) {
                    let image = ((y + row - half) * self.width + x + first - half) * channels;
                    each(patch + (row * self.kernel + first) * channels, image, (last - first) * channels);
                }
            }
        }
    }
}

impl Layer for Conv {
    fn sizes(&self) -> (usize, usize) {
        (self.pixels() * self.inputs, self.pixels() * self.outputs)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let bound = (6.0 / self.patch() as f64).sqrt();
        let shape = [self.outputs, self.kernel, self.kernel, self.inputs];
        vec![
            Parameter::new("weight", &shape, Initial::Uniform(bound)),
            Parameter::new("bias", &[self.outputs], Initial::Constant(0.0)),
        ]
    }

    fn forward(&mut self, _count: usize, parameters: &[f32], input: &[f32], output: &mut [f32]) {
        let (weight, bias) = parameters.split_at(self.outputs * self.patch());
        let together = self.together();
        let mut patches = std::mem::take(&mut self.patches);
        let images = input.chunks(together * self.sizes().0).zip(output.chunks_mut(together * self.sizes().1));
        for (images, output) in images {
            let rows = self.lay_out(images, &mut patches);
            linear::forward(rows, weight, bias, &patches, output);
        }
        self.patches = patches;
    }

    fn backward(&mut self, pass: Backward<'_>) {
        let weight = Matrix::new(pass.parameters, self.outputs, self.patch());
        let (d_weight, d_bias) = pass.gradients.split_at_mut(self.outputs * self.patch());
        let (before, after) = self.sizes();
        let together = self.together();
        let (mut patches, mut d_patches) = (std::mem::take(&mut self.patches), std::mem::take(&mut self.d_patches));
        let mut wanted = pass.d_input.chunks_mut(together * before);
        for (images, d_output) in pass.input.chunks(together * before).zip(pass.d_output.chunks(together * after)) {
            // Laid out again: to keep them all from the forward pass would take `kernel` squared times the image.
            let rows = self.lay_out(images, &mut patches);
            linear::into_parameters(rows, &patches, d_output, d_weight, d_bias);
            if let Some(d_images) = wanted.next() {
                let d_output = Matrix::new(d_output, rows, self.outputs);
                let length = rows * self.patch();
                math::product(d_output, weight, 1.0, 0.0, sized(&mut d_patches, length), self.patch());
                self.gather(&d_patches, d_images);
            }
        }
        (self.patches, self.d_patches) = (patches, d_patches);
    }
}

impl Conv {
    /// The patch of each pixel of each image; returns their number.
    fn lay_out(&self, images: &[f32], patches: &mut Vec<f32>) -> usize {
        let (image, patch) = (self.pixels() * self.inputs, self.pixels() * self.patch());
        let count = images.len() / image;
        // What lies outside an image is never written, so it stays 0 where the buffer's layout stays the same.
        if patches.len() != count * patch {
            patches.clear();
        }
        let patches = sized(patches, count * patch);
        for (image, patches) in images.chunks_exact(image).zip(patches.chunks_exact_mut(patch)) {
            self.runs(|to, from, length| {
                if let (Some(to), Some(from)) = (patches.get_mut(to..to + length), image.get(from..from + length)) {
                    to.copy_from_slice(from);
                }
            });
        }
        count * self.pixels()
    }

    /// The sum over all patches of what each says of a pixel.
    fn gather(&self, d_patches: &[f32], d_images: &mut [f32]) {
        let (image, patch) = (self.pixels() * self.inputs, self.pixels() * self.patch());
        for (d_image, d_patches) in d_images.chunks_exact_mut(image).zip(d_patches.chunks_exact(patch)) {
            d_image.fill(0.0);
            self.runs(|from, to, length| {
                if let (Some(to), Some(from)) = (d_image.get_mut(to..to + length), d_patches.get(from..from + length)) {
                    for (sum, value) in to.iter_mut().zip(from) {
                        *sum += value;
                    }
                }
            });
        }
    }
}

/// From images `[channels, height, width]`, as files have them, to `[height, width, channels]`.
#[derive(Clone, Debug)]
pub struct ChannelsLast {
    channels: usize,
    pixels: usize,
}

impl ChannelsLast {
    /// For images of so many channels and pixels.
    pub fn new(channels: usize, pixels: usize) -> Self {
        ChannelsLast { channels, pixels }
    }
}

impl Layer for ChannelsLast {
    fn sizes(&self) -> (usize, usize) {
        (self.channels * self.pixels, self.channels * self.pixels)
    }

    fn forward(&mut self, _count: usize, _parameters: &[f32], input: &[f32], output: &mut [f32]) {
        transpose(input, output, self.channels, self.pixels);
    }

    fn backward(&mut self, pass: Backward<'_>) {
        if !pass.d_input.is_empty() {
            transpose(pass.d_output, pass.d_input, self.pixels, self.channels);
        }
    }
}

/// Each sample from `rows` times `columns` to `columns` times `rows`.
fn transpose(from: &[f32], to: &mut [f32], rows: usize, columns: usize) {
    for (from, to) in from.chunks_exact(rows * columns).zip(to.chunks_exact_mut(rows * columns)) {
        for (row, values) in from.chunks_exact(columns).enumerate() {
            for (value, to) in values.iter().zip(to[row..].iter_mut().step_by(rows)) {
                *to = *value;
            }
        }
    }
}
