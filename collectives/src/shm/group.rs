//! Arriving and waiting: flags without locks, a bounded spin where every rank has a processor, a futex otherwise.
//!
//! A rank that waits looks at the control sockets between two sleeps, so a peer that dies or aborts ends the wait
//! whatever it held: there is no lock that it could hold. A sleeper names the rank it waits for, and only that one
//! wakes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::thread::futex;

use super::copy::{Store, Stores};
use super::exchange::Counters;
use super::segment::{Line, Mapping, Segment};
use crate::buffer::{DType, Op};
use crate::error::Error;
use crate::plan::Method;
use crate::recorder::State;
use crate::stall::Behind;
use crate::tcp::{self, Call, Header, Operation, Stop};

/// Between two looks at the control sockets; bounds how late a death is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// How long the others may take to enter, so that the right one is blamed for a mismatch.
const CENSUS: Duration = Duration::from_millis(150);
/// A wake-up of another processor costs 26 us: sooner than this, sleeping loses.
const SPIN: Duration = Duration::from_micros(100);
/// With more ranks than processors whoever spins keeps the processor from the rank it waits for.
const YIELDS: u32 = 5;
/// Spins between two looks at the clock.
const SPINS: u32 = 64;
/// Round trips of the measurement at the start.
const PROBES: usize = 200;
/// Half a round trip of more than this: the processors are far apart.
const FAR: Duration = Duration::from_nanos(120);

/// One operation on one rank, as far as waits and errors need it.
pub(super) struct Turn<'a> {
    pub(super) tcp: &'a tcp::Communicator,
    pub(super) mine: Header,
    pub(super) method: Method,
}

impl Turn<'_> {
    /// What comes before the first operation is not recorded.
    fn record(&self, state: State) {
        if self.mine.sequence > 0 {
            self.tcp.recorder().record(self.mine.call, self.method, state);
        }
    }

    /// Ends the group.
    #[cold]
    pub(super) fn stop(&self, stop: Stop) -> Error {
        self.tcp.stop(&self.mine, self.mine.call.to_string(), stop)
    }
}

/// The ranks of one host, seen from one of them.
#[derive(Debug)]
pub(super) struct Group {
    /// The group's number of this host's first rank. Ranks are counted from it here, and told with it.
    pub(super) first: usize,
    pub(super) rank: usize,
    pub(super) own: Arc<Segment>,
    /// By rank; `None` for the own.
    pub(super) peers: Vec<Option<Mapping>>,
    pub(super) spins: bool,
}

impl Group {
    pub(super) fn world(&self) -> usize {
        self.peers.len()
    }

    /// The segment of a rank.
    pub(super) fn map(&self, rank: usize) -> &Mapping {
        self.peers[rank].as_ref().unwrap_or(&self.own.mapping)
    }

    fn others(&self) -> impl Iterator<Item = (usize, &Mapping)> {
        self.peers.iter().enumerate().filter_map(|(rank, peer)| Some((rank, peer.as_ref()?)))
    }

    /// The line in which `rank` entered an operation.
    pub(super) fn line(&self, rank: usize, sequence: u64) -> &Line {
        &self.map(rank).head().lines[(sequence & 1) as usize]
    }

    /// Says that this rank is in operation `mine`, waits until all are, and compares what they called.
    pub(super) fn enter(&self, turn: &Turn<'_>, payload: &[u64; 6]) -> Result<(), Error> {
        let mine = &turn.mine;
        let (sequence, call) = (mine.sequence, pack(&mine.call));
        let line = self.line(self.rank, sequence);
        line.call.store(call, Ordering::Relaxed);
        for (to, from) in line.payload.iter().zip(payload) {
            to.store(*from, Ordering::Relaxed);
        }
        // Sequentially consistent, as the sleep words are: either the peer sees the flag, or this rank sees it sleep.
        line.flag.swap(sequence, Ordering::SeqCst);
        self.wake();
        let all = self
            .wait_for_all(turn, &|rank| self.has_entered(rank, sequence), &|| self.compare(turn, call))
            .and_then(|()| self.compare(turn, call));
        all.map_err(|stop| turn.stop(stop))
    }

