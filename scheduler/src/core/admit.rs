//! Admission: queues in turn by exact shares, in each queue the first gang that is not blocked, until nothing more fits.

use crate::core::Core;
use crate::core::gang::{Gang, Key, ShapeInfo, stretched};
use crate::core::start::Tried;
use crate::model::Decision;
use crate::place;
use crate::policy::Passing;
use crate::quota::{ROOT, Share};
use crate::rooms::Measure;
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Timestamp};

/// Gangs of a line that are looked at for one that is short enough to fit before a reservation.
const BACKFILL_DEPTH: usize = 256;

/// What is known to be in vain in this cycle.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocked {
    /// By shape: the pools in which it does not fit. Room only shrinks while gangs are admitted.
    shapes: BTreeMap<u32, u64>,
    /// Lines whose queue has all it may use.
    lines: BTreeSet<(u32, u32)>,
    /// Lines whose queue may pay only for what has ended by a time: the rest is promised to others.
    until: BTreeMap<(u32, u32), Timestamp>,
    /// The first gang of each queue that is not blocked, once found.
    heads: BTreeMap<u32, Option<Key>>,
    /// Gangs that came into line later than this are looked at in the next round.
    before: u64,
    /// Facts came since this round began: another one has to follow.
    is_stale: bool,
}

/// A queue's claim to be next: own part before borrowed, then the smaller share, then the older queue.
type Claim = (bool, Share, u32);

impl Core {
    /// A fact came: what a cut round knew is old, but it goes on to its end, or a stream of facts would keep it at its
    /// beginning for ever.
    pub(super) fn make_round_stale(&mut self) {
        if let Some(round) = &mut self.blocked {
            round.is_stale = true;
            // Those that were first may be gone.
            round.heads.clear();
        }
    }

    pub(super) fn admit(&mut self, steps: &mut u32, decisions: &mut Vec<Decision>) {
        loop {
            // A round that was cut goes on where it was.
            let begun = self.blocked.take();
            let mut round = begun.unwrap_or_else(|| Blocked { before: self.lines.entered, ..Blocked::default() });
            let is_done = self.admit_round(&mut round, steps, decisions);
            let is_stale = round.is_stale;
            if !is_done {
                self.is_pending = true;
                self.blocked = Some(round);
            }
            if !is_done || !is_stale {
                return;
            }
        }
    }

    /// True when everybody had his turn, false when the budget is used up.
    fn admit_round(&mut self, blocked: &mut Blocked, steps: &mut u32, decisions: &mut Vec<Decision>) -> bool {
        while let Some(key) = self.next_gang(blocked) {
            if *steps == 0 {
                return false;
            }
            *steps -= 1;
            let Some(gang) = self.gangs.get(key.gang) else { return true };
            let (queue, shape) = (gang.queue, gang.shape);
            match self.try_place(key.gang, gang) {
                Tried::Fits(choice, members) => {
                    blocked.heads.remove(&queue);
                    if !self.start(key.gang, choice, members, decisions) {
                        return true;
                    }
                }
                Tried::OverQuota(..) => {
                    blocked.heads.remove(&queue);
                    blocked.lines.insert((queue, shape));
                }
                Tried::Promised(_, until) => {
                    blocked.heads.remove(&queue);
                    // Only shorter ones may pass; when it was one of them, nobody may.
                    if blocked.until.insert((queue, shape), until).is_some_and(|before| before <= until) {
                        blocked.lines.insert((queue, shape));
                    }
                }
                Tried::NoRoom => {
                    let pools = self.pools_of(key);
                    *blocked.shapes.entry(shape).or_default() |= pools;
                    // Only heads of this shape are in vain now.
                    let gangs = &self.gangs;
                    let is_other = |key: &Key| gangs.get(key.gang).is_some_and(|gang| gang.shape != shape);
                    blocked.heads.retain(|_, head| head.as_ref().is_none_or(is_other));
                    self.reserve_at_once(key.gang, decisions);
                }
            }
            if self.policy.passing == Passing::Nobody && !blocked.shapes.is_empty() {
                return true;
            }
        }
        true
    }

