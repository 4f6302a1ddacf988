//! One coordinator from start to end: takes its folder and ports, opens its stores, serves, and stops in order.
//!
//! ```text
//!  lock ─> ports ─> stores ─> raft ─> serve (gRPC, HTTP, leader loop) ─> ready ─> begin or join a cluster
//!  stop:  hand leadership over ─> end streams, close ports ─> stop raft ─> close stores
//! ```
//!
//! What may be wrong with the machine (folder in use, port taken, damaged store) is told before anything is served.

mod certificate;
mod descriptors;
mod identify;
mod join;
mod sealing;
mod serve;

use crate::config::{Config, ConfigError, Start};
use crate::export::{Export, Follower};
use crate::gate::{Gate, Quota};
use crate::raft::{Addresses, BootstrapError, Node, OpenError, Role};
use crate::{api, leader, observe};
use daemon::Shutdown;
use daemon::files::{LockError, lock_folder, write_atomically};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use stores::blobs::{BlobError, BlobStore};
use stores::streams::{Flusher, FlusherOptions, StreamError, StreamLimits, StreamStore};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// For another voter to take over before this one stops.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
/// For open calls to be answered; the other coordinators' streams end only with Raft.
const CALLS_TIMEOUT: Duration = Duration::from_millis(300);
/// For connections to end after that.
const PORTS_TIMEOUT: Duration = Duration::from_secs(2);
/// For the stream flusher to let go of its store.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the data folder: where this life listens, a line each for gRPC and HTTP.
const ADDRESSES: &str = "addresses";

