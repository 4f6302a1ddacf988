//! Ships what ranks write: from their spools to every coordinator, released here when a majority has it on disk.
//!
//! ```text
//!  spool files --changed--> shipper --append--> link to coordinator 1    length on its disk
//!                              ^   \--append--> link to coordinator 2 ----.
//!                              '------------- acknowledge <---------------'
//! ```
//!
//! One actor on a thread of its own, because it reads and flushes files: a slow disk here delays no heartbeat. Streams take
//! turns, a chunk each, and each has a window, so that a flood on one does not hold up the others. A coordinator that is
//! slow or away holds up nobody else's copy. Nothing is queued: what is not sent stays in the spool.

mod link;
mod source;

use crate::watch;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use identity::Dialer;
use link::Event;
use proto::v1::{StreamAck, StreamAppend, StreamName};
use source::Source;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Bound;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use stores::spool::{SpoolError, SpoolReader};
use tokio::sync::{mpsc, oneshot, watch as channel};
use tokio::task::AbortHandle;
use types::{AttemptNumber, JobId, Limits, RankIndex, StreamKind, Token};

/// Messages for the shipper; past it the sender waits.
const MAILBOX: usize = 256;
/// Events of links that wait; past it the links do.
const EVENTS: usize = 64;
/// Between two questions to a coordinator that is behind what is still here.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// One rank of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RankKey {
    pub(crate) job: JobId,
    pub(crate) attempt: AttemptNumber,
    pub(crate) rank: RankIndex,
}

enum Message {
    /// Ship this rank's streams from now on.
    Add { key: RankKey, token: Token, folder: PathBuf },
    /// Nobody writes any more; answered when a majority has everything.
    Finish { key: RankKey, done: oneshot::Sender<()> },
}

/// Reaches the shipper. Cheap to clone; the shipper ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    mailbox: mpsc::Sender<Message>,
}

impl Handle {
    /// Ships this rank's streams from now on. Adding a rank again changes nothing.
    pub(crate) async fn add(&self, key: RankKey, token: Token, folder: PathBuf) {
        // A shipper that is gone ends the daemon: see `lib.rs`.
        let _ = self.mailbox.send(Message::Add { key, token, folder }).await;
    }

    /// Returns when a majority has everything that this rank wrote, or nobody will ever take it.
    pub(crate) async fn finish(&self, key: RankKey) {
        let (done, delivered) = oneshot::channel();
        let _ = self.mailbox.send(Message::Finish { key, done }).await;
        let _ = delivered.await;
    }
}

/// Starts the shipper's thread. The receiver ends when the thread does, however that comes about.
pub(crate) fn start(
    coordinators: channel::Receiver<Vec<String>>,
    watcher: watch::Handle,
    dialer: Dialer,
) -> std::io::Result<(Handle, oneshot::Receiver<()>)> {
    let (mailbox, messages) = mpsc::channel(MAILBOX);
    let (ended, end) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("shipper".into()).spawn(move || {
        let _ended = ended;
        runtime.block_on(Shipper::new(coordinators, watcher, dialer).run(messages));
    })?;
    Ok((Handle { mailbox }, end))
}

struct Rank {
    token: Token,
    reader: SpoolReader,
    sources: [Source; StreamKind::ALL.len()],
    done: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Link {
    task: Option<AbortHandle>,
    open: Option<mpsc::Sender<StreamAppend>>,
    /// Who was served last: the next in order comes first.
    served: Option<RankKey>,
}

type Change = Pin<Box<dyn Future<Output = Option<(RankKey, channel::Receiver<u64>)>> + Send>>;

struct Shipper {
    coordinators: channel::Receiver<Vec<String>>,
    watcher: watch::Handle,
    dialer: Dialer,
    names: Vec<String>,
    links: BTreeMap<String, Link>,
    ranks: BTreeMap<RankKey, Rank>,
    changes: FuturesUnordered<Change>,
    events: mpsc::Sender<(String, Event)>,
    heard: mpsc::Receiver<(String, Event)>,
}

impl Shipper {
    fn new(coordinators: channel::Receiver<Vec<String>>, watcher: watch::Handle, dialer: Dialer) -> Self {
        let (events, heard) = mpsc::channel(EVENTS);
        Self {
            coordinators,
            watcher,
            dialer,
            names: Vec::new(),
            links: BTreeMap::new(),
            ranks: BTreeMap::new(),
            changes: FuturesUnordered::new(),
            events,
            heard,
        }
    }

    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        self.follow_coordinators();
        let mut ask_again = tokio::time::interval(ASK_AGAIN);
        loop {
            tokio::select! {
                _ = ask_again.tick() => {
                    self.ranks.values_mut().flat_map(|rank| &mut rank.sources).for_each(Source::ask_again);
                }
                message = messages.recv() => match message {
                    Some(Message::Add { key, token, folder }) => self.add(key, token, folder).await,
                    Some(Message::Finish { key, done }) => self.finish(key, done),
                    None => return,
                },
                Some((address, event)) = self.heard.recv() => self.hear(&address, event),
                Some(change) = self.changes.next() => self.changed(change),
                changed = self.coordinators.changed() => match changed {
                    Ok(()) => self.follow_coordinators(),
                    Err(_) => return,
                },
            }
            self.pump_all();
        }
    }

