//! How jobs get on: speed by placement, what a start costs, what a stop loses. In whole ticks and millionths.

use super::trace::TraceJob;
use types::Millis;

/// Full speed: one tick of a job's run time a tick.
pub const FULL_SPEED: u64 = 1_000_000;

/// Where a gang stands, as far as its speed depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// Devices on each machine, in the order of the members.
    pub devices: &'a [u32],
    /// Racks that hold a part of it.
    pub racks: u32,
    /// Members that it has, and that it wants at most.
    pub members: (u32, u32),
    /// Speed of its devices, in thousandths.
    pub class_permille: u32,
}

/// How jobs run. What the scheduler believes of it is another matter.
pub trait Model {
    /// Progress a tick, in millionths; above 0.
    fn speed(&self, job: &TraceJob, span: &Span<'_>) -> u64;

    /// Ticks from a start until the job gets on; `is_first` = it has not run before.
    fn start_cost(&self, job: &TraceJob, is_first: bool) -> Millis;

    /// Ticks of the last `ran` that an attempt has to do again when it is stopped.
    fn lost(&self, job: &TraceJob, ran: Millis) -> Millis;

    /// Ticks from a point `ran` ticks after the start until the next checkpoint, when there are any.
    fn until_checkpoint(&self, ran: Millis) -> Option<Millis>;
}

/// The usual model: linear in members, a penalty for standing in several racks, a price of each further start, and
/// checkpoints at even intervals from each start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standard {
    /// Cost of each start but the first.
    pub restart: Millis,
    /// From one checkpoint to the next; zero = a stop loses nothing; nothing = a stop loses all.
    pub checkpoint: Option<Millis>,
    /// Speed in several racks, in thousandths of that in one.
    pub racks_permille: u32,
}

impl Default for Standard {
    fn default() -> Self {
        Self { restart: Millis(60_000), checkpoint: Some(Millis(30 * 60_000)), racks_permille: 1_000 }
    }
}

impl Model for Standard {
    fn speed(&self, _: &TraceJob, span: &Span<'_>) -> u64 {
        let (members, of) = span.members;
        let linear = FULL_SPEED * u64::from(members) / u64::from(of.max(1));
        let penalty = if span.racks > 1 { self.racks_permille } else { 1_000 };
        (linear * u64::from(penalty) / 1_000 * u64::from(span.class_permille) / 1_000).max(1)
    }

    fn start_cost(&self, _: &TraceJob, is_first: bool) -> Millis {
        if is_first { Millis(0) } else { self.restart }
    }

    fn lost(&self, _: &TraceJob, ran: Millis) -> Millis {
        Millis(self.checkpoint.map_or(ran.0, |interval| ran.0.checked_rem(interval.0).unwrap_or(0)))
    }

    fn until_checkpoint(&self, ran: Millis) -> Option<Millis> {
        let interval = self.checkpoint?.0;
        Some(Millis(if interval == 0 { 0 } else { (interval - ran.0 % interval) % interval }))
    }
}

/// One attempt under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it started.
    pub start: u64,
    /// Ticks before it gets on.
    pub cost: u64,
    /// Millionths a tick.
    pub speed: u64,
}

impl Attempt {
    /// When `work` ticks of full speed will be done.
    pub fn end(&self, work: u64) -> u64 {
        let ticks = (u128::from(work) * u128::from(FULL_SPEED)).div_ceil(u128::from(self.speed.max(1)));
        self.start.saturating_add(self.cost).saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    /// Ticks for which it got on until `now`.
    pub fn ran(&self, now: u64) -> Millis {
        Millis(now.saturating_sub(self.start + self.cost))
    }

    /// Work done in so many of them.
    pub fn work(&self, ran: Millis) -> u64 {
        u64::try_from(u128::from(ran.0) * u128::from(self.speed) / u128::from(FULL_SPEED)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Standard = Standard { restart: Millis(60), checkpoint: Some(Millis(30)), racks_permille: 500 };

    #[test]
    fn a_stop_loses_what_came_after_the_last_checkpoint() {
        let job = TraceJob::default();
        assert_eq!(MODEL.lost(&job, Millis(75)), Millis(15));
        assert_eq!(MODEL.until_checkpoint(Millis(75)), Some(Millis(15)));
        assert_eq!(MODEL.until_checkpoint(Millis(60)), Some(Millis(0)));
        assert_eq!(Standard { checkpoint: None, ..MODEL }.lost(&job, Millis(75)), Millis(75));
        assert_eq!(Standard { checkpoint: Some(Millis(0)), ..MODEL }.lost(&job, Millis(75)), Millis(0));
    }

    #[test]
    fn speed_follows_members_and_racks() {
        let span = Span { devices: &[8, 8], racks: 2, members: (2, 4), class_permille: 1_000 };
        assert_eq!(MODEL.speed(&TraceJob::default(), &span), 250_000);
    }

    #[test]
    fn an_attempt_ends_when_its_work_is_done() {
        let attempt = Attempt { start: 100, cost: 60, speed: 300_000 };
        assert_eq!(attempt.end(10), 100 + 60 + 34);
        assert_eq!(attempt.work(attempt.ran(attempt.end(10))), 10);
        assert_eq!(attempt.ran(120), Millis(0));
    }
}
