//! Exchanges a damaged stream for the sound copy of another coordinator.
//!
//! The copy comes whole, over the call by which coordinators read each other's disks, and takes the place of the damaged one only
//! if it has the very bytes that were compacted here, by their hash, or agrees with all that is sound of a stream that still grows.

use super::super::{Context, replicate};
use bytes::Bytes;
use proto::v1;
use proto::v1::jobs_client::JobsClient;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stores::streams::{Replacement, StreamError, StreamName};
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// For another coordinator to begin to answer, and then to go on.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pieces between the socket and the disk.
const PIECES_MAX: usize = 4;

/// For a mend that another began, which may have a large stream to fetch.
const MEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Who wants a stream mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Asker {
    /// Who reads here, and waits for a mend that is under way.
    Reader,
    /// Another coordinator, which must not wait: two with the same damage would ask each other in a circle. Or this one's own
    /// care, which comes by again.
    Daemon,
}

/// Streams that are being mended; each sender goes with the end of its mend. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mends(Arc<Mutex<BTreeMap<StreamName, watch::Sender<()>>>>);

impl Mends {
    /// The right to mend, or the end of the mend that is under way.
    fn begin(&self, name: StreamName) -> Result<Mending, watch::Receiver<()>> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = under_way.get(&name) {
            return Err(end.subscribe());
        }
        under_way.insert(name, watch::Sender::default());
        Ok(Mending { mends: self.clone(), name })
    }
}

#[derive(Debug)]
struct Mending {
    mends: Mends,
    name: StreamName,
}

impl Drop for Mending {
    fn drop(&mut self) {
        self.mends.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// Returns when this disk's copy is sound again, or another's try to mend it is over; fails when no other coordinator could give it.
pub(in crate::api) async fn mend(context: &Context, name: StreamName, asker: Asker) -> Result<(), Status> {
    context.observed.damage_found();
    let _mending = match (context.mends.begin(name), asker) {
        (Ok(mending), _) => mending,
        (Err(mut end), Asker::Reader) => {
            // Its sender goes, and never says anything. What is still damaged then is told by the next look.
            let _ = tokio::time::timeout(MEND_TIMEOUT, end.changed()).await;
            return Ok(());
        }
        (Err(_), Asker::Daemon) => return Err(Status::unavailable(format!("{name} is being mended"))),
    };
    let mut faults = Vec::new();
    for address in replicate::others(context) {
        match fetch(context, name, &address).await {
            Ok(true) => {
                context.observed.damage_mended();
                tracing::info!(stream = %name, from = %address, "a damaged stream was mended");
                return Ok(());
            }
            Ok(false) => faults.push(format!("{address}: it has other bytes")),
            Err(status) => faults.push(format!("{address}: {}", status.message())),
        }
    }
    let why = if faults.is_empty() { "there is no other coordinator".to_owned() } else { faults.join("; ") };
    tracing::error!(stream = %name, why, "a damaged stream could not be mended");
    let text = format!("{name} is damaged here, and no sound copy could be had: {why}");
    // Where there are others the reader goes to them.
    Err(if faults.is_empty() { Status::data_loss(text) } else { Status::unavailable(text) })
}

async fn fetch(context: &Context, name: StreamName, address: &str) -> Result<bool, Status> {
    let store = context.streams.clone();
    let begun = super::super::off_thread(move || store.replacement(&name)).await;
    let Some(replacement) = begun.map_err(|error| Status::unavailable(error.to_string()))? else {
        // It is gone, and the damage with it.
        return Ok(true);
    };
    let (pieces, waiting) = mpsc::channel(PIECES_MAX);
    let writer = tokio::task::spawn_blocking(move || write(replacement, waiting));
    let received = receive(context, name, address, pieces).await;
    let written = writer.await.map_err(|error| Status::internal(error.to_string()))?;
    received?;
    written.map_err(|error| Status::unavailable(error.to_string()))
}

/// The end of the channel is the end of the stream: what came too short has another hash.
fn write(mut replacement: Replacement, mut pieces: mpsc::Receiver<Bytes>) -> Result<bool, StreamError> {
    while let Some(piece) = pieces.blocking_recv() {
        replacement.write(&piece)?;
    }
    replacement.finish()
}

async fn receive(
    context: &Context,
    name: StreamName,
    address: &str,
    pieces: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    let request = v1::LogsRequest {
        job_id: name.job.0,
        attempt: name.attempt.0,
        ranks: vec![name.rank.0],
        streams: vec![name.kind.name().to_owned()],
        local: true,
        ..v1::LogsRequest::default()
    };
    let mut client = JobsClient::new(context.peers.channel(address)?);
    let mut chunks = in_time(client.logs(request)).await?.into_inner();
    let mut at = 0;
    while let Some(chunk) = in_time(chunks.message()).await? {
        if chunk.offset != at {
            return Err(Status::internal(format!("it goes on at {} instead of {at}", chunk.offset)));
        }
        at += chunk.data.len() as u64;
        if pieces.send(chunk.data).await.is_err() {
            // The writer says why.
            return Ok(());
        }
    }
    Ok(())
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(PEER_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::{AttemptNumber, JobId, RankIndex, StreamKind};

    #[tokio::test]
    async fn one_mends_and_the_others_hear_of_its_end() {
        let mends = Mends::default();
        let name =
            StreamName { job: JobId(1), attempt: AttemptNumber(1), rank: RankIndex(0), kind: StreamKind::Stdout };
        let mending = mends.begin(name).unwrap();
        let mut end = mends.begin(name).unwrap_err();
        assert!(mends.begin(StreamName { rank: RankIndex(1), ..name }).is_ok(), "another stream is another mend");
        assert!(!end.has_changed().unwrap());
        drop(mending);
        assert!(end.changed().await.is_err());
        assert!(mends.begin(name).is_ok(), "it can be tried again");
    }
}