    /// Pools that a waiting gang may use at the best.
    fn pools_of(&self, key: Key) -> u64 {
        let Some(gang) = self.gangs.get(key.gang) else { return 0 };
        let info = self.gangs.info(gang);
        let speeds = info.choices.iter().map(|(speed, _)| *speed);
        speeds.fold(0, |pools, speed| pools | self.pools_for(key.gang, gang, speed, info.shape.members.max))
    }

    fn next_gang(&self, blocked: &mut Blocked) -> Option<Key> {
        if self.policy.is_fair {
            return self.turn_of(ROOT, blocked).map(|(key, _)| key);
        }
        let mut queues: Vec<u32> = self.lines.by_place.keys().map(|(queue, _)| *queue).collect();
        queues.dedup();
        queues.into_iter().filter_map(|queue| self.head(queue, blocked)).min()
    }

    /// The gang whose turn it is at or below a queue, with the queue's claim.
    fn turn_of(&self, queue: u32, blocked: &mut Blocked) -> Option<(Key, Claim)> {
        let known = &self.tree.queues[queue as usize];
        if queue != ROOT && known.gangs == 0 {
            return None;
        }
        let key = if known.children.is_empty() {
            self.head(queue, blocked)?
        } else {
            let turns = known.children.iter().filter_map(|child| self.turn_of(*child, blocked));
            turns.min_by(|(_, left), (_, right)| left.cmp(right))?.0
        };
        let gang = self.gangs.get(key.gang)?;
        let info = self.gangs.info(gang);
        let is_own = info.choices.iter().flat_map(|(_, need)| need).any(|need| {
            let usage = info.usage(need);
            self.tree.is_own(queue, usage.class, usage.per_member * u64::from(info.shape.members.min))
        });
        Some((key, (!is_own, self.tree.share(queue, &self.fleet.capacity), queue)))
    }

    /// The first gang of a queue that is not blocked.
    fn head(&self, queue: u32, blocked: &mut Blocked) -> Option<Key> {
        if let Some(head) = blocked.heads.get(&queue) {
            return *head;
        }
        let is_strict = self.policy.passing == Passing::Nobody;
        let mut head: Option<Key> = None;
        for (shape, line) in self.lines.of_queue(queue) {
            if blocked.lines.contains(&(queue, shape)) || !line.fits_ever {
                continue;
            }
            if line.by_key.first().is_none_or(|first| head.is_some_and(|head| *first >= head)) {
                continue;
            }
            let until = blocked.until.get(&(queue, shape)).copied();
            let first = match blocked.shapes.get(&shape) {
                None if until.is_none() => line.by_key.iter().find(|key| self.is_in_round(key, blocked)).copied(),
                Some(_) if is_strict => None,
                pools => self.first_that_is_short(shape, line, (pools.copied(), until), blocked),
            };
            head = head.into_iter().chain(first).min();
        }
        blocked.heads.insert(queue, head);
        head
    }

    /// In a round that goes on after facts came, only those have their turn that were there when it began.
    fn is_in_round(&self, key: &Key, round: &Blocked) -> bool {
        !round.is_stale || self.gangs.get(key.gang).is_some_and(|gang| gang.entered <= round.before)
    }

    /// The first gang of a line that may use a pool in which its shape was not seen to be blocked, and ends by a time.
    fn first_that_is_short(
        &self,
        shape: u32,
        line: &super::line::Line,
        (pools, until): (Option<u64>, Option<Timestamp>),
        round: &Blocked,
    ) -> Option<Key> {
        let info = &self.gangs.shapes[shape as usize];
        let mut latest = until.unwrap_or(Timestamp(u64::MAX));
        if let Some(blocked) = pools {
            latest = latest.min(self.latest_of_others(info, blocked)?);
        }
        let fastest = info.choices.iter().map(|(speed, _)| *speed).max().unwrap_or(1);
        let window = u128::from(latest.since(self.now).0) * u128::from(fastest) / 1_000;
        let window = u64::try_from(window).unwrap_or(u64::MAX);
        if line.by_bound.first().is_none_or(|(bound, _)| *bound > window) {
            return None;
        }
        let most = info.shape.members.max;
        let ends_in_time = |key: &Key| {
            let bound = self.gangs.get(key.gang).and_then(Gang::bound);
            bound.is_some_and(|bound| self.now.plus(stretched(bound, fastest, most, most)) <= latest)
        };
        let mut keys = line.by_key.iter().take(BACKFILL_DEPTH);
        let is_open = |key: &Key| pools.is_none_or(|blocked| self.pools_of(*key) & !blocked != 0);
        let is_short = |key: &Key| {
            let bound = || self.gangs.get(key.gang).and_then(Gang::bound);
            // The cheap question first: most are too long for any of the pools.
            (pools.is_none() || bound().is_some_and(|bound| bound.0 <= window))
                && (until.is_none() || ends_in_time(key))
        };
        keys.find(|key| self.is_in_round(key, round) && is_short(key) && is_open(key)).copied()
    }

