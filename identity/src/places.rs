//! Places for connections: how many there are at once, in all and of one address, and who goes when there are too many.
//!
//! Who has shown a certificate, or made a call that the gate took for somebody's, has proven itself and keeps its place. Who has not
//! is one of a bounded number, and the oldest of these is closed for a newer one: strangers who hold connections open, from
//! whatever addresses, never keep a node or a user out. Who proves nothing and asks for nothing is closed after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

/// Connections at once, whatever the system permits.
const CONNECTIONS_MAX: usize = 65_536;
/// Of those that have proven nothing: they have a buffer each, and nobody needs many for long.
const UNPROVEN_MAX: usize = 4_096;
const UNPROVEN_PER_ADDRESS_MAX: usize = 1_024;
/// Handshakes of one address at once: more wait, within their deadline, and hold up nobody else's.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;
/// Descriptors that files and what this process dials have for themselves, at least.
const RESERVE_MIN: usize = 256;
/// Who has proven nothing is closed so long after it came, or after its last answer (a health check needs no proof).
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Between two lines of the log on connections that were closed.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At once, handshakes included; more wait in the kernel's queue.
    pub all: usize,
    /// Of them from one address; more are closed.
    pub of_address: usize,
    /// Of them without proof; for one more the oldest is closed.
    pub unproven: usize,
    /// Of these from one address; for one more the oldest of that address is closed.
    pub unproven_of_address: usize,
    /// Without proof or an answer.
    pub silence: Duration,
}

impl Bounds {
    /// For a process that may have so many descriptors, a quarter of which is for everything else.
    pub fn of_descriptors(most: usize) -> Self {
        let all = most.saturating_sub((most / 4).max(RESERVE_MIN)).clamp(16, CONNECTIONS_MAX);
        Self {
            all,
            of_address: all / 4 * 3,
            unproven: (all / 2).min(UNPROVEN_MAX),
            unproven_of_address: (all / 4).min(UNPROVEN_PER_ADDRESS_MAX),
            silence: SILENCE_MAX,
        }
    }
}

/// Why a connection was closed by these bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// Its address had as many as it may.
    Address,
    /// It had proven nothing, and a newer one needed its place.
    Unproven,
    /// It had proven nothing for too long.
    Silent,
}

impl Closed {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Address, Self::Unproven, Self::Silent];

    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Unproven => "unproven",
            Self::Silent => "silent",
        }
    }
}

/// The places of one process, for all of its ports. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bounds: Bounds,
    free: Arc<Semaphore>,
    table: Mutex<Table>,
    closed: [AtomicU64; Closed::ALL.len()],
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    addresses: BTreeMap<IpAddr, Address>,
    /// Who has proven nothing, oldest first, with what ends it.
    unproven: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    told: Option<Instant>,
    untold: u64,
}

#[derive(Debug)]
struct Address {
    connections: usize,
    unproven: BTreeSet<u64>,
    handshakes: Arc<Semaphore>,
}

impl Places {
    /// All are free.
    pub fn new(bounds: Bounds) -> Self {
        let free = Arc::new(Semaphore::new(bounds.all));
        Self(Arc::new(Shared { bounds, free, table: Mutex::default(), closed: Default::default() }))
    }

    /// For a process that may have so many descriptors.
    pub fn of_descriptors(most: usize) -> Self {
        Self::new(Bounds::of_descriptors(most))
    }

    /// The connections that are open, and how many of them have proven nothing.
    pub fn open(&self) -> (usize, usize) {
        let table = self.table();
        (table.addresses.values().map(|address| address.connections).sum(), table.unproven.len())
    }

    /// How many were closed for this so far.
    pub fn closed(&self, why: Closed) -> u64 {
        self.0.closed[why as usize].load(Ordering::Relaxed)
    }

    /// Waits until there is a place for one more.
    pub(crate) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        self.0.free.clone().acquire_owned().await.ok()
    }

    /// Gives the place to a connection from there; nothing when that address has as many as it may.
    pub(crate) fn seat(&self, from: IpAddr, place: OwnedSemaphorePermit) -> Option<(Standing, Unproven)> {
        let bounds = self.0.bounds;
        let mut table = self.table();
        if table.addresses.get(&from).is_some_and(|address| address.connections >= bounds.of_address) {
            drop(table);
            self.close(Closed::Address, from);
            return None;
        }
        let id = table.next;
        table.next += 1;
        let address = table.addresses.entry(from).or_insert_with(|| Address {
            connections: 0,
            unproven: BTreeSet::new(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_PER_ADDRESS_MAX)),
        });
        address.connections += 1;
        address.unproven.insert(id);
        let handshakes = address.handshakes.clone();
        let too_many = address.unproven.len() > bounds.unproven_of_address;
        let oldest = if too_many { address.unproven.first().copied() } else { None };
        let (end, ended) = oneshot::channel();
        table.unproven.insert(id, (from, end));
        let is_full = table.unproven.len() > bounds.unproven;
        let oldest = oldest.or_else(|| table.unproven.keys().next().copied().filter(|_| is_full));
        let gone = oldest.and_then(|oldest| table.prove(oldest));
        drop(table);
        if let Some((from, end)) = gone {
            // Who has ended by itself does not hear it.
            let _ = end.send(());
            self.close(Closed::Unproven, from);
        }
        let standing = Standing(Arc::new(Seat {
            places: self.clone(),
            id,
            from,
            since: Instant::now(),
            proven: AtomicBool::new(false),
            served: AtomicU64::new(0),
            _place: place,
        }));
        let silence = Box::pin(tokio::time::sleep(bounds.silence));
        Some((standing, Unproven { handshakes, ended, silence }))
    }

    /// Counts it; the log has it, at most a line every 10 s.
    pub(crate) fn close(&self, why: Closed, from: IpAddr) {
        self.0.closed[why as usize].fetch_add(1, Ordering::Relaxed);
        let mut table = self.table();
        let now = Instant::now();
        table.untold += 1;
        if table.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY) {
            let closed = std::mem::take(&mut table.untold);
            table.told = Some(now);
            drop(table);
            let why = match why {
                Closed::Address => "its address has as many connections as one may have",
                Closed::Unproven => "it had proven nothing, and there were too many of those",
                Closed::Silent => "it had proven nothing for too long",
            };
            tracing::warn!(%from, closed, "a connection was closed: {why}");
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// It is none of those who have proven nothing any more.
    fn prove(&mut self, id: u64) -> Option<(IpAddr, oneshot::Sender<()>)> {
        let (from, end) = self.unproven.remove(&id)?;
        if let Some(address) = self.addresses.get_mut(&from) {
            address.unproven.remove(&id);
        }
        Some((from, end))
    }
}

