//! Sums on two levels, for gangs of several ranks on each of several hosts: what crosses the network is each host's sum and not each
//! rank's.
//!
//! ```text
//! each rank copies its vector to where the ranks of its host read it
//! rank l of each host owns part l:  host 0 ─▶ host 1 ─▶ .. ─▶ the last ─▶ host 0 ─▶ ..     partial sums down, sums round
//! each rank copies the sums of the others' parts out
//! ```
//! A host adds its ranks one by one to the partial sum that it gets, so the result is the serial one in rank order (COLL-2), as
//! long as the ranks of a host are neighbours. Every host must have as many. Bytes sent per host: 2 S, against 2 S l (n-1)/n of l ranks a host
//! that each exchange with all; latency steps: 2 (hosts - 1) and three waits within the host.
//!
//! Vectors pass window by window, so that a rank needs no second copy of a large one. Operations other than large sums, and
//! 16-bit floats, whose partial sums would be rounded at every host, go over TCP as if there were no hosts.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::RANKS_MAX;
use super::arena::{self, Arena};
use super::exchange::{Counters, Exchange, Offsets, read};
use super::group::{self, Group, Turn};
use crate::buffer::{Buf, BufMut, DType, Op};
use crate::communicator;
use crate::error::Error;
use crate::plan::{self, Method};
use crate::recorder::{Entry, State};
use crate::reduce::Fold;
use crate::shared::CommBuf;
use crate::stall::Tell;
use crate::tcp::ring::{Link, Part};
use crate::tcp::{self, Call, Operation, call};

/// Of the vector, staged at a time.
pub(crate) const WINDOW_BYTES: usize = 8 << 20;
/// Smaller sums take fewer steps over TCP alone.
pub(crate) const BYTES_MIN: usize = 64 << 10;
/// First-level cache.
const TILE_BYTES: usize = 16 << 10;

/// Ranks of one host, as part of a gang on several.
#[derive(Debug)]
pub(super) struct Communicator {
    tcp: tcp::Communicator,
    group: Group,
    arena: Arc<Arena>,
    /// Where this rank's window is staged.
    window: arena::Range,
    link: Link,
    counters: Mutex<Counters>,
}

/// How the hosts of a gang are laid out, by each rank's host as a number; `None` where sums on two levels would not be those in rank
/// order, or where there is but one level. Gives the number of ranks a host.
pub(super) fn layout(hosts: &[usize]) -> Option<usize> {
    let each = hosts.iter().take_while(|host| **host == hosts[0]).count();
    let whole = each > 1 && each < hosts.len() && hosts.len().is_multiple_of(each) && each <= RANKS_MAX as usize;
    let mut blocks = hosts.chunks(each.max(1));
    let even = blocks.clone().all(|block| block.iter().all(|host| *host == block[0]));
    // Each host has one block: a second one elsewhere would break the order.
    let apart =
        blocks.by_ref().map(|block| block[0]).collect::<std::collections::BTreeSet<_>>().len() * each == hosts.len();
    (whole && even && apart).then_some(each)
}

/// Where a rank stands in the chain of its part.
pub(super) fn link(rank: usize, world: usize, each: usize) -> Link {
    let previous = (rank + world - each) % world;
    Link { place: rank / each, length: world / each, previous, next: (rank + each) % world }
}

/// What lies where during one window.
struct Window<'a> {
    /// By rank of the host: where it begins in that rank's segment.
    starts: [usize; RANKS_MAX as usize],
    bytes: &'a mut [u8],
    /// True where the caller's buffer is what the others read.
    in_place: bool,
}

impl Communicator {
    pub(super) fn new(
        tcp: tcp::Communicator,
        group: Group,
        arena: Arc<Arena>,
        window: arena::Range,
        each: usize,
    ) -> Self {
        let (rank, world) = tcp.position();
        let link = link(rank as usize, world as usize, each);
        Communicator { tcp, group, arena, window, link, counters: Mutex::new(Counters::default()) }
    }

