//! Replicated tables driven by hand, an entry a command, for tests of what is read off them.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::leader::Schedule;
use cluster_state::{Command, Outcome, State};
use proto::v1;
use scheduler::policy::Policy;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{
    AttemptSecret, Availability, Device, Distribution, Endpoint, GangSpec, Inventory, JobId, JobSpec, LogIndex,
    MemberEnd, Millis, RankIndex, RankResources, RequestId, RestartPolicy, Timestamp, Topology, WorkerId,
    WorkerInstance, WorkerRegistration,
};

/// Tables, and the time that the next entry is stamped with.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) state: State,
    pub(crate) now: Timestamp,
    index: u64,
    schedule: Option<Schedule>,
}

impl Tables {
    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        self.state.apply(LogIndex(self.index), self.now, command)
    }

    /// Registers a worker (again); a device for each of `healthy`.
    pub(crate) fn worker(&mut self, name: &str, cpus: u32, healthy: &[bool]) {
        let registration = registration(name, cpus, healthy);
        assert_eq!(self.apply(&Command::RegisterWorker { registration: Box::new(registration) }), Outcome::Done);
    }

    /// Registers a worker that stands in a rack.
    pub(crate) fn worker_in(&mut self, name: &str, cpus: u32, rack: &str) {
        let mut registration = registration(name, cpus, &[]);
        registration.topology = Topology { zone: "z".into(), rack: rack.into(), ..Topology::default() };
        assert_eq!(self.apply(&Command::RegisterWorker { registration: Box::new(registration) }), Outcome::Done);
    }

    /// As another coordinator that begins to lead.
    pub(crate) fn forget_schedule(&mut self) {
        self.schedule = None;
    }

    /// The scheduler, to drive it by hand.
    pub(crate) fn take_schedule(&mut self) -> Schedule {
        self.schedule.take().unwrap_or_else(|| Schedule::new(&Policy::default(), &self.state, self.now))
    }

    pub(crate) fn put_schedule(&mut self, schedule: Schedule) {
        self.schedule = Some(schedule);
    }

    pub(crate) fn lose(&mut self, name: &str) {
        let worker = WorkerId::new(name).unwrap();
        let registered_by = self.state.worker(&worker).unwrap().registered_by;
        assert_eq!(self.apply(&Command::LoseWorker { worker, registered_by }), Outcome::Done);
    }

    pub(crate) fn cordon(&mut self, name: &str) {
        let (worker, availability) = (WorkerId::new(name).unwrap(), Availability::Cordoned);
        assert_eq!(self.apply(&Command::SetAvailability { worker, availability }), Outcome::Done);
    }

    /// Submits a job of one rank that takes one CPU slot, once `change` has had its say.
    pub(crate) fn submit(&mut self, change: impl FnOnce(&mut JobSpec)) -> JobId {
        let mut spec = spec();
        change(&mut spec);
        let request = RequestId(u128::from(self.index).to_le_bytes());
        match self.apply(&Command::SubmitJob { request, spec: Arc::new(spec) }) {
            Outcome::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    /// Plans and commits as the leader does; answers with the jobs that were placed.
    pub(crate) fn plan(&mut self) -> Vec<JobId> {
        let mut schedule = self.take_schedule();
        schedule.follow(&self.state, self.now).unwrap();
        let cycle = schedule.cycle(self.now, || Ok(AttemptSecret([0; 32]))).unwrap();
        for command in cycle.commands(&self.state) {
            let taken = self.apply(&command);
            assert!(matches!(taken, Outcome::PlanTaken(_)), "{taken:?}");
        }
        for stop in &cycle.stops {
            let command = Command::StopAttempt { job: stop.job, token: stop.token, cause: stop.cause.clone() };
            assert_eq!(self.apply(&command), Outcome::Done);
        }
        if !cycle.promises.is_empty() {
            self.apply(&Command::NotePromises { promises: cycle.promises.clone() });
        }
        self.schedule = Some(schedule);
        cycle.started().collect()
    }

    /// What a waiting job is told.
    pub(crate) fn explain(&mut self, job: JobId) -> v1::Explanation {
        let mut schedule = self.take_schedule();
        schedule.follow(&self.state, self.now).unwrap();
        let explanation = schedule.explain(self.state.job(job).unwrap(), self.now);
        self.schedule = Some(schedule);
        explanation
    }

    /// All members of the job's live attempt are prepared.
    pub(crate) fn start(&mut self, job: JobId) {
        let found = self.state.job(job).unwrap();
        let token = found.live_attempt().unwrap().token;
        let endpoint = |rank| Endpoint { rank: RankIndex(rank), data: "a:1".into(), framework: "a:2".into() };
        let endpoints = (0..found.live_attempt().unwrap().placement.world_size()).map(endpoint).collect();
        assert_eq!(self.apply(&Command::StartAttempt { job, token, endpoints }), Outcome::Done);
    }

    /// All members of the job's live attempt end like this.
    pub(crate) fn end(&mut self, job: JobId, end: &MemberEnd) {
        let attempt = self.state.job(job).unwrap().live_attempt().unwrap().clone();
        for member in &attempt.placement.members {
            let key = attempt.key(job, member.node_rank);
            let command = Command::EndMember { key, token: attempt.token, end: end.clone() };
            assert_eq!(self.apply(&command), Outcome::Done);
        }
    }
}

/// What a worker says of itself; a device for each of `healthy`.
pub(crate) fn registration(name: &str, cpus: u32, healthy: &[bool]) -> WorkerRegistration {
    let device = |(index, healthy): (usize, &bool)| Device {
        index: index as u32,
        uuid: format!("GPU-{name}-{index}"),
        name: "gpu".into(),
        memory_bytes: 1,
        healthy: *healthy,
        island: 0,
        ..Device::default()
    };
    WorkerRegistration {
        worker: WorkerId::new(name).unwrap(),
        instance: WorkerInstance(1),
        inventory: Inventory {
            cpus,
            memory_bytes: 1 << 30,
            devices: healthy.iter().enumerate().map(device).collect(),
            ..Inventory::default()
        },
        labels: BTreeMap::new(),
        taints: Default::default(),
        topology: Topology::default(),
        data_address: "127.0.0.1".into(),
        version: "0".into(),
    }
}

fn spec() -> JobSpec {
    JobSpec {
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
            instances: 1,
            instances_min: None,
            ranks_per_instance: 1,
            per_rank: RankResources { cpus: 1, memory_bytes: 0, gpus: 0 },
            distribution: Distribution::None,
            spread: None,
        },
        timeout: None,
        grace: Millis(10),
        priority: 0,
        queue: "default".into(),
        restart: RestartPolicy { max_restarts: 3, backoff: Millis(1_000) },
        constraints: types::Constraints::default(),
        preemptible: true,
        estimate: None,
        keep_telemetry: None,
    }
}
