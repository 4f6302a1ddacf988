//! The shared-memory backend: for groups whose ranks are all on one host. Bytes go through memory that all of them map;
//! control stays with the TCP group beneath, so errors, blame and goodbyes are the same (COLL-4 to COLL-6).
//!
//! Results are bit for bit those of TCP: both fold in rank order (COLL-2), so a gang may change transports between two
//! attempts.

pub(crate) mod arena;
mod copy;
pub(crate) mod exchange;
mod group;
mod hosts;
mod place;
mod segment;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::arena::Arena;
use self::exchange::{Counters, Exchange};
use self::group::{Group, Turn};
use self::place::Place;
use self::segment::{Mapping, Segment};
use crate::buffer::{Buf, BufMut, DType, Op};
use crate::communicator::{self, arguments};
use crate::error::Error;
use crate::plan::{self, Method, Transport};
use crate::recorder::{Entry, State};
use crate::shared::CommBuf;
use crate::stall::Tell;
use crate::tcp::{self, Call, Operation, call};

pub(crate) use self::hosts::{BYTES_MIN as HOSTS_BYTES_MIN, WINDOW_BYTES};
pub(crate) use self::segment::SLOT_BYTES;

/// More ranks on one host than this go over TCP: each maps the memory of all.
pub(crate) const RANKS_MAX: u32 = 64;
/// Addresses, not memory, that an arena takes at most.
const ARENA_BYTES_MAX: usize = 64 << 30;

/// A group that shares memory.
#[derive(Debug)]
pub(crate) struct Communicator {
    tcp: tcp::Communicator,
    group: Group,
    arena: Arc<Arena>,
    counters: Mutex<Counters>,
}

/// Shares memory where all ranks are on this host and all of `wanted` are true, and in each host where several hosts have as many
/// ranks; otherwise stays with TCP. All ranks decide alike.
pub(crate) fn join(
    tcp: tcp::Communicator,
    wanted: bool,
    label: u64,
) -> Result<Arc<dyn communicator::Communicator>, Error> {
    Ok(match share(tcp, wanted, label)? {
        Joined::Sharing(group) => Arc::new(group),
        Joined::Hosts(group) => Arc::new(group),
        Joined::Apart(tcp) => Arc::new(tcp),
    })
}

/// What became of a group.
enum Joined {
    Sharing(Communicator),
    Hosts(hosts::Communicator),
    Apart(tcp::Communicator),
}

fn share(tcp: tcp::Communicator, wanted: bool, label: u64) -> Result<Joined, Error> {
    let (rank, world) = tcp.position();
    let encrypted = communicator::Communicator::is_encrypted(&tcp);
    let nonce = nonce();
    let segment = nonce.filter(|_| wanted).and_then(|nonce| create(nonce, rank));
    let here = Place::here(segment.as_ref(), nonce.unwrap_or_default(), label);
    let places: Vec<Place> = tcp.introduce(&here.encode())?.as_chunks().0.iter().map(Place::decode).collect();
    let local: Vec<Place> = places.iter().filter(|place| place.same_host(&here)).cloned().collect();
    tcp.shares_host(local.len(), Place::processors(&local));
    let each = together(&places);
    let first = each.map_or(0, |each| rank as usize / each * each);
    let peers = each.and_then(|each| open(places.get(first..first + each)?, first, rank));
    // Room for a window, where there are several hosts: taken before the others hear that it is there.
    let own = segment.map(Arc::new);
    let arena = own.as_ref().map(|own| Arc::new(Arena::new(Arc::clone(own))));
    let several = each.is_some_and(|each| each < world as usize);
    let window = arena.as_ref().filter(|_| several).and_then(|arena| arena.take(hosts::WINDOW_BYTES).ok());
    let ready = peers.is_some() && (window.is_some() || !several);
    // One that cannot open another's memory takes all to TCP.
    let opened = tcp.introduce(&[i64::from(ready)])?.iter().all(|opened| *opened == 1);
    let (Some(own), Some(arena), Some(peers), Some(each), true) = (own, arena, peers, each, opened) else {
        let reason = if each.is_some() {
            "memory could not be mapped"
        } else {
            "not all ranks are on this host, nor as many on each, or not wanted"
        };
        tracing::info!(rank, world, transport = "tcp", encrypted, reason, "collectives connected");
        return Ok(Joined::Apart(tcp));
    };
    let spins = each <= Place::processors(&local);
    let group = Group { first, rank: rank as usize - first, own, peers, spins };
    if let Some(window) = window {
        let hosts = world as usize / each;
        let transport = "shared memory and tcp";
        tracing::info!(rank, world, transport, encrypted, hosts, spins, "collectives connected");
        return Ok(Joined::Hosts(hosts::Communicator::new(tcp, group, arena, window, each)));
    }
    let mut counters = Counters::default();
    let mut distance = None;
    if spins {
        let turn = Turn { tcp: &tcp, mine: tcp.introduction(), method: Method::Line };
        distance = Some(group.probe(&turn, &mut counters)?);
    }
    let store = counters.stores.way();
    tcp.recorder().goes_over(Transport::SharedMemory);
    tracing::info!(rank, world, transport = "shared memory", spins, ?distance, ?store, "collectives connected");
    Ok(Joined::Sharing(Communicator { tcp, group, arena, counters: Mutex::new(counters) }))
}