    fn sum(&self, bytes: &mut [u8], dtype: DType, op: Op) -> Result<(), Error> {
        let call = Call { ring: true, ..call(Operation::AllReduce, op, dtype, bytes.len() / dtype.size()) };
        if !group::fits(&call) {
            return Err(Error::Invalid { reason: format!("{call} is too large") });
        }
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = self.tcp.begin(call)?;
        self.tcp.recorder().record(call, Method::Hosts, State::Entered);
        let turn = Turn { tcp: &self.tcp, mine, method: Method::Hosts };
        let mut exchange = Exchange { group: &self.group, turn, counters: &mut counters };
        let result = self.windows(&mut exchange, bytes, dtype, op);
        self.tcp.recorder().now(if result.is_ok() { State::Done } else { State::Failed });
        result
    }

    fn windows(&self, exchange: &mut Exchange<'_>, bytes: &mut [u8], dtype: DType, op: Op) -> Result<(), Error> {
        let (fold, offset) = (self.tcp.fold(op, dtype), self.arena.offset(bytes));
        let whole = bytes.len();
        if offset.is_none() {
            self.stage(exchange, &bytes[..whole.min(WINDOW_BYTES)]);
        }
        exchange.enter(&[offset.map_or(0, |offset| offset as u64), self.window.start() as u64, 0, 0, 0, 0])?;
        let offsets = exchange.offsets(0, whole, dtype.size())?;
        let staged = exchange.offsets(1, WINDOW_BYTES, dtype.size())?;
        for (number, bytes) in bytes.chunks_mut(WINDOW_BYTES).enumerate() {
            if number > 0 {
                if offset.is_none() {
                    self.stage(exchange, bytes);
                }
                exchange.step()?;
            }
            let starts = starts(&offsets, &staged, number * WINDOW_BYTES);
            let mut window = Window { starts, bytes, in_place: offset.is_some() };
            self.own_part(exchange, &mut window, &fold)?;
            exchange.step()?;
            self.take_sums(&mut window, dtype.size());
            // What is staged may be overwritten, and the caller's buffer be used again, once all have taken their sums.
            exchange.step()?;
        }
        Ok(())
    }

    /// Copies a window to where the ranks of this host read it.
    fn stage(&self, exchange: &mut Exchange<'_>, bytes: &[u8]) {
        let place = self.group.map(self.group.rank).at(self.window.start(), bytes.len());
        // SAFETY: the own segment; what was there has been read before the step last taken.
        unsafe { exchange.counters.stores.copy(bytes, place) };
    }

    /// Sums the own part over this host and all others, where the ranks of this host read it.
    fn own_part(&self, exchange: &Exchange<'_>, window: &mut Window<'_>, fold: &Fold) -> Result<(), Error> {
        let (rank, local) = (self.group.rank, self.group.world());
        let range = part(window.bytes.len(), rank, local, fold.dtype.size());
        let (start, starts) = (range.start, window.starts);
        let buffer = if window.in_place {
            &mut window.bytes[range.clone()]
        } else {
            let place = self.group.map(rank).at(starts[rank] + start, range.len());
            // SAFETY: the own segment; this part is read and written by this rank alone until the next step.
            unsafe { std::slice::from_raw_parts_mut(place, range.len()) }
        };
        let of = |other: usize, within: Range<usize>| {
            let place = self.group.map(other).at(starts[other] + start + within.start, within.len());
            // SAFETY: the part of another rank's vector that this rank owns, complete before the wait just passed, until the
            // next step.
            unsafe { read(place, within.len()) }
        };
        if self.link.place == 0 {
            let fold = Fold { contributions: local, position: rank, divisor: None, ..*fold };
            for at in (0..buffer.len()).step_by(TILE_BYTES) {
                let tile = at..buffer.len().min(at + TILE_BYTES);
                exchange.sound(fold.run(&mut buffer[tile.clone()], &|other| of(other, tile.clone())))?;
            }
        }
        let fold = Fold { contributions: local + 1, position: rank + 1, ..*fold };
        self.tcp.chain(&exchange.turn.mine, self.link, Part { buffer, beside: &of }, fold)
    }

