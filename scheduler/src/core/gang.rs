//! The books of gangs: shapes that many share, and one small record for each gang.

use crate::core::guess::{Guess, Run, Saves, rest_of};
use crate::fleet::{Filter, Fleet, Need};
use crate::model::{Checkpoint, GangRequest, Level, Placed, Shape, WorkerIndex};
use crate::place::Ask;
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Millis, Timestamp};

/// Speed of a class that nothing is said about.
const USUAL_SPEED: u32 = 1_000;

/// A shape, with its needs by class.
#[derive(Clone, Debug)]
pub(crate) struct ShapeInfo {
    pub shape: Shape,
    pub group: u32,
    /// One for each class that will do, best first, with its speed; `None` while no worker of the class ever joined.
    pub choices: Vec<(u32, Option<Need>)>,
    classes_known: usize,
    filter: Filter,
}

/// What a choice uses of the queue's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub class: u16,
    pub per_member: u64,
}

impl ShapeInfo {
    /// Finds the needs for the classes that are known by now.
    pub fn resolve(&mut self, fleet: &Fleet) {
        if self.classes_known == fleet.classes.len() {
            return;
        }
        self.classes_known = fleet.classes.len();
        let named = |shape: &Shape| -> Vec<(u32, Option<u16>)> {
            shape.classes.iter().map(|choice| (choice.speed_permille.max(1), fleet.class_of(&choice.class))).collect()
        };
        let first = u16::from(self.shape.devices > 0);
        let any = || (first..fleet.classes.len() as u16).map(|class| (USUAL_SPEED, Some(class))).collect();
        let classes: Vec<(u32, Option<u16>)> = if self.shape.classes.is_empty() { any() } else { named(&self.shape) };
        self.choices = classes.into_iter().map(|(speed, class)| (speed, class.map(|class| self.need(class)))).collect();
    }

    fn need(&self, class: u16) -> Need {
        let spread = self.shape.spread.filter(|spread| spread.level == Level::Worker);
        Need {
            class,
            devices: self.shape.devices,
            cpus: self.shape.cpus,
            memory_bytes: self.shape.memory_bytes,
            per_worker_max: spread.map_or(u32::MAX, |spread| spread.members_max),
            filter: self.filter.clone(),
        }
    }

    pub fn choice(&self, at: u8) -> Option<(u32, &Need)> {
        let (speed, need) = self.choices.get(usize::from(at))?;
        Some((*speed, need.as_ref()?))
    }

    /// Devices count, or CPU slots for a gang without devices.
    pub fn usage(&self, need: &Need) -> Usage {
        if self.shape.devices > 0 {
            Usage { class: need.class, per_member: self.shape.devices.into() }
        } else {
            Usage { class: 0, per_member: self.shape.cpus.into() }
        }
    }

    /// Devices (or CPU slots) of the whole gang.
    pub fn width(&self) -> u64 {
        let per_member = if self.shape.devices > 0 { self.shape.devices } else { self.shape.cpus };
        u64::from(per_member.max(1)) * u64::from(self.shape.members.max)
    }

    /// Smaller gangs can take room in so small pieces that it could wait for ever.
    pub fn is_large(&self) -> bool {
        self.shape.members.min > 1 || self.shape.devices > 1
    }

    pub fn ask<'a>(&self, members: u32, pools: u64, without: &'a [crate::model::WorkerIndex]) -> Ask<'a> {
        let spread = self.shape.spread;
        Ask { members, required: self.shape.required, spread, pools, without, preference: Default::default() }
    }
}

/// One gang.
#[derive(Clone, Debug)]
pub(crate) struct Gang {
    pub job: JobId,
    pub queue: u32,
    pub shape: u32,
    pub priority: i32,
    pub preemptible: bool,
    /// Waited so long that it goes first.
    pub is_first: bool,
    pub submitted: Timestamp,
    pub not_before: Timestamp,
    pub run: Run,
    saves: Saves,
    /// How many had come into a line when it did.
    pub entered: u64,
    pub phase: Phase,
    past: Option<Box<Past>>,
}

// 100,000 of them wait: what few have belongs into `Past`.
const _: () = assert!(size_of::<Gang>() <= 112);