/// How many neighbours share each host's memory: all, or the ranks of one of several hosts. `None` where TCP is to be used.
fn together(places: &[Place]) -> Option<usize> {
    if !places.iter().all(|place| place.shares) {
        return None;
    }
    let host = |place: &Place| places.iter().position(|other| other.same_host(place)).unwrap_or_default();
    let hosts: Vec<usize> = places.iter().map(host).collect();
    if hosts.iter().all(|host| *host == 0) {
        return (places.len() <= RANKS_MAX as usize).then_some(places.len());
    }
    hosts::layout(&hosts)
}

fn nonce() -> Option<[u64; 2]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    let number = u128::from_le_bytes(bytes);
    Some([number as u64, (number >> 64) as u64])
}

fn create(nonce: [u64; 2], rank: u32) -> Option<Segment> {
    let memory = rustix::system::sysinfo();
    let total = (memory.totalram as usize).saturating_mul(memory.mem_unit as usize);
    // Addresses may be limited: the operations need no arena.
    let made = Segment::create(total.min(ARENA_BYTES_MAX), nonce).or_else(|_| Segment::create(0, nonce));
    made.inspect_err(|error| tracing::warn!(rank, %error, "no shared memory")).ok()
}

/// `places` are those of this host, the first of which is rank `first`.
fn open(places: &[Place], first: usize, rank: u32) -> Option<Vec<Option<Mapping>>> {
    let mut peers = Vec::with_capacity(places.len());
    for (other, place) in (first as u32..).zip(places) {
        if other == rank {
            peers.push(None);
            continue;
        }
        match Mapping::of_peer(place.process, place.descriptor, place.length, place.nonce) {
            Ok(mapping) => peers.push(Some(mapping)),
            Err(error) => {
                tracing::warn!(rank, other, %error, "memory of a rank on this host cannot be mapped");
                return None;
            }
        }
    }
    Some(peers)
}

impl Communicator {
    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(
        &self,
        call: Call,
        method: Method,
        run: impl FnOnce(&mut Exchange<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !group::fits(&call) {
            return Err(Error::Invalid { reason: format!("{call} is too large") });
        }
        let mut counters = self.counters();
        let mine = self.tcp.begin(call)?;
        let turn = Turn { tcp: &self.tcp, mine, method };
        let result = run(&mut Exchange { group: &self.group, turn, counters: &mut counters });
        self.tcp.recorder().record(call, method, if result.is_ok() { State::Done } else { State::Failed });
        result
    }
}

impl communicator::Communicator for Communicator {
    fn rank(&self) -> u32 {
        self.group.rank as u32
    }

    fn world_size(&self) -> u32 {
        self.group.world() as u32
    }