    /// Copies the sums out that the other ranks of this host own.
    fn take_sums(&self, window: &mut Window<'_>, size: usize) {
        let (rank, local) = (self.group.rank, self.group.world());
        for owner in (0..local).filter(|owner| *owner != rank || !window.in_place) {
            let range = part(window.bytes.len(), owner, local, size);
            let place = self.group.map(owner).at(window.starts[owner] + range.start, range.len());
            // SAFETY: sums that their owner wrote before the step just taken, and leaves alone until the next.
            super::copy::take(unsafe { read(place, range.len()) }, &mut window.bytes[range]);
        }
    }
}

/// Where each rank's window begins: in its buffer, or where it was staged.
fn starts(offsets: &Offsets, staged: &Offsets, within: usize) -> [usize; RANKS_MAX as usize] {
    let mut starts = [0; RANKS_MAX as usize];
    for (start, (offset, staged)) in starts.iter_mut().zip(offsets.iter().zip(staged)) {
        *start = offset.map_or_else(|| staged.unwrap_or_default(), |offset| offset + within);
    }
    starts
}

/// The part of a window that rank `owner` of a host sums.
fn part(whole: usize, owner: usize, local: usize, size: usize) -> Range<usize> {
    let each = whole.div_ceil(local).next_multiple_of(64.max(size));
    whole.min(owner * each)..whole.min((owner + 1) * each)
}

impl communicator::Communicator for Communicator {
    fn rank(&self) -> u32 {
        self.tcp.position().0
    }

    fn world_size(&self) -> u32 {
        self.tcp.position().1
    }

    fn backend(&self) -> &'static str {
        "tcp"
    }

    fn is_encrypted(&self) -> bool {
        self.tcp.is_encrypted()
    }

    fn alloc(&self, bytes: usize) -> Result<CommBuf, Error> {
        Ok(CommBuf::shared(self.arena.take(bytes)?, bytes))
    }

    fn all_reduce(&self, buf: BufMut<'_>, op: Op) -> Result<(), Error> {
        let dtype = buf.dtype();
        let bytes = (buf.len() * dtype.size()) as u64;
        if !plan::on_two_levels(self.group.world() as u64, bytes) || dtype.size() == 2 {
            return self.tcp.all_reduce(buf, op);
        }
        self.sum(buf.into_bytes(), dtype, op)
    }

    fn reduce_scatter(&self, src: Buf<'_>, dst: BufMut<'_>, op: Op) -> Result<(), Error> {
        self.tcp.reduce_scatter(src, dst, op)
    }

    fn all_gather(&self, src: Buf<'_>, dst: BufMut<'_>) -> Result<(), Error> {
        self.tcp.all_gather(src, dst)
    }

    fn broadcast(&self, buf: BufMut<'_>, root: u32) -> Result<(), Error> {
        self.tcp.broadcast(buf, root)
    }

    fn barrier(&self) -> Result<(), Error> {
        self.tcp.barrier()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_levels_need_as_many_neighbours_on_each_host() {
        assert_eq!(layout(&[0, 0, 1, 1]), Some(2));
        assert_eq!(layout(&[4, 4, 4, 0, 0, 0, 2, 2, 2]), Some(3));
        for hosts in [&[0, 0][..], &[0, 1], &[0, 0, 1], &[0, 1, 0, 1], &[0, 0, 1, 1, 0, 0], &[0, 0, 1, 2]] {
            assert_eq!(layout(hosts), None, "{hosts:?}");
        }
    }

    #[test]
    fn parts_cover_the_window_and_begin_at_lines() {
        for (whole, local) in [(0, 2), (65_536, 3), (1_000_004, 4), (100, 64)] {
            let parts: Vec<_> = (0..local).map(|owner| part(whole, owner, local, 4)).collect();
            assert!(
                parts
                    .windows(2)
                    .all(|pair| pair[0].end == pair[1].start && pair[0].start.is_multiple_of(64) || pair[1].is_empty())
            );
            assert_eq!((parts[0].start, parts[local - 1].end), (0, whole));
        }
    }
}
