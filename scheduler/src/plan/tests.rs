//! The named rules of the plan, each by example or under random clusters.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use types::{Distribution, RankResources, Timestamp, WorkerId};

fn gang(instances: u32, ranks: u32, cpus: u32, gpus: u32) -> GangSpec {
    GangSpec {
        instances,
        ranks_per_instance: ranks,
        per_rank: RankResources { cpus, memory_bytes: 10, gpus },
        distribution: Distribution::None,
        spread: false,
    }
}

/// `(cpus free, cpus total, gpus free, gpus total, open)` of each worker.
type Machine = (u32, u32, u32, u32, bool);

fn names(count: usize) -> Vec<WorkerId> {
    (0..count).map(|n| WorkerId::new(format!("w{n:03}")).unwrap()).collect()
}

fn view<'a>(names: &'a [WorkerId], machines: &[Machine], gangs: &'a [GangSpec]) -> View<'a> {
    let workers = names.iter().zip(machines).map(|(id, machine)| WorkerView {
        id,
        open: machine.4,
        cpus_total: machine.1,
        cpus_free: machine.0,
        memory_bytes_total: 1_000,
        memory_bytes_free: 1_000,
        devices_total: machine.3,
        devices_free: (machine.3 - machine.2..machine.3).collect(),
    });
    let waiting = gangs.iter().enumerate().map(|(n, gang)| WaitingGang {
        job: JobId(n as u64 + 1),
        gang,
        ready_at: Timestamp(0),
        avoid: Vec::new(),
    });
    View { now: Timestamp(100), workers: workers.collect(), waiting: waiting.collect() }
}

fn run(machines: &[Machine], gangs: &[GangSpec]) -> Plan {
    plan(&view(&names(machines.len()), machines, gangs))
}

#[test]
fn a_gang_spreads_over_distinct_workers_first() {
    let plan = run(&[(2, 2, 0, 0, true); 3], &[gang(4, 1, 1, 0)]);
    let workers: Vec<&str> = plan.placements[0].1.members.iter().map(|m| m.worker.as_str()).collect();
    assert_eq!(workers, ["w000", "w000", "w001", "w002"]);
}

#[test]
fn half_a_gang_is_never_placed() {
    let plan = run(&[(2, 4, 0, 0, true)], &[gang(3, 1, 1, 0)]);
    assert!(plan.placements.is_empty());
    assert_eq!(plan.reasons[&JobId(1)], Reason::Busy { instances: 3, fit_now: 2 });
}

#[test]
fn a_gpu_job_never_stands_on_a_cpu_only_worker() {
    let plan = run(&[(8, 8, 0, 0, true), (8, 8, 2, 2, true)], &[gang(2, 1, 1, 1), gang(1, 1, 1, 0)]);
    assert!(plan.placements[0].1.members.iter().all(|member| member.worker.as_str() == "w001"));
    let devices: Vec<u32> = plan.placements[0].1.members.iter().flat_map(|m| m.ranks[0].devices.clone()).collect();
    assert_eq!(devices, [0, 1]);
    assert_eq!(plan.placements[1].1.members[0].worker.as_str(), "w000", "GPU machines are left to those who need them");
}

#[test]
fn the_head_of_the_queue_is_not_passed() {
    let plan = run(&[(1, 4, 0, 0, true)], &[gang(4, 1, 1, 0), gang(1, 1, 1, 0)]);
    assert!(plan.placements.is_empty());
    assert_eq!(plan.reasons[&JobId(2)], Reason::Behind { job: JobId(1) });
}

#[test]
fn an_impossible_gang_holds_nobody_up_and_is_explained() {
    let plan = run(&[(4, 4, 0, 0, true)], &[gang(1, 1, 1, 8), gang(1, 1, 1, 0)]);
    assert_eq!(plan.placements.len(), 1);
    let reason = plan.reasons[&JobId(1)].to_string();
    assert!(reason.contains("8 GPUs"), "{reason}");
}

