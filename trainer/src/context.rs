//! Where a rank finds itself: the environment and files that a worker hands it, or none of it outside Muster.
//!
//! Read once, here; descriptors are checked to be what they should before they are used.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use collectives::{Communicator, Options, Peer, Rendezvous, nccl};
use serde::Deserialize;

use crate::config::{self, Config};
use crate::error::Error;
use crate::files;
use crate::metrics::Metrics;
use crate::progress::Progress;

/// Larger than the manifest of 65,536 ranks.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// After so long without a byte a collective operation counts as stalled, where the environment does not say otherwise:
/// longer than a rank takes to write a checkpoint, far below the operations' time limit.
const STALL_AFTER: Duration = Duration::from_secs(30);

/// All that a rank is given besides its configuration.
pub(crate) struct Context {
    pub(crate) communicator: Arc<dyn Communicator>,
    pub(crate) metrics: Metrics,
    pub(crate) progress: Progress,
    /// Fencing token of the attempt; 0 outside a job.
    pub(crate) token: u64,
    /// Where checkpoints are written.
    pub(crate) checkpoint_folder: Option<PathBuf>,
    /// The checkpoint to go on from.
    pub(crate) resume_from: Option<PathBuf>,
    /// Where rank 0 writes the finished model.
    pub(crate) output: Option<PathBuf>,
}

/// The part of an attempt's manifest that a trainer needs; further fields are for others.
#[derive(Debug, Deserialize)]
struct Manifest {
    token: u64,
    world_size: u32,
    secret: String,
    peers: Vec<ManifestPeer>,
    #[serde(default)]
    backend: Backend,
    /// The worker wants what goes between machines encrypted.
    #[serde(default)]
    encrypt: bool,
}

/// What a member of a gang connects with.
struct Membership {
    rendezvous: Rendezvous,
    backend: Backend,
    encrypt: bool,
}

#[derive(Debug, Deserialize)]
struct ManifestPeer {
    rank: u32,
    data: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Backend {
    /// Sums on the processors, through shared memory on one host and over TCP else. Called `tcp` by daemons of before.
    #[default]
    #[serde(alias = "tcp")]
    Cpu,
    Nccl,
}

impl Context {
    /// Reads the environment and connects to all ranks.
    ///
    /// # Errors
    /// [`Error::Environment`] where it makes no sense, [`Error::Collective`] where ranks are missing.
    pub(crate) fn from_environment(config: &Config) -> Result<Self, Error> {
        let text = daemon::environment::text;
        let path = |name| text(name).map(PathBuf::from);
        let Membership { rendezvous, backend, encrypt } = match path("MUSTER_MANIFEST") {
            Some(manifest) => member(&manifest, config)?,
            None if text("MUSTER_RANK").is_some() => return Err(wrong("MUSTER_RANK is set without MUSTER_MANIFEST")),
            None => Membership { rendezvous: alone(), backend: Backend::Cpu, encrypt: false },
        };
        let (rank, token) = (rendezvous.rank, rendezvous.token);
        let mut progress = Progress::new(rank, Box::new(std::io::stdout()));
        let metrics = Metrics::new(number("MUSTER_METRICS_FD")?.map(metrics_file).transpose()?);
        let stall_after =
            number("MUSTER_STALL_AFTER_S")?.map_or(STALL_AFTER, |seconds: u64| Duration::from_secs(seconds.max(1)));
        let mut options = options(config);
        options.encrypt |= encrypt;
        let communicator = connect(rendezvous, options, backend, &mut progress)?;
        if let Some(tell) = metrics.stall_teller() {
            communicator.watch_stalls(stall_after, tell);
        }
        Ok(Context {
            communicator,
            metrics,
            progress,
            token,
            checkpoint_folder: path("MUSTER_CHECKPOINT_DIR").or_else(|| config.checkpoint.folder.clone()),
            resume_from: path("MUSTER_RESUME_FROM").or_else(|| config.checkpoint.resume_from.clone()),
            output: config.output.clone().or_else(|| path("MUSTER_OUTPUT_MODEL")),
        })
    }
}

fn member(path: &Path, config: &Config) -> Result<Membership, Error> {
    let bytes = files::read_bounded(path, MANIFEST_BYTES_MAX)?;
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| wrong(format!("MUSTER_MANIFEST ({}) is not a manifest: {error}", path.display())))?;
    let rank = number("MUSTER_RANK")?.ok_or_else(|| wrong("MUSTER_MANIFEST is set without MUSTER_RANK"))?;
    let Manifest { backend, encrypt, .. } = manifest;
    let listener = match number("MUSTER_LISTEN_FD")? {
        Some(descriptor) => Some(listener(descriptor)?),
        None => None,
    };
    if let Some(world) = number::<u32>("MUSTER_WORLD_SIZE")?
        && world != manifest.world_size
    {
        return Err(wrong(format!("MUSTER_WORLD_SIZE is {world}, but the manifest has {}", manifest.world_size)));
    }
    Ok(Membership { rendezvous: rendezvous(manifest, rank, listener, config)?, backend, encrypt })
}

