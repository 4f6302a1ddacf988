//! What waits to be sent to one collector: a bounded queue, and a task that sends it in batches.

use super::collector::Collector;
use crate::observe::Observed;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Items that wait; past it new ones are dropped and counted.
const WAITING_MAX: usize = 8_192;
/// Items sent at once.
const BATCH_MAX: usize = 512;
/// For further items to come along with the first.
const GATHER: Duration = Duration::from_millis(200);

/// Reaches the queue.
pub(super) struct Outbox<T> {
    sender: mpsc::Sender<T>,
    to: &'static str,
    observed: Arc<Observed>,
}

impl<T> Outbox<T> {
    /// Never waits.
    pub(super) fn send(&self, item: T) {
        if self.sender.try_send(item).is_err() {
            self.observed.exported(self.to, "dropped", 1);
        }
    }
}

/// Sends to a collector what is put in, as bodies of this kind that `encode` makes of a batch; the task ends with the last outbox.
pub(super) fn start<T: Send + Sync + 'static>(
    mut collector: Collector,
    kind: &'static str,
    encode: impl Fn(&[T]) -> Vec<Bytes> + Send + 'static,
    observed: &Arc<Observed>,
) -> Outbox<T> {
    let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
    let (seen, to) = (observed.clone(), collector.name);
    tokio::spawn(async move {
        let mut was_reached = true;
        while let Some(batch) = next(&mut receiver).await {
            let mut sent = Ok(());
            for body in encode(&batch) {
                sent = sent.and(collector.send(kind, body).await);
            }
            let outcome = if sent.is_ok() { "sent" } else { "dropped" };
            seen.exported(to, outcome, batch.len() as u64);
            // Once for each time that it begins, not for each batch.
            if let Err(why) = &sent
                && was_reached
            {
                tracing::warn!(to, url = collector.url, why, "a collector does not take what is sent to it");
            }
            was_reached = sent.is_ok();
        }
    });
    Outbox { sender, to, observed: observed.clone() }
}

async fn next<T>(receiver: &mut mpsc::Receiver<T>) -> Option<Vec<T>> {
    let mut batch = vec![receiver.recv().await?];
    tokio::time::sleep(GATHER).await;
    while batch.len() < BATCH_MAX {
        let Ok(item) = receiver.try_recv() else { break };
        batch.push(item);
    }
    Some(batch)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Answers one request a connection with each of these, and gives the bodies, each of one byte.
    async fn collector(answers: &'static [&'static str]) -> (String, mpsc::Receiver<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let (told, bodies) = mpsc::channel(16);
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") || request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                told.send(request.pop().unwrap()).await.unwrap();
                let head = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        });
        (url, bodies)
    }

    fn outbox(url: String, observed: &Arc<Observed>) -> Outbox<u8> {
        let encode = |items: &[u8]| items.iter().map(|item| Bytes::from(vec![*item])).collect();
        start(Collector::new("test", url, None), "text/plain", encode, observed)
    }

    #[tokio::test]
    async fn what_may_be_taken_later_is_sent_again_and_what_is_refused_is_not() {
        let (url, mut bodies) = collector(&["503 Later", "200 OK", "400 Bad", "200 OK"]).await;
        let observed = Arc::new(Observed::new());
        let outbox = outbox(url, &observed);
        for (item, tries) in [(b'a', 2), (b'b', 1), (b'c', 1)] {
            outbox.send(item);
            for _ in 0..tries {
                assert_eq!(bodies.recv().await, Some(item));
            }
        }
        // Counted after the answer, which is on its way.
        while observed.exported_so_far("test", "sent") < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(observed.exported_so_far("test", "dropped"), 1);
    }

    #[tokio::test]
    async fn a_full_queue_drops_what_comes_and_counts_it() {
        let observed = Arc::new(Observed::new());
        let (sender, _receiver) = mpsc::channel(1);
        let outbox = Outbox { sender, to: "test", observed: observed.clone() };
        (0..5_u8).for_each(|item| outbox.send(item));
        assert_eq!(observed.exported_so_far("test", "dropped"), 4);
    }
}
