//! The loop itself: one owner of sessions and reports, effects only through the node and the sessions' outboxes.

use super::ends::{Ended, Ends};
use super::facts::{Fact, Reports};
use super::in_flight::InFlight;
use super::leases;
use super::planning::Planning;
use super::sessions::{HeldOff, Process, SessionId, Sessions};
use super::{Handle, Message};
use crate::observe::Observed;
use crate::raft::{Leadership, Node, ProposeError};
use cluster_state::{Command, Outcome, State};
use proto::internal::{CheckpointTaken, to_worker};
use scheduler::policy::Policy;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::{LogIndex, MemberKey, WorkerId};

/// Leases, time limits and back-offs are looked at this often.
const TICK: Duration = Duration::from_millis(50);

/// Attempts of a job that can have ended or begun between two turns, with room: each but the last was wished before it ended, or
/// lost a worker.
const ATTEMPTS_TOLD: usize = 4;
/// Messages taken in one turn before the loop acts on them.
const TURN_MAX: usize = 256;

/// What the loop is told at start.
#[derive(Clone, Debug)]
pub(crate) struct LeaderConfig {
    /// A worker kills its ranks when its lease was not renewed for this long.
    pub(crate) lease: Duration,
    /// Of the scheduler.
    pub(crate) policy: Policy,
}

/// Owner of the sessions and of what is on its way to the log.
pub(crate) struct Leader {
    pub(super) node: Node,
    pub(super) config: LeaderConfig,
    pub(super) observed: Arc<Observed>,
    pub(super) handle: Handle,
    mailbox: mpsc::Receiver<Message>,
    sessions: Sessions,
    reports: Reports,
    pub(super) leading_since: Option<Instant>,
    /// Of that leadership.
    pub(super) term: u64,
    in_flight: InFlight,
    pub(super) planning: Planning,
    dispatched: LogIndex,
    /// Up to which entry reports were compared with the tables.
    looked: LogIndex,
    ends: Ends,
    checkpoints: BTreeMap<MemberKey, (WorkerId, u64)>,
}

impl Leader {
    pub(crate) fn new(
        node: Node,
        config: LeaderConfig,
        observed: Arc<Observed>,
        handle: Handle,
        mailbox: mpsc::Receiver<Message>,
    ) -> Self {
        Self {
            node,
            config,
            observed,
            handle,
            mailbox,
            sessions: Sessions::default(),
            reports: Reports::default(),
            leading_since: None,
            term: 0,
            in_flight: InFlight::default(),
            planning: Planning::default(),
            dispatched: LogIndex(0),
            looked: LogIndex(0),
            ends: Ends::default(),
            checkpoints: BTreeMap::new(),
        }
    }

