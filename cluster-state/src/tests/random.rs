//! Each named invariant after every one of many random commands.

mod access;

use super::audit::caller;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// One random step; numbers are taken modulo what exists.
#[derive(Clone, Debug)]
enum Step {
    Register(u8, u64),
    Submit(u32, u32, u32, u32, bool, Option<u8>),
    Cancel(u64),
    Place(u64, Vec<u8>, u32),
    Start(u64),
    End(u64, u32, i32, u64),
    Lose(u8),
    Availability(u8, bool),
    Checkpoint(u64, u64),
    Stop(u64, bool),
    Promise(u64, bool),
    Taint(u8, bool),
    Access(access::Step),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..4_u8, 1..3_u64).prop_map(|(w, i)| Step::Register(w, i)),
        3 => (1..4_u32, 1..3_u32, 0..2_u32, 0..3_u32, any::<bool>(), proptest::option::of(0..2_u8)).prop_map(|(i, r, g, m, e, at)| Step::Submit(i, r, g, m, e, at)),
        1 => (1..8_u64).prop_map(Step::Cancel),
        8 => (1..8_u64, proptest::collection::vec(0..4_u8, 1..4), 0..2_u32).prop_map(|(j, w, d)| Step::Place(j, w, d)),
        4 => (1..8_u64).prop_map(Step::Start),
        8 => (1..8_u64, 0..3_u32, -1..2_i32, 0..3_u64).prop_map(|(j, n, c, back)| Step::End(j, n, c, back)),
        1 => (0..4_u8).prop_map(Step::Lose),
        1 => (0..4_u8, any::<bool>()).prop_map(|(w, drain)| Step::Availability(w, drain)),
        1 => (1..8_u64, 1..50_u64).prop_map(|(j, s)| Step::Checkpoint(j, s)),
        1 => (1..8_u64, any::<bool>()).prop_map(|(j, resize)| Step::Stop(j, resize)),
        1 => (1..8_u64, any::<bool>()).prop_map(|(j, made)| Step::Promise(j, made)),
        1 => (0..4_u8, any::<bool>()).prop_map(|(w, add)| Step::Taint(w, add)),
        12 => access::step().prop_map(Step::Access),
        1 => proptest::sample::select(access::WAITS_MS.as_slice()).prop_map(Step::Wait),
    ]
}

