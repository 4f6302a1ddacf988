//! How good the model is on samples that it was not trained on: each rank looks at its share, and the sums are added
//! up.

use candle_core::D;
use collectives::{BufMut, Communicator, Op};

use crate::data::Part;
use crate::error::Error;
use crate::model::{self, Mlp};
use crate::shards;

/// Samples looked at together; bounds memory.
const CHUNK: usize = 1024;

/// The same on all ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Evaluation {
    /// Share of samples whose most probable class is the right one, from 0 to 1.
    pub(crate) accuracy: f64,
    /// Mean over the samples.
    pub(crate) loss: f64,
}

/// All ranks must call it together.
pub(crate) fn evaluate(communicator: &dyn Communicator, model: &Mlp, part: &Part) -> Result<Evaluation, Error> {
    let mine = shards::share(&(0..part.len()), communicator.rank(), communicator.world_size());
    let (mut loss, mut right) = (0.0, 0_usize);
    for start in mine.clone().step_by(CHUNK) {
        let (features, labels) = part.gather(start..(start + CHUNK).min(mine.end));
        let logits = model.logits(features, labels.len())?;
        loss += f64::from(model::cross_entropy(&logits, &labels)?.to_scalar::<f32>()?);
        let best: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
        right += best.iter().zip(&labels).filter(|(best, label)| best == label).count();
    }
    let mut sums = [loss, right as f64];
    communicator.all_reduce(BufMut::from(&mut sums[..]), Op::Sum)?;
    let count = part.len() as f64;
    Ok(Evaluation { accuracy: sums[1] / count, loss: sums[0] / count })
}
