//! The one interface of all backends, and how a rank comes by it; holds no transport of its own.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{Buf, BufMut, Op};
use crate::error::Error;
use crate::recorder::Entry;
use crate::shared::CommBuf;
use crate::stall::Tell;
use crate::{local, shm, tcp};

/// Collective operations over a fixed group of ranks.
///
/// Every rank must make the same calls in the same order; one thread at a time (others wait).
pub trait Communicator: Send + Sync {
    /// This rank's index, from 0.
    fn rank(&self) -> u32;
    /// Number of ranks.
    fn world_size(&self) -> u32;
    /// `tcp`, `shm`, `nccl` or `local`.
    fn backend(&self) -> &'static str;
    /// Whether all that it sends to other machines is encrypted. False where it sends nothing.
    fn is_encrypted(&self) -> bool {
        false
    }
    /// Zeroed memory for operations; where the backend can, memory that they need not copy.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where there is not as much.
    fn alloc(&self, bytes: usize) -> Result<CommBuf, Error> {
        Ok(CommBuf::private(bytes))
    }
    /// Combines the buffers of all ranks into every rank's buffer, in place. Bytes sent per rank: 2 S (n-1)/n for large
    /// buffers, in two steps; see the crate's table.
    ///
    /// # Errors
    /// Of this and all operations: [`Error::Aborted`] with the culprit where a rank died or aborted,
    /// [`Error::Mismatch`], [`Error::Timeout`], [`Error::StaleFrame`]; then the buffers are unspecified and the
    /// communicator is over. [`Error::Invalid`] for arguments that do not fit together; then nothing has happened.
    fn all_reduce(&self, buf: BufMut<'_>, op: Op) -> Result<(), Error>;
    /// Combines `src` of all ranks and leaves the rank's own n-th part in `dst`; `src.len() == world * dst.len()`.
    fn reduce_scatter(&self, src: Buf<'_>, dst: BufMut<'_>, op: Op) -> Result<(), Error>;
    /// Puts the `src` of all ranks one after another into `dst`; `dst.len() == world * src.len()`.
    fn all_gather(&self, src: Buf<'_>, dst: BufMut<'_>) -> Result<(), Error>;
    /// Copies the buffer of rank `root` into every rank's.
    fn broadcast(&self, buf: BufMut<'_>, root: u32) -> Result<(), Error>;
    /// Returns when every rank has entered it.
    fn barrier(&self) -> Result<(), Error>;
    /// Says without waiting whether the group is still whole: for use between operations, as each operation looks
    /// itself.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
    /// The last 1,000 operations of this rank, oldest first: from any thread, also while one is under way and after the
    /// end. Empty where the backend keeps none.
    fn history(&self) -> Vec<Entry> {
        Vec::new()
    }
    /// From now on tells of each operation in which nothing moves for as long as `after`, and when it goes on again. Only
    /// the first call counts; a backend that cannot tell who is behind ignores it.
    fn watch_stalls(&self, _after: Duration, _tell: Tell) {}
    /// For a backend that this group watches over.
    #[doc(hidden)]
    fn guard(&self) -> Option<tcp::Guard<'_>> {
        None
    }
    /// Ends this communicator on all ranks, with this rank as culprit. From any thread; only the first call counts.
    fn abort(&self, cause: &str);
    /// As [`Communicator::abort`], where another rank is to blame, or with `None` no single one.
    fn abort_blaming(&self, culprit: Option<u32>, cause: &str);
}

/// Where a rank listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its index.
    pub rank: u32,
    /// Its data listener.
    pub address: SocketAddr,
}

/// What a rank needs to find the others.
pub struct Rendezvous {
    /// This rank's index.
    pub rank: u32,
    /// All ranks in rank order, this one included.
    pub peers: Vec<Peer>,
    /// Bound already, by whoever published the address; `None` only in a world of one.
    pub listener: Option<TcpListener>,
    /// Fencing token of the attempt.
    pub token: u64,
    /// Known to the ranks of this attempt alone.
    pub secret: [u8; 32],
    /// For all ranks to be connected.
    pub timeout: Duration,
    /// Longest time without a byte from anybody inside one operation.
    pub op_timeout: Duration,
}

impl fmt::Debug for Rendezvous {
    /// Without the secret, which must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Rendezvous");
        text.field("rank", &self.rank).field("peers", &self.peers).field("token", &self.token);
        text.field("timeout", &self.timeout).field("op_timeout", &self.op_timeout).finish_non_exhaustive()
    }
}

