//! Facts: each is checked whole before anything changes.

use crate::core::Core;
use crate::core::gang::{Gang, Phase, Running, worked};
use crate::fleet::Worker;
use crate::model::{EndedBy, Event, GangRequest, Placed, Refused, Shape, WorkerSpec, WorkerState};
use types::{JobId, Millis, Timestamp, WorkerId};

const DAY: Millis = Millis(24 * 3_600_000);

impl Core {
    pub(super) fn apply_event(&mut self, event: &Event) -> Result<(), Refused> {
        match event {
            Event::WorkerJoined(spec) => self.worker_joined(spec),
            Event::WorkerState { worker, state } => self.worker_state(worker, *state),
            Event::MaintenancePlanned { worker, from, to } => self.maintenance_planned(worker, *from, *to),
            Event::WorkerLeft { worker } => self.worker_left(worker),
            Event::QueueSet(spec) => {
                let fleet = &mut self.fleet;
                let is_new = self.tree.index_of(&spec.name).is_none();
                self.tree.set(spec, |class| fleet.class(class))?;
                self.has_kept_quotas &= is_new;
                self.quota_version += 1;
                self.break_promises_over_ceilings();
                Ok(())
            }
            Event::QueueRemoved { name } => {
                self.quota_version += 1;
                self.tree.remove(name)
            }
            Event::Submitted(request) => self.submitted(request),
            Event::Adopted { job, members, since } => self.adopted(*job, members, *since),
            Event::Promised { job, workers, start_by } => self.take_promise(*job, workers, *start_by),
            Event::Blamed { worker, job, at } => {
                self.worker(worker)?;
                self.blame(worker, *job, *at);
                Ok(())
            }
            Event::StartRefused { job } => self.stopped(*job, &EndedBy::Order, None, None, false),
            Event::Checkpointed { job, at } => self.checkpointed(*job, *at),
            Event::Estimated { job, remaining } => self.estimated(*job, *remaining),
            Event::Resized { job } => self.resized(*job),
            Event::Stopped { job, by, not_before, remaining } => {
                self.stopped(*job, by, Some(*not_before), *remaining, true)
            }
            Event::Ended { job, by } => self.ended(*job, by),
        }
    }

    fn worker_joined(&mut self, spec: &WorkerSpec) -> Result<(), Refused> {
        let index = self.fleet.join(spec)?;
        self.fleet_version += 1;
        if let Some(worker) = self.fleet.workers.get_mut(index as usize) {
            worker.aside_until = None;
            worker.strikes.clear();
        }
        self.refresh_worker(index);
        Ok(())
    }

    fn worker(&self, id: &WorkerId) -> Result<(u32, &Worker), Refused> {
        let index = self.fleet.index_of(id).filter(|index| self.fleet.get(*index).is_some_and(|w| w.is_present));
        let found = index.and_then(|index| Some((index, self.fleet.get(index)?)));
        found.ok_or_else(|| Refused::UnknownWorker(id.clone()))
    }

    fn worker_state(&mut self, id: &WorkerId, state: WorkerState) -> Result<(), Refused> {
        let (index, worker) = self.worker(id)?;
        let was_lost = worker.spec.state == WorkerState::Lost;
        self.fleet.count_out(index);
        let worker = &mut self.fleet.workers[index as usize];
        worker.spec.state = state;
        if state == WorkerState::Open {
            // Whoever opens it has looked at it.
            worker.aside_until = None;
            worker.strikes.clear();
        }
        self.fleet.count_in(index);
        self.fleet.touch(index);
        if was_lost != (state == WorkerState::Lost) {
            self.fleet_version += 1;
        }
        self.must_replan |= state != WorkerState::Open;
        self.refresh_worker(index);
        Ok(())
    }

    fn maintenance_planned(&mut self, id: &WorkerId, from: Timestamp, to: Timestamp) -> Result<(), Refused> {
        let (index, _) = self.worker(id)?;
        let now = self.now;
        let windows = &mut self.fleet.workers[index as usize].windows;
        windows.retain(|(begin, end)| *begin != from && *end > now);
        if from < to {
            windows.push((from, to));
            windows.sort_unstable();
        }
        self.must_replan = true;
        self.refresh_worker(index);
        Ok(())
    }

    fn worker_left(&mut self, id: &WorkerId) -> Result<(), Refused> {
        let (index, worker) = self.worker(id)?;
        if !worker.residents.is_empty() {
            return Err(Refused::Invalid { what: format!("worker {id}"), why: "gangs still run there" });
        }
        self.fleet.leave(index);
        self.refresh_worker(index);
        self.fleet_version += 1;
        self.must_replan = true;
        Ok(())
    }