    /// Runs until the process ends.
    pub(crate) async fn run(mut self, shutdown: daemon::Shutdown) {
        let mut applied = self.node.applied();
        let mut role = self.node.leadership();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut ticked = false;
            tokio::select! {
                () = shutdown.requested() => break,
                message = self.mailbox.recv() => {
                    let Some(message) = message else { break };
                    self.take_turn(message);
                }
                changed = applied.changed() => if changed.is_err() { break },
                changed = role.changed() => if changed.is_err() { break },
                () = until(self.planning.held_until()) => {}
                _ = tick.tick() => ticked = true,
            }
            let now = *role.borrow_and_update();
            self.follow_role(now);
            if self.leading_since.is_some() {
                applied.mark_unchanged();
                let state = self.node.state();
                self.act(&state, ticked);
            }
        }
        let leader = self.node.leader_address().unwrap_or_default();
        self.sessions.redirect_all(&leader);
    }

    fn take_turn(&mut self, first: Message) {
        self.take(first);
        for _ in 1..TURN_MAX {
            let Ok(message) = self.mailbox.try_recv() else { break };
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Greeted { worker, process, reply } => {
                let _ = reply.send(self.held_off(&worker, process).map(|held| held.to_string()));
            }
            Message::Opened { worker, process, statuses, outbox, reply } => {
                if self.may_open(&worker) && self.held_off(&worker, process).is_none() {
                    let id = self.sessions.open(worker, process, outbox, Instant::now());
                    let _ = reply.send(id);
                    self.take_statuses(id, statuses);
                }
            }
            Message::Heartbeat { session, sequence } => self.heartbeat(session, sequence),
            Message::Statuses { session, statuses } => self.take_statuses(session, statuses),
            Message::Checkpoint { session, key, token, checkpoint } => {
                if let Some(worker) = self.sessions.worker(session).cloned() {
                    self.checkpoints.insert(key, (worker, checkpoint.step));
                    self.reports.take_checkpoint(key, token, checkpoint);
                }
            }
            Message::Closed { session } => self.sessions.close(session),
            Message::Proposed { fact, recorded } => {
                if let Some(job) = fact.job() {
                    self.reports.look_again(job);
                }
                self.in_flight.settle(fact, recorded);
            }
            Message::Planned { term, refused } => self.planned(term, &refused),
            Message::Explain { job, reply } => self.explain(job, reply),
            Message::Copy { reply } => self.copy(reply),
            Message::SetAside { reply } => self.set_aside(reply),
        }
    }

    /// A worker that is lost, or about to be, registers (again) first. Its session would go on in the tables' eyes as that of a
    /// lost worker; and until its loss is in the log, the wishes are for members that this loss ends.
    fn may_open(&self, worker: &WorkerId) -> bool {
        let known = self.node.look(|state| state.worker(worker).is_some_and(|known| !known.lost));
        self.leading_since.is_some() && known && !self.is_being_lost(worker)
    }

    /// Two processes with one data folder, one of them with a copy: the one that is heard goes on, the other waits.
    fn held_off(&self, worker: &WorkerId, process: Process) -> Option<HeldOff> {
        self.sessions.held_off(worker, process, self.config.lease, Instant::now())
    }

    fn is_being_lost(&self, worker: &WorkerId) -> bool {
        self.in_flight.contains(&Fact::Lost(worker.clone()))
    }

    /// Renews the lease only while a quorum still follows this leader: a leader that was cut off must let leases run out.
    fn heartbeat(&mut self, session: SessionId, sequence: u64) {
        let Some(worker) = self.sessions.worker(session) else { return };
        if !self.is_being_lost(worker) && leases::surely_leads(&self.node) {
            self.sessions.heartbeat(session, sequence, Instant::now());
        }
    }

    fn take_statuses(&mut self, session: SessionId, statuses: Vec<types::MemberStatus>) {
        let Some(worker) = self.sessions.worker(session).cloned() else { return };
        // A member that the tables no longer know stays at the worker until the wishes say so again.
        self.sessions.has_spoken(&worker, statuses.iter().map(|status| status.key));
        for status in statuses {
            self.observed.export().heard(&worker, &status);
            self.reports.take(&worker, status);
        }
    }

    /// Leadership may have gone and come back between two turns: only its term tells. What was known of workers then is as old
    /// as after any other change.
    fn follow_role(&mut self, now: Leadership) {
        if self.leading_since.is_some() && !(now.leading && now.term == self.term) {
            let leader = self.node.leader_address().unwrap_or_default();
            tracing::info!(%leader, term = now.term, "no longer leading");
            self.sessions.redirect_all(&leader);
            self.reports = Reports::default();
            self.checkpoints.clear();
            self.planning = Planning::default();
            self.observed.survey(&[]);
            self.leading_since = None;
        }
        if self.leading_since.is_none() && now.leading {
            tracing::info!(term = now.term, "leading");
            self.leading_since = Some(Instant::now());
            self.term = now.term;
            self.dispatched = LogIndex(0);
            // There are no reports yet.
            let state = self.node.state();
            (self.looked, self.ends) = (state.applied(), Ends::begin(&state));
        }
    }

    fn act(&mut self, state: &State, ticked: bool) {
        if ticked {
            self.in_flight.tick();
            self.close_lost(state);
        }
        self.dispatch(state);
        // What came back without being in the log rests until the tick, and is then found by looking at all.
        let changed = (!ticked).then(|| state.changed_after(self.looked).map(|(_, job)| job.id).collect());
        self.count_ends(state);
        self.looked = state.applied();
        for (fact, command) in self.reports.due(state, &self.in_flight, changed) {
            self.propose(fact, command);
        }
        self.confirm_checkpoints(state);
        if ticked {
            self.look_at_clocks(state);
        }
        self.schedule(state, ticked);
        if ticked {
            self.survey(state);
        }
    }

    fn count_ends(&mut self, state: &State) {
        for ended in self.ends.look(state, self.looked) {
            match ended {
                Ended::Attempt(cause) => self.observed.ended(cause),
                Ended::Job(phase) => self.observed.finished(phase),
            }
        }
    }

    /// A lost worker must register again, and does so when it dials.
    fn close_lost(&mut self, state: &State) {
        for (id, _) in state.workers().filter(|(_, worker)| worker.lost) {
            self.sessions.close_worker(id);
        }
    }

    /// Sends wishes to the workers whose jobs changed; new sessions and reporters get theirs too.
    fn dispatch(&mut self, state: &State) {
        // Else they wait: nothing is forgotten, and the next tick asks again.
        if !leases::surely_leads(&self.node) {
            return;
        }
        for (_, job) in state.changed_after(self.dispatched) {
            // Attempts before the last may still have had members when the tables changed.
            for attempt in job.attempts.iter().rev().take(ATTEMPTS_TOLD) {
                for member in &attempt.placement.members {
                    let key = attempt.key(job.id, member.node_rank);
                    self.sessions.mark(&member.worker, key);
                }
            }
        }
        self.dispatched = state.applied();
        let dirty = self.sessions.take_dirty();
        if dirty.is_empty() {
            return;
        }
        let coordinators = self.node.grpc_addresses();
        for (worker, dirty) in dirty {
            // A second life of the name waits until the tables know it.
            let known = state.worker(&worker).map(|known| known.registration.instance);
            if known.is_some() && known == self.sessions.instance(&worker) {
                self.sessions.send_wishes(&worker, &dirty, state, &coordinators);
            } else {
                self.sessions.put_back(worker, dirty);
            }
        }
    }

    fn confirm_checkpoints(&mut self, state: &State) {
        let sessions = &mut self.sessions;
        self.checkpoints.retain(|key, (worker, step)| {
            let job = state.job(key.job);
            let live = job.and_then(|job| job.live_attempt()).is_some_and(|live| live.number == key.attempt);
            let saved = job.and_then(|job| job.checkpoints.last()).is_some_and(|last| last.checkpoint.step >= *step);
            if saved || !live {
                let taken = CheckpointTaken { key: postcard::to_allocvec(key).unwrap_or_default().into(), step: *step };
                sessions.send(worker, to_worker::Message::Checkpoint(taken));
            }
            live && !saved
        });
    }

    fn look_at_clocks(&mut self, state: &State) {
        let Some(since) = self.leading_since else { return };
        let lost = leases::lost(state, &mut self.sessions, since, self.config.lease, Instant::now());
        let over = leases::over_time(state, &self.reports, daemon::clock::now());
        let undrained = leases::undrained(state, daemon::clock::now());
        for (fact, command) in lost.into_iter().chain(over).chain(undrained) {
            self.propose(fact, command);
        }
    }

    pub(super) fn propose(&mut self, fact: Fact, command: Command) {
        if !self.in_flight.begin(&fact) {
            return;
        }
        if let Fact::Lost(worker) = &fact {
            tracing::warn!(worker_id = %worker, "worker lost: its lease is over");
        }
        let (node, term, handle) = (self.node.clone(), self.term, self.handle.clone());
        tokio::spawn(async move {
            let recorded = record(&node, term, &fact, command).await;
            handle.send(Message::Proposed { fact, recorded }).await;
        });
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Brings a fact to the log while this coordinator leads in `term`: a successor hears of it itself, and may know better. True
/// once it is there.
async fn record(node: &Node, term: u64, fact: &Fact, command: Command) -> bool {
    let leads = || *node.leadership().borrow() == Leadership { term, leader: Some(node.id()), leading: true };
    let mut doubtful = false;
    while leads() {
        match node.propose_here(vec![command.clone()]).await {
            Ok(committed) => return !committed.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))),
            Err(error) => {
                tracing::debug!(?fact, %error, "not known to be in the log");
                // It may be committed later, and take the worker from under a new session. A second one settles that, for the
                // log has an order, and nobody is admitted before the answer. With the term it is settled as well.
                doubtful |= matches!((fact, error), (Fact::Lost(_), ProposeError::Unknown(_)));
            }
        }
        if !doubtful {
            break;
        }
        tokio::time::sleep(TICK).await;
    }
    false
}

#[cfg(test)]
mod tests;
