//! The audit trail and its signed heads, followed over lost connections: taken up again after the last one received.

use crate::call::{Backoff, request};
use crate::error::{Error, Failure, broke_off, judge};
use crate::pool::{Channel, Client};
use crate::v1;
use crate::watch::BREAKS_MAX;
use proto::v1::access_client::AccessClient;
use std::time::Duration;
use tonic::{Response, Status, Streaming};

/// For the next one, unless they are followed.
const NEXT_MAX: Duration = Duration::from_secs(10);

impl Client {
    /// The audit trail past the record `after`, oldest first; with `follow` it goes on with what comes.
    pub fn audit(&self, after: u64, follow: bool) -> Audit {
        Audit::new(self, after, follow)
    }

    /// Heads of the trail past the record `after` that the cluster signed by itself; as `audit`.
    pub fn audit_heads(&self, after: u64, follow: bool) -> Audit<v1::SignedAuditHead> {
        Audit::new(self, after, follow)
    }
}

/// What the trail is told in: records, or signed heads.
pub trait Told: Sized {
    /// Of the record, or of the last one that the head covers. Rises from one to the next.
    fn number(&self) -> u64;

    /// Those with a higher number.
    fn ask(
        channel: Channel,
        after: u64,
        follow: bool,
    ) -> impl Future<Output = Result<Response<Streaming<Self>>, Status>> + Send;
}

impl Told for v1::AuditRecord {
    fn number(&self) -> u64 {
        self.number
    }

    async fn ask(channel: Channel, after: u64, follow: bool) -> Result<Response<Streaming<Self>>, Status> {
        AccessClient::new(channel).audit(request(v1::AuditRequest { after, follow })).await
    }
}

impl Told for v1::SignedAuditHead {
    fn number(&self) -> u64 {
        self.number
    }

    async fn ask(channel: Channel, after: u64, follow: bool) -> Result<Response<Streaming<Self>>, Status> {
        AccessClient::new(channel).audit_heads(request(v1::AuditHeadsRequest { after, follow })).await
    }
}

/// Records, or signed heads, as they come.
#[derive(Debug)]
pub struct Audit<T = v1::AuditRecord> {
    client: Client,
    after: u64,
    follow: bool,
    connection: Option<(usize, Streaming<T>)>,
    backoff: Backoff,
    breaks: u32,
}

impl<T: Told> Audit<T> {
    fn new(client: &Client, after: u64, follow: bool) -> Self {
        Self { client: client.clone(), after, follow, connection: None, backoff: Backoff::new(), breaks: 0 }
    }

    /// The next one; none at the end, which what is followed does not have.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            let Some((index, told)) = self.connection.as_mut() else {
                self.open().await?;
                continue;
            };
            let index = *index;
            let next = told.message();
            let next = if self.follow { Ok(next.await) } else { tokio::time::timeout(NEXT_MAX, next).await };
            let status = match next {
                Ok(Ok(Some(one))) => {
                    self.after = one.number();
                    self.breaks = 0;
                    self.backoff = Backoff::new();
                    return Ok(Some(one));
                }
                Ok(Ok(None)) if !self.follow => return Ok(None),
                // A coordinator that shuts down ends it in order.
                Ok(Ok(None)) => Status::unavailable("the trail ended"),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable(format!("nothing within {NEXT_MAX:?}")),
            };
            match judge(self.client.address(index), &status) {
                Failure::Final(error) => return Err(error),
                Failure::Again { .. } if self.breaks < BREAKS_MAX => self.broke(index).await,
                Failure::Again { .. } => return Err(broke_off(self.client.address(index), &status)),
            }
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        let (after, follow) = (self.after, self.follow);
        let opened = self.client.attempt_until(self.client.patience, |index, channel| async move {
            Ok((index, T::ask(channel, after, follow).await?.into_inner()))
        });
        self.connection = Some(opened.await?);
        Ok(())
    }

    async fn broke(&mut self, index: usize) {
        self.connection = None;
        self.client.move_on(index);
        self.breaks += 1;
        self.backoff.wait().await;
    }
}