    fn submitted(&mut self, request: &GangRequest) -> Result<(), Refused> {
        validate(request)?;
        if self.gangs.index_of(request.job).is_some() {
            return Err(Refused::KnownJob(request.job));
        }
        if let Some(unknown) = request.avoid.iter().find(|worker| self.fleet.get(worker.0).is_none()) {
            return Err(Refused::UnknownIndex(*unknown));
        }
        let queue = self.tree.leaf(&request.queue)?;
        let shape = self.gangs.shape(&request.shape, &self.fleet);
        let index = self.gangs.add(Gang::new(request, queue, shape));
        self.tree.count_gang(queue, true);
        self.fresh.insert((request.job, index));
        self.enqueue(index);
        Ok(())
    }

    fn adopted(&mut self, job: JobId, members: &[Placed], since: Timestamp) -> Result<(), Refused> {
        let index = self.gangs.index_of(job).ok_or(Refused::UnknownJob(job))?;
        let Some(gang) = self.gangs.get(index).filter(|gang| gang.running().is_none()) else {
            return Err(Refused::WrongPhase { job, wanted: "waiting" });
        };
        let first = members.first().ok_or(Refused::DoesNotFit(job))?;
        let class = self.fleet.get(first.worker.0).ok_or(Refused::UnknownIndex(first.worker))?.class;
        let shape = gang.shape as usize;
        self.gangs.shapes[shape].resolve(&self.fleet);
        let mut choices = self.gangs.shapes[shape].choices.iter();
        let choice = choices.position(|(_, need)| need.as_ref().is_some_and(|need| need.class == class));
        let choice = choice.ok_or(Refused::DoesNotFit(job))? as u8;
        self.has_kept_quotas = false;
        if self.run_gang(index, choice, members.to_vec(), since) { Ok(()) } else { Err(Refused::DoesNotFit(job)) }
    }

    fn running_gang(&mut self, job: JobId) -> Result<(u32, &mut Running), Refused> {
        let index = self.gangs.index_of(job).ok_or(Refused::UnknownJob(job))?;
        let running = self.gangs.get_mut(index).and_then(Gang::running_mut);
        running.map(|running| (index, running)).ok_or(Refused::WrongPhase { job, wanted: "running" })
    }

    fn checkpointed(&mut self, job: JobId, at: Timestamp) -> Result<(), Refused> {
        let index = self.gangs.index_of(job).ok_or(Refused::UnknownJob(job))?;
        let before = self.standing_at(index);
        let running = self.gangs.get_mut(index).and_then(Gang::running_mut);
        let running = running.ok_or(Refused::WrongPhase { job, wanted: "running" })?;
        // The first one of an attempt tells nothing of the time from one to the next.
        if running.saved_at > running.since {
            running.saves_every = at.since(running.saved_at);
        }
        running.saved_at = at;
        self.stand(index, before);
        Ok(())
    }

