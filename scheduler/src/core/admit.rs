//! Admission: queues in turn by exact shares, in each queue the first gang that is not blocked, until nothing more fits.

use crate::core::Core;
use crate::core::round::Blocked;
use crate::core::start::Tried;
use crate::model::Decision;
use crate::place;
use crate::policy::Passing;
use crate::rooms::Measure;
use std::collections::BTreeSet;
use types::JobId;

impl Core {
    /// A fact came: what a cut round knew is old, but it goes on to its end, or a stream of facts would keep it at its
    /// beginning for ever.
    pub(super) fn make_round_stale(&mut self) {
        if let Some(round) = &mut self.blocked {
            round.is_stale = true;
        }
    }

    pub(super) fn admit(&mut self, steps: &mut u32, decisions: &mut Vec<Decision>) {
        loop {
            // A round that was cut goes on where it was.
            let begun = self.blocked.take();
            let mut round = begun.unwrap_or_else(|| Blocked::after(self.lines.entered));
            self.forget_known(&mut round);
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
                    let line = self.lines.number((queue, shape));
                    if !self.start(key.gang, choice, members, decisions) {
                        return true;
                    }
                    self.note_start(blocked, queue, line);
                }
                Tried::OverQuota(..) => self.bar_line(blocked, (queue, shape)),
                Tried::Promised(_, until) => self.bar_line_until(blocked, (queue, shape), until),
                Tried::NoRoom => {
                    self.block_shape(blocked, shape, self.pools_of(key));
                    self.reserve_at_once(key.gang, decisions);
                }
            }
            if self.policy.passing == Passing::Nobody && !blocked.shapes.is_empty() {
                return true;
            }
        }
        true
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
        let stale = self.lines.iter().filter(|(_, line)| line.judged != Some(version));
        let stale: Vec<u32> = stale.map(|(line, _)| line).collect();
        for line in stale {
            self.judge_line(line);
        }
    }

    fn tell_hopeless(&self, fresh: BTreeSet<(JobId, u32)>, decisions: &mut Vec<Decision>) {
        for (job, index) in fresh {
            let Some(gang) = self.gangs.get(index) else { continue };
            let fits_ever = self.lines.get((gang.queue, gang.shape)).is_none_or(|line| line.fits_ever);
            if !fits_ever && self.fleet.capacity[0] > 0 {
                decisions.push(Decision::Reject { job });
            }
        }
    }

    fn judge_line(&mut self, line: u32) {
        let (queue, shape) = self.lines.at(line).place();
        self.gangs.shapes[shape as usize].resolve(&self.fleet);
        let fits_ever = self.fits_ever(queue, shape);
        let line = self.lines.at_mut(line);
        line.fits_ever = fits_ever;
        line.judged = Some((self.fleet_version, self.quota_version));
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
