//! How good the model is on samples that it was not trained on: each rank looks at its share, and the sums are added
//! up.

use collectives::{BufMut, Communicator, Op};

use crate::data::Part;
use crate::error::Error;
use crate::model::Network;
use crate::shards;

/// Samples looked at together; bounds memory.
const CHUNK: usize = 64;

/// The same on all ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Evaluation {
    /// Share of answers (samples, or tokens of a text) of which the most probable one is right, from 0 to 1.
    pub(crate) accuracy: f64,
    /// Mean over the answers.
    pub(crate) loss: f64,
}

/// All ranks must call it together.
pub(crate) fn evaluate(communicator: &dyn Communicator, model: &mut Network, part: &Part) -> Result<Evaluation, Error> {
    let mine = shards::share(&(0..part.len()), communicator.rank(), communicator.world_size());
    let (mut loss, mut right) = (0.0, 0);
    for start in mine.clone().step_by(CHUNK) {
        let found = model.look(&part.gather(start..(start + CHUNK).min(mine.end)));
        loss += found.sum;
        right += found.right;
    }
    let mut sums = [loss, right as f64];
    communicator.all_reduce(BufMut::from(&mut sums[..]), Op::Sum)?;
    let count = (part.len() * part.positions()) as f64;
    Ok(Evaluation { accuracy: sums[1] / count, loss: sums[0] / count })
}
