//! Follows jobs' changes over lost connections: taken up again after the last change received, nothing twice.

use crate::call::{Backoff, request};
use crate::error::{Error, Failure, judge};
use crate::pool::Client;
use crate::v1;
use proto::v1::jobs_client::JobsClient;
use std::collections::BTreeMap;
use tonic::Streaming;
use types::{JobId, JobPhase};

/// Connections in a row that may break before anything came over them.
pub(crate) const BREAKS_MAX: u32 = 20;

impl Client {
    /// Follows one job until it has ended, or all jobs for ever. Begins with the current state, or after `after_index`.
    pub fn watch(&self, job: Option<JobId>, after_index: u64) -> Watch {
        Watch {
            client: self.clone(),
            job,
            after_index,
            delivered: BTreeMap::new(),
            connection: None,
            backoff: Backoff::new(),
            breaks: 0,
            ended: false,
        }
    }

    /// Waits until the job has ended. Level-triggered: a job that ended long ago returns at once.
    pub async fn wait(&self, job: JobId) -> Result<v1::JobSummary, Error> {
        let mut watch = self.watch(Some(job), 0);
        let mut last = None;
        while let Some(event) = watch.next().await? {
            last = event.job;
        }
        last.ok_or_else(|| Error::NotFound(format!("job {job} is gone")))
    }
}

/// Changes of one job or of all, in order. `next` may be dropped and called again without loss.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    job: Option<JobId>,
    after_index: u64,
    /// Newest index delivered, by job: a resumed stream repeats some.
    delivered: BTreeMap<u64, u64>,
    connection: Option<(usize, Streaming<v1::JobEvent>)>,
    backoff: Backoff,
    breaks: u32,
    ended: bool,
}

impl Watch {
    /// The next change; nothing once the one job has ended.
    pub async fn next(&mut self) -> Result<Option<v1::JobEvent>, Error> {
        while !self.ended {
            let message = match self.connection.as_mut() {
                None => {
                    self.open().await?;
                    continue;
                }
                Some((_, stream)) => stream.message().await,
            };
            match message {
                Ok(Some(event)) => {
                    if let Some(event) = self.take(event) {
                        return Ok(Some(event));
                    }
                }
                // A coordinator that shuts down may end the stream in order: only the job's own end counts.
                Ok(None) => self.broke("the stream ended before the job").await?,
                Err(status) => {
                    let index = self.connection.as_ref().map_or(0, |(index, _)| *index);
                    match judge(self.client.address(index), &status) {
                        Failure::Final(error) => return Err(error),
                        Failure::Again { reason, .. } => self.broke(&reason).await?,
                    }
                }
            }
        }
        Ok(None)
    }

    fn take(&mut self, event: v1::JobEvent) -> Option<v1::JobEvent> {
        let summary = event.job.as_ref()?;
        self.breaks = 0;
        self.backoff = Backoff::new();
        let is_final = JobPhase::from_name(&summary.phase).is_some_and(JobPhase::is_final);
        let newest = self.delivered.entry(summary.id).or_insert(0);
        let is_new = event.index > *newest || *newest == 0;
        *newest = event.index.max(*newest);
        if self.job.is_some() {
            self.after_index = self.after_index.max(event.index);
            self.ended = is_final;
        } else if event.index > self.after_index {
            // One entry may change many jobs: go on from before it, `delivered` drops what comes again.
            self.after_index = event.index;
            let horizon = event.index;
            self.delivered.retain(|_, index| *index + 1 >= horizon);
            self.delivered.insert(summary.id, event.index);
        }
        is_new.then_some(event)
    }

    async fn open(&mut self) -> Result<(), Error> {
        let resume = if self.job.is_some() { self.after_index } else { self.after_index.saturating_sub(1) };
        let wire = v1::WatchJobsRequest { job_id: self.job.map_or(0, |job| job.0), after_index: resume };
        let opened = self
            .client
            .attempt_until(self.client.patience, |index, channel| async move {
                let answer = JobsClient::new(channel).watch(request(wire)).await?;
                Ok((index, answer.into_inner()))
            })
            .await?;
        self.connection = Some(opened);
        Ok(())
    }

    async fn broke(&mut self, reason: &str) -> Result<(), Error> {
        let Some((index, _)) = self.connection.take() else { return Ok(()) };
        self.client.move_on(index);
        self.breaks += 1;
        if self.breaks > BREAKS_MAX {
            return Err(Error::Coordinator {
                address: self.client.address(index).to_owned(),
                code: tonic::Code::Unavailable,
                message: format!("the watch broke {BREAKS_MAX} times in a row: {reason}"),
            });
        }
        self.backoff.wait().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(index: u64, job: u64, phase: &str) -> v1::JobEvent {
        let job = v1::JobSummary { id: job, phase: phase.into(), ..Default::default() };
        v1::JobEvent { index, job: Some(job) }
    }

    #[test]
    fn a_repeated_change_is_dropped_and_the_end_is_seen() {
        let mut watch = Client::connect(vec![], &crate::testing::token()).watch(Some(JobId(7)), 0);
        assert!(watch.take(event(3, 7, "Running")).is_some());
        assert!(watch.take(event(3, 7, "Running")).is_none());
        assert!(!watch.ended);
        assert!(watch.take(event(5, 7, "Failed")).is_some());
        assert!(watch.ended);
    }

    #[test]
    fn jobs_changed_by_one_entry_are_all_delivered_once() {
        let mut watch = Client::connect(vec![], &crate::testing::token()).watch(None, 0);
        assert!(watch.take(event(9, 1, "Running")).is_some());
        // The connection breaks here and the same entry comes again.
        assert!(watch.take(event(9, 1, "Running")).is_none());
        assert!(watch.take(event(9, 2, "Running")).is_some());
        assert!(watch.take(event(10, 1, "Completed")).is_some());
        assert!(!watch.ended);
    }
}
