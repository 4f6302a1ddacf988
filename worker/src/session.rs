//! The session with the leader: one stream, in one order; dialled again, wherever the leader is, whenever it breaks.
//!
//! ```text
//!  dial ──> hello (everything that is here) ──> welcome ──> heartbeats, news ──>   lease, wishes <──
//!    ^          └─ redirect: there, or the next        └─ refused: the operator must act, the daemon ends
//!    |─ held off: another process of this worker is heard, so this one waits
//!    '── lost: no word for most of a lease, or the stream broke
//! ```
//!
//! A coordinator that stands still must not cost the lease: while one is silent, the others are asked who leads (`dialling`).
//!
//! `LEASE-1`: an acknowledged heartbeat moves the lease to the moment when it was *sent*, plus the lease.

mod dialling;

use crate::error::Error;
use crate::held::Held;
use crate::layout::Layout;
use crate::lease::Lease;
use crate::life;
use crate::reconciler::{self, News, Subscription};
use daemon::clock::{self, boot_time};
use dialling::{Dialling, Opened};
use proto::internal::{CheckpointSaved, Figures, FromWorker, Heartbeat, Hello, Statuses, ToWorker, Welcome};
use proto::internal::{from_worker, to_worker};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tonic::Streaming;
use types::{ClusterId, MemberKey, WorkerRegistration};

/// For the stream to take one message.
const SEND_MAX: Duration = Duration::from_secs(2);
/// Pauses between two tries: short first, because a gang's lease runs while no leader is found.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Between two warnings that another process has the session.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// Heartbeats whose answers are waited for.
const UNANSWERED_MAX: usize = 256;

/// The session actor.
pub(crate) struct Session {
    pub(crate) layout: Layout,
    /// What this worker says of itself; a change begins a new session.
    pub(crate) registration: watch::Receiver<WorkerRegistration>,
    /// Of the machine, for whoever watches the cluster; none before the first look.
    pub(crate) figures: watch::Receiver<Option<Figures>>,
    /// Named by the operator: tried when no other is known.
    pub(crate) seeds: Vec<String>,
    /// All coordinators as the cluster names them; written here, read by whoever dials.
    pub(crate) coordinators: watch::Sender<Vec<String>>,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) dialer: identity::Dialer,
    pub(crate) lease: Lease,
    /// Of this process: random.
    pub(crate) start: u64,
    pub(crate) reconciler: reconciler::Handle,
}

/// How a session ended.
enum Ended {
    /// Another coordinator leads; empty = nobody knows.
    Redirected(String),
    /// Another process has this worker's session.
    HeldOff(String),
    /// Broken, silent or fallen behind; `lived` when it had been welcomed.
    Lost { why: String, lived: bool },
    /// This worker has news of itself.
    Changed,
    /// For good.
    Fatal(Error),
}

fn lost(why: impl Into<String>) -> Ended {
    Ended::Lost { why: why.into(), lived: false }
}