/// What only those have that ran before, failed, or were promised a start: most never do.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    /// Stops by decision in the last day, and when the day began.
    pub stops: u8,
    pub stops_since: Timestamp,
    /// What is left to run, where that is known better than from the request.
    pub remaining: Option<Millis>,
    /// Run before, in milliseconds × devices.
    pub served: u64,
    /// Run before and saved, in time at full size and usual speed.
    pub done: Millis,
    /// Workers that failed it. Rising.
    pub avoid: Vec<WorkerIndex>,
    /// A promise to it was broken: the next one not before this time.
    pub no_promise_until: Timestamp,
    /// The earliest start that it was promised.
    pub promised: Option<Timestamp>,
}

impl Past {
    const NONE: Past = Past {
        stops: 0,
        stops_since: Timestamp(0),
        remaining: None,
        served: 0,
        done: Millis(0),
        avoid: Vec::new(),
        no_promise_until: Timestamp(0),
        promised: None,
    };
}

/// Where a gang is in its life.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Not before its time.
    Delayed,
    /// In line, under the key with this cost.
    Queued(u64),
    Running(Box<Running>),
}

/// A gang that runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub members: Vec<Placed>,
    pub choice: u8,
    pub since: Timestamp,
    /// When it is expected to end.
    pub end: Timestamp,
    pub saved_at: Timestamp,
    /// Between its last two checkpoints; 0 = not known.
    pub saves_every: Millis,
    pub resized_at: Timestamp,
    /// What was left of it when it started, in device-milliseconds: its place among those that could give way.
    pub service: u64,
    /// Started because it had waited so long: it does not give way to shorter ones.
    pub was_first: bool,
    /// Started by a promise: it does not give way to shorter ones either.
    pub was_promised: bool,
    /// It ran longer than it said.
    pub is_overdue: bool,
    /// It was told to stop after the checkpoint that is due then.
    pub stops_at: Option<Timestamp>,
    /// The gang that it gives way to.
    pub gives_way: Option<u32>,
    /// Members that it will have when it has shrunk.
    pub shrinks_to: Option<Vec<Placed>>,
}

/// Place in line: the smallest is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub priority: std::cmp::Reverse<i32>,
    pub is_young: bool,
    pub cost: u64,
    pub submitted: Timestamp,
    pub job: JobId,
    pub gang: u32,
}

impl Gang {
    pub fn new(request: &GangRequest, queue: u32, shape: u32) -> Self {
        let mut gang = Self {
            job: request.job,
            queue,
            shape,
            priority: request.priority,
            preemptible: request.preemptible,
            is_first: false,
            submitted: request.submitted,
            not_before: request.not_before,
            run: request.run.into(),
            saves: request.checkpoint.into(),
            entered: 0,
            phase: Phase::Delayed,
            past: None,
        };
        if !request.avoid.is_empty() {
            let avoid = &mut gang.past_mut().avoid;
            avoid.clone_from(&request.avoid);
            avoid.sort_unstable();
            avoid.dedup();
        }
        gang
    }

    pub fn past(&self) -> &Past {
        static NONE: Past = Past::NONE;
        self.past.as_deref().unwrap_or(&NONE)
    }

    pub fn past_mut(&mut self) -> &mut Past {
        self.past.get_or_insert_with(|| Box::new(Past::NONE))
    }

    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.saves.get()
    }

    /// Its place in line, if it is in one.
    pub fn key(&self, gang: u32) -> Option<Key> {
        let Phase::Queued(cost) = self.phase else { return None };
        let (submitted, job) = (self.submitted, self.job);
        let priority = std::cmp::Reverse(self.priority);
        Some(Key { priority, is_young: !self.is_first, cost, submitted, job, gang })
    }

    pub fn running(&self) -> Option<&Running> {
        match &self.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        }
    }

    pub fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        }
    }

    /// What it will need at most at full size and usual speed: a promise, or else a guess, or else nothing.
    pub fn bound(&self) -> Option<Millis> {
        // One that starts anew has to come to where it was first.
        let past = self.past();
        let again = self.checkpoint().filter(|_| past.served > 0).map_or(0, |checkpoint| checkpoint.restore.0);
        let limit = self.run.limit.get().map(|limit| Millis(limit.0.saturating_add(again)));
        limit.or(past.remaining).or_else(|| Some(rest_of(self.run.estimate.get()?, past.done)))
    }

    /// What it will need about at full size and usual speed.
    pub fn estimate(&self, default: Millis) -> Millis {
        self.guess().after(Millis(0), default)
    }

    /// What is known of how long it will run.
    pub fn guess(&self) -> Guess {
        let Run { estimate, limit, .. } = self.run;
        let Past { remaining, done, .. } = self.past();
        let whole = if estimate.get().is_some() { estimate } else { limit };
        Guess { whole, limit, remaining: (*remaining).into(), done: *done }
    }

    /// The truth, for oracles.
    pub fn actual(&self, default: Millis) -> Millis {
        self.past().remaining.or(self.run.actual.get()).unwrap_or_else(|| self.estimate(default))
    }
}