/// What a connection has proven so far; its place is free again when the last copy is gone.
#[derive(Clone, Debug)]
pub(crate) struct Standing(Arc<Seat>);

#[derive(Debug)]
struct Seat {
    places: Places,
    id: u64,
    from: IpAddr,
    since: Instant,
    proven: AtomicBool,
    /// When it was last answered, in milliseconds after it came.
    served: AtomicU64,
    _place: OwnedSemaphorePermit,
}

impl Standing {
    pub(crate) fn prove(&self) {
        if !self.0.proven.swap(true, Ordering::AcqRel) {
            drop(self.0.places.table().prove(self.0.id));
        }
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.0.proven.load(Ordering::Acquire)
    }

    pub(crate) fn serve(&self) {
        let since = u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.served.fetch_max(since, Ordering::Relaxed);
    }

    /// When it has been silent for too long, from what is known now.
    pub(crate) fn silent_at(&self) -> Instant {
        self.0.since + Duration::from_millis(self.0.served.load(Ordering::Relaxed)) + self.0.places.0.bounds.silence
    }

    pub(crate) fn close_silent(&self) {
        self.0.places.close(Closed::Silent, self.0.from);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.places.table();
        let end = table.prove(self.id);
        if let Some(address) = table.addresses.get_mut(&self.from) {
            address.connections -= 1;
            if address.connections == 0 {
                table.addresses.remove(&self.from);
            }
        }
        drop(table);
        drop(end);
    }
}

/// What ends a connection that has proven nothing.
#[derive(Debug)]
pub(crate) struct Unproven {
    /// The turns of its address.
    pub(crate) handshakes: Arc<Semaphore>,
    /// Its place goes to a newer one.
    pub(crate) ended: oneshot::Receiver<()>,
    pub(crate) silence: std::pin::Pin<Box<tokio::time::Sleep>>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { all: 8, of_address: 4, unproven: 5, unproven_of_address: 3, silence: Duration::from_secs(30) };

    async fn seat(places: &Places, from: u8) -> Option<(Standing, Unproven)> {
        places.seat(IpAddr::from([10, 0, 0, from]), places.free().await.unwrap())
    }

    #[tokio::test]
    async fn the_oldest_without_proof_goes_for_a_newer_one_and_who_has_proven_itself_stays() {
        let places = Places::new(BOUNDS);
        let (node, mut of_node) = seat(&places, 1).await.unwrap();
        node.prove();
        assert!(of_node.ended.try_recv().is_err(), "nobody ends it");
        let mut strangers = Vec::new();
        for _ in 0..3 {
            strangers.push(seat(&places, 1).await.unwrap());
        }
        assert_eq!(places.open(), (4, 3));
        // One more of an address than it may have, proven or not.
        assert!(seat(&places, 1).await.is_none());
        drop(node);
        let newer = seat(&places, 1).await.unwrap();
        assert!(strangers[0].1.ended.try_recv().is_ok() && strangers[1].1.ended.try_recv().is_err());
        // One more in all: also from elsewhere.
        let elsewhere = [seat(&places, 2).await.unwrap(), seat(&places, 3).await.unwrap()];
        assert_eq!(places.open().1, 5);
        let last = seat(&places, 4).await.unwrap();
        assert!(strangers[1].1.ended.try_recv().is_ok() && strangers[2].1.ended.try_recv().is_err());
        assert_eq!(Closed::ALL.map(|why| places.closed(why)), [1, 2, 0]);
        drop((strangers, newer, elsewhere, last));
        assert_eq!(places.open(), (0, 0));
        assert!(places.table().addresses.is_empty(), "nothing is remembered of who has gone");
    }

    #[test]
    fn places_leave_descriptors_for_files() {
        let few = Bounds::of_descriptors(1_024);
        assert_eq!((few.all, few.of_address, few.unproven, few.unproven_of_address), (768, 576, 384, 192));
        let many = Bounds::of_descriptors(usize::MAX);
        assert_eq!((many.all, many.unproven, many.unproven_of_address), (65_536, 4_096, 1_024));
        assert_eq!(Bounds::of_descriptors(0).all, 16);
    }
}
