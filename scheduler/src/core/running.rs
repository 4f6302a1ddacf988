//! Those that run, in two orders: by when they are expected to end, and by the work that they have left. With each stands what
//! is asked of all of them at once, so that such a walk does not look into every gang: at 10,000 workers that is most of its cost.

use crate::core::Core;
use crate::core::gang::{Gang, Running, ShapeInfo, worked};
use crate::core::givers::{Kind, Standing};
use crate::core::guess::Guess;
use crate::fleet::Need;
use crate::model::{Checkpoint, Placed, Stop};
use crate::policy::PreemptRules;
use std::cmp::Reverse;
use types::{Millis, Timestamp};

const DAY: Millis = Millis(24 * 3_600_000);

/// What will be free when a gang ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub queue: u32,
    pub shape: u32,
    pub choice: u8,
    pub members: u32,
    /// Its first member: most gangs have no other.
    pub first: Placed,
}

impl Ending {
    pub fn of(gang: &Gang, running: &Running) -> Option<Self> {
        let first = *running.members.first()?;
        let (queue, shape, choice) = (gang.queue, gang.shape, running.choice);
        Some(Self { queue, shape, choice, members: running.members.len() as u32, first })
    }
}

/// What is asked of a gang that could give way to one of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Soft {
    may_give_way: bool,
    /// It started for its age, or by a promise.
    pub was_special: bool,
    pub class: u16,
    pub priority: i32,
    pub since: Timestamp,
    /// Stops by decision in the day that began then.
    stops: u8,
    stops_since: Timestamp,
    guess: Guess,
    speed: u32,
    members: u32,
    members_max: u32,
    width: u64,
    /// Devices of a member.
    pub devices: u32,
}

impl Soft {
    /// Work that it will have left at a time, in device-milliseconds, if it runs until then.
    pub fn service_at(&self, at: Timestamp, default: Millis) -> u64 {
        let ran = worked(at.since(self.since), self.speed, self.members, self.members_max);
        self.guess.after(ran, default).0.saturating_mul(self.width)
    }

    /// May it be stopped for a gang that needs this class, once it has run for long enough?
    pub fn could_stop(&self, class: u16, now: Timestamp, rules: PreemptRules) -> bool {
        self.may_give_way && self.class == class && !is_tired((self.stops, self.stops_since), now, rules)
    }
}

impl Running {
    /// Where a gang did not say how often it saves its progress, what it does tells.
    pub fn known(&self, checkpoint: Checkpoint) -> Checkpoint {
        let interval = if checkpoint.interval.0 > 0 { checkpoint.interval } else { self.saves_every };
        Checkpoint { interval, ..checkpoint }
    }

    /// It stops already, or becomes smaller.
    pub fn is_leaving(&self) -> bool {
        self.gives_way.is_some() || self.shrinks_to.is_some()
    }

    /// Until when what it did is kept, less what saving and restoring take; and when its next checkpoint is due, and what that
    /// and restoring take.
    fn keeps(&self, checkpoint: Option<Checkpoint>) -> (Timestamp, Option<(Timestamp, Millis)>) {
        let Some(checkpoint) = checkpoint.map(|checkpoint| self.known(checkpoint)) else { return (self.since, None) };
        let cost = Millis(checkpoint.save.0.saturating_add(checkpoint.restore.0));
        let due = (checkpoint.interval.0 > 0).then(|| (self.saved_at.plus(checkpoint.interval), cost));
        (Timestamp(self.saved_at.0.saturating_sub(cost.0)), due)
    }

    /// When it should stop, and what of its time has to be spent again.
    pub fn loss(&self, checkpoint: Option<Checkpoint>, now: Timestamp, rules: PreemptRules) -> (Stop, Millis) {
        let known = checkpoint.map(|checkpoint| self.known(checkpoint));
        let Some(checkpoint) = known else { return (Stop::Now, now.since(self.since)) };
        let due = self.saved_at.plus(checkpoint.interval).max(now);
        let overhead = checkpoint.save.0.saturating_add(checkpoint.restore.0);
        if checkpoint.interval.0 > 0 && due.since(now) <= rules.checkpoint_wait_max {
            return (Stop::AfterCheckpoint { due }, Millis(overhead));
        }
        (Stop::Now, Millis(now.since(self.saved_at).0.saturating_add(overhead)))
    }
}

