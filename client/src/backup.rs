//! A copy of everything that a cluster keeps, as it comes.

use crate::call::request;
use crate::error::{Error, broke_off};
use crate::pool::Client;
use crate::v1;
use proto::v1::cluster_client::ClusterClient;
use std::time::Duration;
use tonic::{Response, Status, Streaming};

/// For the next chunk: a coordinator may have to ask the others about an attempt first.
const CHUNK_MAX: Duration = Duration::from_mins(2);

/// Chunks of one backup, in order.
#[derive(Debug)]
pub struct Backup {
    chunks: Streaming<v1::BackupChunk>,
    address: String,
}

impl Client {
    /// Begins a backup that is sealed with this key of 32 bytes. One that breaks off cannot be continued.
    pub async fn backup(&self, key: &[u8], tables_only: bool) -> Result<Backup, Error> {
        let opened = self.attempt_until(self.patience.one_by_one(), |_, channel| {
            let asked = request(v1::BackupRequest { key: key.to_vec().into(), tables_only });
            async move { ClusterClient::new(channel).backup(asked).await.map(Response::into_inner) }
        });
        let chunks = opened.await?;
        Ok(Backup { chunks, address: self.preferred_address().unwrap_or_default() })
    }
}

impl Backup {
    /// The next chunk; none at the end.
    pub async fn next(&mut self) -> Result<Option<v1::BackupChunk>, Error> {
        let status = match tokio::time::timeout(CHUNK_MAX, self.chunks.message()).await {
            Ok(Ok(chunk)) => return Ok(chunk),
            Ok(Err(status)) => status,
            Err(_) => Status::unavailable(format!("no more of the backup within {CHUNK_MAX:?}")),
        };
        Err(broke_off(&self.address, &status))
    }
}
