//! Images made smaller.

use super::{Backward, Layer};

/// The greatest of each square of two by two pixels, channel by channel; a last odd row or column is left out. Of equal
/// values the first counts.
#[derive(Clone, Debug)]
pub struct MaxPool {
    height: usize,
    width: usize,
    channels: usize,
    /// Which of the four it was.
    chosen: Vec<u8>,
}

impl MaxPool {
    /// For images of this size.
    pub fn new((height, width): (usize, usize), channels: usize) -> Self {
        MaxPool { height, width, channels, chosen: Vec::new() }
    }

    /// Calls `each` with the place of every output value and the places of its four input values, over one image.
    fn squares(&self, mut each: impl FnMut(usize, [usize; 4])) {
        let (channels, row) = (self.channels, self.width * self.channels);
        let mut target = 0;
        for y in 0..self.height / 2 {
            for x in 0..self.width / 2 {
                let corner = 2 * y * row + 2 * x * channels;
                for at in corner..corner + channels {
                    each(target, [at, at + channels, at + row, at + row + channels]);
                    target += 1;
                }
            }
        }
    }
}

impl Layer for MaxPool {
    fn sizes(&self) -> (usize, usize) {
        (self.height * self.width * self.channels, (self.height / 2) * (self.width / 2) * self.channels)
    }

    fn forward(&mut self, _count: usize, _parameters: &[f32], input: &[f32], output: &mut [f32]) {
        let (before, after) = self.sizes();
        let mut chosen = std::mem::take(&mut self.chosen);
        chosen.resize(output.len(), 0);
        let images = input.chunks_exact(before).zip(output.chunks_exact_mut(after));
        for ((image, output), chosen) in images.zip(chosen.chunks_exact_mut(after)) {
            self.squares(|target, places| {
                let (mut best, mut which) = (image[places[0]], 0);
                for (at, place) in places.iter().enumerate().skip(1) {
                    // A NaN wins over everything, so that a broken training is seen.
                    if image[*place] > best || image[*place].is_nan() {
                        (best, which) = (image[*place], at);
                    }
                }
                output[target] = best;
                chosen[target] = which as u8;
            });
        }
        self.chosen = chosen;
    }

    fn backward(&mut self, pass: Backward<'_>) {
        if pass.d_input.is_empty() {
            return;
        }
        let (before, after) = self.sizes();
        pass.d_input.fill(0.0);
        let images = pass.d_input.chunks_exact_mut(before).zip(pass.d_output.chunks_exact(after));
        for ((d_image, d_output), chosen) in images.zip(self.chosen.chunks_exact(after)) {
            self.squares(|target, places| d_image[places[usize::from(chosen[target])]] = d_output[target]);
        }
    }
}