fn rendezvous(
    manifest: Manifest,
    rank: u32,
    listener: Option<TcpListener>,
    config: &Config,
) -> Result<Rendezvous, Error> {
    let world = manifest.world_size;
    if rank >= world || manifest.peers.len() != world as usize {
        let peers = manifest.peers.len();
        return Err(wrong(format!("rank {rank} of a world of {world} in a manifest of {peers} peers")));
    }
    if world > 1 && listener.is_none() {
        return Err(wrong(format!("MUSTER_LISTEN_FD is not set in a world of {world}")));
    }
    let peer = |peer: ManifestPeer| Ok(Peer { rank: peer.rank, address: address(&peer.data)? });
    Ok(Rendezvous {
        rank,
        peers: manifest.peers.into_iter().map(peer).collect::<Result<_, Error>>()?,
        listener,
        token: manifest.token,
        secret: secret(&manifest.secret)?,
        timeout: Duration::from_secs(config.communication.rendezvous_timeout_s),
        op_timeout: Duration::from_secs(config.communication.operation_timeout_s),
    })
}

/// Outside Muster.
fn alone() -> Rendezvous {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    Rendezvous {
        rank: 0,
        peers: vec![Peer { rank: 0, address }],
        listener: None,
        token: 0,
        secret: [0; 32],
        timeout: Duration::ZERO,
        op_timeout: Duration::ZERO,
    }
}

/// How ranks talk, as the configuration says.
pub(crate) fn options(config: &Config) -> Options {
    let wire = match config.communication.wire {
        config::Wire::Native => collectives::Wire::Native,
        config::Wire::Bf16 => collectives::Wire::Bf16,
    };
    let config::Communication { streams, encrypt, .. } = config.communication;
    Options { streams, wire, encrypt, ..Options::default() }
}

/// On the processors; then over NCCL, where the manifest wants it and every rank has it. The first stays as NCCL's guard.
fn connect(
    rendezvous: Rendezvous,
    options: Options,
    backend: Backend,
    progress: &mut Progress,
) -> Result<Arc<dyn Communicator>, Error> {
    let hosts: BTreeSet<IpAddr> = rendezvous.peers.iter().map(|peer| peer.address.ip()).collect();
    if backend == Backend::Nccl && options.encrypt && hosts.len() > 1 {
        return Err(wrong(
            "gradients between machines are to be encrypted, and NCCL does not: ask for no GPU, for one instance, or for workers without \
             --encrypt-ranks",
        ));
    }
    let limits = nccl::Limits { op_timeout: rendezvous.op_timeout, ..nccl::Limits::default() };
    let cpu = collectives::connect_with(rendezvous, options)?;
    if backend == Backend::Cpu || cpu.world_size() == 1 {
        return Ok(cpu);
    }
    // The worker shows a rank exactly its own devices, so the first one is the right one.
    match nccl::connect_over_with(Arc::clone(&cpu), 0, limits) {
        Ok(device) => Ok(device),
        // All ranks get this together, and the processors work on.
        Err(error @ collectives::Error::Unavailable { .. }) => {
            progress.each(&format!("rank {}: {error}; gradients go over {}", cpu.rank(), cpu.backend()));
            Ok(cpu)
        }
        Err(error) => Err(error.into()),
    }
}

fn address(text: &str) -> Result<SocketAddr, Error> {
    let found = text.to_socket_addrs().map_err(|error| wrong(format!("peer address {text:?}: {error}")))?.next();
    found.ok_or_else(|| wrong(format!("peer address {text:?} has no number")))
}

fn secret(text: &str) -> Result<[u8; 32], Error> {
    // The same 64 hex digits as a content hash. The text itself is never shown.
    let hash = types::ContentHash::from_str(text).map_err(|_| wrong("the manifest's secret is not 64 hex digits"))?;
    Ok(hash.0)
}

fn number<T: FromStr>(name: &str) -> Result<Option<T>, Error> {
    let Some(text) = daemon::environment::text(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| wrong(format!("{name} is {text:?}, not a number")))
}

/// Takes over the inherited listener.
fn listener(descriptor: RawFd) -> Result<TcpListener, Error> {
    let owned = take_over("MUSTER_LISTEN_FD", descriptor)?;
    let listens = rustix::net::sockopt::socket_acceptconn(&owned)
        .map_err(|error| wrong(format!("MUSTER_LISTEN_FD {descriptor} is not a socket: {error}")))?;
    if !listens {
        return Err(wrong(format!("MUSTER_LISTEN_FD {descriptor} is a socket that does not listen")));
    }
    Ok(TcpListener::from(owned))
}

