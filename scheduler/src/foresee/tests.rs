//! A look ahead at small clusters whose future can be told by hand.

use super::*;
use crate::Core;
use crate::model::{GangRequest, QueueSpec, Quota, Range, RunTime, Shape, WorkerSpec, WorkerState};
use crate::policy::Policy;
use types::WorkerId;

const MINUTE: u64 = 60_000;

struct Cluster {
    core: Core,
    gangs: BTreeMap<JobId, Course>,
}

impl Cluster {
    /// Workers of eight devices.
    fn of(policy: &str, workers: u32) -> Self {
        let mut core = Core::new(Policy::named(policy).unwrap());
        for number in 0..workers {
            let worker = WorkerSpec {
                id: WorkerId::new(format!("w{number}")).unwrap(),
                class: "gpu".into(),
                devices: 0xff,
                islands: vec![],
                cpus: 8,
                memory_bytes: 1 << 30,
                labels: BTreeMap::new(),
                taints: BTreeSet::new(),
                place: Default::default(),
                state: WorkerState::Open,
            };
            core.apply(Timestamp(0), &Event::WorkerJoined(worker)).unwrap();
        }
        let queue =
            QueueSpec { name: "q".into(), weight: 1, quotas: BTreeMap::from([("gpu".to_owned(), Quota::default())]) };
        core.apply(Timestamp(0), &Event::QueueSet(queue)).unwrap();
        Self { core, gangs: BTreeMap::new() }
    }

    /// Asks for whole workers.
    fn submit(&mut self, job: u64, members: u32, minutes: u64, priority: i32) {
        let run = Millis(minutes * MINUTE);
        let gang = GangRequest {
            job: JobId(job),
            queue: "q".into(),
            user: String::new(),
            submitted: Timestamp(job),
            not_before: Timestamp(0),
            shape: Shape { members: Range::exactly(members), devices: 8, cpus: 1, ..Shape::default() },
            priority,
            preemptible: true,
            run: RunTime { estimate: Some(run), limit: Some(run), actual: None },
            checkpoint: None,
            avoid: vec![],
        };
        self.core.apply(Timestamp(job), &Event::Submitted(gang)).unwrap();
        self.gangs.insert(JobId(job), Course { since: None, run });
    }

    /// What is decided now runs since now.
    fn start(&mut self, now: u64) {
        for decision in self.core.decide(Timestamp(now), Budget::UNLIMITED) {
            if let Decision::Start { job, .. } = decision {
                self.gangs.get_mut(&job).unwrap().since = Some(Timestamp(now));
            }
        }
    }

    fn starts(&self, now: u64) -> Vec<(u64, u64)> {
        let future = foresee(&mut self.core.clone(), Timestamp(now), &self.gangs, 1_000).unwrap();
        assert!(!future.is_cut);
        future.starts.iter().map(|(job, at)| (job.0, at.0 / MINUTE)).collect()
    }
}

#[test]
fn who_waits_starts_when_those_before_it_have_ended() {
    let mut cluster = Cluster::of("fifo", 1);
    cluster.submit(1, 1, 60, 0);
    cluster.start(10);
    cluster.submit(2, 1, 30, 0);
    cluster.submit(3, 1, 5, 0);
    assert_eq!(cluster.starts(10 * MINUTE), [(2, 60), (3, 90)]);
    // A more urgent one delays both.
    cluster.submit(4, 1, 100, 5);
    assert_eq!(cluster.starts(10 * MINUTE), [(2, 160), (3, 190), (4, 60)]);
}

#[test]
fn small_gangs_pass_where_they_delay_nobody() {
    let mut cluster = Cluster::of("easy", 2);
    cluster.submit(1, 1, 60, 0);
    cluster.start(10);
    cluster.submit(2, 2, 30, 0);
    cluster.submit(3, 1, 50, 0);
    cluster.submit(4, 1, 70, 0);
    assert_eq!(cluster.starts(MINUTE), [(2, 60), (3, 1), (4, 90)]);
}

#[test]
fn what_can_never_start_does_not_start_and_the_look_ahead_ends() {
    let mut cluster = Cluster::of("fair-share", 2);
    cluster.submit(1, 3, 60, 0);
    cluster.submit(2, 1, 60, 0);
    assert_eq!(cluster.starts(MINUTE), [(2, 1)]);
}

#[test]
fn who_overran_is_expected_to_go_on_for_a_while() {
    let mut cluster = Cluster::of("fifo", 1);
    cluster.submit(1, 1, 60, 0);
    cluster.start(10);
    cluster.submit(2, 1, 30, 0);
    assert_eq!(cluster.starts(200 * MINUTE), [(2, 219)]);
}

#[test]
fn a_bound_on_turns_is_told() {
    let mut cluster = Cluster::of("fifo", 1);
    for job in 1..=9 {
        cluster.submit(job, 1, 60, 0);
    }
    let future = foresee(&mut cluster.core, Timestamp(10), &cluster.gangs, 3).unwrap();
    assert!(future.is_cut);
    assert_eq!(future.starts.len(), 3);
}
