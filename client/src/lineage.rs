//! What made a job's results: its graph, the records that were sealed of it, and whether all that they name is there.

use crate::call::{request, timed};
use crate::error::{Error, broke_off};
use crate::pool::Client;
use crate::v1;
use proto::v1::lineage_client::LineageClient;
use proto::v1::lineage_request::Direction;
use std::time::Duration;
use tonic::{Response, Status, Streaming};
use types::JobId;

/// For the next record.
const RECORD_MAX: Duration = Duration::from_secs(30);
/// For the next folder: every byte of it may be read, and what is not there is fetched.
const FOLDER_MAX: Duration = Duration::from_mins(30);
/// Bytes of one record: that of a gang of 10,000 ranks with their metrics has a few million.
const RECORD_BYTES_MAX: usize = 64 << 20;

impl Client {
    /// What made the job's results, and what they are.
    pub async fn lineage(&self, job: JobId) -> Result<v1::LineageGraph, Error> {
        self.ask(|channel, span| {
            let request = timed(v1::LineageRequest { job_id: job.0, ..Default::default() }, span);
            async move { LineageClient::new(channel).get(request).await }
        })
        .await
    }

    /// Over all jobs that the caller may see: what this node was made of, what was made of it, or both; `steps` from a job to the next, 0 = all.
    /// Nodes are written as in `muster.v1.LineageRequest`.
    pub async fn lineage_of(&self, node: &str, direction: Direction, steps: u32) -> Result<v1::LineageGraph, Error> {
        self.ask(|channel, span| {
            let wanted =
                v1::LineageRequest { node: node.to_owned(), direction: direction.into(), steps, ..Default::default() };
            let request = timed(wanted, span);
            async move { LineageClient::new(channel).max_decoding_message_size(RECORD_BYTES_MAX).get(request).await }
        })
        .await
    }

    /// The records of all jobs that have ended, past the record `after`, in the order in which they did; or of one job.
    pub async fn lineage_records(&self, after: u64, job: Option<JobId>) -> Result<LineageRecords, Error> {
        let wanted = v1::LineageRecordsRequest { after, job_id: job.map_or(0, |job| job.0) };
        let opened = self.attempt_until(self.patience, |_, channel| {
            let asked = request(wanted);
            async move {
                let mut lineage = LineageClient::new(channel).max_decoding_message_size(RECORD_BYTES_MAX);
                lineage.records(asked).await.map(Response::into_inner)
            }
        });
        let messages = opened.await?;
        let address = self.preferred_address().unwrap_or_default();
        Ok(LineageRecords(Messages { messages, address, patience: RECORD_MAX }))
    }

    /// Whether the folders that jobs name are there, on the coordinator that answers; of all jobs, or of one. `deep` has every
    /// byte read.
    pub async fn lineage_check(&self, job: Option<JobId>, deep: bool) -> Result<LineageChecks, Error> {
        let wanted = v1::LineageCheckRequest { job_id: job.map_or(0, |job| job.0), deep };
        let opened = self.attempt_until(self.patience.one_by_one(), |_, channel| {
            let asked = request(wanted);
            async move { LineageClient::new(channel).check(asked).await.map(Response::into_inner) }
        });
        let messages = opened.await?;
        let address = self.preferred_address().unwrap_or_default();
        Ok(LineageChecks(Messages { messages, address, patience: FOLDER_MAX }))
    }
}

/// Records as they come.
#[derive(Debug)]
pub struct LineageRecords(Messages<v1::LineageRecord>);

impl LineageRecords {
    /// The next one; none at the end.
    pub async fn next(&mut self) -> Result<Option<v1::LineageRecord>, Error> {
        self.0.next().await
    }
}

/// What was found of folders, as they are looked at; to be added up.
#[derive(Debug)]
pub struct LineageChecks(Messages<v1::LineageCheck>);

impl LineageChecks {
    /// The next one; none at the end.
    pub async fn next(&mut self) -> Result<Option<v1::LineageCheck>, Error> {
        self.0.next().await
    }
}

#[derive(Debug)]
struct Messages<T> {
    messages: Streaming<T>,
    address: String,
    patience: Duration,
}

impl<T> Messages<T> {
    async fn next(&mut self) -> Result<Option<T>, Error> {
        let status = match tokio::time::timeout(self.patience, self.messages.message()).await {
            Ok(Ok(message)) => return Ok(message),
            Ok(Err(status)) => status,
            Err(_) => Status::unavailable(format!("no answer within {:?}", self.patience)),
        };
        Err(broke_off(&self.address, &status))
    }
}