/// Why a coordinator did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A port.
    #[error("cannot listen for {what} on {address}")]
    Bind {
        /// gRPC or HTTP.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file in the data folder, or a thread.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The object store outside cannot be used.
    #[error("--object-store: {0}")]
    ObjectStore(String),
    /// The blob store.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The stream store.
    #[error(transparent)]
    Streams(#[from] StreamError),
    /// Raft and its store.
    #[error(transparent)]
    Raft(#[from] OpenError),
    /// Its certificate or keys.
    #[error(transparent)]
    Identity(#[from] identity::FilesError),
    /// Its certificate or keys could not be made.
    #[error(transparent)]
    Tls(#[from] identity::TlsError),
    /// It was not admitted to the cluster that it is to join.
    #[error(transparent)]
    Join(#[from] identity::JoinError),
    /// It belongs to no cluster, and is told of none.
    #[error("this coordinator belongs to no cluster: start it with --bootstrap, or with --join and a join token")]
    Nowhere,
    /// A new cluster was not begun.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// It cannot go on: what is on its disk decides at the next start, and the others go on without it.
    #[error("this coordinator cannot go on: {0}")]
    Failed(String),
}

/// Runs a coordinator until `shutdown` is asked for, or until it cannot go on.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    config.validate()?;
    crate::export::check(&config)?;
    crate::archive::check(&config)?;
    let _lock = lock_folder(&config.data_dir)?;
    let file = config.data_dir.join(ADDRESSES);
    // What an earlier life left must not be taken for this one's.
    match std::fs::remove_file(&file) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", &file, source)),
        _ => {}
    }
    let ports = Ports::bind(&config).await?;
    let identified = tokio::select! {
        identified = identify::identify(&config, &ports.advertised) => identified?,
        () = shutdown.requested() => return Ok(()),
    };
    let running = Running::start(&config, ports, identified).await?;
    let result = running.until(&config, &shutdown).await;
    running.stop().await;
    // Only a hint for scripts; a failure to remove it is no failure of the stop.
    let _ = std::fs::remove_file(&file);
    result
}

fn io(what: &str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { what: format!("{what} {}", path.display()), source }
}

/// The bound listeners and what the others dial.
struct Ports {
    grpc: TcpListener,
    http: TcpListener,
    advertised: Addresses,
}

impl Ports {
    async fn bind(config: &Config) -> Result<Self, Error> {
        let (grpc, grpc_at) = bind("gRPC", config.listen).await?;
        let (http, http_at) = bind("HTTP", config.http_listen).await?;
        let grpc_text = config.advertise.clone().unwrap_or_else(|| grpc_at.to_string());
        // Probes and Prometheus come to the same host as gRPC.
        let host = grpc_text.rsplit_once(':').map_or("", |(host, _)| host);
        let http_text =
            if http_at.ip().is_unspecified() { format!("{host}:{}", http_at.port()) } else { http_at.to_string() };
        let advertised = Addresses { grpc: grpc_text, http: http_text };
        Ok(Self { grpc, http, advertised })
    }
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let wrap = |source| Error::Bind { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(wrap)?;
    let bound = listener.local_addr().map_err(wrap)?;
    Ok((listener, bound))
}

/// Everything that runs.
struct Running {
    node: Node,
    identified: identify::Identified,
    advertised: Addresses,
    /// Ends streams, ports and loops; apart from the caller's, for leadership is handed over before it.
    ending: Shutdown,
    served: serve::Served,
    fatal: tokio::sync::Mutex<mpsc::Receiver<String>>,
    flusher: JoinHandle<()>,
}

impl Running {
    async fn start(config: &Config, ports: Ports, identified: identify::Identified) -> Result<Self, Error> {
        let Stores { blobs, streams } = Stores::open(&config.data_dir).await?;
        let archive = crate::archive::Archive::open(config).await.map_err(Error::ObjectStore)?;
        let started = Flusher::start(streams.clone(), FlusherOptions::default());
        let (flusher, thread) = started.map_err(|source| Error::Io { what: "start a thread".into(), source })?;
        let dialer = identity::Dialer::node(identified.node.clone());
        let raft = crate::raft::Config {
            timers: config.timers,
            ..crate::raft::Config::new(config.id, &config.data_dir, dialer.clone())
        };
        let node = Node::open(raft).await?;
        let ending = Shutdown::new();
        let (fatal, failures) = mpsc::channel(1);
        let (handle, mailbox) = leader::Handle::new(config.scheduling());
        let observed = Arc::new(observe::Observed::new());
        tokio::spawn(observe::follow_leaders(node.clone(), observed.clone()));
        let context = api::Context {
            node: node.clone(),
            leader: handle.clone(),
            observed: observed.clone(),
            blobs,
            archive: archive.clone(),
            streams,
            flusher,
            lease: config.lease,
            shutdown: ending.clone(),
            peers: api::replicate::Peers::new(dialer, config.keep_unnamed_files_for),
            gathers: api::gather::Gathers::default(),
            searches: api::search::Searches::default(),
            gate: Gate::new(node.clone(), observed, Quota::of(config.user_calls_per_second)),
            mends: api::keep::Mends::default(),
            lineage_checks: api::lineage::Turns::default(),
            lineage_walks: api::lineage::Turns::default(),
            signer: api::Signer::new(identified.folder.clone(), config.certificate_life),
            sealer: api::Sealer::new(identified.folder.clone()),
            fatal,
        };
        let loop_config = leader::LeaderConfig { lease: config.lease, policy: config.scheduling() };
        let acts = leader::Leader::new(node.clone(), loop_config, context.observed.clone(), handle, mailbox);
        if let Some(news) = Export::open(config, &context.observed) {
            let follower = Follower::new(node.clone(), context.streams.clone(), context.observed.clone(), news);
            tokio::spawn(follower.run(ending.clone()));
        }
        tokio::spawn(acts.run(ending.clone()));
        tokio::spawn(api::keep::Keeper::new(context.clone(), config.retention()).run());
        tokio::spawn(api::notary::Notary::new(context.clone(), config.sign_audit_every).run());
        if let Some(archive) = archive {
            tokio::spawn(api::archive::Archivist::new(context.clone(), archive).run());
        }
        tokio::spawn(api::collect::Collector::new(context.clone(), config.keep_unnamed_files_for).run());
        let Ports { grpc, http, advertised } = ports;
        let connections = identity::Places::of_descriptors(descriptors::raise());
        let place = observe::Place { data_dir: config.data_dir.clone(), own: identified.node.clone(), connections };
        let served = serve::serve(context, place, grpc, http, &ending)?;
        tokio::spawn(certificate::keep(identified.clone(), node.clone(), config.certificate_life, ending.clone()));
        Ok(Self {
            node,
            identified,
            advertised,
            ending,
            served,
            fatal: tokio::sync::Mutex::new(failures),
            flusher: thread,
        })
    }

    /// Returns when this coordinator is to end.
    async fn until(&self, config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
        self.announce(config)?;
        let cluster = self.find_cluster(config);
        let mut fatal = self.fatal.lock().await;
        tokio::select! {
            () = shutdown.requested() => Ok(()),
            Err(error) = cluster => Err(error),
            Some(why) = fatal.recv() => Err(Error::Failed(why)),
            why = self.node.failed() => Err(Error::Failed(why)),
            why = self.served.failed() => Err(Error::Failed(why)),
        }
    }

    fn announce(&self, config: &Config) -> Result<(), Error> {
        let file = config.data_dir.join(ADDRESSES);
        let Addresses { grpc, http } = &self.advertised;
        let text = format!("grpc={}\nhttp={}\n", self.served.grpc, self.served.http);
        write_atomically(&file, text.as_bytes()).map_err(|source| io("write", &file, source))?;
        tracing::info!(coordinator_id = %config.id, grpc = %self.served.grpc, http = %self.served.http, "ready");
        let status = self.node.status().borrow().clone();
        let known = status.members.iter().find(|member| member.id == config.id);
        if let Some(known) = known.filter(|known| known.addresses != self.advertised) {
            tracing::warn!(%grpc, %http, known_as = %known.addresses.grpc, "the others look for it elsewhere: its \
                address changed; remove it with `muster cluster remove`, then add it with a new id and folder");
        }
        Ok(())
    }

    /// Begins or joins a cluster where there is none yet; never returns otherwise.
    async fn find_cluster(&self, config: &Config) -> Result<(), Error> {
        match &config.start {
            Start::Bootstrap => {
                if self.node.is_pristine() {
                    let cluster = self.identified.node.material().subject.cluster();
                    self.node.bootstrap([(config.id, self.advertised.clone())].into(), cluster).await?;
                    tracing::info!(cluster_id = %cluster, "a new cluster");
                }
                // Also after a start that was cut short in between.
                identify::found(&self.identified, &self.node).await;
            }
            Start::Join(addresses) => {
                let dialer = identity::Dialer::node(self.identified.node.clone());
                join::join(&self.node, &self.advertised, &dialer, addresses).await;
            }
            Start::Wait => {}
        }
        std::future::pending().await
    }

    /// In this order: nobody misses the leader, readers go elsewhere, then the disks are let go of.
    async fn stop(mut self) {
        tracing::info!("stopping");
        if self.node.status().borrow().role == Role::Leader {
            match tokio::time::timeout(HAND_OVER_TIMEOUT, self.node.transfer_leadership(None)).await {
                Ok(Ok(leader)) => tracing::info!(%leader, "handed leadership over"),
                Ok(Err(error)) => tracing::info!(%error, "leadership was not handed over"),
                Err(_) => tracing::info!("leadership was not handed over in time"),
            }
        }
        self.ending.start();
        self.served.ended(CALLS_TIMEOUT).await;
        tokio::join!(self.node.shutdown(), self.served.ended(PORTS_TIMEOUT));
        self.served.abort();
        drop(self.node);
        // A thread, not a blocking task: the runtime must not wait for it when it hangs.
        let (told, closed) = tokio::sync::oneshot::channel();
        let flusher = self.flusher;
        std::thread::spawn(move || {
            let _ = flusher.join();
            let _ = told.send(());
        });
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::warn!("the streams did not close within {CLOSE_TIMEOUT:?}");
        }
        tracing::info!("stopped");
    }
}

/// What lies beside the Raft store.
struct Stores {
    blobs: BlobStore,
    streams: StreamStore,
}

impl Stores {
    async fn open(folder: &Path) -> Result<Self, Error> {
        let (blobs, streams) = (folder.join("blobs"), folder.join("streams"));
        let opened = tokio::task::spawn_blocking(move || {
            let blobs = BlobStore::open(&blobs)?;
            let streams = StreamStore::open(&streams, StreamLimits::default())?;
            Ok(Self { blobs, streams })
        });
        opened.await.unwrap_or_else(|error| Err(Error::Failed(error.to_string())))
    }
}