    fn has_entered(&self, rank: usize, sequence: u64) -> bool {
        self.line(rank, sequence).flag.load(Ordering::SeqCst) == sequence
    }

    /// Whether all that have entered called the same.
    fn compare(&self, turn: &Turn<'_>, call: u64) -> Result<(), Stop> {
        let mine = &turn.mine;
        let differs = |(rank, _): &(usize, &Mapping)| {
            self.has_entered(*rank, mine.sequence)
                && self.line(*rank, mine.sequence).call.load(Ordering::Relaxed) != call
        };
        match self.others().find(differs) {
            None => Ok(()),
            Some(_) => Err(self.mismatch(turn)),
        }
    }

    /// Who differs. Those that have not entered yet get a moment, so that the right one is blamed; a cause that was told
    /// before goes first, as who called something else may have left because of it.
    #[cold]
    fn mismatch(&self, turn: &Turn<'_>) -> Stop {
        let mine = &turn.mine;
        if let Err(stop) = turn.tcp.attend(mine) {
            return stop;
        }
        let (sequence, since) = (mine.sequence, Instant::now());
        while since.elapsed() < CENSUS && !self.others().all(|(rank, _)| self.has_entered(rank, sequence)) {
            std::thread::yield_now();
        }
        let mut called = Vec::with_capacity(self.world());
        for (rank, _) in self.others().filter(|(rank, _)| self.has_entered(*rank, sequence)) {
            let Some(call) = unpack(self.line(rank, sequence).call.load(Ordering::Relaxed)) else {
                return Stop::Garbage { rank: self.first + rank };
            };
            called.push((rank, (sequence, call)));
        }
        let verdict = tcp::odd_one(self.world(), self.rank, &(sequence, mine.call), &called);
        // Always found: the calls were seen to differ.
        let (rank, culprit) = verdict.unwrap_or((self.rank, None));
        let call = called.iter().find(|(other, _)| *other == rank).map_or(mine.call, |(_, (_, call))| *call);
        let culprit = culprit.map(|culprit| self.first + culprit);
        let rank = self.first + rank;
        Stop::Mismatch { rank, theirs: Header { from: rank as u32, call, ..*mine }, culprit }
    }

    /// Completes a step and waits until all have. `steps` counts them over the communicator's life.
    pub(super) fn step(&self, turn: &Turn<'_>, steps: &mut u64) -> Result<(), Error> {
        *steps += 1;
        let number = *steps;
        self.map(self.rank).head().step.0.swap(number, Ordering::SeqCst);
        self.wake();
        let done = |rank: usize| self.map(rank).head().step.0.load(Ordering::SeqCst) >= number;
        self.wait_for_all(turn, &done, &|| Ok(())).map_err(|stop| turn.stop(stop))
    }

    /// Wakes those that sleep for this rank.
    fn wake(&self) {
        let me = self.rank as u32 + 1;
        for (_, peer) in self.others() {
            let word = &peer.head().sleeping.0;
            let asleep = word.load(Ordering::SeqCst) == me;
            if asleep && word.compare_exchange(me, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                // Fails for no reason that the sleeper's own deadline does not cover.
                let _ = futex::wake(word, futex::Flags::empty(), 1);
            }
        }
    }

