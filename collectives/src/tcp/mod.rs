//! The TCP backend: chooses the algorithm, runs it on the engine and turns the way it ended into an error that all
//! ranks share.

mod control;
mod engine;
mod frame;
mod handshake;
mod line;
mod pairwise;
mod patience;
mod positions;
mod rendezvous;
pub(crate) mod ring;
mod seal;
mod socket;
mod stop;
mod streams;
mod sum;
mod swap;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
mod transfer;
pub mod tunnel;
mod verdict;
mod wide;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use half::bf16;

use self::control::Control;
use self::engine::Engine;
use self::frame::{Abort, Report};
pub(crate) use self::frame::{Call, Header, Operation, Position};
pub use self::frame::{frame, frames};
use self::pairwise::Storage;
use self::patience::Patience;
pub use self::positions::Guard;
pub(crate) use self::positions::meets;
use self::ring::Ring;
pub(crate) use self::stop::{Stop, UNALIGNED};
use self::streams::STREAMS_MAX;
use self::transfer::{Direct, Lane, Transfer};
pub(crate) use self::verdict::odd_one;
use crate::buffer::{Buf, BufMut, DType, Op};
use crate::communicator::{self, Algorithm, Options, Rendezvous, Wire, arguments};
use crate::error::Error;
use crate::plan::Method;
use crate::recorder::{Entry, Recorder, State};
use crate::reduce::Fold;
use crate::stall;

/// Up to this size every rank gets everybody's whole buffer and sums by itself: one latency step instead of two.
pub(crate) const SMALL_BYTES_MAX: usize = 32 << 10;
/// Above this many ranks `Auto` takes the ring: so many senders at once would overflow the switch's queue to one
/// receiver.
pub(crate) const DIRECT_RANKS_MAX: usize = 16;

/// A group connected by TCP.
#[derive(Debug)]
pub(crate) struct Communicator {
    rank: usize,
    world: usize,
    token: u64,
    algorithm: Algorithm,
    wire: Wire,
    encrypted: bool,
    op_timeout: Duration,
    rendezvous_timeout: Duration,
    control: Control,
    engine: Mutex<Engine>,
    /// What goes over the wire where that is not what the caller has; it only grows, so its pages stay warm.
    narrow: Mutex<Vec<bf16>>,
}

impl Communicator {
    pub(crate) fn connect(rendezvous: Rendezvous, options: Options) -> Result<Self, Error> {
        let (rank, world) = (rendezvous.rank, rendezvous.peers.len());
        let streams = options.streams.clamp(1, STREAMS_MAX);
        let (token, op_timeout, rendezvous_timeout) = (rendezvous.token, rendezvous.op_timeout, rendezvous.timeout);
        let mesh = rendezvous::connect(rendezvous, streams, options.encrypt)?;
        Ok(Communicator {
            rank: rank as usize,
            world,
            token,
            algorithm: options.algorithm,
            wire: options.wire,
            encrypted: mesh.control.iter().flatten().all(|peer| peer.sealer.is_some()),
            op_timeout,
            rendezvous_timeout,
            control: Control::new(rank, mesh.control)?,
            engine: Mutex::new(Engine::new(mesh.wires, op_timeout, Patience::of(1, 0))),
            narrow: Mutex::new(Vec::new()),
        })
    }

    /// Number and call of the next operation, for a transport that moves the bytes another way.
    pub(crate) fn begin(&self, call: Call) -> Result<Header, Error> {
        if let Some(cause) = self.control.cause() {
            return Err(cause.as_aborted());
        }
        let sequence = self.recorder().begin();
        Ok(Header { token: self.token, sequence, from: self.rank as u32, call })
    }