    fn estimated(&mut self, job: JobId, remaining: Millis) -> Result<(), Refused> {
        let index = self.gangs.index_of(job).ok_or(Refused::UnknownJob(job))?;
        let is_running = self.gangs.get(index).is_some_and(|gang| gang.running().is_some());
        if !is_running {
            self.dequeue(index);
        }
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.past_mut().remaining = Some(remaining);
            if let Some(running) = gang.running_mut() {
                running.is_overdue = false;
            }
        }
        if is_running {
            self.set_end(index, self.now.plus(remaining));
        } else {
            self.enqueue(index);
        }
        Ok(())
    }

    fn resized(&mut self, job: JobId) -> Result<(), Refused> {
        let (index, running) = self.running_gang(job)?;
        let Some(smaller) = running.shrinks_to.take() else { return Ok(()) };
        if !self.change_members(index, smaller) {
            self.note_soft(index);
            self.stand(index, None);
        }
        self.victim_left(index);
        Ok(())
    }

    /// An attempt is over and the gang waits again; with no `not_before`, as if it had never started.
    fn stopped(
        &mut self,
        job: JobId,
        by: &EndedBy,
        not_before: Option<Timestamp>,
        remaining: Option<Millis>,
        counts: bool,
    ) -> Result<(), Refused> {
        let (index, running) = self.running_gang(job)?;
        let gave_way = running.gives_way.is_some();
        let now = self.now;
        self.strike(job, by);
        self.release(index, counts);
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.not_before = not_before.unwrap_or(gang.not_before);
            let past = gang.past_mut();
            past.remaining = remaining.or(past.remaining);
            if gave_way {
                let is_new_day = now.since(past.stops_since) > DAY;
                past.stops_since = if is_new_day { now } else { past.stops_since };
                past.stops = if is_new_day { 1 } else { past.stops.saturating_add(1) };
            }
        }
        self.enqueue(index);
        self.victim_left(index);
        Ok(())
    }

    fn ended(&mut self, job: JobId, by: &EndedBy) -> Result<(), Refused> {
        let index = self.gangs.index_of(job).ok_or(Refused::UnknownJob(job))?;
        self.strike(job, by);
        self.release(index, false);
        self.dequeue(index);
        self.drop_reservation(index);
        self.victim_left(index);
        self.fresh.remove(&(job, index));
        self.preempted_at.remove(&index);
        if let Some((gang, is_last)) = self.gangs.remove(index) {
            self.tree.count_gang(gang.queue, false);
            if is_last {
                self.lines.forget_shape(gang.shape);
            }
        }
        Ok(())
    }

    /// Counts a failure against the workers that may be to blame, and sets aside those with too many.
    fn strike(&mut self, job: JobId, by: &EndedBy) {
        let EndedBy::Workers(blamed) = by else { return };
        for id in blamed {
            self.blame(id, job, self.now);
        }
    }

    fn blame(&mut self, id: &WorkerId, job: JobId, now: Timestamp) {
        let rules = self.policy.strikes;
        let Some(index) = self.fleet.index_of(id) else { return };
        let worker = &mut self.fleet.workers[index as usize];
        worker.strikes.retain(|(at, other)| now.since(*at) <= rules.window && *other != job);
        worker.strikes.push((now, job));
        if rules.jobs > 0 && worker.strikes.len() >= rules.jobs as usize {
            worker.strikes.clear();
            worker.aside_until = Some(now.plus(rules.aside));
            self.must_replan = true;
            self.refresh_worker(index);
        }
    }

    /// A gang that runs is expected to end at another time.
    pub(super) fn set_end(&mut self, index: u32, end: Timestamp) {
        let Some(running) = self.gangs.get_mut(index).and_then(Gang::running_mut) else { return };
        let old = running.end;
        running.end = end;
        self.turns += 1;
        self.ends.remove(&(old, index));
        self.note_running(index);
    }

    /// Takes back all that a running gang holds; it is in no line until somebody puts it there. `counts`: what it did counts
    /// for its next attempt.
    fn release(&mut self, index: u32, counts: bool) {
        let before = self.standing_at(index);
        let Some(gang) = self.gangs.get_mut(index).filter(|gang| gang.running().is_some()) else { return };
        let Phase::Running(running) = std::mem::replace(&mut gang.phase, Phase::Delayed) else { return };
        let (leaf, shape, members) = (gang.queue, gang.shape as usize, running.members.len() as u64);
        self.ends.remove(&(running.end, index));
        self.elastic.remove(&index);
        self.forget_running(leaf, running.service, index);
        self.stand(index, before);
        self.turns += 1;
        let Some((speed, need)) = self.gangs.shapes[shape].choice(running.choice) else { return };
        let usage = self.gangs.shapes[shape].usage(need);
        self.fleet.give(index, need, &running.members);
        self.tree.charge(leaf, usage.class, usage.per_member * members, false);
        let served = self.now.since(running.since).0.saturating_mul(usage.per_member * members);
        // What came after the last checkpoint is lost; one that was waited for is there.
        let is_saved = running.stops_at.is_some_and(|due| due <= self.now);
        let saved_at = if is_saved { self.now } else { running.saved_at };
        let most = self.gangs.shapes[shape].shape.members.max;
        let saved = worked(saved_at.since(running.since), speed, members as u32, most);
        if let Some(gang) = self.gangs.get_mut(index).filter(|_| counts) {
            let saves = gang.checkpoint().is_some();
            let past = gang.past_mut();
            past.served = past.served.saturating_add(served);
            if saves {
                past.done = Millis(past.done.0.saturating_add(saved.0));
            }
        }
    }
}

fn validate(request: &GangRequest) -> Result<(), Refused> {
    let Shape { members, devices, cpus, ranks_per_member, .. } = &request.shape;
    let invalid = |why| Err(Refused::Invalid { what: format!("job {}", request.job), why });
    if members.min == 0 || members.max < members.min {
        return invalid("it must have 1 to so many members");
    }
    if *devices > 64 {
        return invalid("a member has at most 64 devices");
    }
    if *devices == 0 && *cpus == 0 {
        return invalid("a member needs a device or a CPU slot");
    }
    if *ranks_per_member == 0 || request.shape.spread.is_some_and(|spread| spread.members_max == 0) {
        return invalid("a count is 0");
    }
    Ok(())
}