    /// `look` says between two sleeps whether to go on waiting.
    fn wait_for_all(
        &self,
        turn: &Turn<'_>,
        ready: &dyn Fn(usize) -> bool,
        look: &dyn Fn() -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        for (rank, _) in self.others() {
            if !ready(rank) {
                self.wait_for(turn, rank, ready, look)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn wait_for(
        &self,
        turn: &Turn<'_>,
        rank: usize,
        ready: &dyn Fn(usize) -> bool,
        look: &dyn Fn() -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        if self.holds_out(&|| ready(rank)) {
            return Ok(());
        }
        let (word, since) = (&self.map(self.rank).head().sleeping.0, Instant::now());
        turn.record(State::Waiting((self.first + rank) as u32));
        let (mut stall, operation) = (turn.tcp.stall(), || turn.tcp.recorder().last());
        loop {
            word.store(rank as u32 + 1, Ordering::SeqCst);
            if !ready(rank) {
                let at_most = futex::Timespec { tv_sec: 0, tv_nsec: i64::from(SLEEP_MAX.subsec_nanos()) };
                // However it ends, the flag decides.
                let _ = futex::wait(word, futex::Flags::empty(), rank as u32 + 1, Some(&at_most));
            }
            word.store(0, Ordering::SeqCst);
            if ready(rank) {
                stall.over(since.elapsed(), operation);
                turn.record(State::Entered);
                return Ok(());
            }
            turn.tcp.attend(&turn.mine)?;
            if self.world() < turn.tcp.position().1 as usize {
                turn.tcp.overhear(&turn.mine)?;
            }
            look()?;
            stall.look(since.elapsed(), operation, || self.behind(ready));
            if since.elapsed() > turn.tcp.op_timeout() {
                let late = self.others().map(|(rank, _)| rank).filter(|rank| !ready(*rank));
                return Err(Stop::Timeout { waiting_for: late.map(|rank| (self.first + rank) as u32).collect() });
            }
        }
    }

    /// Those that are not there yet, and where they were last.
    fn behind(&self, ready: &dyn Fn(usize) -> bool) -> Vec<Behind> {
        let last = |rank: usize| self.map(rank).head().lines.iter().map(|line| line.flag.load(Ordering::SeqCst)).max();
        let late = self.others().map(|(rank, _)| rank).filter(|rank| !ready(*rank));
        late.map(|rank| Behind { rank: (self.first + rank) as u32, sequence: last(rank).unwrap_or(0) }).collect()
    }

    /// Tries for a while before sleeping; true when it need not.
    fn holds_out(&self, ready: &dyn Fn() -> bool) -> bool {
        if !self.spins {
            return (0..YIELDS).any(|_| {
                std::thread::yield_now();
                ready()
            });
        }
        let since = Instant::now();
        loop {
            for _ in 0..SPINS {
                if ready() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if since.elapsed() > SPIN {
                return false;
            }
        }
    }

    /// Measures how far apart the processors are, and begins with the way of stores that suits that. All ranks call it
    /// together.
    pub(super) fn probe(&self, turn: &Turn<'_>, counters: &mut Counters) -> Result<Duration, Error> {
        let mut fastest = Duration::MAX;
        for _ in 0..PROBES {
            let since = Instant::now();
            self.step(turn, &mut counters.steps)?;
            self.step(turn, &mut counters.steps)?;
            fastest = fastest.min(since.elapsed() / 2);
        }
        counters.stores = Stores::beginning(if fastest > FAR { Store::Streaming } else { Store::Cached });
        Ok(fastest)
    }
}

const COUNT_BITS: u32 = 40;

/// Whether a call fits into one word, as it must to be compared.
pub(super) fn fits(call: &Call) -> bool {
    call.count < 1 << COUNT_BITS && call.root < 1 << 16
}

fn pack(call: &Call) -> u64 {
    let kinds = (call.operation as u64) << 5 | (call.op as u64) << 3 | call.dtype as u64;
    kinds << 56 | u64::from(call.root) << COUNT_BITS | call.count
}

fn unpack(word: u64) -> Option<Call> {
    let kinds = (word >> 56) as usize;
    Some(Call {
        operation: *Operation::ALL.get(kinds >> 5)?,
        op: *Op::ALL.get(kinds >> 3 & 3)?,
        dtype: *DType::ALL.get(kinds & 7)?,
        count: word & ((1 << COUNT_BITS) - 1),
        root: (word >> COUNT_BITS & 0xffff) as u32,
        ring: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn calls_survive_the_word(o in 0..5usize, op in 0..4usize, t in 0..6usize, count in 0..1u64 << 40, root: u16) {
            let call = Call {
                operation: Operation::ALL[o], op: Op::ALL[op], dtype: DType::ALL[t], count, root: root.into(), ring: false,
            };
            prop_assert!(fits(&call));
            prop_assert_eq!(unpack(pack(&call)), Some(call));
        }
    }
}
