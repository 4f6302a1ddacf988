//! The end: the last look at the test samples, proof that all ranks are equal, and the model in files.

use std::path::PathBuf;

use types::ContentHash;

use super::Training;
use crate::Summary;
use crate::agreement;
use crate::config::{self, Config};
use crate::error::Error;
use crate::evaluate::Evaluation;
use crate::generate;
use crate::model::Task;
use crate::result::{self, Description};

impl Training<'_> {
    /// All ranks must come here together.
    pub(super) fn finish(mut self) -> Result<Summary, Error> {
        let evaluation = match self.evaluated {
            Some((step, evaluation)) if step == self.state.step => evaluation,
            _ => self.evaluate()?,
        };
        self.saver.end(&*self.communicator, &mut self.progress)?;
        self.saver.announce(&mut self.metrics, &mut self.progress)?;
        let values = self.parameters.iter().map(|parameter| &self.model.values[parameter.place.clone()]);
        let hash = agreement::hash_of(values);
        agreement::check(&*self.communicator, "parameters", &hash)?;
        let (rank, world_size) = (self.rank(), self.communicator.world_size());
        self.progress.each(&format!("rank {rank}: parameters {} are equal on all {world_size} ranks", hash.short()));
        let sample = self.sample()?;
        let model = self.write_model(evaluation, hash, sample.as_deref())?;
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
            sample,
        })
    }

    /// What rank 0's model of text writes by itself.
    fn sample(&mut self) -> Result<Option<String>, Error> {
        let Some(vocabulary) = self.data.vocabulary.as_ref().filter(|_| self.config.generate.tokens > 0) else {
            return Ok(None);
        };
        if self.rank() != 0 {
            return Ok(None);
        }
        let text = generate::generate(&mut self.model, vocabulary, &self.config.generate)?;
        self.progress.line(&format!("the model writes: {text}"));
        Ok(Some(text))
    }

    fn write_model(
        &mut self,
        evaluation: Evaluation,
        hash: ContentHash,
        sample: Option<&str>,
    ) -> Result<Option<PathBuf>, Error> {
        if self.rank() != 0 {
            return Ok(None);
        }
        let Some(folder) = self.output.clone() else {
            self.progress.line("no model written: no output folder was given");
            return Ok(None);
        };
        let config = result::without_places(self.config);
        let description = Description {
            format: result::FORMAT,
            architecture: self.architecture.name(),
            layers: layers(self.config, &self.data.task),
            task: &self.data.task,
            classes: &self.data.classes,
            transform: &self.data.transform,
            test_accuracy: evaluation.accuracy,
            test_loss: evaluation.loss,
            parameters_sha256: hash.to_string(),
            data_sha256: self.data.hash.to_string(),
            steps: self.state.step,
            world_size: self.communicator.world_size(),
            config: &config,
        };
        result::write(&folder, &description, &self.parameters, &self.model.values, sample)?;
        self.progress.line(&format!("model written to {}", folder.display()));
        Ok(Some(folder))
    }
}

/// Units from features to classes, where the model is a perceptron.
fn layers(config: &Config, task: &Task) -> Option<Vec<usize>> {
    let config::Model::Mlp(model) = &config.model else { return None };
    Some([task.inputs()].into_iter().chain(model.hidden.iter().copied()).chain([task.classes]).collect())
}