    /// A wait that is told of if it gets long.
    pub(crate) fn stall(&self) -> stall::Wait<'_> {
        stall::Wait::new(self.control.stalls.get())
    }

    /// The record of this rank's operations.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.control.recorder
    }

    /// Hears, without waiting, whether anything has ended the group since.
    pub(crate) fn attend(&self, mine: &Header) -> Result<(), Stop> {
        self.engine().attend(&self.control, mine.sequence)
    }

    /// As [`Communicator::attend`], and whether a rank that this operation does not hear now has said that it is elsewhere.
    pub(crate) fn overhear(&self, mine: &Header) -> Result<(), Stop> {
        self.engine().overhear(mine)
    }

    /// Moves a part of an operation that has begun: sums in `range` of every rank of the chain, one per host, in its order.
    pub(crate) fn chain(
        &self,
        mine: &Header,
        link: ring::Link,
        part: ring::Part<'_, '_>,
        fold: Fold,
    ) -> Result<(), Error> {
        let mut engine = self.engine();
        let mut scratch = std::mem::take(&mut engine.scratch);
        let bytes = as_bytes(&mut scratch, ring::CHUNK_BYTES);
        let mut transfer = Ring::new(part, bytes, fold, link);
        let result = engine.drive(&self.control, mine, &mut transfer);
        engine.scratch = scratch;
        result.map_err(|stop| self.stop(mine, mine.call.to_string(), stop))
    }

    /// Rank and world size.
    pub(crate) fn position(&self) -> (u32, u32) {
        (self.rank as u32, self.world as u32)
    }

    /// Says how many ranks share this host and how many processors they have between them: whether to wait awake.
    pub(crate) fn shares_host(&self, ranks: usize, processors: usize) {
        self.engine().patience = Patience::of(ranks, processors);
    }

    /// What is said before the first operation.
    pub(crate) fn introduction(&self) -> Header {
        let call = call(Operation::Barrier, Op::Sum, DType::I32, 0);
        Header { token: self.token, sequence: 0, from: self.rank as u32, call }
    }

    /// Longest silence within an operation.
    pub(crate) fn op_timeout(&self) -> Duration {
        self.op_timeout
    }

    /// Everybody's `mine`, in rank order, before the first operation; not counted among them. Who is late has until the
    /// rendezvous would have ended.
    pub(crate) fn introduce(&self, mine: &[i64]) -> Result<Vec<i64>, Error> {
        let mut all = vec![0i64; mine.len() * self.world];
        let call = call(Operation::AllGather, Op::Sum, DType::I64, mine.len());
        let header = Header { call, ..self.introduction() };
        let (source, destination) = (Buf::from(mine).as_bytes(), BufMut::from(&mut all).into_bytes());
        let each = source.len();
        let part = |rank: usize| rank * each..(rank + 1) * each;
        destination[part(self.rank)].copy_from_slice(source);
        let lanes = self.lanes(|rank| Lane { partner: true, send: 0..each, receive: part(rank) });
        let mut transfer = Direct { source, destination, lanes };
        let mut engine = self.engine();
        engine.timeout = self.op_timeout.max(self.rendezvous_timeout);
        let result = engine.drive(&self.control, &header, &mut transfer);
        engine.timeout = self.op_timeout;
        drop(engine);
        result.map_err(|stop| self.stop(&header, "rendezvous".to_owned(), stop))?;
        Ok(all)
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one operation. `transfer` is built from the scratch, `finish` runs on it after success.
    fn run(&self, engine: &mut Engine, call: Call, method: Method, transfer: &mut dyn Transfer) -> Result<(), Error> {
        let mine = self.begin(call)?;
        self.recorder().record(call, method, State::Entered);
        let result = engine.drive(&self.control, &mine, transfer);
        self.recorder().now(if result.is_ok() { State::Done } else { State::Failed });
        result.map_err(|stop| self.stop(&mine, call.to_string(), stop))
    }

    pub(crate) fn fold(&self, op: Op, dtype: DType) -> Fold {
        let divisor = (op == Op::Avg).then_some(self.world as u32);
        Fold { dtype, op, contributions: self.world, position: self.rank, divisor }
    }

    /// One lane per rank; the function is not asked for the own.
    fn lanes(&self, lane: impl Fn(usize) -> Lane) -> Vec<Lane> {
        (0..self.world).map(|rank| if rank == self.rank { Lane::default() } else { lane(rank) }).collect()
    }

    /// Everybody's `part(rank)` of everybody's source into the scratch, then one fold into `destination`, which holds
    /// the own contribution. `part` names, by receiver, what is sent.
    fn exchange_and_fold(
        &self,
        call: Call,
        source: Option<&[u8]>,
        destination: &mut [u8],
        part: impl Fn(usize) -> std::ops::Range<usize>,
    ) -> Result<(), Error> {
        let mut engine = self.engine();
        let (stride, length) = (destination.len().next_multiple_of(64), destination.len());
        let mut scratch = std::mem::take(&mut engine.scratch);
        let bytes = as_bytes(&mut scratch, stride * (self.world - 1));
        let lanes = self.lanes(|rank| {
            let start = (rank - usize::from(rank > self.rank)) * stride;
            Lane { partner: true, send: part(rank), receive: start..start + length }
        });
        let mut transfer = Direct { source: source.unwrap_or(destination), destination: &mut *bytes, lanes };
        let result = self.run(&mut engine, call, Method::Flat, &mut transfer);
        let folded = result.is_err() || self.fold(call.op, call.dtype).run_strided(destination, bytes, stride);
        engine.scratch = scratch;
        result.and_then(|()| {
            debug_assert!(folded, "scratch is aligned and long enough by construction");
            if folded { Ok(()) } else { Err(self.broken(call)) }
        })
    }
}

impl communicator::Communicator for Communicator {
    fn rank(&self) -> u32 {
        self.rank as u32
    }

    fn world_size(&self) -> u32 {
        self.world as u32
    }

