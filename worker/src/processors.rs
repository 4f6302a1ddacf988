//! Which processors each rank has for itself, where the operator asks for that (`--pin-cpus`): a CPU slot is then a processor.
//!
//! What the worker does not offer is the daemon's, which then stays off the others. A rank gets those that the fewest others have, near its GPUs where there are such, and next to each other as the machine has
//! them. While the coordinators give no more slots than the worker offers, nobody shares one. What a former life of the daemon gave is
//! in the ranks' records.

use crate::layout::MemberLayout;
use crate::shim::record;
use rustix::process::Pid;
use rustix::thread::CpuSet;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use types::MemberKey;

/// One of the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Processor {
    node: u32,
    package: u32,
    core: u32,
    number: u32,
}

/// What one rank is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) count: usize,
    /// NUMA node of its first GPU.
    pub(crate) node: Option<u32>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Processors {
    /// In the order of the machine; none where ranks have the whole machine.
    all: Vec<Processor>,
    given: Mutex<BTreeMap<MemberKey, Vec<u32>>>,
}

impl Processors {
    /// Ranks have the whole machine.
    pub(crate) fn shared() -> Self {
        Self::new(Vec::new())
    }

    /// As many as there are slots of those that this process may use; it keeps to what is left, if anything is.
    pub(crate) fn of_machine(slots: u32) -> Self {
        let root = Path::new("/sys/devices/system/cpu");
        let mut found = Self::new(allowed().into_iter().map(|number| place(root, number)).collect());
        let left = found.leave(slots as usize);
        if let (false, Err(error)) = (left.is_empty(), keep_to(&left)) {
            tracing::warn!(%error, "the daemon's threads run on ranks' processors too");
        }
        found
    }

    /// Has so many from then on; the first, on which machines like to do their own work, are given back.
    fn leave(&mut self, slots: usize) -> Vec<u32> {
        let left = self.all.len().saturating_sub(slots);
        self.all.drain(..left).map(|processor| processor.number).collect()
    }

    fn new(mut all: Vec<Processor>) -> Self {
        all.sort_unstable();
        Self { all, given: Mutex::default() }
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<MemberKey, Vec<u32>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The processors of each rank, the member's until it is freed; of each none where ranks have the whole machine.
    pub(crate) fn take(&self, member: MemberKey, wants: &[Want]) -> Vec<Vec<u32>> {
        let mut given = self.given();
        let mut load: BTreeMap<u32, usize> = self.all.iter().map(|processor| (processor.number, 0)).collect();
        given.values().flatten().filter_map(|number| load.get_mut(number).map(|load| *load += 1)).for_each(drop);
        let each: Vec<Vec<u32>> = wants
            .iter()
            .map(|want| {
                let is_far = |processor: &Processor| want.node.is_some_and(|node| node != processor.node);
                let mut ranked: Vec<&Processor> = self.all.iter().collect();
                ranked.sort_by_key(|processor| (load[&processor.number], is_far(processor)));
                let mut chosen: Vec<u32> = ranked.iter().take(want.count).map(|processor| processor.number).collect();
                chosen.sort_unstable();
                for number in &chosen {
                    load.entry(*number).and_modify(|load| *load += 1);
                }
                chosen
            })
            .collect();
        given.entry(member).or_default().extend(each.iter().flatten());
        each
    }

    /// A restarted daemon found this member: its ranks go on where they are.
    pub(crate) fn keep(&self, member: MemberKey, layout: &MemberLayout) {
        let ranks = MemberLayout::ranks(layout.root());
        let theirs = ranks.iter().filter_map(|folder| record::spec(folder)).flat_map(|spec| spec.processors);
        self.given().entry(member).or_default().extend(theirs);
    }

    /// None of its ranks is left.
    pub(crate) fn free(&self, member: MemberKey) {
        self.given().remove(&member);
    }
}

/// The processors that this process may use.
pub(crate) fn allowed() -> Vec<u32> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|number| set.is_set(*number)).filter_map(|n| n.try_into().ok()).collect()
}

