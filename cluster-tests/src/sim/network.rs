//! The network between coordinators: byte streams as TCP gives them, with delays, cuts one way or both, and resets by a crash.
//!
//! A cut loses nothing of a stream: it holds it up, as TCP does, until the cut is healed or somebody gives up. Who is beyond a
//! cut does not learn of the other's death either.

use super::World;
use super::chance::Chance;
use coordinator::raft::Links;
use daemon::Shutdown;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tonic::transport::{Channel, Endpoint};

/// Bytes on their way in one direction of one connection.
const BUFFER: usize = 256 << 10;

struct Listener {
    accept: mpsc::UnboundedSender<DuplexStream>,
    life: Shutdown,
}

struct Inner {
    chance: Chance,
    listeners: BTreeMap<u64, Listener>,
    cut: BTreeSet<(u64, u64)>,
    /// Of a thousand calls of clients and workers so many are lost, each way.
    loss: u64,
    delay_us_max: u64,
}

/// All links. Coordinators are numbered from 1; clients and workers from 101.
pub struct Network {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Network {
    /// Whole and fast, but that some calls are lost.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            chance: Chance::new(seed, "network"),
            listeners: BTreeMap::new(),
            cut: BTreeSet::new(),
            loss: 20,
            delay_us_max: 2_000,
        };
        Self { inner: Mutex::new(inner), changed: watch::channel(0).0 }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address under which a coordinator is dialled.
    pub fn address(id: u64) -> String {
        format!("sim-{id}:7070")
    }

    /// Takes connections for `id` from now on, until `life` ends.
    pub fn listen(&self, id: u64, life: Shutdown) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (accept, accepted) = mpsc::unbounded_channel();
        self.lock().listeners.insert(id, Listener { accept, life });
        accepted
    }

    /// Nobody listens for `id` any more.
    pub fn deafen(&self, id: u64) {
        self.lock().listeners.remove(&id);
    }

    /// Cuts exactly these directions.
    pub fn cut(&self, directions: BTreeSet<(u64, u64)>) {
        self.lock().cut = directions;
        self.changed.send_modify(|version| *version += 1);
    }

    /// What is cut now.
    pub fn cuts(&self) -> BTreeSet<(u64, u64)> {
        self.lock().cut.clone()
    }

    /// From now on.
    pub fn weather(&self, loss: u64, delay_us_max: u64) {
        let mut inner = self.lock();
        (inner.loss, inner.delay_us_max) = (loss, delay_us_max);
    }

    fn delay(&self) -> Duration {
        let mut inner = self.lock();
        let most = inner.delay_us_max;
        // A few are much later.
        let scale = if inner.chance.thousandths(20) { 20 } else { 1 };
        Duration::from_micros(inner.chance.between(100, 100 + most) * scale)
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.lock().cut.contains(&(from, to))
    }

    /// One message of a client or worker, or its answer. False when it was lost on the way.
    pub async fn hop(&self, from: u64, to: u64) -> bool {
        tokio::time::sleep(self.delay()).await;
        let mut inner = self.lock();
        let loss = inner.loss;
        !inner.cut.contains(&(from, to)) && !inner.chance.thousandths(loss)
    }

    /// The next message of a stream of a worker: late, held up by a cut, and never lost.
    pub async fn passage(&self, from: u64, to: u64) {
        tokio::time::sleep(self.delay()).await;
        self.until_open(from, to).await;
    }

    async fn until_open(&self, from: u64, to: u64) {
        let mut changed = self.changed.subscribe();
        while self.is_cut(from, to) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    async fn dial(self: Arc<Self>, from: u64, own: Shutdown, to: u64) -> io::Result<DuplexStream> {
        tokio::time::sleep(self.delay()).await;
        self.until_open(from, to).await;
        tokio::time::sleep(self.delay()).await;
        self.until_open(to, from).await;
        let (near, near_end) = tokio::io::duplex(BUFFER);
        let (far, far_end) = tokio::io::duplex(BUFFER);
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        if own.started() {
            return Err(refused());
        }
        let other = {
            let inner = self.lock();
            let listener = inner.listeners.get(&to).ok_or_else(refused)?;
            listener.accept.send(far).map_err(|_| refused())?;
            listener.life.clone()
        };
        let (near_read, near_write) = tokio::io::split(near_end);
        let (far_read, far_write) = tokio::io::split(far_end);
        let lives = (own.clone(), other.clone());
        tokio::spawn(self.clone().pump((from, to), near_read, far_write, lives.clone()));
        tokio::spawn(self.pump((to, from), far_read, near_write, (lives.1, lives.0)));
        Ok(near)
    }

    /// Carries bytes one way until an end is gone; the other end then learns of it, once the way is open.
    async fn pump<R, W>(self: Arc<Self>, (from, to): (u64, u64), mut read: R, mut write: W, lives: (Shutdown, Shutdown))
    where
        R: AsyncReadExt + Unpin,
        W: AsyncWriteExt + Unpin,
    {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = tokio::select! {
                biased;
                () = lives.0.requested() => break,
                () = lives.1.requested() => return,
                count = read.read(&mut bytes) => count.unwrap_or(0),
            };
            if count == 0 {
                break;
            }
            let arrives = async {
                tokio::time::sleep(self.delay()).await;
                self.until_open(from, to).await;
            };
            tokio::select! {
                biased;
                () = lives.1.requested() => return,
                () = arrives => {}
            }
            if write.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
        self.until_open(from, to).await;
        let _ = write.shutdown().await;
    }
}

/// How coordinator `from` reaches the others.
pub struct SimulatedLinks {
    /// Of which this is a part.
    pub world: Arc<World>,
    /// Which coordinator.
    pub from: u64,
    /// Ends with its life.
    pub life: Shutdown,
}

impl std::fmt::Debug for SimulatedLinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimulatedLinks({})", self.from)
    }
}

fn number(host: &str) -> Option<u64> {
    host.strip_prefix("sim-")?.split(':').next()?.parse().ok()
}

impl Links for SimulatedLinks {
    fn channel(&self, endpoint: &Endpoint) -> Channel {
        let (network, from, life) = (self.world.network.clone(), self.from, self.life.clone());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: http::Uri| {
            let (network, life) = (network.clone(), life.clone());
            async move {
                let to = uri.host().and_then(number).ok_or(io::ErrorKind::InvalidInput)?;
                network.dial(from, life, to).await.map(TokioIo::new)
            }
        }))
    }

    fn knock<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let (network, from, life) = (self.world.network.clone(), self.from, self.life.clone());
        async move {
            let to = number(address).ok_or(io::ErrorKind::InvalidInput)?;
            network.dial(from, life, to).await.map(drop)
        }
        .boxed()
    }
}
