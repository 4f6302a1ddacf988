//! Could a job ever start on the workers that are known? Told at submit, with what would be needed.
//!
//! Lost, cordoned and busy workers count as if they were free: they may come back. Where no worker is known at all nothing is
//! said, for the cluster is just being built.

use cluster_state::{State, Worker};
use std::collections::{BTreeMap, BTreeSet};
use types::{JobSpec, PlaceLevel};

/// What one instance needs on one worker.
struct Need {
    cpus: u64,
    memory_bytes: u64,
    gpus: u64,
}

/// Why the job can never start here as it is.
pub(super) fn fault(state: &State, spec: &JobSpec) -> Option<String> {
    state.workers().next()?;
    over_ceiling(state, spec).or_else(|| too_large(state, spec))
}

fn too_large(state: &State, spec: &JobSpec) -> Option<String> {
    let gang = &spec.gang;
    let ranks = u64::from(gang.ranks_per_instance);
    let need = Need {
        cpus: ranks * u64::from(gang.per_rank.cpus),
        memory_bytes: ranks.saturating_mul(gang.per_rank.memory_bytes),
        gpus: ranks * u64::from(gang.per_rank.gpus),
    };
    let wanted = u64::from(gang.fewest());
    let mut rooms: BTreeMap<Vec<&str>, u64> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (id, worker) in state.workers().filter(|(_, worker)| will_do(worker, spec)) {
        let mut room = room(worker, &need);
        let place = |level| worker.registration.topology.place(level, id.as_str());
        let within = spec.constraints.required.map(place).unwrap_or_default();
        // Nothing can be required of a place without a name.
        if within.last().is_some_and(|name| name.is_empty()) {
            continue;
        }
        if let Some(apart) = gang.spread.filter(|_| room > 0) {
            // Those without a name count as one, in each place that is next wider.
            room = u64::from(taken.insert(place(apart)));
        }
        let sum = rooms.entry(within).or_default();
        *sum = sum.saturating_add(room);
        // Most jobs fit on the first few.
        if *sum >= wanted {
            return None;
        }
    }
    Some(what_is_lacking(state, spec, &need, rooms.values().copied().max().unwrap_or(0)))
}

fn will_do(worker: &Worker, spec: &JobSpec) -> bool {
    let labels = &worker.registration.labels;
    let constraints = &spec.constraints;
    let has_labels = constraints.labels.iter().all(|(name, value)| labels.get(name) == Some(value));
    let is_tolerated = worker.all_taints().is_subset(&constraints.tolerations);
    let class = worker.registration.inventory.devices.first().map(|device| &device.name);
    has_labels
        && is_tolerated
        && (constraints.devices.is_empty() || class.is_some_and(|class| constraints.devices.contains(class)))
}

fn room(worker: &Worker, need: &Need) -> u64 {
    let inventory = &worker.registration.inventory;
    let times = |have: u64, need: u64| have.checked_div(need).unwrap_or(u64::MAX);
    times(inventory.cpus.into(), need.cpus)
        .min(times(inventory.memory_bytes, need.memory_bytes))
        .min(times(worker.devices_healthy().into(), need.gpus))
}

fn what_is_lacking(state: &State, spec: &JobSpec, need: &Need, most: u64) -> String {
    let usable = || state.workers().filter(|(_, worker)| will_do(worker, spec)).map(|(_, worker)| worker);
    let workers = usable().count();
    if workers == 0 {
        let known = state.workers().count();
        return format!(
            "none of the {known} known workers has the labels and devices that it asks for, and no taint that it does not tolerate"
        );
    }
    if most > 0 {
        let within = spec.constraints.required.map_or(String::new(), |level| format!(" within one {}", level.name()));
        let spread = match spec.gang.spread {
            None => String::new(),
            Some(PlaceLevel::Worker) => " on different workers".to_owned(),
            Some(level) => {
                format!(" in different {}{}", level.name(), if level == PlaceLevel::Switch { "es" } else { "s" })
            }
        };
        let instances = spec.gang.fewest();
        return format!("needs {instances} instances{within}{spread}; when empty there is room for {most}");
    }
    let largest = |have: fn(&Worker) -> u64| usable().map(|worker| have(worker)).max().unwrap_or(0);
    let gpus = largest(|worker| worker.devices_healthy().into());
    let cpus = largest(|worker| worker.registration.inventory.cpus.into());
    let memory = largest(|worker| worker.registration.inventory.memory_bytes);
    if need.gpus > gpus {
        format!("one instance needs {} GPUs; the largest of {workers} workers has {gpus}", need.gpus)
    } else if need.cpus > cpus {
        format!("one instance needs {} CPU slots; the largest of {workers} workers has {cpus}", need.cpus)
    } else if need.memory_bytes > memory {
        format!(
            "one instance needs {} bytes of memory; the largest of {workers} workers has {memory}",
            need.memory_bytes
        )
    } else {
        "no worker has the CPU slots, memory and GPUs of one instance together".to_owned()
    }
}