/// All threads of this process, and what they start.
fn keep_to(numbers: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for number in numbers {
        set.set(*number as usize);
    }
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?.file_name().to_str().and_then(|number| Pid::from_raw(number.parse().ok()?));
        match rustix::thread::sched_setaffinity(thread, &set) {
            // One that has just ended.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What the kernel does not tell is 0.
fn place(root: &Path, number: u32) -> Processor {
    let folder = root.join(format!("cpu{number}"));
    let read = |name: &str| {
        let text = std::fs::read_to_string(folder.join("topology").join(name)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let nodes = entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok());
    let node = nodes.min().unwrap_or(0);
    Processor { node, package: read("physical_package_id"), core: read("core_id"), number }
}

/// As the kernel takes it.
pub(crate) fn list(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    numbers.join(",")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use types::{AttemptNumber, JobId};

    fn key(job: u64) -> MemberKey {
        MemberKey { job: JobId(job), attempt: AttemptNumber(1), node_rank: 0 }
    }

    /// Two nodes of two cores of two threads each; the threads of core N are N and N + 4.
    fn eight() -> Processors {
        let of = |number: u32| Processor { node: number % 4 / 2, package: 0, core: number % 4, number };
        Processors::new((0..8).map(of).collect())
    }

    fn want(count: usize) -> Want {
        Want { count, node: None }
    }

    #[test]
    fn a_rank_has_processors_next_to_each_other_and_near_its_gpus() {
        let processors = eight();
        assert_eq!(processors.take(key(1), &[want(2), want(1)]), [vec![0, 4], vec![1]]);
        assert_eq!(processors.take(key(2), &[Want { count: 2, node: Some(1) }]), [[2, 6]]);
        assert_eq!(
            processors.take(key(3), &[Want { count: 2, node: Some(0) }]),
            [[3, 5]],
            "the nearer one and another"
        );
        processors.free(key(1));
        assert_eq!(processors.take(key(4), &[want(3)]), [[0, 1, 4]]);
    }

    #[test]
    fn where_more_is_wanted_than_there_is_those_are_shared_that_fewest_have() {
        let processors = eight();
        processors.take(key(1), &[want(6)]);
        let two = processors.take(key(2), &[want(4)]);
        assert!(two[0].contains(&3) && two[0].contains(&7) && two[0].len() == 4, "{two:?}");
        assert_eq!(processors.take(key(3), &[want(99)])[0].len(), 8, "nobody has more than there are");
    }

    #[test]
    fn who_does_not_pin_gives_none() {
        assert_eq!(Processors::shared().take(key(1), &[want(2), want(1)]), [vec![], vec![]] as [Vec<u32>; 2]);
    }

    #[test]
    fn what_is_not_offered_is_left_to_the_daemon() {
        let mut processors = eight();
        assert_eq!(processors.leave(6), [0, 4]);
        assert_eq!(processors.take(key(1), &[want(2)]), [[1, 5]]);
        assert!(processors.leave(6).is_empty() && processors.leave(9).is_empty());
    }

    #[test]
    fn the_machine_is_read_as_the_kernel_tells_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("cpu9/topology")).unwrap();
        std::fs::create_dir_all(folder.path().join("cpu9/node3")).unwrap();
        std::fs::write(folder.path().join("cpu9/topology/core_id"), "17\n").unwrap();
        assert_eq!(place(folder.path(), 9), Processor { node: 3, package: 0, core: 17, number: 9 });
        assert_eq!(place(folder.path(), 8), Processor { node: 0, package: 0, core: 0, number: 8 });
        assert!(!allowed().is_empty());
        assert_eq!(list(&[0, 4, 11]), "0,4,11");
    }

    proptest! {
        /// As long as no more is wanted than there is, in whatever order members come and go.
        #[test]
        fn nobody_shares_a_processor(steps in prop::collection::vec((0_u64..12, 1_usize..4), 1..80)) {
            let processors = eight();
            let mut held: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
            for (job, count) in steps {
                if held.remove(&job).is_some() {
                    processors.free(key(job));
                } else if held.values().map(Vec::len).sum::<usize>() + count <= 8 {
                    let own = processors.take(key(job), &[want(count)]).remove(0);
                    prop_assert_eq!(own.len(), count);
                    prop_assert!(held.values().flatten().all(|taken| !own.contains(taken)));
                    held.insert(job, own);
                }
            }
        }
    }
}
