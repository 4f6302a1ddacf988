//! Ranks that called different things: finding that out where nobody waits for the one that differs, and whom to blame.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::super::frame::Header;
use super::super::socket;
use super::super::stop::Stop;
use super::super::verdict::odd_one;
use super::link::Link;
use super::{Engine, LOOK_EVERY};

/// How long the others may take to say what they called, so that the right one is blamed for a mismatch.
const CENSUS: Duration = Duration::from_millis(150);

impl Engine {
    /// Ranks that this operation has nothing to do with say on their data sockets what they called, too. Where nobody is
    /// the partner of the one it waits for, only that shows that they called different things.
    pub(super) fn look_aside(&mut self, mine: &Header) -> Result<(), Stop> {
        let strange = self.links.iter_mut().filter(|link| !link.partner).find_map(|link| {
            let theirs = link.peek(mine)?;
            // Who is ahead may well be: nothing of this operation goes between the two.
            (theirs.sequence <= mine.sequence).then_some((link.rank, theirs))
        });
        match strange {
            None => Ok(()),
            Some((rank, theirs)) => Err(self.judge(mine, Stop::Mismatch { rank, theirs, culprit: None })),
        }
    }

    /// As [`Engine::look_aside`], where this rank waits for those of its host and not for a socket: the others may have come to the
    /// same operation.
    pub(in super::super) fn overhear(&mut self, mine: &Header) -> Result<(), Stop> {
        let strange = self.links.iter_mut().find_map(|link| {
            let theirs = link.peek(mine)?;
            let elsewhere =
                theirs.sequence < mine.sequence || (theirs.sequence == mine.sequence && theirs.call != mine.call);
            elsewhere.then_some((link.rank, theirs))
        });
        match strange {
            None => Ok(()),
            Some((rank, theirs)) => Err(self.judge(mine, Stop::Mismatch { rank, theirs, culprit: None })),
        }
    }

    /// Of a mismatch: gives the others a moment to say what they called, and finds who stands against most.
    pub(super) fn judge(&mut self, mine: &Header, stop: Stop) -> Stop {
        let Stop::Mismatch { rank: first, theirs, .. } = stop else { return stop };
        let called = |header: Header| (header.sequence, header.call);
        let world = self.links.len() + 1;
        let deadline = Instant::now() + CENSUS;
        loop {
            // In front: named where several differ and none has a majority.
            let mut all = vec![(first, called(theirs))];
            let mut silent = Vec::new();
            for link in self.links.iter_mut().filter(|link| link.rank != first) {
                match link.said(mine) {
                    Some(header) => all.push((link.rank, called(header))),
                    None => silent.push(&*link),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let verdict = odd_one(world, mine.from as usize, &called(*mine), &all);
            let (rank, culprit) = verdict.unwrap_or((first, None));
            if culprit.is_some() || silent.is_empty() || left.is_zero() {
                let (sequence, call) = all.iter().find(|(of, _)| *of == rank).map_or(called(theirs), |(_, said)| *said);
                let theirs = Header { from: rank as u32, sequence, call, ..theirs };
                return Stop::Mismatch { rank, theirs, culprit };
            }
            wait_for_any(&silent, left.min(LOOK_EVERY));
        }
    }
}

fn wait_for_any(silent: &[&Link], at_most: Duration) {
    let mut descriptors: Vec<_> =
        silent.iter().map(|link| PollFd::new(link.data.first_socket(), PollFlags::IN)).collect();
    socket::poll(&mut descriptors, at_most);
}