    /// Links to those that are members now, none to others.
    fn follow_coordinators(&mut self) {
        self.names.clone_from(&self.coordinators.borrow_and_update());
        self.names.sort();
        self.names.dedup();
        let names = &self.names;
        self.links.retain(|name, link| {
            let stays = names.contains(name);
            if let (false, Some(task)) = (stays, &link.task) {
                task.abort();
            }
            stays
        });
        for name in &self.names {
            if !self.links.contains_key(name) {
                let task =
                    tokio::spawn(link::keep(self.dialer.clone(), name.clone(), self.events.clone())).abort_handle();
                self.links.insert(name.clone(), Link { task: Some(task), ..Link::default() });
            }
        }
        self.settle_all();
    }

    async fn add(&mut self, key: RankKey, token: Token, folder: PathBuf) {
        if self.ranks.contains_key(&key) {
            return;
        }
        let reader = match SpoolReader::open(&folder) {
            Ok(reader) => reader,
            Err(error) => {
                tracing::error!(job_id = %key.job, rank = %key.rank, %error, "the rank's output cannot be read");
                return;
            }
        };
        if let Some(changes) = self.watcher.folder(&folder).await {
            self.changes.push(next_change(key, changes));
        }
        let mut rank = Rank { token, reader, sources: Default::default(), done: None };
        for kind in StreamKind::ALL {
            let source = &mut rank.sources[kind as usize];
            source.safe = rank.reader.acknowledged(kind);
            source.released = rank.reader.released(kind);
            for (name, link) in &self.links {
                if link.open.is_some() {
                    source.connected(name);
                }
            }
        }
        rank.look(key);
        self.ranks.insert(key, rank);
    }

    fn finish(&mut self, key: RankKey, done: oneshot::Sender<()>) {
        // An unknown rank has nothing that could be delivered.
        let Some(rank) = self.ranks.get_mut(&key) else { return };
        rank.look(key);
        rank.done = Some(done);
        self.settle(key);
    }

    fn changed(&mut self, change: Option<(RankKey, channel::Receiver<u64>)>) {
        let Some((key, changes)) = change else { return };
        // A rank that is gone is no longer watched.
        let Some(rank) = self.ranks.get_mut(&key) else { return };
        rank.look(key);
        self.changes.push(next_change(key, changes));
    }

    fn hear(&mut self, address: &str, event: Event) {
        let Some(link) = self.links.get_mut(address) else { return };
        match event {
            Event::Open(appends) => {
                link.open = Some(appends);
                for source in self.ranks.values_mut().flat_map(|rank| &mut rank.sources) {
                    source.connected(address);
                }
            }
            Event::Broken => link.open = None,
            Event::Ack(ack) => self.take_ack(address, ack),
        }
    }

    fn take_ack(&mut self, address: &str, ack: StreamAck) {
        let Some((key, kind)) = ack.name.as_ref().and_then(parse) else { return };
        let Some(rank) = self.ranks.get_mut(&key) else { return };
        let source = &mut rank.sources[kind as usize];
        if ack.refused {
            let reason = &ack.reason;
            tracing::warn!(%address, job_id = %key.job, rank = %key.rank, stream = kind.name(), %reason, "stream refused");
            source.refused(address);
        } else {
            source.acknowledged(address, ack.length);
        }
        self.settle(key);
    }

