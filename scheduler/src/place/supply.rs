//! Room by place as one request sees it: only the pools it may use, without the workers it avoids, capped where its members
//! are to be spread.

use crate::fleet::{CHUNK, Fleet, LEVELS, Need, Worker, level_of};
use crate::model::Level;
use crate::place::Ask;
use crate::rooms::{NOT_TIGHT, Rooms};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Room for a request. Borrowed from the index as it is when only the open pool counts.
pub(crate) struct Supply<'a> {
    rooms: &'a Rooms,
    pools: u64,
    without: &'a [crate::model::WorkerIndex],
    slots: [Cow<'a, [u32]>; LEVELS],
    pub total: u32,
    tight: Cow<'a, [u32]>,
    /// Level and most members of each place.
    cap: Option<(usize, u32)>,
    taken: RefCell<BTreeMap<u32, u32>>,
}

impl<'a> Supply<'a> {
    pub fn of(fleet: &Fleet, rooms: &'a Rooms, ask: &Ask<'a>) -> Self {
        // A cap on workers is part of the need.
        let cap = ask.spread.filter(|spread| spread.level != Level::Worker);
        let cap = cap.map(|spread| (level_of(spread.level), spread.members_max));
        let others = rooms.pooled.keys().any(|pool| ask.pools >> pool & 1 == 1);
        let mut supply = Self {
            rooms,
            pools: ask.pools,
            without: ask.without,
            slots: std::array::from_fn(|level| Cow::Borrowed(&rooms.slots[level][..])),
            total: rooms.total,
            tight: Cow::Borrowed(&rooms.tight),
            cap,
            taken: RefCell::default(),
        };
        let is_plain = !others && ask.pools & 1 == 1 && ask.without.is_empty() && cap.is_none();
        let might_do = rooms.total_in(ask.pools) >= u64::from(ask.members.min(1));
        if !is_plain && might_do {
            supply.count(fleet, ask.members == 1);
        } else if !is_plain {
            supply.total = 0;
        }
        supply
    }

    /// Sums the room by place for these pools; the tightest worker of each chunk only where one member is looked for.
    fn count(&mut self, fleet: &Fleet, is_for_one: bool) {
        let rooms = self.rooms;
        let mut chunks: Vec<u32> =
            if self.pools & 1 == 1 { rooms.slots[CHUNK].clone() } else { vec![0; rooms.slots[CHUNK].len()] };
        let mut tight = if self.pools & 1 == 1 { rooms.tight.clone() } else { vec![NOT_TIGHT; chunks.len()] };
        for (pool, pooled) in rooms.pooled.iter().filter(|(pool, _)| self.pools >> **pool & 1 == 1) {
            debug_assert!(*pool != 0, "the open pool is counted elsewhere");
            for (chunk, slots) in pooled.slots.iter().enumerate().filter(|(_, slots)| **slots > 0) {
                chunks[chunk] += slots;
                tight[chunk] = NOT_TIGHT;
            }
        }
        for worker in self.without {
            let Some(known) = fleet.get(worker.0) else { continue };
            let slots = &mut chunks[known.path[CHUNK] as usize];
            *slots = slots.saturating_sub(rooms.room_in(worker.0, self.pools));
            tight[known.path[CHUNK] as usize] = NOT_TIGHT;
        }
        for (chunk, slots) in chunks.iter().enumerate() {
            if is_for_one && *slots > 0 && tight[chunk] == NOT_TIGHT {
                tight[chunk] = self.tightest_of(fleet, chunk as u32);
            }
        }
        self.tight = Cow::Owned(tight);
        self.total = 0;
        let mut below = chunks;
        for level in CHUNK..LEVELS {
            self.cap_level(level, &mut below);
            let mut above = vec![0_u32; if level + 1 < LEVELS { fleet.domains.count(level + 1) } else { 1 }];
            for (domain, slots) in below.iter().enumerate().filter(|(_, slots)| **slots > 0) {
                let parent = fleet.domains.get(level, domain as u32).map_or(0, |domain| domain.parent);
                above[parent as usize] += slots;
            }
            self.slots[level] = Cow::Owned(below);
            below = above;
        }
        self.total = below.first().copied().unwrap_or(0);
    }

    fn cap_level(&self, level: usize, slots: &mut [u32]) {
        if let Some((_, most)) = self.cap.filter(|(at, _)| *at == level) {
            for slots in slots {
                *slots = (*slots).min(most);
            }
        }
    }

    fn tightest_of(&self, fleet: &Fleet, chunk: u32) -> u32 {
        let workers = fleet.domains.get(CHUNK, chunk).map_or(&[][..], |chunk| &chunk.children);
        let open = workers.iter().filter(|worker| self.room(**worker) > 0).filter_map(|worker| fleet.get(*worker));
        open.map(Need::tightness).min().unwrap_or(NOT_TIGHT)
    }

    /// Members that fit on a worker.
    pub fn room(&self, worker: u32) -> u32 {
        if self.without.iter().any(|without| without.0 == worker) {
            return 0;
        }
        self.rooms.room_in(worker, self.pools)
    }

    /// Members that fit in a place.
    pub fn slots(&self, level: usize, domain: u32) -> u32 {
        self.slots.get(level).and_then(|slots| slots.get(domain as usize)).copied().unwrap_or(0)
    }

    /// By chunk.
    pub fn tight(&self) -> &[u32] {
        &self.tight
    }

    /// The place with the least room that is enough.
    pub fn tightest(&self, fleet: &Fleet, level: usize, count: u32, must_be_named: bool) -> Option<u32> {
        let named =
            |domain: usize| !must_be_named || fleet.domains.get(level, domain as u32).is_some_and(|d| d.is_named);
        let mut best: Option<(u32, u32)> = None;
        for (domain, slots) in self.slots[level].iter().enumerate() {
            let is_better = *slots >= count && best.is_none_or(|(least, _)| *slots < least);
            if is_better && named(domain) {
                best = Some((*slots, domain as u32));
            }
        }
        best.map(|(_, domain)| domain)
    }

    /// The first named place with enough room.
    pub fn first(&self, fleet: &Fleet, level: usize, count: u32) -> Option<(usize, u32)> {
        let named = |domain: usize| fleet.domains.get(level, domain as u32).is_some_and(|domain| domain.is_named);
        let mut enough = self.slots[level].iter().enumerate().filter(|(_, slots)| **slots >= count);
        enough.find(|(domain, _)| named(*domain)).map(|(domain, _)| (level, domain as u32))
    }

    /// The named place with the most room, and how much.
    pub fn best(&self, fleet: &Fleet, level: usize) -> Option<(u32, u32)> {
        let named = |domain: usize| fleet.domains.get(level, domain as u32).is_some_and(|domain| domain.is_named);
        let places = self.slots[level].iter().enumerate().filter(|(domain, _)| named(*domain));
        places
            .max_by_key(|(domain, slots)| (**slots, std::cmp::Reverse(*domain)))
            .map(|(at, slots)| (at as u32, *slots))
    }

    /// Up to `count` members for a worker, in a walk over workers that heeds the cap.
    pub fn take(&self, worker: u32, known: &Worker, count: u32) -> u32 {
        let part = self.room(worker).min(count);
        let Some((level, most)) = self.cap.filter(|(level, _)| *level < LEVELS) else { return part };
        let mut taken = self.taken.borrow_mut();
        let taken = taken.entry(known.path[level]).or_default();
        let part = part.min(most - *taken);
        *taken += part;
        part
    }
}