/// How large buffers are summed over TCP. All ranks must choose the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Direct up to 16 ranks, ring above.
    #[default]
    Auto,
    /// Everybody with everybody: two latency steps (one between two ranks), every element summed by its owner.
    Direct,
    /// Along a chain in rank order and round again: two neighbours only, 2n latency steps. 16-bit floats go direct.
    Ring,
}

/// What 32-bit floats are on their way between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Wire {
    /// Themselves.
    #[default]
    Native,
    /// `bf16` in sums and averages of 64 KiB and more: half the bytes. Each rank's contribution is rounded to `bf16`, they are
    /// summed in `f32` in rank order, and the sum is rounded once. Smaller buffers hold counts and losses, and stay exact.
    Bf16,
}

/// What seldom needs another value than the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Algorithm for large buffers over TCP.
    pub algorithm: Algorithm,
    /// Stays with TCP where all ranks are on one host; one rank that does takes all with it.
    pub tcp_only: bool,
    /// Data sockets between two ranks, up to 8; 0 means one. All ranks must choose the same.
    pub streams: u8,
    /// Sets ranks apart that the system would take for those of one host: ranks share memory only with those of the same label.
    pub host_label: u64,
    /// What 32-bit floats are on their way over TCP. All ranks must choose the same.
    pub wire: Wire,
    /// Encrypts what goes over TCP. One of the two ranks of a connection that does is enough. Ranks of one host that share memory
    /// send little over TCP; a group over NCCL is not encrypted.
    pub encrypt: bool,
}

/// Connects to all peers over TCP, and through shared memory where all turn out to be on one host; a world of one gets a communicator that does nothing.
///
/// # Errors
/// [`Error::Rendezvous`] with the missing ranks, [`Error::Handshake`] where this rank's token is out of date,
/// [`Error::Invalid`] for a peer list that makes no sense.
pub fn connect(rendezvous: Rendezvous) -> Result<Arc<dyn Communicator>, Error> {
    connect_with(rendezvous, Options::default())
}

/// As [`connect`], with options.
pub fn connect_with(rendezvous: Rendezvous, options: Options) -> Result<Arc<dyn Communicator>, Error> {
    check(&rendezvous)?;
    if rendezvous.peers.len() == 1 {
        return Ok(Arc::new(local::Communicator::new()));
    }
    shm::join(tcp::Communicator::connect(rendezvous, options)?, !options.tcp_only, options.host_label)
}

fn check(rendezvous: &Rendezvous) -> Result<(), Error> {
    let world = rendezvous.peers.len();
    if rendezvous.rank as usize >= world {
        return Err(Error::Invalid { reason: format!("rank {} in a list of {world} peers", rendezvous.rank) });
    }
    if let Some((at, peer)) = rendezvous.peers.iter().enumerate().find(|(at, peer)| *at != peer.rank as usize) {
        return Err(Error::Invalid { reason: format!("peer list has rank {} at place {at}", peer.rank) });
    }
    if world > 1 && rendezvous.listener.is_none() {
        return Err(Error::Invalid { reason: format!("no listener in a world of {world}") });
    }
    Ok(())
}

/// Lengths and types that the arguments of one call must have; shared by all backends.
pub(crate) mod arguments {
    use super::{Buf, BufMut, Error};

    fn same_type(src: &Buf<'_>, dst: &BufMut<'_>) -> Result<(), Error> {
        if src.dtype() == dst.dtype() {
            return Ok(());
        }
        Err(Error::Invalid { reason: format!("source of {} into destination of {}", src.dtype(), dst.dtype()) })
    }

    pub(crate) fn reduce_scatter(world: u32, src: &Buf<'_>, dst: &BufMut<'_>) -> Result<(), Error> {
        same_type(src, dst)?;
        whole(world, src.len(), dst.len())
    }

    pub(crate) fn all_gather(world: u32, src: &Buf<'_>, dst: &BufMut<'_>) -> Result<(), Error> {
        same_type(src, dst)?;
        whole(world, dst.len(), src.len())
    }

    /// One rank's part against all ranks' together. Device buffers have their types checked by the compiler.
    pub(crate) fn whole(world: u32, whole: usize, part: usize) -> Result<(), Error> {
        if part.checked_mul(world as usize) == Some(whole) {
            return Ok(());
        }
        Err(Error::Invalid { reason: format!("{whole} elements are not {world} times {part}") })
    }

    pub(crate) fn root(world: u32, root: u32) -> Result<(), Error> {
        if root < world {
            return Ok(());
        }
        Err(Error::Invalid { reason: format!("root {root} in a world of {world}") })
    }
}