    /// Until when the pools may be used that have room for a shape and in which it was not seen to be blocked.
    fn latest_of_others(&self, info: &ShapeInfo, blocked: u64) -> Option<Timestamp> {
        let mut index = self.index.borrow_mut();
        let mut latest: Option<Timestamp> = None;
        for need in info.choices.iter().flat_map(|(_, need)| need) {
            let rooms = index.rooms(&self.fleet, need, Measure::Free);
            if rooms.total_in(u64::MAX) < u64::from(info.shape.members.min) {
                continue;
            }
            for at in rooms.pooled.keys().filter(|at| blocked >> **at & 1 == 0) {
                let pool = self.fleet.pools.get(usize::from(*at)).and_then(Option::as_ref);
                latest = latest.max(pool.map(|pool| pool.until.unwrap_or(Timestamp(u64::MAX))));
            }
        }
        latest
    }

    /// Finds out which lines could never be served, and tells the gangs that came since the last cycle.
    pub(super) fn judge(&mut self, decisions: &mut Vec<Decision>) {
        let version = (self.fleet_version, self.quota_version);
        let fresh = std::mem::take(&mut self.fresh);
        if self.judged != Some(version) || std::mem::take(&mut self.lines.is_new) {
            self.judge_lines(version);
        }
        self.tell_hopeless(fresh, decisions);
    }

    fn judge_lines(&mut self, version: (u64, u64)) {
        self.judged = Some(version);
        let stale = self.lines.by_place.iter().filter(|(_, line)| line.judged != Some(version));
        let stale: Vec<(u32, u32)> = stale.map(|(place, _)| *place).collect();
        for line in stale {
            self.judge_line(line);
        }
    }

    fn tell_hopeless(&self, fresh: BTreeSet<(JobId, u32)>, decisions: &mut Vec<Decision>) {
        for (job, index) in fresh {
            let Some(gang) = self.gangs.get(index) else { continue };
            let place = (gang.queue, gang.shape);
            let fits_ever = self.lines.by_place.get(&place).is_none_or(|line| line.fits_ever);
            if !fits_ever && self.fleet.capacity[0] > 0 {
                decisions.push(Decision::Reject { job });
            }
        }
    }

    fn judge_line(&mut self, (queue, shape): (u32, u32)) {
        self.gangs.shapes[shape as usize].resolve(&self.fleet);
        let fits_ever = self.fits_ever(queue, shape);
        if let Some(line) = self.lines.by_place.get_mut(&(queue, shape)) {
            line.fits_ever = fits_ever;
            line.judged = Some((self.fleet_version, self.quota_version));
        }
    }

    /// Could the empty cluster, and the whole quota, hold it?
    pub(super) fn fits_ever(&self, queue: u32, shape: u32) -> bool {
        let info = &self.gangs.shapes[shape as usize];
        let mut index = self.index.borrow_mut();
        info.choices.iter().flat_map(|(_, need)| need).any(|need| {
            let usage = info.usage(need);
            let amount = usage.per_member * u64::from(info.shape.members.min);
            let over = self.tree.allows(queue, usage.class, amount, self.fleet.capacity[usage.class as usize]);
            let is_over = over.is_err_and(|over| over.is_for_good);
            let rooms = index.rooms(&self.fleet, need, Measure::Empty);
            !is_over && place::find(&self.fleet, rooms, &info.ask(info.shape.members.min, 1, &[])).is_some()
        })
    }
}
