//! The cases that people would ask about, an entry at a time; `random` holds the invariants under random commands.

#![allow(clippy::unwrap_used, clippy::panic)]

mod access;
mod anew;
mod audit;
mod blame;
mod bounded;
mod drains;
mod elastic;
mod federation;
mod joining;
mod lineage;
mod queues;
mod quotas;
mod random;
mod rendezvous;
mod retention;
mod roles;
mod secrets;
mod workspaces;

use crate::{Command, Outcome, PlannedGang, Promise, Refusal, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{
    AttemptPhase, AttemptSecret, Availability, CheckpointRef, ContentHash, Device, Distribution, EndCause, Endpoint,
    GangSpec, Goal, Inventory, JobId, JobPhase, JobSpec, LogIndex, Member, MemberEnd, MemberKey, Millis, Placement,
    RankEnd, RankExit, RankIndex, RankPlacement, RankResources, RequestId, RestartPolicy, Timestamp, Token, Topology,
    WorkerId, WorkerInstance, WorkerRegistration,
};

fn spec(instances: u32, ranks: u32, gpus: u32, max_restarts: u32) -> Arc<JobSpec> {
    Arc::new(JobSpec {
        workspace: None,
        display_name: String::new(),
        experiment_name: String::new(),
        description: String::new(),
        tags: BTreeMap::new(),
        command: "true".into(),
        code: None,
        environment_variables: BTreeMap::new(),
        secrets: BTreeMap::new(),
        secret_files: Default::default(),
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        gang: GangSpec {
            instances,
            instances_min: None,
            ranks_per_instance: ranks,
            per_rank: RankResources { cpus: 1, memory_bytes: 10, gpus },
            distribution: Distribution::None,
            spread: None,
        },
        timeout: None,
        grace: Millis(10),
        priority: 0,
        queue: "default".into(),
        restart: RestartPolicy { max_restarts, backoff: Millis(1_000) },
        constraints: types::Constraints::default(),
        preemptible: true,
        estimate: None,
        keep_telemetry: None,
    })
}

fn worker_id(n: u8) -> WorkerId {
    WorkerId::new(format!("w{n}")).unwrap()
}

fn registration(n: u8, instance: u64) -> WorkerRegistration {
    let device = |index| Device {
        index,
        uuid: format!("GPU-{n}-{index}"),
        name: "x".into(),
        memory_bytes: 1,
        healthy: true,
        island: 0,
        ..Device::default()
    };
    WorkerRegistration {
        worker: worker_id(n),
        instance: WorkerInstance(instance),
        inventory: Inventory {
            cpus: 4,
            memory_bytes: 100,
            devices: vec![device(0), device(1)],
            ..Inventory::default()
        },
        labels: BTreeMap::new(),
        taints: Default::default(),
        topology: Topology::default(),
        data_address: "127.0.0.1".into(),
        version: "0".into(),
    }
}

/// The ranks of `job` on the given workers, with devices counted up from `device`.
fn placement(spec: &JobSpec, workers: &[u8], device: u32) -> Arc<Placement> {
    let mut rank = 0;
    let members = workers
        .iter()
        .enumerate()
        .map(|(node_rank, worker)| Member {
            node_rank: node_rank as u32,
            worker: worker_id(*worker),
            ranks: (0..spec.gang.ranks_per_instance)
                .map(|local_rank| {
                    rank += 1;
                    let first = device + local_rank * spec.gang.per_rank.gpus;
                    RankPlacement {
                        rank: RankIndex(rank - 1),
                        local_rank,
                        devices: (first..first + spec.gang.per_rank.gpus).collect(),
                    }
                })
                .collect(),
        })
        .collect();
    Arc::new(Placement { members })
}

fn ended(exit: RankExit) -> MemberEnd {
    let rank = RankEnd {
        rank: RankIndex(0),
        exit,
        out_of_memory: false,
        ended: Timestamp(1),
        stderr_tail: "boom".into(),
        streams: vec![],
        final_metrics: vec![],
        blames: None,
        rendezvous: None,
    };
    MemberEnd::Exited { ranks: vec![rank], outputs: vec![] }
}

/// A state driven by hand, an entry a command.
#[derive(Default)]
struct Log {
    state: State,
    index: u64,
    now: u64,
}

impl Log {
    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        self.now += 10;
        self.state.apply(LogIndex(self.index), Timestamp(self.now), &command)
    }

    fn with_workers(count: u8) -> Self {
        let mut log = Self::default();
        for n in 0..count {
            assert_eq!(
                log.apply(Command::RegisterWorker { registration: Box::new(registration(n, 1)) }),
                Outcome::Done
            );
        }
        log
    }

    fn submit(&mut self, spec: &Arc<JobSpec>) -> JobId {
        let mut request = [0; 16];
        request[..8].copy_from_slice(&self.index.to_le_bytes());
        match self.apply(Command::SubmitJob { request: RequestId(request), spec: spec.clone() }) {
            Outcome::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    fn place(&mut self, job: JobId, workers: &[u8], device: u32) -> Outcome {
        let placement = placement(&self.state.job(job).unwrap().spec.clone(), workers, device);
        let gangs = vec![PlannedGang { job, placement, secret: AttemptSecret([0; 32]) }];
        self.apply(Command::CommitPlan { based_on: LogIndex(self.index), gangs })
    }

    fn start(&mut self, job: JobId) {
        let (token, world) = {
            let attempt = self.state.job(job).unwrap().live_attempt().unwrap();
            (attempt.token, attempt.placement.world_size())
        };
        let endpoints = (0..world)
            .map(|rank| Endpoint { rank: RankIndex(rank), data: "a:1".into(), framework: "a:2".into() })
            .collect();
        assert_eq!(self.apply(Command::StartAttempt { job, token, endpoints }), Outcome::Done);
    }

    fn end(&mut self, job: JobId, node_rank: u32, end: MemberEnd) -> Outcome {
        let attempt = self.state.job(job).unwrap().attempts.last().unwrap().clone();
        self.apply(Command::EndMember { key: attempt.key(job, node_rank), token: attempt.token, end })
    }

    fn lose_command(&self, n: u8) -> Command {
        let registered_by = self.state.worker(&worker_id(n)).unwrap().registered_by;
        Command::LoseWorker { worker: worker_id(n), registered_by }
    }

    /// Answers with the command, as it stands in the log.
    fn lose(&mut self, n: u8) -> Command {
        let command = self.lose_command(n);
        assert_eq!(self.apply(command.clone()), Outcome::Done);
        command
    }

    fn is_lost(&self, n: u8) -> bool {
        self.state.worker(&worker_id(n)).unwrap().lost
    }

    fn phase(&self, job: JobId) -> JobPhase {
        self.state.job(job).unwrap().phase
    }
}

#[test]
fn a_gang_runs_and_completes() {
    let mut log = Log::with_workers(2);
    let job = log.submit(&spec(2, 2, 1, 0));
    assert!(matches!(log.place(job, &[0, 1], 0), Outcome::PlanTaken(_)));
    assert_eq!(log.phase(job), JobPhase::Starting);
    assert_eq!(log.state.wishes(&worker_id(0))[0].goal, Goal::Prepare);
    log.start(job);
    assert_eq!(log.phase(job), JobPhase::Running);
    assert_eq!(log.state.wishes(&worker_id(1))[0].endpoints.len(), 4);
    log.end(job, 0, ended(RankExit::Code(0)));
    assert_eq!(log.phase(job), JobPhase::Running);
    assert!(log.state.wishes(&worker_id(0)).is_empty());
    log.end(job, 1, ended(RankExit::Code(0)));
    assert_eq!(log.phase(job), JobPhase::Completed);
    assert_eq!(log.state.worker(&worker_id(0)).unwrap().held, crate::Held::default());
}

#[test]
fn one_dead_rank_kills_the_gang_and_is_named() {
    let mut log = Log::with_workers(2);
    let job = log.submit(&spec(2, 1, 0, 0));
    log.place(job, &[0, 1], 0);
    log.start(job);
    log.end(job, 1, ended(RankExit::Signal(11)));
    assert_eq!(log.state.wishes(&worker_id(0))[0].goal, Goal::Kill);
    log.end(job, 0, ended(RankExit::Stopped));
    assert_eq!(log.phase(job), JobPhase::Failed);
    let reason = log.state.job(job).unwrap().last_cause().unwrap().to_string();
    assert!(reason.contains("w1") && reason.contains("signal 11") && reason.contains("boom"), "{reason}");
}

#[test]
fn a_lost_worker_restarts_the_gang_from_its_checkpoint_without_counting() {
    let mut log = Log::with_workers(3);
    let job = log.submit(&spec(2, 1, 0, 0));
    log.place(job, &[0, 1], 0);
    log.start(job);
    let attempt = log.state.job(job).unwrap().live_attempt().unwrap().clone();
    let checkpoint = CheckpointRef { step: 7, tree: ContentHash([1; 32]) };
    let record = Command::RecordCheckpoint { key: attempt.key(job, 0), token: attempt.token, checkpoint };
    assert_eq!(log.apply(record.clone()), Outcome::Done);
    log.lose(1);
    assert_eq!(log.phase(job), JobPhase::Running, "the other member still runs (LEASE-1)");
    log.end(job, 0, ended(RankExit::Stopped));
    assert_eq!(log.phase(job), JobPhase::Queued);
    assert!(matches!(log.place(job, &[0, 1], 0), Outcome::Refused(Refusal::PlanOutOfDate(_))));
    assert!(matches!(log.place(job, &[0, 2], 0), Outcome::PlanTaken(_)));
    let next = log.state.job(job).unwrap().live_attempt().unwrap().clone();
    assert_eq!(next.resumed_from.as_ref().unwrap().step, 7);
    assert!(next.token > attempt.token, "FENCE-1");
    assert!(matches!(log.apply(record), Outcome::Refused(Refusal::StaleToken { .. })), "FENCE-2");
}

#[test]
fn a_failing_job_restarts_as_often_as_allowed_with_growing_waits() {
    let mut log = Log::with_workers(1);
    let job = log.submit(&spec(1, 1, 0, 2));
    let mut waits = Vec::new();
    for _ in 0..2 {
        assert!(matches!(log.place(job, &[0], 0), Outcome::PlanTaken(_)));
        log.end(job, 0, ended(RankExit::Code(3)));
        assert_eq!(log.phase(job), JobPhase::Queued);
        waits.push(log.state.job(job).unwrap().ready_at.since(Timestamp(log.now)));
    }
    assert_eq!(waits, [Millis(1_000), Millis(2_000)]);
    log.place(job, &[0], 0);
    log.end(job, 0, ended(RankExit::Code(3)));
    assert_eq!(log.phase(job), JobPhase::Failed);
}

#[test]
fn cancel_is_idempotent_and_final() {
    let mut log = Log::with_workers(1);
    let waiting = log.submit(&spec(1, 1, 0, 0));
    assert_eq!(log.apply(Command::CancelJob { job: waiting }), Outcome::Canceled(JobPhase::Canceled));
    let running = log.submit(&spec(1, 1, 0, 5));
    log.place(running, &[0], 0);
    assert_eq!(log.apply(Command::CancelJob { job: running }), Outcome::Canceled(JobPhase::CancelRequested));
    assert_eq!(log.state.wishes(&worker_id(0))[0].goal, Goal::Stop);
    log.end(running, 0, ended(RankExit::Stopped));
    assert_eq!(log.apply(Command::CancelJob { job: running }), Outcome::Canceled(JobPhase::Canceled));
    assert_eq!(log.apply(Command::CancelJob { job: JobId(99) }), Outcome::Refused(Refusal::UnknownJob(JobId(99))));
}

#[test]
fn a_repeated_submit_is_the_same_job() {
    let mut log = Log::default();
    let request = RequestId([5; 16]);
    let first = log.apply(Command::SubmitJob { request, spec: spec(1, 1, 0, 0) });
    assert_eq!(first, Outcome::Submitted { job: JobId(1), repeated: false });
    let again = log.apply(Command::SubmitJob { request, spec: spec(1, 1, 0, 0) });
    assert_eq!(again, Outcome::Submitted { job: JobId(1), repeated: true });
    let other = log.apply(Command::SubmitJob { request, spec: spec(2, 1, 0, 0) });
    assert!(matches!(other, Outcome::Refused(Refusal::RequestReused(..))));
}

#[test]
fn a_name_belongs_to_one_live_worker() {
    let mut log = Log::with_workers(1);
    let second = Command::RegisterWorker { registration: Box::new(registration(0, 2)) };
    assert!(matches!(log.apply(second.clone()), Outcome::Refused(Refusal::NameInUse(_))));
    let lose = log.lose(0);
    assert_eq!(log.apply(second), Outcome::Done);
    log.apply(lose);
    assert!(!log.is_lost(0), "an old message loses nobody");
}

#[test]
fn a_worker_that_registered_again_is_not_lost_by_what_was_meant_before() {
    let mut log = Log::with_workers(1);
    let again = Command::RegisterWorker { registration: Box::new(registration(0, 1)) };
    let job = log.submit(&spec(1, 1, 0, 0));
    log.place(job, &[0], 0);
    // It came back before its loss was in the log: the same life, and nothing new to say of itself.
    let lose = log.lose_command(0);
    assert_eq!(log.apply(again.clone()), Outcome::Done);
    log.apply(lose);
    assert!(!log.is_lost(0));
    assert_eq!(log.phase(job), JobPhase::Running, "its member goes on");
    // It was lost and came back; the loss was in the log twice.
    let lose = log.lose(0);
    assert!(log.is_lost(0));
    assert_eq!(log.phase(job), JobPhase::Queued);
    log.apply(again);
    log.apply(lose);
    assert!(!log.is_lost(0));
}

#[test]
fn a_plan_is_taken_whole_or_not_at_all() {
    let mut log = Log::with_workers(2);
    let (a, b) = (log.submit(&spec(1, 1, 1, 0)), log.submit(&spec(1, 1, 1, 0)));
    let gang = |log: &Log, job, device| PlannedGang {
        job,
        placement: placement(&log.state.job(job).unwrap().spec.clone(), &[0], device),
        secret: AttemptSecret([0; 32]),
    };
    let gangs = vec![gang(&log, a, 0), gang(&log, b, 0)];
    let before = log.state.clone();
    let outcome = log.apply(Command::CommitPlan { based_on: LogIndex(0), gangs });
    assert!(matches!(outcome, Outcome::Refused(Refusal::PlanOutOfDate(_))), "{outcome:?}");
    assert!(log.state.jobs == before.jobs && log.state.workers == before.workers);
    let gangs = vec![gang(&log, a, 0), gang(&log, b, 1)];
    assert!(matches!(log.apply(Command::CommitPlan { based_on: LogIndex(0), gangs }), Outcome::PlanTaken(_)));
}
