//! Whose turn it is in a round of admission, and what of that is known already: a try that fails changes little of it.

use crate::core::Core;
use crate::core::gang::{Gang, Key, ShapeInfo, stretched};
use crate::core::line::Line;
use crate::policy::Passing;
use crate::quota::{ROOT, Share};
use crate::rooms::Measure;
use std::collections::{BTreeMap, BTreeSet};
use types::Timestamp;

/// Gangs of a line that are looked at for one that is short enough to fit before a reservation.
const BACKFILL_DEPTH: usize = 256;

/// What is known to be in vain in this cycle.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocked {
    /// By shape: the pools in which it does not fit. Room only shrinks while gangs are admitted.
    pub shapes: BTreeMap<u32, u64>,
    /// Lines whose queue has all it may use.
    lines: BTreeSet<(u32, u32)>,
    /// Lines whose queue may pay only for what has ended by a time: the rest is promised to others.
    until: BTreeMap<(u32, u32), Timestamp>,
    /// Gangs that came into line later than this are looked at in the next round.
    before: u64,
    /// Facts came since this round began: another one has to follow.
    pub is_stale: bool,
    known: Known,
}

/// What was found out and is not asked again until something changes it.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Index = line: the first gang in it that is not blocked.
    lines: Vec<Answer<Key>>,
    /// Index = leaf queue: the same of all its lines, with the gang's shape.
    heads: Vec<Answer<(Key, u32)>>,
    /// Index = queue: the gang whose turn it is at or below it.
    turns: Vec<Answer<Turn>>,
    /// By shape: until when the pools may be used in which it is not blocked, and at which change of the fleet.
    latest: BTreeMap<u32, (u64, Option<Timestamp>)>,
}

/// What was found, if it was asked for.
#[derive(Clone, Copy, Debug)]
enum Answer<T> {
    Unknown,
    Is(Option<T>),
}

/// A queue's claim to be next: own part before borrowed, then the smaller share, then the older queue.
type Claim = (bool, Share, u32);

/// A gang whose turn it is, with its queue's claim and its shape.
type Turn = (Key, Claim, u32);

impl Blocked {
    /// A round in which those have their turn that are in line now.
    pub fn after(before: u64) -> Self {
        Self { before, ..Self::default() }
    }
}

impl Core {
    /// Nothing is known but what is blocked.
    pub(super) fn forget_known(&self, round: &mut Blocked) {
        let known = &mut round.known;
        known.lines.clear();
        known.heads.clear();
        known.turns.clear();
        known.latest.clear();
        known.lines.resize(self.lines.len(), Answer::Unknown);
        known.heads.resize(self.tree.queues.len(), Answer::Unknown);
        known.turns.resize(self.tree.queues.len(), Answer::Unknown);
    }

    /// A gang of this line started: its queue uses more, and somebody else is first.
    pub(super) fn note_start(&self, round: &mut Blocked, queue: u32, line: Option<u32>) {
        if let Some(line) = line {
            round.known.lines[line as usize] = Answer::Unknown;
        }
        self.ask_anew(round, queue);
    }

    /// A queue may use no more for this line.
    pub(super) fn bar_line(&self, round: &mut Blocked, place: (u32, u32)) {
        round.lines.insert(place);
        if let Some(line) = self.lines.number(place) {
            round.known.lines[line as usize] = Answer::Is(None);
        }
        self.ask_anew(round, place.0);
    }

    /// A queue may use more for this line only for what ends by a time: when it was one of those, nobody may.
    pub(super) fn bar_line_until(&self, round: &mut Blocked, place: (u32, u32), until: Timestamp) {
        if round.until.insert(place, until).is_some_and(|before| before <= until) {
            round.lines.insert(place);
        }
        if let Some(line) = self.lines.number(place) {
            round.known.lines[line as usize] = Answer::Unknown;
        }
        self.ask_anew(round, place.0);
    }

    /// A shape does not fit into these pools.
    pub(super) fn block_shape(&self, round: &mut Blocked, shape: u32, pools: u64) {
        *round.shapes.entry(shape).or_default() |= pools;
        round.known.latest.remove(&shape);
        for at in self.lines.numbers_of_shape(shape) {
            round.known.lines[*at as usize] = Answer::Unknown;
            let queue = self.lines.at(*at).queue;
            // Only heads of this shape are in vain now.
            if matches!(round.known.heads[queue as usize], Answer::Is(Some((_, other))) if other == shape) {
                self.ask_anew(round, queue);
            }
        }
    }

    /// The queue's head is to be found anew. Of its lines, those for which it matters how much room there is.
    fn ask_anew(&self, round: &mut Blocked, queue: u32) {
        let known = &mut round.known;
        for at in self.lines.numbers_of_queue(queue) {
            let place = self.lines.at(*at).place();
            if round.shapes.contains_key(&place.1) || round.until.contains_key(&place) {
                known.lines[*at as usize] = Answer::Unknown;
            }
        }
        known.heads[queue as usize] = Answer::Unknown;
        let mut above = queue;
        loop {
            known.turns[above as usize] = Answer::Unknown;
            if above == ROOT {
                return;
            }
            above = self.tree.queues[above as usize].parent;
        }
    }

    pub(super) fn next_gang(&self, round: &mut Blocked) -> Option<Key> {
        if self.policy.is_fair {
            return self.turn_of(ROOT, round).map(|(key, ..)| key);
        }
        let queues = self.lines.queues();
        queues.filter_map(|queue| self.head(queue, round)).map(|(key, _)| key).min()
    }