/// A span at full size and usual speed, as it is with so many members of a class.
pub(crate) fn stretched(span: Millis, speed_permille: u32, members: u32, members_max: u32) -> Millis {
    let work = u128::from(span.0) * u128::from(USUAL_SPEED) * u128::from(members_max.max(1));
    let rate = u128::from(speed_permille.max(1)) * u128::from(members.max(1));
    Millis(u64::try_from(work.div_ceil(rate)).unwrap_or(u64::MAX))
}

/// The other way round: what a span with so many members of a class is at full size and usual speed.
pub(crate) fn worked(span: Millis, speed_permille: u32, members: u32, members_max: u32) -> Millis {
    let work = u128::from(span.0) * u128::from(speed_permille) * u128::from(members);
    Millis(u64::try_from(work / (u128::from(USUAL_SPEED) * u128::from(members_max.max(1)))).unwrap_or(u64::MAX))
}

/// Gangs by a small number, and shapes, users and groups by theirs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gangs {
    slab: Vec<Option<Gang>>,
    free: BTreeSet<u32>,
    by_job: BTreeMap<JobId, u32>,
    shapes_by_value: BTreeMap<Shape, u32>,
    pub shapes: Vec<ShapeInfo>,
    /// Gangs of each shape; a shape without gangs is forgotten and its number used again.
    shape_counts: Vec<u32>,
    shapes_free: BTreeSet<u32>,
    groups: BTreeMap<String, u32>,
}

impl Gangs {
    pub fn add(&mut self, gang: Gang) -> u32 {
        let index = self.free.pop_first().unwrap_or(self.slab.len() as u32);
        if index as usize == self.slab.len() {
            self.slab.push(None);
        }
        self.by_job.insert(gang.job, index);
        if let Some(count) = self.shape_counts.get_mut(gang.shape as usize) {
            *count += 1;
        }
        self.slab[index as usize] = Some(gang);
        index
    }

    /// The gang, and true when its shape is forgotten with it.
    pub fn remove(&mut self, index: u32) -> Option<(Gang, bool)> {
        let gang = self.slab.get_mut(index as usize)?.take()?;
        self.by_job.remove(&gang.job);
        self.free.insert(index);
        let count = &mut self.shape_counts[gang.shape as usize];
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            self.shapes_by_value.remove(&self.shapes[gang.shape as usize].shape);
            self.shapes_free.insert(gang.shape);
        }
        Some((gang, is_last))
    }

    pub fn index_of(&self, job: JobId) -> Option<u32> {
        self.by_job.get(&job).copied()
    }

    pub fn get(&self, index: u32) -> Option<&Gang> {
        self.slab.get(index as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut Gang> {
        self.slab.get_mut(index as usize)?.as_mut()
    }

    /// In order of jobs.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Gang)> {
        self.by_job.values().filter_map(|index| Some((*index, self.get(*index)?)))
    }

    fn group(&mut self, name: &str) -> u32 {
        let next = self.groups.len() as u32 + 1;
        if name.is_empty() { 0 } else { *self.groups.entry(name.to_owned()).or_insert(next) }
    }

    pub fn shape(&mut self, shape: &Shape, fleet: &Fleet) -> u32 {
        if let Some(known) = self.shapes_by_value.get(shape) {
            return *known;
        }
        let group = self.group(&shape.group);
        let away_from = self.group(&shape.away_from);
        let filter = Filter { labels: shape.labels.clone(), tolerations: shape.tolerations.clone(), away_from };
        let mut info = ShapeInfo { shape: shape.clone(), group, choices: Vec::new(), classes_known: 0, filter };
        info.resolve(fleet);
        let index = self.shapes_free.pop_first().unwrap_or(self.shapes.len() as u32);
        if index as usize == self.shapes.len() {
            self.shapes.push(info);
            self.shape_counts.push(0);
        } else {
            self.shapes[index as usize] = info;
        }
        self.shapes_by_value.insert(shape.clone(), index);
        index
    }

    /// The shape of a gang.
    pub fn info(&self, gang: &Gang) -> &ShapeInfo {
        &self.shapes[gang.shape as usize]
    }
}