#[test]
fn closed_workers_get_nothing() {
    let plan = run(&[(4, 4, 0, 0, false)], &[gang(1, 1, 1, 0)]);
    assert_eq!(plan.reasons[&JobId(1)], Reason::NoWorkers { closed: 1 });
}

#[test]
fn spread_wants_distinct_workers() {
    let mut two = gang(2, 1, 1, 0);
    two.spread = true;
    assert!(run(&[(4, 4, 0, 0, true)], std::slice::from_ref(&two)).placements.is_empty());
    assert_eq!(run(&[(4, 4, 0, 0, true); 2], &[two]).placements.len(), 1);
}

#[test]
fn a_gang_waits_out_its_back_off() {
    let names = names(1);
    let gangs = [gang(1, 1, 1, 0)];
    let mut view = view(&names, &[(1, 1, 0, 0, true)], &gangs);
    view.waiting[0].ready_at = Timestamp(101);
    assert!(matches!(plan(&view).reasons[&JobId(1)], Reason::BackOff { .. }));
    view.now = Timestamp(101);
    assert_eq!(plan(&view).placements.len(), 1);
}

/// The jobs that a caller who stops when the plan is spent has placed.
fn placed_until_spent(view: &View<'_>) -> Vec<(JobId, Placement)> {
    let mut planner = Planner::new(view.now, &view.workers);
    let mut placed = Vec::new();
    for waiting in &view.waiting {
        if planner.is_spent() {
            break;
        }
        placed.extend(planner.place(waiting).ok().map(|placement| (waiting.job, placement)));
    }
    placed
}

#[test]
fn thousands_that_cannot_start_hide_nobody_behind_them() {
    let machines = [(4, 4, 0, 0, true), (4, 4, 0, 1, true)];
    // Too large for the cluster, all alike and all different; waiting for the one GPU, which is taken.
    let alike = gang(1, 1, 1, 8);
    let different = (0..2_000).map(|n| gang(1, 1, 100 + n, 0));
    let busy = gang(1, 1, 1, 1);
    for ahead in [vec![alike; 2_000], different.collect(), vec![busy; 2_000]] {
        let mut gangs = ahead;
        gangs.push(gang(1, 1, 1, 0));
        let names = names(2);
        let view = view(&names, &machines, &gangs);
        let placed = placed_until_spent(&view);
        assert_eq!(placed.iter().map(|(job, _)| job.0).collect::<Vec<u64>>(), [2_001]);
        assert_eq!(placed[0].1.members[0].worker.as_str(), "w000");
        assert_eq!(plan(&view).reasons.len(), 2_000);
    }
}

#[test]
fn more_shapes_than_a_cycle_looks_at_are_told_so() {
    // Each of its own shape, each could be hosted, none now.
    let gangs: Vec<GangSpec> = (0..=LOOKS_MAX as u32).map(|n| gang(1, 1, 2 + n, 0)).collect();
    let plan = run(&[(1, 5_000, 0, 0, true), (1, 1, 0, 0, true)], &gangs);
    assert_eq!(plan.reasons[&JobId(1)], Reason::Busy { instances: 1, fit_now: 0 });
    assert_eq!(plan.reasons[&JobId(LOOKS_MAX as u64 + 1)], Reason::NotLookedAt);
}

#[test]
fn workers_that_failed_to_prepare_a_gang_come_last_the_latest_of_them_at_the_end() {
    let names = names(3);
    let gangs = [gang(1, 1, 1, 0)];
    let mut view = view(&names, &[(1, 1, 0, 0, true); 3], &gangs);
    let mut place = |avoid: &[usize]| {
        view.waiting[0].avoid = avoid.iter().map(|i| &names[*i]).collect();
        plan(&view).placements[0].1.members[0].worker.to_string()
    };
    assert_eq!(place(&[]), "w000");
    assert_eq!(place(&[0]), "w001");
    assert_eq!(place(&[1, 0]), "w002");
    // All have failed: the one whose failure is longest ago.
    assert_eq!(place(&[2, 1, 0]), "w000");
    assert_eq!(place(&[0, 2, 1]), "w001");
}