/// A ceiling of its queue, or of one above it, that the job alone is over.
fn over_ceiling(state: &State, spec: &JobSpec) -> Option<String> {
    let gang = &spec.gang;
    let ranks = u64::from(gang.fewest()) * u64::from(gang.ranks_per_instance);
    let gpus = u64::from(gang.per_rank.gpus);
    let classes: Vec<&str> = match (gpus, spec.constraints.devices.as_slice()) {
        (0, _) => vec![""],
        // Any class will do, so only a ceiling on all of them would be in the way.
        (_, []) => return None,
        (_, devices) => devices.iter().map(String::as_str).collect(),
    };
    let need = ranks * if gpus > 0 { gpus } else { u64::from(gang.per_rank.cpus) };
    let mut over = None;
    for class in classes {
        let mut name = Some(spec.queue.as_str());
        let mut limit = None;
        while let Some(queue) = name.and_then(|name| state.queue(name)) {
            let ceiling = queue.quotas.get(class).and_then(|quota| quota.ceiling);
            limit = limit.or(ceiling.filter(|ceiling| need > *ceiling).map(|ceiling| (queue.name.clone(), ceiling)));
            name = queue.parent();
        }
        let (queue, ceiling) = limit?;
        let what = if class.is_empty() { "CPU slots".to_owned() } else { format!("{class} devices") };
        over = Some(format!("needs {need} {what}; queue {queue} may never have more than {ceiling}"));
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tables;
    use cluster_state::{Command, SetQueue};
    use types::{Queue, QueueQuota};

    fn told(tables: &mut Tables, change: impl FnOnce(&mut JobSpec)) -> String {
        let job = tables.submit(change);
        let spec = tables.state.job(job).map(|job| job.spec.clone());
        spec.and_then(|spec| fault(&tables.state, &spec)).unwrap_or_default()
    }

    #[test]
    fn what_no_worker_could_host_is_told_with_what_it_lacks() {
        let mut tables = Tables::default();
        assert_eq!(told(&mut tables, |spec| spec.gang.per_rank.gpus = 64), "", "nobody has joined yet");
        tables.worker("a", 4, &[true, false]);
        tables.worker_in("b", 8, "r2");
        tables.lose("b");
        assert_eq!(told(&mut tables, |spec| spec.gang.per_rank.cpus = 8), "", "it may come back");
        type Change = fn(&mut JobSpec);
        let cases: [(Change, &str); 6] = [
            (|spec| spec.gang.per_rank.gpus = 2, "one instance needs 2 GPUs; the largest of 2 workers has 1"),
            (|spec| spec.gang.per_rank.cpus = 9, "one instance needs 9 CPU slots; the largest of 2 workers has 8"),
            (|spec| spec.gang.instances = 13, "needs 13 instances; when empty there is room for 12"),
            (
                |spec| (spec.gang.instances, spec.gang.spread) = (3, Some(PlaceLevel::Worker)),
                "needs 3 instances on different workers; when empty there is room for 2",
            ),
            (
                |spec| (spec.gang.instances, spec.constraints.required) = (9, Some(PlaceLevel::Rack)),
                "needs 9 instances within one rack; when empty there is room for 8",
            ),
            (
                |spec| spec.constraints.devices = vec!["other".into()],
                "none of the 2 known workers has the labels and devices that it asks for, and no taint that it does not tolerate",
            ),
        ];
        for (change, text) in cases {
            assert_eq!(told(&mut tables, change), text);
        }
    }

    #[test]
    fn racks_without_a_name_are_one_in_each_zone_here_and_to_the_scheduler() {
        let mut tables = Tables::default();
        tables.worker("a", 4, &[]);
        tables.worker("b", 4, &[]);
        tables.worker_in("c", 4, "");
        let apart = |instances| {
            move |spec: &mut JobSpec| (spec.gang.instances, spec.gang.spread) = (instances, Some(PlaceLevel::Rack))
        };
        assert_eq!(told(&mut tables, apart(3)), "needs 3 instances in different racks; when empty there is room for 2");
        assert_eq!(told(&mut tables, apart(2)), "");
        let placed = tables.submit(apart(2));
        assert!(tables.plan().contains(&placed));
    }

    #[test]
    fn a_ceiling_that_the_job_alone_is_over_is_named() {
        let mut tables = Tables::default();
        tables.worker("a", 64, &[]);
        let quota = QueueQuota { guaranteed: 0, ceiling: Some(4), lend: None };
        let queue = Queue { quotas: [(String::new(), quota)].into(), ..Queue::named("a") };
        tables.apply(&Command::SetQueue { queue, how: SetQueue::Create });
        tables.apply(&Command::SetQueue { queue: Queue::named("a/b"), how: SetQueue::Create });
        let over = |spec: &mut JobSpec| (spec.queue, spec.gang.instances) = ("a/b".into(), 5);
        assert_eq!(told(&mut tables, over), "needs 5 CPU slots; queue a may never have more than 4");
        let within = |spec: &mut JobSpec| (spec.queue, spec.gang.instances) = ("a/b".into(), 4);
        assert_eq!(told(&mut tables, within), "");
    }
}
