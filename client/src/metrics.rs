//! Follows metric points over lost coordinators, each point once.
//!
//! Points of one rank come from one single-writer stream, so their order is the same everywhere: how many of a rank were
//! delivered is all that is needed to go on.

use crate::call::{Backoff, request};
use crate::error::{Error, Failure, judge};
use crate::pool::Client;
use crate::v1;
use crate::watch::BREAKS_MAX;
use proto::v1::jobs_client::JobsClient;
use std::collections::BTreeMap;
use tonic::Streaming;
use types::{JobId, JobPhase};

/// Which points to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricQuery {
    /// Empty = all.
    pub names: Vec<String>,
    /// Goes on until the job has ended.
    pub follow: bool,
    /// Empty = all.
    pub ranks: Vec<u32>,
}

impl Client {
    /// Reads the metric points of a job, oldest first.
    pub fn metrics(&self, job: JobId, query: MetricQuery) -> Metrics {
        Metrics {
            client: self.clone(),
            job,
            query,
            delivered: BTreeMap::new(),
            skip: BTreeMap::new(),
            connection: None,
            backoff: Backoff::new(),
            breaks: 0,
            ended: false,
        }
    }
}

/// Points of a job. `next` may be dropped and called again without loss.
#[derive(Debug)]
pub struct Metrics {
    client: Client,
    job: JobId,
    query: MetricQuery,
    /// Points delivered, by attempt and rank.
    delivered: BTreeMap<(u32, u32), u64>,
    /// Of those, what the present connection still has to repeat.
    skip: BTreeMap<(u32, u32), u64>,
    connection: Option<(usize, Streaming<v1::MetricBatch>)>,
    backoff: Backoff,
    breaks: u32,
    ended: bool,
}

impl Metrics {
    /// The next points, at least one; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<v1::MetricPoint>>, Error> {
        while !self.ended {
            let message = match self.connection.as_mut() {
                None => {
                    self.open().await?;
                    continue;
                }
                Some((_, stream)) => stream.message().await,
            };
            match message {
                Ok(Some(batch)) => {
                    let fresh = self.take(batch.points);
                    if !fresh.is_empty() {
                        return Ok(Some(fresh));
                    }
                }
                Ok(None) => self.finish().await?,
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

    fn take(&mut self, points: Vec<v1::MetricPoint>) -> Vec<v1::MetricPoint> {
        let mut fresh = Vec::with_capacity(points.len());
        for point in points {
            let key = (point.attempt, point.rank);
            match self.skip.get_mut(&key) {
                Some(left) if *left > 0 => *left -= 1,
                _ => {
                    *self.delivered.entry(key).or_insert(0) += 1;
                    fresh.push(point);
                }
            }
        }
        if !fresh.is_empty() {
            self.breaks = 0;
            self.backoff = Backoff::new();
        }
        fresh
    }

    async fn finish(&mut self) -> Result<(), Error> {
        if self.query.follow {
            let phase = self.client.get(self.job).await?.summary.map(|summary| summary.phase).unwrap_or_default();
            if !JobPhase::from_name(&phase).is_some_and(JobPhase::is_final) {
                return self.broke("the stream ended before the job").await;
            }
        }
        self.ended = true;
        Ok(())
    }

    async fn open(&mut self) -> Result<(), Error> {
        let wire = v1::MetricsRequest {
            job_id: self.job.0,
            names: self.query.names.clone(),
            follow: self.query.follow,
            ranks: self.query.ranks.clone(),
        };
        let opened = self
            .client
            .attempt_until(self.client.patience, |index, channel| {
                let request = request(wire.clone());
                async move { Ok((index, JobsClient::new(channel).metrics(request).await?.into_inner())) }
            })
            .await?;
        self.skip = self.delivered.clone();
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
                message: format!("the metrics broke {BREAKS_MAX} times in a row: {reason}"),
            });
        }
        self.backoff.wait().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_that_come_again_after_a_reconnect_are_dropped() {
        let point = |rank, step| v1::MetricPoint { attempt: 1, rank, step, ..Default::default() };
        let mut metrics = Client::connect(vec![], &crate::testing::token()).metrics(JobId(1), MetricQuery::default());
        assert_eq!(metrics.take(vec![point(0, 1), point(1, 1), point(0, 2)]).len(), 3);
        metrics.skip = metrics.delivered.clone();
        // The other coordinator mixes the ranks differently.
        let fresh = metrics.take(vec![point(0, 1), point(0, 2), point(0, 3), point(1, 1), point(1, 2)]);
        assert_eq!(fresh.iter().map(|p| (p.rank, p.step)).collect::<Vec<_>>(), [(0, 3), (1, 2)]);
    }
}