    fn backend(&self) -> &'static str {
        "tcp"
    }

    fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    fn all_reduce(&self, buf: BufMut<'_>, op: Op) -> Result<(), Error> {
        let dtype = buf.dtype();
        self.sum(buf.into_bytes(), dtype, op)
    }

    fn reduce_scatter(&self, src: Buf<'_>, dst: BufMut<'_>, op: Op) -> Result<(), Error> {
        arguments::reduce_scatter(self.world as u32, &src, &dst)?;
        let call = call(Operation::ReduceScatter, op, dst.dtype(), dst.len());
        let (source, own) = (src.as_bytes(), dst.into_bytes());
        let each = own.len();
        let part = |rank: usize| rank * each..(rank + 1) * each;
        own.copy_from_slice(&source[part(self.rank)]);
        if each <= SMALL_BYTES_MAX {
            return self.exchange_and_fold(call, Some(source), own, part);
        }
        self.pairwise(call, Storage::Split { source, own }, (0..self.world).map(part).collect())
    }

    fn all_gather(&self, src: Buf<'_>, dst: BufMut<'_>) -> Result<(), Error> {
        arguments::all_gather(self.world as u32, &src, &dst)?;
        let call = call(Operation::AllGather, Op::Sum, src.dtype(), src.len());
        let (source, destination) = (src.as_bytes(), dst.into_bytes());
        let each = source.len();
        let part = |rank: usize| rank * each..(rank + 1) * each;
        destination[part(self.rank)].copy_from_slice(source);
        let lanes = self.lanes(|rank| Lane { partner: true, send: 0..each, receive: part(rank) });
        self.run(&mut self.engine(), call, Method::Flat, &mut Direct { source, destination, lanes })
    }

    fn broadcast(&self, buf: BufMut<'_>, root: u32) -> Result<(), Error> {
        arguments::root(self.world as u32, root)?;
        let call = Call { root, ..call(Operation::Broadcast, Op::Sum, buf.dtype(), buf.len()) };
        let bytes = buf.into_bytes();
        let (whole, root) = (0..bytes.len(), root as usize);
        let mut transfer = if root == self.rank {
            let lanes = self.lanes(|_| Lane { partner: true, send: whole.clone(), receive: 0..0 });
            Direct { source: bytes, destination: &mut [], lanes }
        } else {
            let receive = |rank| if rank == root { whole.clone() } else { 0..0 };
            let lanes = self.lanes(|rank| Lane { partner: rank == root, send: 0..0, receive: receive(rank) });
            Direct { source: &[], destination: bytes, lanes }
        };
        self.run(&mut self.engine(), call, Method::Flat, &mut transfer)
    }

    fn barrier(&self) -> Result<(), Error> {
        let call = call(Operation::Barrier, Op::Sum, DType::I32, 0);
        let lanes = self.lanes(|_| Lane { partner: true, ..Lane::default() });
        let mut transfer = Direct { source: &[], destination: &mut [], lanes };
        self.run(&mut self.engine(), call, Method::Flat, &mut transfer)
    }

    fn check(&self) -> Result<(), Error> {
        if let Some(cause) = self.control.cause() {
            return Err(cause.as_aborted());
        }
        // Whoever holds the engine is inside an operation and looks for itself.
        let Ok(mut engine) = self.engine.try_lock() else { return Ok(()) };
        let (sequence, operation) = self.control.current();
        let call = call(Operation::Barrier, Op::Sum, DType::I32, 0);
        let mine = Header { token: self.token, sequence, from: self.rank as u32, call };
        engine.look(&self.control, sequence).map_err(|stop| self.stop(&mine, operation, stop))
    }

    fn guard(&self) -> Option<Guard<'_>> {
        Some(Guard::new(self))
    }

    fn watch_stalls(&self, after: Duration, tell: stall::Tell) {
        let _ = self.control.stalls.set(stall::Watch { after, tell });
    }

    fn history(&self) -> Vec<Entry> {
        self.recorder().entries()
    }

    fn abort(&self, cause: &str) {
        self.abort_blaming(Some(self.rank as u32), cause);
    }

    fn abort_blaming(&self, culprit: Option<u32>, cause: &str) {
        let (sequence, operation) = self.control.current();
        self.control.abort(Abort { culprit, sequence, operation, cause: cause.to_owned(), disagreement: None });
    }
}

impl Drop for Communicator {
    /// Says goodbye, so that peers still inside the last operation do not take the end of the connection for a death.
    fn drop(&mut self) {
        if self.control.cause().is_none() {
            self.control.tell(&Report::Goodbye { sequence: self.control.current().0 });
        }
    }
}

/// What a rank calls where only these four matter.
pub(crate) fn call(operation: Operation, op: Op, dtype: DType, count: usize) -> Call {
    Call { operation, op, dtype, count: count as u64, root: 0, ring: false }
}

/// Scratch of at least `bytes`, aligned for every element type; it only grows, so its pages stay warm.
fn as_bytes(scratch: &mut Vec<u64>, bytes: usize) -> &mut [u8] {
    let words = bytes.div_ceil(8);
    if scratch.len() < words {
        scratch.resize(words, 0);
    }
    // SAFETY: `u64` has no padding and every bit pattern is a value; the view covers the vector's initialised words.
    unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast(), scratch.len() * 8) }
}