fn metrics_file(descriptor: RawFd) -> Result<File, Error> {
    let owned = take_over("MUSTER_METRICS_FD", descriptor)?;
    let mode = rustix::fs::fcntl_getfl(&owned)
        .map_err(|error| wrong(format!("MUSTER_METRICS_FD {descriptor} is no open file: {error}")))?;
    if mode & rustix::fs::OFlags::ACCMODE == rustix::fs::OFlags::RDONLY {
        return Err(wrong(format!("MUSTER_METRICS_FD {descriptor} is not open for writing")));
    }
    Ok(File::from(owned))
}

fn take_over(name: &str, descriptor: RawFd) -> Result<OwnedFd, Error> {
    if descriptor < 3 {
        return Err(wrong(format!("{name} is {descriptor}: 0, 1 and 2 are the standard streams")));
    }
    // SAFETY: only looked at with calls that report a descriptor that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    // Programs that a rank starts have no business with it.
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)
        .map_err(|error| wrong(format!("{name} is {descriptor}, which is not open: {error}")))?;
    // SAFETY: it is open, and by the contract with the worker this process's own from now on.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn wrong(reason: impl Into<String>) -> Error {
    Error::Environment { reason: reason.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    const MANIFEST: &str = r#"{"job":1,"attempt":1,"token":12,"world_size":2,"backend":"nccl",
        "secret":"0101010101010101010101010101010101010101010101010101010101010101",
        "peers":[{"rank":0,"worker":"w1","data":"127.0.0.1:40001","framework":"127.0.0.1:40002"},
                 {"rank":1,"worker":"w2","data":"[::1]:40003","framework":"127.0.0.1:40004"}]}"#;

    fn config() -> Config {
        Config::parse("test", "communication: {operation_timeout_s: 7}", &[]).unwrap()
    }

    #[test]
    fn a_manifest_is_read_into_a_rendezvous() {
        let manifest: Manifest = serde_json::from_str(MANIFEST).unwrap();
        assert_eq!(manifest.backend, Backend::Nccl);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let rendezvous = rendezvous(manifest, 1, Some(listener), &config()).unwrap();
        assert_eq!((rendezvous.rank, rendezvous.token, rendezvous.secret), (1, 12, [1; 32]));
        assert_eq!(rendezvous.peers[1].address, "[::1]:40003".parse().unwrap());
        assert_eq!(rendezvous.op_timeout, Duration::from_secs(7));
    }

    #[test]
    fn the_backend_of_daemons_of_before_is_understood() {
        let of = |name: &str| serde_json::from_str::<Manifest>(&MANIFEST.replace("nccl", name)).unwrap().backend;
        assert_eq!((of("cpu"), of("tcp"), of("nccl")), (Backend::Cpu, Backend::Cpu, Backend::Nccl));
    }

    #[test]
    fn manifests_that_make_no_sense_are_refused() {
        let refused = |change: fn(&mut Manifest), rank| {
            let mut manifest: Manifest = serde_json::from_str(MANIFEST).unwrap();
            change(&mut manifest);
            rendezvous(manifest, rank, Some(TcpListener::bind("127.0.0.1:0").unwrap()), &config())
                .unwrap_err()
                .to_string()
        };
        assert!(refused(|_| (), 2).contains("rank 2 of a world of 2"));
        assert!(refused(|manifest| manifest.world_size = 3, 0).contains("manifest of 2 peers"));
        assert!(refused(|manifest| manifest.secret = "ab".to_owned(), 0).contains("64 hex digits"));
        assert!(refused(|manifest| manifest.peers[1].data = "nowhere".to_owned(), 0).contains("nowhere"));
        let manifest: Manifest = serde_json::from_str(MANIFEST).unwrap();
        assert!(rendezvous(manifest, 0, None, &config()).unwrap_err().to_string().contains("MUSTER_LISTEN_FD"));
    }

    #[test]
    fn descriptors_are_checked_to_be_what_they_should() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listening.local_addr().unwrap();
        assert_eq!(listener(listening.into_raw_fd()).unwrap().local_addr().unwrap(), address);
        let refused = |result: Result<TcpListener, Error>| result.unwrap_err().to_string();
        assert!(refused(listener(1)).contains("standard streams"));
        assert!(refused(listener(1_000_000)).contains("not open"));
        let plain = tempfile::tempfile().unwrap();
        assert!(refused(listener(plain.into_raw_fd())).contains("not a socket"));
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(refused(listener(silent.into_raw_fd())).contains("does not listen"));
        let read_only = File::open("/proc/self/stat").unwrap();
        assert!(metrics_file(read_only.into_raw_fd()).unwrap_err().to_string().contains("not open for writing"));
    }
}