    fn settle_all(&mut self) {
        let keys: Vec<RankKey> = self.ranks.keys().copied().collect();
        for key in keys {
            self.settle(key);
        }
    }

    /// Releases what a majority has, and lets go of a rank that is through.
    fn settle(&mut self, key: RankKey) {
        let Some(rank) = self.ranks.get_mut(&key) else { return };
        let needed = self.names.len() / 2 + 1;
        let mut all_safe = true;
        for kind in StreamKind::ALL {
            let source = &mut rank.sources[kind as usize];
            let safe = source.on_a_majority(&self.names, needed).min(source.length);
            if safe > source.safe {
                match rank.reader.acknowledge(kind, safe) {
                    Ok(()) => source.safe = safe,
                    Err(error) => warn(key, &error, "acknowledged bytes cannot be released"),
                }
                source.released = rank.reader.released(kind);
            }
            all_safe &= source.safe >= source.length;
        }
        if all_safe && let Some(done) = rank.done.take() {
            self.ranks.remove(&key);
            let _ = done.send(());
        }
    }

    fn pump_all(&mut self) {
        for (name, link) in &mut self.links {
            if let Some(appends) = &link.open {
                let appends = appends.clone();
                while pump_once(name, &appends, &mut self.ranks, &mut link.served) {}
            }
        }
    }
}

/// One chunk of each rank's streams, in turns. True when there may be more.
fn pump_once(
    coordinator: &str,
    appends: &mpsc::Sender<StreamAppend>,
    ranks: &mut BTreeMap<RankKey, Rank>,
    served: &mut Option<RankKey>,
) -> bool {
    let after = served.map_or(Bound::Unbounded, Bound::Excluded);
    let mut order: Vec<RankKey> = ranks.range((after, Bound::Unbounded)).map(|(key, _)| *key).collect();
    if let Some(served) = *served {
        order.extend(ranks.range(..=served).map(|(key, _)| *key));
    }
    let mut sent = false;
    for key in order {
        let Some(rank) = ranks.get_mut(&key) else { continue };
        for kind in StreamKind::ALL {
            let Some(next) = rank.sources[kind as usize].next(coordinator, Limits::CHUNK_BYTES_MAX as u64) else {
                continue;
            };
            let Ok(slot) = appends.try_reserve() else { return false };
            let Some(append) = rank.read(key, kind, next) else { continue };
            rank.sources[kind as usize].sent(coordinator, next.offset + append.data.len() as u64);
            slot.send(append);
            sent = true;
        }
        *served = Some(key);
    }
    sent
}

impl Rank {
    fn look(&mut self, key: RankKey) {
        for kind in StreamKind::ALL {
            match self.reader.length(kind) {
                Ok(length) => self.sources[kind as usize].length = length,
                Err(error) => warn(key, &error, "the rank's output cannot be looked at"),
            }
        }
    }

    fn read(&mut self, key: RankKey, kind: StreamKind, next: source::Next) -> Option<StreamAppend> {
        let max = usize::try_from(next.bytes_max).unwrap_or(Limits::CHUNK_BYTES_MAX);
        match self.reader.read_at(kind, next.offset, max) {
            Ok(data) if !data.is_empty() || next.bytes_max == 0 => Some(StreamAppend {
                name: Some(StreamName {
                    job: key.job.0,
                    attempt: key.attempt.0,
                    rank: key.rank.0,
                    stream: kind.name().into(),
                }),
                token: self.token.0,
                offset: next.offset,
                data,
            }),
            Ok(_) => None,
            Err(error) => {
                warn(key, &error, "the rank's output cannot be read");
                None
            }
        }
    }
}

fn warn(key: RankKey, error: &SpoolError, what: &'static str) {
    tracing::warn!(job_id = %key.job, attempt = %key.attempt, rank = %key.rank, %error, "{what}");
}

fn next_change(key: RankKey, mut changes: channel::Receiver<u64>) -> Change {
    Box::pin(async move { changes.changed().await.ok().map(|()| (key, changes)) })
}

fn parse(name: &StreamName) -> Option<(RankKey, StreamKind)> {
    let kind = StreamKind::ALL.into_iter().find(|kind| kind.name() == name.stream)?;
    let key = RankKey { job: JobId(name.job), attempt: AttemptNumber(name.attempt), rank: RankIndex(name.rank) };
    Some((key, kind))
}

#[cfg(test)]
mod tests;
