//! The convolutional network: blocks of convolution, rectified linear units and pooling, then a perceptron.

use super::mlp::perceptron;
use super::{Architecture, Task};
use crate::config;
use crate::layers::{Chain, ChannelsLast, Conv, MaxPool, Relu};

/// See the module.
pub(super) struct ConvNet(pub(super) config::ConvNet);

impl ConvNet {
    /// Channels, height and width of the images.
    fn image(&self, task: &Task) -> Result<(usize, usize, usize), String> {
        let shape = self.0.image.as_deref().unwrap_or(&task.shape);
        let image = match *shape {
            [height, width] => (1, height, width),
            [channels, height, width] => (channels, height, width),
            _ => {
                return Err(format!(
                    "learns from images, and the samples have the shape {shape:?}: say model.image, as [height, width] or \
                     [channels, height, width]"
                ));
            }
        };
        let values = image.0 * image.1 * image.2;
        if task.tokens || values != task.inputs() {
            return Err(format!("an image of {shape:?} has {values} values, but a sample has {}", task.inputs()));
        }
        Ok(image)
    }
}

impl Architecture for ConvNet {
    fn name(&self) -> String {
        "conv".to_owned()
    }

    fn build(&self, task: &Task) -> Result<Chain, String> {
        let (channels, mut height, mut width) = self.image(task)?;
        let (mut chain, mut before) = (Chain::new(), channels);
        if channels > 1 {
            chain = chain.then(ChannelsLast::new(channels, height * width));
        }
        for (at, after) in self.0.channels.iter().enumerate() {
            let size = height * width * after;
            let conv = Conv::new((height, width), before, *after, self.0.kernel);
            chain = chain.named(&format!("blocks.{at}"), conv).then(Relu::new(size));
            // Images of a single row or column are as small as they get.
            if height > 1 && width > 1 {
                chain = chain.then(MaxPool::new((height, width), *after));
                (height, width) = (height / 2, width / 2);
            }
            before = *after;
        }
        Ok(perceptron(chain, "layers", height * width * before, &self.0.hidden, task.classes))
    }

    fn detail(&self, task: &Task) -> String {
        let text = |sizes: &[usize]| sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("-");
        let (channels, height, width) = self.image(task).unwrap_or_default();
        let kernel = self.0.kernel;
        let ends = [self.0.hidden.as_slice(), &[task.classes]].concat();
        format!(
            "{height} x {width} x {channels}, channels {} by {kernel} x {kernel}, {}",
            text(&self.0.channels),
            text(&ends)
        )
    }
}
