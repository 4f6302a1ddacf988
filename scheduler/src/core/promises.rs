//! Promises from one scheduler to the next: what a leader promised, the one after it keeps.

use crate::core::Core;
use crate::core::gang::{Phase, stretched};
use crate::core::reserve::Kept;
use crate::model::{Refused, WorkerIndex};
use crate::policy::Passing;
use types::{JobId, Timestamp};

impl Core {
    /// The promises to waiting gangs that hold: to whom, the start, and which workers are kept for it.
    pub fn promised_starts(&self) -> impl Iterator<Item = (JobId, Timestamp, &[u32])> {
        let promises = self.reservations.iter().filter(|held| held.victims.is_none() && !held.is_broken);
        promises.filter_map(|held| Some((self.gangs.get(held.gang)?.job, held.start_by, held.workers.as_slice())))
    }

    /// A lower ceiling may make a promise one that cannot be kept.
    pub(super) fn break_promises_over_ceilings(&mut self) {
        for held in self.reservations.iter_mut().filter(|held| held.victims.is_none()) {
            let Some(gang) = self.gangs.get(held.gang) else { continue };
            if held.kept.1 > self.tree.ceiling(gang.queue, held.kept.0) {
                held.is_broken = true;
                self.must_replan = true;
            }
        }
    }

    /// Takes over a promise. What of it cannot be kept counts as broken, and it is planned anew.
    pub(super) fn take_promise(
        &mut self,
        job: JobId,
        workers: &[WorkerIndex],
        start_by: Timestamp,
    ) -> Result<(), Refused> {
        let index = self.gangs.index_of(job).ok_or(Refused::UnknownJob(job))?;
        let Some(gang) = self.gangs.get(index).filter(|gang| gang.running().is_none()) else {
            return Err(Refused::WrongPhase { job, wanted: "waiting" });
        };
        if let Some(unknown) = workers.iter().find(|worker| self.fleet.get(worker.0).is_none()) {
            return Err(Refused::UnknownIndex(*unknown));
        }
        let has_one = self.reservations.iter().any(|held| held.gang == index);
        if has_one || !matches!(self.policy.passing, Passing::Reserved(_)) || !matches!(gang.phase, Phase::Queued(_)) {
            return Ok(());
        }
        let shape = gang.shape as usize;
        self.gangs.shapes[shape].resolve(&self.fleet);
        let (info, Some(gang)) = (&self.gangs.shapes[shape], self.gangs.get(index)) else { return Ok(()) };
        let class = workers.first().and_then(|worker| self.fleet.get(worker.0)).map(|worker| worker.class);
        let mut choices = info.choices.iter().filter_map(|(speed, need)| Some((*speed, need.as_ref()?)));
        let Some((speed, need)) = choices.find(|(_, need)| Some(need.class) == class) else { return Ok(()) };
        let members = info.shape.members;
        let usage = info.usage(need);
        let span = gang.bound().map(|bound| stretched(bound, speed, members.min, members.max));
        let is_kept = |worker: &u32| !self.reservations.iter().any(|held| held.workers.binary_search(worker).is_ok());
        let kept = Kept {
            workers: workers.iter().map(|worker| worker.0).filter(is_kept).collect(),
            start_by,
            quota: (usage.class, usage.per_member * u64::from(members.min)),
            ends_by: span.map(|span| start_by.plus(span)),
            victims: None,
        };
        let is_whole = kept.workers.len() == workers.len();
        if self.hold(index, kept, None).is_none() {
            return Ok(());
        }
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.past_mut().promised = Some(start_by);
        }
        if let Some(held) = self.reservations.last_mut().filter(|_| !is_whole) {
            held.is_broken = true;
            self.must_replan = true;
        }
        Ok(())
    }
}
