//! From an address to a session: one coordinator is dialled, and while it is silent the others are asked who leads.
//!
//! A coordinator that stands still, or whose host does, takes connections and answers nothing; waiting for it alone would cost a
//! lease. One that is only slow is not given up for it: whoever greets first has the session. Only a leader greets, and it renews
//! no lease unless a majority follows it, so a greeting that comes too late is dropped without harm.

use super::{Ended, lost};
use crate::dial;
use identity::Dialer;
use proto::internal::worker_session_client::WorkerSessionClient;
use proto::internal::{FromWorker, Hello, ToWorker, Welcome, from_worker, to_worker};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use types::Limits;

/// Messages on their way to the leader.
const OUTBOX: usize = 64;
/// From dialling to the leader's answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Silence of one coordinator before another one is asked as well: a quarter of a lease.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// Before all others are asked again.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// A session that the leader has opened.
pub(super) struct Opened {
    pub(super) outbox: mpsc::Sender<FromWorker>,
    pub(super) incoming: Streaming<ToWorker>,
    pub(super) welcome: Welcome,
}

/// What is said to whom.
pub(super) struct Dialling<'a> {
    pub(super) dialer: &'a Dialer,
    pub(super) hello: Hello,
    /// Every coordinator that is known.
    pub(super) candidates: Vec<String>,
}

impl Dialling<'_> {
    /// The session at this address, or at another one if this is silent; and at which.
    pub(super) async fn open(&self, address: &str) -> Result<(String, Opened), Ended> {
        let mut here = pin!(timeout(ANSWER_MAX, self.ask(address)));
        let answer = tokio::select! {
            answer = &mut here => answer,
            () = sleep(SILENCE_MAX) => tokio::select! {
                answer = &mut here => answer,
                elsewhere = self.elsewhere(address) => return elsewhere,
            },
        };
        let opened = answer.map_err(|_| lost("no answer in time"))?;
        opened.map(|opened| (address.to_owned(), opened))
    }

    /// Asks the others, one after the other and again and again, until one of them has an answer that counts: a session, or that this
    /// worker may have none.
    async fn elsewhere(&self, silent: &str) -> Result<(String, Opened), Ended> {
        loop {
            for candidate in self.candidates.iter().filter(|candidate| *candidate != silent) {
                let mut address = candidate.clone();
                let mut answer = timeout(SILENCE_MAX, self.ask(&address)).await;
                if let Ok(Err(Ended::Redirected(leader))) = &answer
                    && !leader.is_empty()
                    && leader != silent
                    && *leader != address
                {
                    address.clone_from(leader);
                    answer = timeout(SILENCE_MAX, self.ask(&address)).await;
                }
                match answer {
                    Ok(Ok(opened)) => return Ok((address, opened)),
                    Ok(Err(ended @ (Ended::Fatal(_) | Ended::HeldOff(_)))) => return Err(ended),
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            sleep(ROUND_PAUSE).await;
        }
    }

    async fn ask(&self, address: &str) -> Result<Opened, Ended> {
        let channel = dial::connect(self.dialer, address).await;
        let channel = channel.map_err(|error| lost(format!("cannot connect: {}", identity::chain_of(&error))))?;
        let mut client = WorkerSessionClient::new(channel).max_decoding_message_size(Limits::SESSION_MESSAGE_BYTES_MAX);
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let first = FromWorker { message: Some(from_worker::Message::Hello(self.hello.clone())) };
        outbox.try_send(first).map_err(|_| lost("the stream takes nothing"))?;
        let response = client.open(ReceiverStream::new(outgoing)).await;
        let mut incoming = response.map_err(|status| lost(status.to_string()))?.into_inner();
        let answer = incoming.message().await.map_err(|status| lost(status.to_string()))?;
        match answer.and_then(|answer| answer.message) {
            Some(to_worker::Message::Welcome(welcome)) => Ok(Opened { outbox, incoming, welcome }),
            Some(to_worker::Message::Redirect(redirect)) => Err(Ended::Redirected(redirect.leader)),
            Some(to_worker::Message::Refused(refused)) => {
                Err(Ended::Fatal(crate::error::Error::Refused(refused.reason)))
            }
            Some(to_worker::Message::HeldOff(held)) => Err(Ended::HeldOff(held.reason)),
            Some(_) => Err(lost("the first answer makes no sense")),
            None => Err(lost("the stream ended without an answer")),
        }
    }
}
