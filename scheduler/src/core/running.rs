//! Those that run, in two orders: by when they are expected to end, and by the work that they have left. With each stands what
//! is asked of all of them at once, so that such a walk does not look into every gang: at 10,000 workers that is most of its cost.

use crate::core::Core;
use crate::core::gang::{Gang, Guess, Running, worked};
use crate::fleet::Need;
use crate::model::Placed;
use std::cmp::Reverse;
use types::{Millis, Timestamp};

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
    pub may_stop: bool,
    /// It started for its age, or by a promise.
    pub was_special: bool,
    pub class: u16,
    pub priority: i32,
    since: Timestamp,
    guess: Guess,
    /// Speed, members, members at full size.
    pace: (u32, u32, u32),
    width: u64,
}

impl Soft {
    /// Work that it will have left at a time, in device-milliseconds, if it runs until then.
    pub fn service_at(&self, at: Timestamp, default: Millis) -> u64 {
        let (speed, members, most) = self.pace;
        let ran = worked(at.since(self.since), speed, members, most);
        self.guess.after(ran, default).0.saturating_mul(self.width)
    }
}

impl Core {
    /// What stands beside it in the order of work that is left.
    pub(super) fn soft_of(&self, gang: &Gang, running: &Running) -> Soft {
        let info = self.gangs.info(gang);
        let (speed, class) = info.choice(running.choice).map_or((1, 0), |(speed, need)| (speed, need.class));
        Soft {
            may_stop: gang.preemptible,
            was_special: running.was_first || running.was_promised,
            class,
            priority: gang.priority,
            since: running.since,
            guess: gang.guess(),
            pace: (speed, running.members.len() as u32, info.shape.members.max),
            width: info.width(),
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

    /// What a member of it holds, and the members themselves.
    pub(super) fn held_by(&self, gang: u32, ending: &Ending) -> Option<(&Need, &[Placed])> {
        let (_, need) = self.gangs.shapes.get(ending.shape as usize)?.choice(ending.choice)?;
        if ending.members == 1 {
            return Some((need, &[]));
        }
        Some((need, &self.gangs.get(gang)?.running()?.members))
    }
}
