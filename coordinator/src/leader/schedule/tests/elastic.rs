//! Gangs that grow and shrink: stopped, and started again from their checkpoint with other members.

use super::*;
use types::{AttemptPhase, CheckpointRef, ContentHash, EndCause};

fn members(tables: &Tables, job: JobId) -> usize {
    tables.state.job(job).unwrap().live_attempt().unwrap().placement.members.len()
}

fn phase(tables: &Tables, job: JobId) -> AttemptPhase {
    tables.state.job(job).unwrap().attempts.last().unwrap().phase.clone()
}

fn save(tables: &mut Tables, job: JobId, step: u64) {
    let attempt = tables.state.job(job).unwrap().live_attempt().unwrap().clone();
    let checkpoint = CheckpointRef { step, tree: ContentHash([1; 32]) };
    let saved = Command::RecordCheckpoint { key: attempt.key(job, 0), token: attempt.token, checkpoint };
    assert_eq!(tables.apply(&saved), Outcome::Done);
}

/// One worker of four slots, of which queue `owner` has two for its own; a gang of one to four that borrows them all.
fn grown() -> (Tables, JobId) {
    let mut tables = Tables::default();
    tables.worker("a", 4, &[]);
    let quota = QueueQuota { guaranteed: 2, ..QueueQuota::default() };
    let queue = Queue { quotas: [(String::new(), quota)].into(), ..Queue::named("owner") };
    assert_eq!(tables.apply(&Command::SetQueue { queue, how: SetQueue::Create }), Outcome::Done);
    let job = tables.submit(|spec| (spec.gang.instances, spec.gang.instances_min) = (4, Some(1)));
    assert_eq!(tables.plan(), [job]);
    assert_eq!(members(&tables, job), 4);
    tables.start(job);
    (tables, job)
}

fn owner(tables: &mut Tables) -> JobId {
    tables.submit(|spec| (spec.queue, spec.gang.per_rank.cpus) = ("owner".into(), 2))
}

#[test]
fn an_elastic_gang_shrinks_for_an_owner_and_grows_again_when_he_is_gone() {
    let (mut tables, job) = grown();
    tables.now = tables.now.plus(Millis(600_000));
    let owner = owner(&mut tables);
    assert_eq!(tables.plan(), []);
    assert_eq!(phase(&tables, job), AttemptPhase::Stopping(EndCause::Resized { instances: 1 }));
    assert_eq!(tables.explain(owner).obstacle, "victims_leaving");
    tables.end(job, &ended());
    let mut placed = tables.plan();
    placed.sort_unstable();
    assert_eq!(placed, [job, owner], "both in one plan");
    assert_eq!((members(&tables, job), members(&tables, owner)), (1, 1));
    let found = tables.state.job(job).unwrap();
    assert_eq!((found.attempts.len(), found.failures, found.interruptions), (2, 0, 0));

    tables.end(owner, &ended());
    tables.now = tables.now.plus(Millis(3_600_000));
    assert_eq!(tables.plan(), []);
    assert_eq!(phase(&tables, job), AttemptPhase::Running, "what it did would be lost: it saved nothing");
    save(&mut tables, job, 5);
    assert_eq!(tables.plan(), []);
    assert_eq!(phase(&tables, job), AttemptPhase::Stopping(EndCause::Resized { instances: 4 }));
    let other = tables.submit(|_| ());
    assert_eq!(tables.plan(), [], "the room is taken");
    tables.end(job, &ended());
    assert_eq!(tables.plan(), [job]);
    let attempt = tables.state.job(job).unwrap().live_attempt().unwrap().clone();
    assert_eq!((attempt.placement.members.len(), attempt.resumed_from.as_ref().unwrap().step), (4, 5));
    assert_eq!(tables.explain(other).obstacle, "no_capacity");
}

#[test]
fn a_gang_whose_new_room_is_gone_waits_like_any_other() {
    let (mut tables, job) = grown();
    tables.now = tables.now.plus(Millis(600_000));
    let owner = owner(&mut tables);
    assert_eq!(tables.plan(), []);
    tables.cordon("a");
    tables.end(job, &ended());
    tables.worker("b", 2, &[]);
    // Its members were to be on the worker that is closed now: the plan is refused.
    let mut schedule = tables.take_schedule();
    schedule.follow(&tables.state, tables.now).unwrap();
    let cycle = schedule.cycle(tables.now, || Ok(AttemptSecret([0; 32]))).unwrap();
    let outcomes: Vec<Outcome> = cycle.commands(&tables.state).iter().map(|plan| tables.apply(plan)).collect();
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))), "{outcomes:?}");
    let refused: Vec<JobId> = cycle.started().collect();
    schedule.follow(&tables.state, tables.now).unwrap();
    schedule.take_back(&refused, tables.now).unwrap();
    tables.put_schedule(schedule);
    let placed = plan_all(&mut tables);
    assert_eq!(placed, [owner], "the one with least work");
    assert_eq!(tables.state.job(job).unwrap().phase, JobPhase::Queued);
    tables.end(owner, &ended());
    assert_eq!(tables.plan(), [job]);
    assert_eq!(members(&tables, job), 2);
}

#[test]
fn a_gang_that_fails_while_it_is_to_change_its_size_has_failed() {
    let (mut tables, job) = grown();
    tables.now = tables.now.plus(Millis(600_000));
    owner(&mut tables);
    let mut schedule = tables.take_schedule();
    schedule.follow(&tables.state, tables.now).unwrap();
    let cycle = schedule.cycle(tables.now, || Ok(AttemptSecret([0; 32]))).unwrap();
    assert_eq!(cycle.stops.len(), 1);
    tables.put_schedule(schedule);
    // The stop is still on its way when a rank fails by itself.
    let rank = types::RankEnd {
        rank: types::RankIndex(0),
        exit: RankExit::Code(3),
        out_of_memory: false,
        ended: tables.now,
        stderr_tail: String::new(),
        streams: vec![],
        final_metrics: vec![],
        blames: None,
        rendezvous: None,
    };
    tables.end(job, &MemberEnd::Exited { ranks: vec![rank], outputs: vec![] });
    assert_eq!(tables.state.job(job).unwrap().failures, 1);
    assert_eq!(plan_all(&mut tables).len(), 1, "the owner; it waits out its back-off");
    assert_eq!(tables.state.job(job).unwrap().phase, JobPhase::Queued);
}

#[test]
fn a_gang_that_saves_regularly_is_resized_after_its_next_checkpoint() {
    let (mut tables, job) = grown();
    for step in 1..=3 {
        tables.now = tables.now.plus(Millis(120_000));
        save(&mut tables, job, step);
    }
    tables.now = tables.now.plus(Millis(20_000));
    owner(&mut tables);
    let mut schedule = tables.take_schedule();
    schedule.follow(&tables.state, tables.now).unwrap();
    let cycle = schedule.cycle(tables.now, || Ok(AttemptSecret([0; 32]))).unwrap();
    let stop = &cycle.stops[0];
    assert_eq!((stop.decided, stop.after_checkpoint), (tables.now, Some(tables.now.plus(Millis(100_000)))));
}