    fn backend(&self) -> &'static str {
        "shm"
    }

    fn alloc(&self, bytes: usize) -> Result<CommBuf, Error> {
        Ok(CommBuf::shared(self.arena.take(bytes)?, bytes))
    }

    fn all_reduce(&self, buf: BufMut<'_>, op: Op) -> Result<(), Error> {
        let (dtype, count) = (buf.dtype(), buf.len());
        let bytes = buf.into_bytes();
        let offset = self.arena.offset(bytes);
        let fold = self.tcp.fold(op, dtype);
        let method = plan::plan(self.world_size(), bytes.len() as u64, Transport::SharedMemory).method;
        let result = self.run(call(Operation::AllReduce, op, dtype, count), method, |exchange| {
            exchange.all_reduce(method, bytes, &fold, offset)
        });
        // Only when the group is over: in one that goes on the others would sum what this rank no longer sees. Asked only after an
        // error: the answer costs a system call, more than all else of a small sum.
        if let (Err(_), Some(offset)) = (&result, offset)
            && self.tcp.check().is_err()
        {
            self.arena.detach(offset);
        }
        result
    }

    fn reduce_scatter(&self, src: Buf<'_>, dst: BufMut<'_>, op: Op) -> Result<(), Error> {
        arguments::reduce_scatter(self.world_size(), &src, &dst)?;
        let (dtype, count) = (dst.dtype(), dst.len());
        let (source, own) = (src.as_bytes(), dst.into_bytes());
        let (each, fold) = (own.len(), self.tcp.fold(op, dtype));
        own.copy_from_slice(&source[self.group.rank * each..][..each]);
        self.run(call(Operation::ReduceScatter, op, dtype, count), Method::Staged, |exchange| {
            exchange.reduce_scatter(source, own, &fold)
        })
    }

    fn all_gather(&self, src: Buf<'_>, dst: BufMut<'_>) -> Result<(), Error> {
        arguments::all_gather(self.world_size(), &src, &dst)?;
        let (source, destination) = (src.as_bytes(), dst.into_bytes());
        let each = source.len();
        destination[self.group.rank * each..][..each].copy_from_slice(source);
        let call = call(Operation::AllGather, Op::Sum, src.dtype(), src.len());
        self.run(call, Method::Staged, |exchange| {
            exchange.spread(Some(source), each, |rank, range, part| {
                copy::take(part, &mut destination[rank * each..][range]);
            })
        })
    }

    fn broadcast(&self, buf: BufMut<'_>, root: u32) -> Result<(), Error> {
        arguments::root(self.world_size(), root)?;
        let call = Call { root, ..call(Operation::Broadcast, Op::Sum, buf.dtype(), buf.len()) };
        let bytes = buf.into_bytes();
        let length = bytes.len();
        self.run(call, Method::Staged, |exchange| {
            if root as usize == exchange.group.rank {
                return exchange.spread(Some(bytes), length, |_, _, _| {});
            }
            exchange.spread(None, length, |rank, range, part| {
                if rank == root as usize {
                    copy::take(part, &mut bytes[range]);
                }
            })
        })
    }

    fn barrier(&self) -> Result<(), Error> {
        let call = call(Operation::Barrier, Op::Sum, DType::I32, 0);
        self.run(call, Method::Line, |exchange| exchange.enter(&[0; 6]))
    }

    fn check(&self) -> Result<(), Error> {
        self.tcp.check()
    }

    fn guard(&self) -> Option<tcp::Guard<'_>> {
        self.tcp.guard()
    }

    fn watch_stalls(&self, after: Duration, tell: Tell) {
        self.tcp.watch_stalls(after, tell);
    }

    fn history(&self) -> Vec<Entry> {
        self.tcp.history()
    }

    fn abort(&self, cause: &str) {
        self.tcp.abort(cause);
    }

    fn abort_blaming(&self, culprit: Option<u32>, cause: &str) {
        self.tcp.abort_blaming(culprit, cause);
    }
}