    /// The gang whose turn it is at or below a queue.
    fn turn_of(&self, queue: u32, round: &mut Blocked) -> Option<Turn> {
        if let Answer::Is(turn) = round.known.turns[queue as usize] {
            return turn;
        }
        let turn = self.find_turn(queue, round);
        round.known.turns[queue as usize] = Answer::Is(turn);
        turn
    }

    fn find_turn(&self, queue: u32, round: &mut Blocked) -> Option<Turn> {
        let known = &self.tree.queues[queue as usize];
        if queue != ROOT && known.gangs == 0 {
            return None;
        }
        let (key, shape) = if known.children.is_empty() {
            self.head(queue, round)?
        } else {
            let turns = known.children.iter().filter_map(|child| self.turn_of(*child, round));
            let (key, _, shape) = turns.min_by(|(_, left, _), (_, right, _)| left.cmp(right))?;
            (key, shape)
        };
        if queue == ROOT {
            // It has no siblings to be compared with.
            return Some((key, (false, Share::ZERO, ROOT), shape));
        }
        let info = self.gangs.shapes.get(shape as usize)?;
        let is_own = info.choices.iter().flat_map(|(_, need)| need).any(|need| {
            let usage = info.usage(need);
            self.tree.is_own(queue, usage.class, usage.per_member * u64::from(info.shape.members.min))
        });
        Some((key, (!is_own, self.tree.share(queue, &self.fleet.capacity), queue), shape))
    }

    /// The first gang of a queue that is not blocked, with its shape.
    fn head(&self, queue: u32, round: &mut Blocked) -> Option<(Key, u32)> {
        if let Answer::Is(head) = round.known.heads[queue as usize] {
            return head;
        }
        let mut head: Option<(Key, u32)> = None;
        for at in self.lines.numbers_of_queue(queue) {
            let line = self.lines.at(*at);
            let first = if let Answer::Is(first) = round.known.lines[*at as usize] {
                first
            } else if line.first().is_none_or(|first| head.is_some_and(|(head, _)| first >= head)) {
                // Nobody in it can be the one.
                continue;
            } else {
                let first = self.first_of(line, round);
                round.known.lines[*at as usize] = Answer::Is(first);
                first
            };
            if let Some(first) = first.filter(|first| head.is_none_or(|(head, _)| *first < head)) {
                head = Some((first, line.shape));
            }
        }
        round.known.heads[queue as usize] = Answer::Is(head);
        head
    }

    /// The first gang of a line that is not blocked.
    fn first_of(&self, line: &Line, round: &mut Blocked) -> Option<Key> {
        let place = line.place();
        if !line.fits_ever || round.lines.contains(&place) {
            return None;
        }
        let until = round.until.get(&place).copied();
        match round.shapes.get(&line.shape).copied() {
            None if until.is_none() && !round.is_stale => line.first(),
            None if until.is_none() => line.by_key.keys().find(|key| self.is_in_round(key, round)).copied(),
            Some(_) if self.policy.passing == Passing::Nobody => None,
            pools => self.first_that_is_short(line, (pools, until), round),
        }
    }

    /// In a round that goes on after facts came, only those have their turn that were there when it began.
    fn is_in_round(&self, key: &Key, round: &Blocked) -> bool {
        !round.is_stale || self.gangs.get(key.gang).is_some_and(|gang| gang.entered <= round.before)
    }

    /// The first gang of a line that may use a pool in which its shape was not seen to be blocked, and ends by a time.
    fn first_that_is_short(
        &self,
        line: &Line,
        (pools, until): (Option<u64>, Option<Timestamp>),
        round: &mut Blocked,
    ) -> Option<Key> {
        let info = &self.gangs.shapes[line.shape as usize];
        let mut latest = until.unwrap_or(Timestamp(u64::MAX));
        if let Some(blocked) = pools {
            let changes = self.fleet.log_end();
            let known = round.known.latest.get(&line.shape).filter(|(at, _)| *at == changes);
            let others = known.map_or_else(|| self.latest_of_others(info, blocked), |(_, latest)| *latest);
            round.known.latest.insert(line.shape, (changes, others));
            latest = latest.min(others?);
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
        let is_open = |key: &Key| pools.is_none_or(|blocked| self.pools_of(*key) & !blocked != 0);
        let is_short = |key: &Key, bound: u64| {
            // The cheap question first: most are too long for any of the pools.
            let is_known = bound < u64::MAX || self.gangs.get(key.gang).and_then(Gang::bound).is_some();
            (pools.is_none() || bound <= window && is_known) && (until.is_none() || ends_in_time(key))
        };
        let mut keys = line.by_key.iter().take(BACKFILL_DEPTH);
        let found = keys.find(|(key, bound)| self.is_in_round(key, round) && is_short(key, **bound) && is_open(key));
        found.map(|(key, _)| *key)
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

    /// Pools that a waiting gang may use at the best.
    pub(super) fn pools_of(&self, key: Key) -> u64 {
        let Some(gang) = self.gangs.get(key.gang) else { return 0 };
        let info = self.gangs.info(gang);
        let speeds = info.choices.iter().map(|(speed, _)| *speed);
        speeds.fold(0, |pools, speed| pools | self.pools_for(key.gang, gang, speed, info.shape.members.max))
    }
}