fn command(log: &Log, step: Step) -> Option<Command> {
    let job = |id: u64| log.state.job(JobId(id));
    let token = |id: u64| Some(job(id)?.attempts.last()?.token);
    Some(match step {
        Step::Register(w, instance) => Command::RegisterWorker { registration: Box::new(registration(w, instance)) },
        Step::Submit(instances, ranks, gpus, restarts, is_elastic, place) => {
            let mut request = [1; 16];
            request[..8].copy_from_slice(&log.index.to_le_bytes());
            let mut spec = spec(instances, ranks, gpus, restarts);
            let made = Arc::make_mut(&mut spec);
            made.gang.instances_min = is_elastic.then_some(1);
            made.workspace = place.map(access::workspace);
            Command::SubmitJob { request: RequestId(request), spec }
        }
        Step::Cancel(id) => Command::CancelJob { job: JobId(id) },
        Step::Place(id, workers, device) => {
            let spec = job(id)?.spec.clone();
            let (fewest, most) = (spec.gang.fewest() as usize, spec.gang.instances as usize);
            let count = workers.len().clamp(fewest, most);
            let workers: Vec<u8> = workers.into_iter().cycle().take(count).collect();
            let placement = placement(&spec, &workers, device);
            let gangs = vec![PlannedGang { job: JobId(id), placement, secret: AttemptSecret([0; 32]) }];
            Command::CommitPlan { based_on: LogIndex(0), gangs }
        }
        Step::Start(id) => {
            let endpoints = (0..job(id)?.attempts.last()?.placement.world_size())
                .map(|rank| Endpoint { rank: RankIndex(rank), data: String::new(), framework: String::new() })
                .collect();
            Command::StartAttempt { job: JobId(id), token: token(id)?, endpoints }
        }
        Step::End(id, node_rank, code, back) => {
            let attempt = job(id)?.attempts.last()?.clone();
            let exit = if code < 0 { RankExit::Stopped } else { RankExit::Code(code) };
            let token = Token(attempt.token.0.saturating_sub(back / 2));
            Command::EndMember { key: attempt.key(JobId(id), node_rank), token, end: ended(exit) }
        }
        Step::Lose(w) => {
            let registered_by = log.state.worker(&worker_id(w))?.registered_by;
            Command::LoseWorker { worker: worker_id(w), registered_by }
        }
        Step::Availability(w, drain) => {
            let drained = Availability::Draining { deadline: Timestamp(0) };
            let availability = if drain { drained } else { Availability::Open };
            Command::SetAvailability { worker: worker_id(w), availability }
        }
        Step::Checkpoint(id, step) => {
            let attempt = job(id)?.attempts.last()?.clone();
            let checkpoint = CheckpointRef { step, tree: ContentHash([0; 32]) };
            Command::RecordCheckpoint { key: attempt.key(JobId(id), 0), token: attempt.token, checkpoint }
        }
        Step::Stop(id, resize) => {
            let cause = if resize { EndCause::Resized { instances: 1 } } else { EndCause::TimeLimit { limit_ms: 1 } };
            Command::StopAttempt { job: JobId(id), token: token(id)?, cause }
        }
        Step::Promise(id, made) => {
            let promise = made.then(|| Promise { start_by: Timestamp(log.now + 1), workers: vec![worker_id(0)] });
            Command::NotePromises { promises: vec![(JobId(id), promise)] }
        }
        Step::Taint(w, add) => {
            let (some, none) = ([format!("t{w}")].into(), BTreeSet::new());
            let (add, remove) = if add { (some, none) } else { (none, some) };
            Command::Taint { worker: worker_id(w), add, remove }
        }
        Step::Access(step) => access::command(log, step),
        Step::Wait(_) => return None,
    })
}

/// Everything that must hold after every entry.
fn check(state: &State, before: &State) {
    let mut held: BTreeMap<WorkerId, (u32, u64, BTreeSet<MemberKey>, u32)> = BTreeMap::new();
    for job in state.jobs.values() {
        let live = job.attempts.iter().filter(|attempt| attempt.phase.is_live()).count();
        assert!(live <= 1, "GANG-2");
        assert!(job.attempts.windows(2).all(|pair| pair[0].token < pair[1].token), "FENCE-1");
        assert_eq!(state.live.contains(&job.id), live == 1);
        assert_eq!(job.phase == JobPhase::Queued, state.waiting.iter().any(|(_, id)| *id == job.id));
        assert!(live == 0 || !job.phase.is_final(), "a final job holds nothing");
        assert!(state.changes.contains(&(job.changed, job.id)));
        assert!(job.promise.is_none() || job.phase == JobPhase::Queued, "a promise is for one that waits");
        assert_eq!(job.sealed().is_some(), job.phase.is_final(), "LINEAGE-1");
        if let Some(old) = before.job(job.id).filter(|old| old.phase.is_final()) {
            assert_eq!(old, job, "JOB-2");
        }
        let Some(attempt) = job.live_attempt() else { continue };
        let (gang, members) = (&job.spec.gang, attempt.placement.members.len() as u32);
        assert!((gang.fewest()..=gang.instances).contains(&members), "GANG-1");
        assert_eq!(attempt.placement.world_size(), members * gang.ranks_per_instance, "GANG-1");
        for (member, _) in attempt.placement.members.iter().zip(&attempt.ends).filter(|(_, end)| end.is_none()) {
            let sum = held.entry(member.worker.clone()).or_default();
            sum.0 += member.ranks.len() as u32;
            sum.1 += 10 * member.ranks.len() as u64;
            sum.2.insert(attempt.key(job.id, member.node_rank));
            sum.3 += member.ranks.iter().map(|rank| rank.devices.len() as u32).sum::<u32>();
        }
        assert!(!matches!(attempt.phase, AttemptPhase::Ended(_)));
    }
    assert_eq!(state.changes.len(), state.jobs.len());
    for (id, worker) in &state.workers {
        let (cpus, memory, members, devices) = held.remove(id).unwrap_or_default();
        assert_eq!((worker.held.cpus, worker.held.memory_bytes), (cpus, memory), "SLOT-1");
        assert_eq!(worker.held.members, members);
        assert_eq!(worker.held.devices.len() as u32, devices, "SLOT-1: no device twice");
        assert!(cpus <= worker.registration.inventory.cpus && memory <= worker.registration.inventory.memory_bytes);
    }
    assert!(held.is_empty());
    let mut waiting: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for user in state.waiting().filter_map(|job| job.submitter.clone()) {
        *waiting.entry(user).or_default() += 1;
    }
    assert!(state.waiting_of.iter().eq(waiting.iter()), "QUOTA-1");
    let counted: u64 = state.phases.values().sum();
    assert_eq!(counted, state.jobs.len() as u64, "JOB-1");
    assert_eq!(state.lineage_fault(), None, "LINEAGE-1");
    let ended = state.jobs.values().filter(|job| job.phase.is_final()).count() as u64;
    assert_eq!(state.lineage_head().0, ended, "LINEAGE-1: each once");
}