#[test]
fn a_worker_that_failed_is_used_where_no_other_will_do() {
    let names = names(2);
    let gangs = [gang(2, 1, 1, 0)];
    let mut view = view(&names, &[(1, 1, 0, 0, true); 2], &gangs);
    view.waiting[0].avoid = vec![&names[0]];
    let workers: Vec<String> = plan(&view).placements[0].1.members.iter().map(|m| m.worker.to_string()).collect();
    assert_eq!(workers, ["w001", "w000"]);
}

fn machine() -> impl Strategy<Value = Machine> {
    (0..5_u32, 0..5_u32, 0..3_u32, 0..3_u32, proptest::bool::weighted(0.8)).prop_map(
        |(used, free, gpus_used, gpus_free, open)| (free, used + free, gpus_free, gpus_used + gpus_free, open),
    )
}

fn any_gang() -> impl Strategy<Value = GangSpec> {
    (1..5_u32, 1..3_u32, 1..3_u32, 0..2_u32, any::<bool>())
        .prop_map(|(i, r, c, g, spread)| GangSpec { spread, ..gang(i, r, c, g) })
}

proptest! {
    /// GANG-1 and SLOT-1 of every plan; SCHED-1: the same view gives the same plan; SCHED-3: placed or explained.
    #[test]
    fn plans_are_whole_within_capacity_and_explained(
        machines in proptest::collection::vec(machine(), 0..6),
        gangs in proptest::collection::vec(any_gang(), 0..8),
    ) {
        let names = names(machines.len());
        let view = view(&names, &machines, &gangs);
        let plan = super::plan(&view);
        prop_assert_eq!(&plan, &super::plan(&view));
        prop_assert_eq!(&plan.placements, &placed_until_spent(&view), "stopping early changes nothing");
        prop_assert_eq!(plan.placements.len() + plan.reasons.len(), gangs.len());
        let mut cpus = vec![0; machines.len()];
        let mut devices = BTreeSet::new();
        for (job, placement) in &plan.placements {
            let gang = &gangs[job.0 as usize - 1];
            prop_assert_eq!(placement.members.len(), gang.instances as usize, "GANG-1");
            let mut used = BTreeSet::new();
            for (node, member) in placement.members.iter().enumerate() {
                prop_assert_eq!(member.node_rank as usize, node);
                prop_assert_eq!(member.ranks.len(), gang.ranks_per_instance as usize);
                let at = names.iter().position(|name| *name == member.worker).unwrap();
                prop_assert!(machines[at].4, "closed worker");
                prop_assert!(used.insert(at) || !gang.spread);
                cpus[at] += gang.ranks_per_instance * gang.per_rank.cpus;
                for rank in &member.ranks {
                    prop_assert_eq!(rank.devices.len(), gang.per_rank.gpus as usize);
                    for device in &rank.devices {
                        prop_assert!(view.workers[at].devices_free.contains(device));
                        prop_assert!(devices.insert((at, *device)), "SLOT-1");
                    }
                }
            }
        }
        for (used, machine) in cpus.iter().zip(&machines) {
            prop_assert!(*used <= machine.0, "SLOT-1");
        }
    }

    /// SCHED-2: what stands behind a waiting head takes nothing that the head could use when it comes free.
    #[test]
    fn nobody_passes_a_waiting_head(
        machines in proptest::collection::vec(machine(), 1..6),
        gangs in proptest::collection::vec(any_gang(), 2..8),
    ) {
        let names = names(machines.len());
        let view = view(&names, &machines, &gangs);
        let plan = super::plan(&view);
        let head = view.waiting.iter().find(|gang| matches!(plan.reasons.get(&gang.job), Some(Reason::Busy { .. })));
        let Some(head) = head else { return Ok(()) };
        let need = Need::of(head.gang);
        for (_, placement) in plan.placements.iter().filter(|(job, _)| *job > head.job) {
            for member in &placement.members {
                let worker = view.workers.iter().find(|worker| *worker.id == member.worker).unwrap();
                prop_assert_eq!(need.fits_into_empty(worker), 0);
            }
        }
    }
}