/// Where a running gang stands among those that may be stopped. Nothing for one that may not, or is leaving.
pub(super) fn standing_of(info: &ShapeInfo, gang: &Gang, running: &Running) -> Option<Standing> {
    if !gang.preemptible || running.is_leaving() {
        return None;
    }
    let kind = Kind {
        class: info.choice(running.choice).map_or(0, |(_, need)| need.class),
        queue: gang.queue,
        priority: gang.priority,
        was_special: running.was_first || running.was_promised,
        members: running.members.len() as u32,
        members_min: info.shape.members.min,
        devices: info.shape.devices.max(1),
    };
    let (kept_until, due) = running.keeps(gang.checkpoint());
    Some(Standing { kind, job: gang.job, kept_until, due })
}

/// Was a gang stopped so often in the day that began then that it is left alone?
pub(super) fn is_tired((stops, since): (u8, Timestamp), now: Timestamp, rules: PreemptRules) -> bool {
    now.since(since) <= DAY && u32::from(stops) >= rules.per_day_max
}

impl Core {
    /// What stands beside it in the order of work that is left.
    pub(super) fn soft_of(&self, gang: &Gang, running: &Running) -> Soft {
        let info = self.gangs.info(gang);
        let choice = info.choice(running.choice);
        let (speed, class) = choice.map_or((1, 0), |(speed, need)| (speed, need.class));
        Soft {
            may_give_way: gang.preemptible && !running.is_leaving(),
            was_special: running.was_first || running.was_promised,
            class,
            priority: gang.priority,
            since: running.since,
            stops: gang.past().stops,
            stops_since: gang.past().stops_since,
            guess: gang.guess(),
            speed,
            members: running.members.len() as u32,
            members_max: info.shape.members.max,
            width: info.width(),
            devices: info.shape.devices.max(1),
        }
    }

    /// Puts a running gang where it belongs in both orders, or writes anew what stands beside it.
    pub(super) fn note_running(&mut self, index: u32) {
        let Some((gang, running)) = self.gangs.get(index).and_then(|gang| Some((gang, gang.running()?))) else {
            return;
        };
        let (end, service) = ((running.end, index), (gang.queue, Reverse(running.service), index));
        let (ending, soft) = (Ending::of(gang, running), self.soft_of(gang, running));
        self.by_service.insert(service, soft);
        if let Some(ending) = ending {
            self.ends.insert(end, ending);
        }
    }

    /// Writes anew what stands beside a running gang whose place in both orders is the same.
    pub(super) fn note_soft(&mut self, index: u32) {
        let Some((gang, running)) = self.gangs.get(index).and_then(|gang| Some((gang, gang.running()?))) else {
            return;
        };
        let (place, soft) = ((gang.queue, Reverse(running.service), index), self.soft_of(gang, running));
        if let Some(noted) = self.by_service.get_mut(&place) {
            *noted = soft;
        }
    }

    /// A gang does not run any more, or stands elsewhere among those that do.
    pub(super) fn forget_running(&mut self, leaf: u32, service: u64, index: u32) {
        self.by_service.remove(&(leaf, Reverse(service), index));
    }

    /// Where a gang stands among those that may be stopped; to be asked before anything of that changes.
    pub(super) fn standing_at(&self, index: u32) -> Option<Standing> {
        let gang = self.gangs.get(index)?;
        standing_of(self.gangs.info(gang), gang, gang.running()?)
    }

    /// Puts a gang where it belongs among those that may be stopped, if it does; `before` is where it stood.
    pub(super) fn stand(&mut self, index: u32, before: Option<Standing>) {
        let after = self.standing_at(index);
        self.givers.move_gang(index, before, after);
    }

    /// What a member of it holds, and the members themselves.
    pub(super) fn held_by(&self, gang: u32, ending: &Ending) -> Option<(&Need, &[Placed])> {
        let (_, need) = self.gangs.shapes.get(ending.shape as usize)?.choice(ending.choice)?;
        if ending.members == 1 {
            return Some((need, &[]));
        }
        Some((need, &self.gangs.get(gang)?.running()?.members))
    }
}
