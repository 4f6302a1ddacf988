//! Queues, priorities and windows as facts.

use super::*;
use crate::SetQueue;
use types::{Limits, Queue, QueueQuota, Window};

fn set(log: &mut Log, queue: Queue, how: SetQueue) -> Outcome {
    log.apply(Command::SetQueue { queue, how })
}

fn in_queue(queue: &str) -> Arc<JobSpec> {
    let mut spec = (*spec(1, 1, 0, 0)).clone();
    spec.queue = queue.into();
    Arc::new(spec)
}

#[test]
fn a_queue_is_made_once_changed_and_deleted_when_nothing_hangs_on_it() {
    let mut log = Log::with_workers(1);
    assert_eq!(set(&mut log, Queue::named("a"), SetQueue::Create), Outcome::Done);
    assert_eq!(set(&mut log, Queue::named("a"), SetQueue::Create), Outcome::Done, "the very same again");
    let heavy = Queue { weight: 2, ..Queue::named("a") };
    assert_eq!(set(&mut log, heavy.clone(), SetQueue::Create), Outcome::Refused(Refusal::QueueExists("a".into())));
    assert_eq!(set(&mut log, heavy, SetQueue::Update), Outcome::Done);
    assert_eq!(log.state.queue("a").unwrap().weight, 2);
    let unknown = set(&mut log, Queue::named("b"), SetQueue::Update);
    assert_eq!(
        unknown,
        Outcome::Refused(Refusal::UnknownQueue { name: "b".into(), known: vec!["a".into(), "default".into()] })
    );
    let job = log.submit(&in_queue("a"));
    let delete = Command::DeleteQueue { name: "a".into() };
    assert!(matches!(log.apply(delete.clone()), Outcome::Refused(Refusal::QueueInUse { .. })), "a job waits there");
    assert!(matches!(
        set(&mut log, Queue::named("a/b"), SetQueue::Create),
        Outcome::Refused(Refusal::QueueInUse { .. })
    ));
    log.apply(Command::CancelJob { job });
    assert_eq!(set(&mut log, Queue::named("a/b"), SetQueue::Create), Outcome::Done);
    assert!(matches!(log.apply(delete.clone()), Outcome::Refused(Refusal::QueueInUse { .. })), "a queue is below it");
    assert_eq!(log.apply(Command::DeleteQueue { name: "a/b".into() }), Outcome::Done);
    assert_eq!(log.apply(delete), Outcome::Done);
    let last = log.apply(Command::DeleteQueue { name: "default".into() });
    assert!(matches!(last, Outcome::Refused(Refusal::QueueInUse { .. })), "jobs without a queue wait there");
}

#[test]
fn a_job_waits_in_a_leaf_that_is_there() {
    let mut log = Log::with_workers(1);
    set(&mut log, Queue::named("a"), SetQueue::Create);
    set(&mut log, Queue::named("a/b"), SetQueue::Create);
    for queue in ["a", "nowhere"] {
        let refused = log.apply(Command::SubmitJob { request: RequestId([3; 16]), spec: in_queue(queue) });
        let known = vec!["a/b".into(), "default".into()];
        assert_eq!(refused, Outcome::Refused(Refusal::UnknownQueue { name: queue.into(), known }));
    }
    let job = log.submit(&in_queue("a/b"));
    assert_eq!((log.phase(job), log.state.unfinished_in("a/b")), (JobPhase::Queued, 1));
}

#[test]
fn faults_and_limits_of_queues_are_refused() {
    let mut log = Log::with_workers(0);
    let quota = QueueQuota { guaranteed: 2, ceiling: Some(1), lend: None };
    let faulty = Queue { quotas: [("x".into(), quota)].into(), ..Queue::named("a") };
    assert!(matches!(set(&mut log, faulty, SetQueue::Create), Outcome::Refused(Refusal::Invalid(_))));
    for n in 1..Limits::QUEUES_MAX {
        assert_eq!(set(&mut log, Queue::named(format!("q{n}")), SetQueue::Create), Outcome::Done);
    }
    let one_more = set(&mut log, Queue::named("more"), SetQueue::Create);
    assert!(matches!(one_more, Outcome::Refused(Refusal::Invalid(_))), "{one_more:?}");
}

#[test]
fn a_new_priority_moves_a_waiting_job_and_an_ended_one_has_none() {
    let mut log = Log::with_workers(1);
    let (first, second) = (log.submit(&spec(1, 1, 0, 0)), log.submit(&spec(1, 1, 0, 0)));
    let order = |log: &Log| log.state.waiting().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(order(&log), [first, second]);
    assert_eq!(log.apply(Command::SetPriority { job: second, priority: 1 }), Outcome::Done);
    assert_eq!(order(&log), [second, first]);
    assert_eq!(log.state.job(second).unwrap().spec.priority, 0, "what was asked stays as it was");
    log.apply(Command::CancelJob { job: second });
    let refused = log.apply(Command::SetPriority { job: second, priority: 2 });
    assert_eq!(refused, Outcome::Refused(Refusal::JobEnded(second)));
    assert_eq!(order(&log), [first]);
}

#[test]
fn windows_are_kept_in_order_until_they_are_over() {
    let mut log = Log::with_workers(1);
    let window = |from, to| Window { from: Timestamp(from), to: Timestamp(to) };
    let plan = |log: &mut Log, window| log.apply(Command::PlanWindow { worker: worker_id(0), window });
    for planned in [window(9_000, 9_500), window(15, 100), window(5_000, 6_000)] {
        assert_eq!(plan(&mut log, planned), Outcome::Done);
    }
    log.now = 200;
    assert_eq!(plan(&mut log, window(5_000, 5_000)), Outcome::Done);
    assert_eq!(log.state.worker(&worker_id(0)).unwrap().windows, [window(9_000, 9_500)]);
    let unknown = log.apply(Command::PlanWindow { worker: worker_id(7), window: window(1, 2) });
    assert_eq!(unknown, Outcome::Refused(Refusal::UnknownWorker(worker_id(7))));
}

#[test]
fn what_is_lost_with_an_attempt_is_counted_from_its_last_checkpoint() {
    let mut log = Log::with_workers(2);
    let job = log.submit(&spec(2, 1, 1, 0));
    log.place(job, &[0, 1], 0);
    log.start(job);
    log.now += 1_000;
    let attempt = log.state.job(job).unwrap().attempts[0].clone();
    let checkpoint = CheckpointRef { step: 1, tree: ContentHash([0; 32]) };
    let saved = Command::RecordCheckpoint { key: attempt.key(job, 0), token: attempt.token, checkpoint };
    assert_eq!(log.apply(saved), Outcome::Done);
    log.now += 490;
    let cause = EndCause::Preempted { by: JobId(9) };
    assert_eq!(log.apply(Command::StopAttempt { job, token: attempt.token, cause }), Outcome::Done);
    assert_eq!(log.state.wishes(&worker_id(0))[0].goal, Goal::Stop, "with its grace");
    for node_rank in 0..2 {
        log.end(job, node_rank, ended(RankExit::Stopped));
    }
    let found = log.state.job(job).unwrap();
    assert_eq!((found.phase, found.ready_at, found.failures), (JobPhase::Queued, Timestamp(log.now), 0));
    assert_eq!(found.attempts[0].lost_device_ms, 2 * 520, "two devices");
}