/// Applies the steps, each as it is or in somebody's name, and looks at every promise after every entry.
fn run(steps: Vec<(Step, bool)>) {
    let mut log = Log::with_workers(3);
    let mut replica = log.state.clone();
    for (step, is_named) in steps {
        if let Step::Wait(ms) = step {
            log.now += ms;
        }
        let Some(inner) = command(&log, step) else { continue };
        let named = || Command::As { caller: Arc::new(caller("u0")), command: Box::new(inner.clone()) };
        let command = if is_named { named() } else { inner.clone() };
        let before = log.state.clone();
        let outcome = log.apply(command.clone());
        check(&log.state, &before);
        access::check(&log.state, &before);
        access::check_deed(&log, &before, &inner, is_named, &outcome);
        assert_eq!(replica.apply(LogIndex(log.index), Timestamp(log.now), &command), outcome, "STATE-1");
    }
    assert_eq!(postcard::to_allocvec(&log.state).unwrap(), postcard::to_allocvec(&replica).unwrap(), "STATE-1");
    let copy: State = postcard::from_bytes(&postcard::to_allocvec(&log.state).unwrap()).unwrap();
    assert_eq!(copy, log.state);
}

/// Random commands, the same each time, on top of what was done; they come back.
pub(super) fn some(log: &mut Log, count: usize) -> Vec<Command> {
    let mut chance = proptest::test_runner::TestRunner::deterministic();
    let mut commands = Vec::new();
    for _ in 0..count {
        let step = proptest::strategy::ValueTree::current(&step().new_tree(&mut chance).unwrap());
        let Some(command) = command(log, step) else { continue };
        log.apply(command.clone());
        commands.push(command);
    }
    commands
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// GANG-1, GANG-2, SLOT-1, QUOTA-1, FENCE-1, JOB-1, JOB-2, ACCESS-1, ACCESS-2, ACCESS-4, AUDIT-1, LINEAGE-1 after every entry, and STATE-1 at the end.
    #[test]
    fn invariants_hold_under_random_commands(steps in proptest::collection::vec((step(), any::<bool>()), 1..80)) {
        run(steps);
    }

    /// ACCESS-1, ACCESS-2, AUDIT-1: as above, where nothing else happens, so that more of it does.
    #[test]
    fn who_may_do_what_stays_true_under_random_commands(
        steps in proptest::collection::vec((access::step(), 0..12_usize, any::<bool>()), 1..80),
    ) {
        // Now and then time passes.
        let wait = |place: usize| Some((Step::Wait(*access::WAITS_MS.get(place)?), false));
        run(steps.into_iter().flat_map(|(step, place, is_named)| {
            wait(place).into_iter().chain([(Step::Access(step), is_named)])
        }).collect());
    }
}
