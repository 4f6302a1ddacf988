//! One coordinator's end of the shipping: dials, asks how far each stream is there, sends appends, hears lengths.

use crate::dial;
use identity::Dialer;
use proto::v1::telemetry_client::TelemetryClient;
use proto::v1::{StreamAck, StreamAppend};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use types::Limits;

/// Appends between the shipper and the socket: past it the shipper sends nothing more to this coordinator.
const QUEUE: usize = 4;
const OPEN_MAX: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// A connection that lived so long was a good one: the next is tried at once.
const GOOD_LIFE: Duration = Duration::from_secs(5);

/// What a link tells the shipper.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection is open: appends go in here, until `Broken`.
    Open(mpsc::Sender<StreamAppend>),
    /// How far a stream is on that coordinator's disk.
    Ack(StreamAck),
    /// The connection is over; what was not acknowledged may be lost.
    Broken,
}

/// Keeps one coordinator connected as long as `events` is heard.
pub(super) async fn keep(dialer: Dialer, address: String, events: mpsc::Sender<(String, Event)>) {
    let mut pause = RETRY_FIRST;
    loop {
        let began = Instant::now();
        let why = once(&dialer, &address, &events).await;
        tracing::debug!(%address, why, "telemetry connection is over");
        if events.send((address.clone(), Event::Broken)).await.is_err() {
            return;
        }
        pause = if began.elapsed() > GOOD_LIFE { RETRY_FIRST } else { (pause * 2).min(RETRY_MAX) };
        tokio::select! {
            () = sleep(pause) => {}
            () = events.closed() => return,
        }
    }
}

/// One connection; says why it is over.
async fn once(dialer: &Dialer, address: &str, events: &mpsc::Sender<(String, Event)>) -> String {
    let channel = match dial::connect(dialer, address).await {
        Ok(channel) => channel,
        Err(error) => return format!("cannot connect: {}", identity::chain_of(&error)),
    };
    let mut client = TelemetryClient::new(channel).max_decoding_message_size(Limits::MESSAGE_BYTES_MAX);
    let (appends, outgoing) = mpsc::channel(QUEUE);
    let mut acks = match timeout(OPEN_MAX, client.push(ReceiverStream::new(outgoing))).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return format!("refused: {status}"),
        Err(_) => return "no answer in time".into(),
    };
    if events.send((address.to_owned(), Event::Open(appends))).await.is_err() {
        return "nobody ships any more".into();
    }
    loop {
        let ack = tokio::select! {
            ack = acks.message() => ack,
            () = events.closed() => return "nobody ships any more".into(),
        };
        match ack {
            Ok(Some(ack)) => {
                if events.send((address.to_owned(), Event::Ack(ack))).await.is_err() {
                    return "nobody ships any more".into();
                }
            }
            Ok(None) => return "the coordinator ended it".into(),
            Err(status) => return format!("broken: {status}"),
        }
    }
}
