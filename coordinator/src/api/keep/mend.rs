//! Exchanges a damaged compacted stream for the sound copy of another coordinator.
//!
//! The copy comes whole, over the call by which coordinators read each other's disks, and takes the place of the damaged one only
//! if it has the very bytes that were compacted here, by their hash.

use super::super::{Context, replicate};
use bytes::Bytes;
use proto::v1;
use proto::v1::jobs_client::JobsClient;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stores::streams::{Replacement, StreamError, StreamName};
use tokio::sync::mpsc;
use tonic::Status;

/// For another coordinator to begin to answer, and then to go on.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pieces between the socket and the disk.
const PIECES_MAX: usize = 4;

/// Streams that are being mended: two coordinators with the same damage must not ask each other in a circle. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mends(Arc<Mutex<BTreeSet<StreamName>>>);

impl Mends {
    fn begin(&self, name: StreamName) -> Option<Mending> {
        let began = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        began.then(|| Mending { mends: self.clone(), name })
    }
}

struct Mending {
    mends: Mends,
    name: StreamName,
}

impl Drop for Mending {
    fn drop(&mut self) {
        self.mends.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// Returns when this disk's copy is sound again; fails when no other coordinator could give it.
pub(in crate::api) async fn mend(context: &Context, name: StreamName) -> Result<(), Status> {
    context.observed.damage_found();
    let Some(_mending) = context.mends.begin(name) else {
        return Err(Status::unavailable(format!("{name} is being mended")));
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
        // It is raw again, and so without the damage.
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
