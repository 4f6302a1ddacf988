//! How far the ranks are in what goes on beside this group: asked and answered over the control sockets, by whoever looks at
//! them.
//!
//! For a backend that moves the bytes another way and cannot see who is behind, as NCCL. It costs nothing until somebody asks.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::frame::{Call, Header, Position};
use super::stop::Stop;
use super::verdict::{Called, odd_one};
use super::{Communicator, Operation};
use crate::error::Error;
use crate::recorder::Recorder;
use crate::stall::Behind;

/// What is known of another rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Heard {
    position: Option<Position>,
    /// Asked and not yet answered.
    owes: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Positions {
    own: OnceLock<Arc<Recorder>>,
    /// By rank.
    heard: Mutex<Vec<Heard>>,
}

impl Positions {
    pub(super) fn new(world: usize) -> Self {
        Positions { own: OnceLock::new(), heard: Mutex::new(vec![Heard::default(); world]) }
    }

    fn heard(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where this rank is; none where nothing goes on beside.
    pub(super) fn own(&self) -> Option<Position> {
        self.own.get().map(|recorder| recorder.position())
    }

    /// Ranks that owe no answer; from now on they do.
    pub(super) fn to_ask(&self) -> Vec<usize> {
        let mut heard = self.heard();
        let ask = |(rank, heard): (usize, &mut Heard)| (!std::mem::replace(&mut heard.owes, true)).then_some(rank);
        heard.iter_mut().enumerate().filter_map(ask).collect()
    }

    pub(super) fn hear(&self, rank: usize, position: Position, asks: bool) {
        if let Some(heard) = self.heard().get_mut(rank) {
            heard.position = Some(position);
            heard.owes &= asks;
        }
    }
}

/// What a backend needs of the group that watches over it; nothing for others.
#[derive(Clone, Copy, Debug)]
pub struct Guard<'a>(&'a Communicator);

impl<'a> Guard<'a> {
    pub(super) fn new(group: &'a Communicator) -> Self {
        Guard(group)
    }

    fn peers(self) -> Vec<(usize, Heard)> {
        let heard = self.0.control.positions.heard().clone();
        heard.into_iter().enumerate().filter(|(rank, _)| *rank != self.0.rank).collect()
    }

    /// From now on this rank's position is that of `recorder`. Only the first call counts.
    pub(crate) fn follow(self, recorder: &Arc<Recorder>) {
        let _ = self.0.control.positions.own.set(Arc::clone(recorder));
    }

    /// Asks all others how far they are. The answers are heard by [`crate::Communicator::check`].
    pub(crate) fn ask(self) {
        self.0.control.ask();
    }

    /// Whether somebody owes an answer.
    pub(crate) fn is_owed(self) -> bool {
        self.peers().iter().any(|(_, heard)| heard.owes)
    }

    /// Those for whom this rank waits in its operation `sequence`. Who does not answer was last known in `met`: the last operation
    /// that none can have left before all had entered it.
    pub(crate) fn behind(self, sequence: u64, met: u64) -> Vec<Behind> {
        let peers = self.peers();
        let last = |heard: &Heard| heard.position.map_or(0, |position| position.sequence);
        let late = |(rank, heard): &(usize, Heard)| {
            let behind = Behind { rank: *rank as u32, sequence: last(heard).max(met) };
            (heard.owes || last(heard) < sequence).then_some(behind)
        };
        let behind: Vec<Behind> = peers.iter().filter_map(late).collect();
        if !behind.is_empty() {
            return behind;
        }
        // All have come: those that have not ended it either.
        let runs = |heard: &Heard| heard.position.is_some_and(|at| at.sequence == sequence && at.running);
        let nobody = !peers.iter().any(|(_, heard)| runs(heard));
        let stuck = peers.iter().filter(|(_, heard)| nobody || runs(heard));
        stuck.map(|(rank, _)| Behind { rank: *rank as u32, sequence }).collect()
    }

    /// Ends the group where somebody has called another thing than `mine` at the same place.
    pub(crate) fn compare(self, mine: Called) -> Result<(), Error> {
        let called = |(rank, heard): (usize, Heard)| {
            let Position { sequence, call, .. } = heard.position?;
            (sequence == mine.0).then_some((rank, (sequence, call?)))
        };
        let others: Vec<(usize, Called)> = self.peers().into_iter().filter_map(called).collect();
        let group = self.0;
        let Some((rank, culprit)) = odd_one(group.world, group.rank, &mine, &others) else { return Ok(()) };
        let header =
            |from: usize, (sequence, call): Called| Header { token: group.token, sequence, from: from as u32, call };
        let theirs = others.iter().find(|(other, _)| *other == rank).map_or(mine, |(_, called)| *called);
        let stop = Stop::Mismatch { rank, theirs: header(rank, theirs), culprit };
        Err(group.stop(&header(group.rank, mine), mine.1.to_string(), stop))
    }
}

/// Whether no rank can leave this operation before all have entered it.
pub(crate) fn meets(call: &Call) -> bool {
    call.operation != Operation::Broadcast
}
