//! The end: the last look at the test samples, proof that all ranks are equal, and the model in files.

use std::path::PathBuf;

use types::ContentHash;

use super::Training;
use crate::Summary;
use crate::agreement;
use crate::error::Error;
use crate::evaluate::Evaluation;
use crate::result::{self, Description};

impl Training<'_> {
    /// All ranks must come here together.
    pub(super) fn finish(mut self) -> Result<Summary, Error> {
        let evaluation = match self.evaluated {
            Some((step, evaluation)) if step == self.state.step => evaluation,
            _ => self.evaluate()?,
        };
        let hash = agreement::hash_of(&self.values);
        agreement::check(&*self.communicator, "parameters", &hash)?;
        let (rank, world_size) = (self.rank(), self.communicator.world_size());
        self.progress.each(&format!("rank {rank}: parameters {} are equal on all {world_size} ranks", hash.short()));
        let model = self.write_model(evaluation, hash)?;
        if self.metrics.dropped() > 0 {
            self.progress.each(&format!("rank {rank}: {} metric points were not taken", self.metrics.dropped()));
        }
        self.progress
            .line(&format!("final test accuracy {:.4}, test loss {:.4}", evaluation.accuracy, evaluation.loss));
        // Nobody leaves before rank 0 has written: a rank's end before that would look like a failure to the others.
        self.communicator.barrier()?;
        Ok(Summary {
            rank,
            world_size,
            steps: self.state.step,
            resumed_from: self.resumed_from,
            test_accuracy: evaluation.accuracy,
            test_loss: evaluation.loss,
            parameters_sha256: hash.to_string(),
            model,
        })
    }

    fn write_model(&mut self, evaluation: Evaluation, hash: ContentHash) -> Result<Option<PathBuf>, Error> {
        if self.rank() != 0 {
            return Ok(None);
        }
        let Some(folder) = self.output.clone() else {
            self.progress.line("no model written: no output folder was given");
            return Ok(None);
        };
        let description = Description {
            format: result::FORMAT,
            architecture: "mlp",
            layers: self.model.sizes(),
            classes: &self.data.classes,
            transform: &self.data.transform,
            test_accuracy: evaluation.accuracy,
            test_loss: evaluation.loss,
            parameters_sha256: hash.to_string(),
            data_sha256: self.data.hash.to_string(),
            steps: self.state.step,
            world_size: self.communicator.world_size(),
            config: self.config,
        };
        result::write(&folder, &description, &self.parameters, &self.values)?;
        self.progress.line(&format!("model written to {}", folder.display()));
        Ok(Some(folder))
    }
}