impl Session {
    /// Runs until something ends this daemon for good.
    pub(crate) async fn run(mut self) -> Error {
        let mut pause = PAUSE_FIRST;
        let mut next = 0_usize;
        let mut hint: Option<String> = None;
        let mut told: Option<Instant> = None;
        loop {
            let candidates = self.candidates();
            let address = hint.take().unwrap_or_else(|| candidates[next % candidates.len()].clone());
            match self.once(&address).await {
                Ended::Fatal(error) => return error,
                Ended::Changed => hint = Some(address),
                Ended::Redirected(leader) if !leader.is_empty() && leader != address => {
                    tracing::debug!(%address, %leader, "sent on to the leader");
                    hint = Some(leader);
                    sleep(PAUSE_FIRST).await;
                }
                Ended::Redirected(_) => {
                    next += 1;
                    sleep(PAUSE_FIRST).await;
                }
                Ended::HeldOff(why) => {
                    if told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
                        tracing::warn!(%address, why, "this worker has no session");
                        told = Some(Instant::now());
                    }
                    hint = Some(address);
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Ended::Lost { why, lived } => {
                    if lived {
                        tracing::warn!(%address, why, "session lost");
                        pause = PAUSE_FIRST;
                    } else {
                        tracing::debug!(%address, why, "no session");
                    }
                    next += 1;
                    if lived && candidates[next % candidates.len()] == address {
                        next += 1;
                    }
                    sleep(pause).await;
                    // A whole round without success: slower.
                    if next.is_multiple_of(candidates.len()) {
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            }
        }
    }

    /// Never empty: the configuration names at least one.
    fn candidates(&self) -> Vec<String> {
        let mut all = self.coordinators.borrow().clone();
        for seed in &self.seeds {
            if !all.contains(seed) {
                all.push(seed.clone());
            }
        }
        all
    }

    async fn once(&mut self, address: &str) -> Ended {
        let Some(subscription) = self.reconciler.subscribe().await else {
            return Ended::Fatal(Error::ActorDied("reconciler"));
        };
        let hello = match self.hello(&subscription) {
            Ok(hello) => hello,
            Err(ended) => return ended,
        };
        let dialling = Dialling { dialer: &self.dialer, hello, candidates: self.candidates() };
        let (address, Opened { outbox, mut incoming, welcome }) = match dialling.open(address).await {
            Ok(opened) => opened,
            Err(ended) => return ended,
        };
        if let Err(error) = self.welcomed(&address, &welcome).await {
            return Ended::Fatal(error);
        }
        match self.relay(&outbox, &mut incoming, &welcome, subscription.news).await {
            Ended::Lost { why, .. } => Ended::Lost { why, lived: true },
            ended => ended,
        }
    }

    fn hello(&mut self, subscription: &Subscription) -> Result<Hello, Ended> {
        Ok(Hello {
            protocol: proto::PROTOCOL,
            cluster_id: self.cluster.map(|id| id.0.to_vec()).unwrap_or_default().into(),
            registration: encode(&*self.registration.borrow_and_update())?,
            statuses: encode(&subscription.statuses)?,
            now_ms: clock::now().0,
            start: self.start,
        })
    }

    async fn welcomed(&mut self, address: &str, welcome: &Welcome) -> Result<(), Error> {
        let theirs = <[u8; 16]>::try_from(welcome.cluster_id.as_ref()).map(ClusterId);
        let theirs = theirs.map_err(|_| Error::Refused("the leader names no cluster".into()))?;
        match self.cluster {
            Some(ours) if ours != theirs => return Err(Error::OtherCluster { ours, theirs }),
            Some(_) => {}
            None => {
                let layout = self.layout.clone();
                let joined = tokio::task::spawn_blocking(move || life::join(&layout, theirs)).await;
                joined.map_err(|_| Error::ActorDied("writer of the cluster's name"))??;
                self.cluster = Some(theirs);
            }
        }
        tracing::info!(leader = %address, cluster = %theirs, "session opened");
        self.name_coordinators(&welcome.coordinators);
        Ok(())
    }

    fn name_coordinators(&self, named: &[String]) {
        if !named.is_empty() {
            self.coordinators.send_if_modified(|known| {
                let changed = known != named;
                if changed {
                    *known = named.to_vec();
                }
                changed
            });
        }
    }

    async fn relay(
        &mut self,
        outbox: &mpsc::Sender<FromWorker>,
        incoming: &mut Streaming<ToWorker>,
        welcome: &Welcome,
        mut news: mpsc::Receiver<News>,
    ) -> Ended {
        let lease = Duration::from_millis(welcome.lease_ms);
        let mut beat = interval(Duration::from_millis(welcome.heartbeat_ms.max(10)));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = Beats::default();
        // A new leader knows none.
        self.figures.mark_changed();
        // A leader that was cut off greets, but it grants no lease; and without a lease nothing may start.
        let mut held = Held::default();
        // Enough of the lease is left to find another leader.
        let silence_max = lease / 2;
        let mut heard = Instant::now();
        loop {
            let ended = tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(ToWorker { message: Some(message) })) => {
                        if matches!(message, to_worker::Message::Ack(_)) {
                            heard = Instant::now();
                        }
                        self.hear(message, &mut beats, &mut held, lease).await
                    }
                    Ok(Some(_)) => None,
                    Ok(None) => Some(lost("the leader ended it")),
                    Err(status) => Some(lost(status.to_string())),
                },
                item = news.recv() => match item {
                    Some(item) => match message_of(item) {
                        Some(message) => send(outbox, message).await,
                        None => Some(lost("a status cannot be encoded")),
                    },
                    None => Some(lost("it fell behind")),
                },
                _ = beat.tick() => send(outbox, from_worker::Message::Heartbeat(beats.next())).await,
                () = sleep_until(heard + silence_max) => Some(lost("no heartbeat was answered")),
                changed = self.registration.changed() => changed.is_ok().then_some(Ended::Changed),
                changed = self.figures.changed(), if self.figures.has_changed().is_ok() => {
                    let figures = changed.ok().and_then(|()| self.figures.borrow_and_update().clone());
                    match figures {
                        Some(figures) => send(outbox, from_worker::Message::Figures(figures)).await,
                        None => None,
                    }
                }
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    async fn hear(
        &mut self,
        message: to_worker::Message,
        beats: &mut Beats,
        held: &mut Held,
        lease: Duration,
    ) -> Option<Ended> {
        match message {
            to_worker::Message::Ack(ack) => {
                if let Some(sent) = beats.answered(ack.sequence)
                    && let Err(error) = self.lease.renew(sent + lease)
                {
                    tracing::error!(%error, "the lease cannot be renewed: the ranks here will end with it");
                }
                if !std::mem::replace(&mut held.leased, true) && held.is_told {
                    self.reconciler.wishes(held.all()).await;
                }
            }
            to_worker::Message::Wishes(wishes) => {
                if !held.take(&wishes) {
                    return Some(lost("the wishes cannot be read"));
                }
                self.name_coordinators(&wishes.coordinators);
                if held.leased && self.lease.deadline().is_none_or(|deadline| deadline <= boot_time()) {
                    // This process slept past its lease: what it reads now may be of a leader that is none any more.
                    return Some(lost("the lease is over"));
                }
                if held.leased {
                    self.reconciler.wishes(held.all()).await;
                }
            }
            to_worker::Message::Checkpoint(taken) => {
                let Ok(key) = postcard::from_bytes::<MemberKey>(&taken.key) else {
                    return Some(lost("a confirmed checkpoint cannot be read"));
                };
                self.reconciler.checkpoint_taken(key, taken.step).await;
            }
            to_worker::Message::Redirect(redirect) => return Some(Ended::Redirected(redirect.leader)),
            to_worker::Message::Refused(refused) => return Some(Ended::Fatal(Error::Refused(refused.reason))),
            to_worker::Message::Welcome(_) => return Some(lost("welcomed twice")),
            to_worker::Message::HeldOff(held) => return Some(Ended::HeldOff(held.reason)),
        }
        None
    }
}

/// Heartbeats that were sent, with when.
#[derive(Debug, Default)]
struct Beats {
    last: u64,
    unanswered: VecDeque<(u64, Duration)>,
}

impl Beats {
    fn next(&mut self) -> Heartbeat {
        self.last += 1;
        self.unanswered.push_back((self.last, boot_time()));
        if self.unanswered.len() > UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
        Heartbeat { sequence: self.last }
    }

    /// When the answered one was sent.
    fn answered(&mut self, sequence: u64) -> Option<Duration> {
        let at = self.unanswered.iter().position(|(number, _)| *number == sequence)?;
        self.unanswered.drain(..at);
        self.unanswered.pop_front().map(|(_, sent)| sent)
    }
}

async fn send(outbox: &mpsc::Sender<FromWorker>, message: from_worker::Message) -> Option<Ended> {
    match timeout(SEND_MAX, outbox.send(FromWorker { message: Some(message) })).await {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some(lost("the stream is closed")),
        Err(_) => Some(lost("the stream takes nothing")),
    }
}

fn message_of(news: News) -> Option<from_worker::Message> {
    Some(match news {
        News::Statuses(statuses) => from_worker::Message::Statuses(Statuses {
            statuses: postcard::to_stdvec(&statuses).ok()?.into(),
            now_ms: clock::now().0,
        }),
        News::Checkpoint(key, token, checkpoint) => from_worker::Message::Checkpoint(CheckpointSaved {
            key: postcard::to_stdvec(&key).ok()?.into(),
            token: token.0,
            checkpoint: postcard::to_stdvec(&checkpoint).ok()?.into(),
        }),
    })
}

fn encode<T: serde::Serialize>(value: &T) -> Result<bytes::Bytes, Ended> {
    postcard::to_stdvec(value).map(Into::into).map_err(|error| lost(format!("cannot encode its hello: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_from_when_its_heartbeat_was_sent() {
        let mut beats = Beats::default();
        let before = boot_time();
        for _ in 0..3 {
            beats.next();
        }
        let sent = beats.answered(2);
        assert!(sent.is_some_and(|sent| sent >= before && sent <= boot_time()));
        assert_eq!(beats.answered(1), None, "an overtaken answer moves nothing");
        assert!(beats.answered(3).is_some());
    }
}
