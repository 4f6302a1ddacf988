//! The log applied once more, entry by entry, as soon as any coordinator has applied an entry: what all must agree with, and
//! where the invariants of the tables are looked at after every single entry.

use super::invariants::{capacity, replicas, transitions};
use super::{World, locked};
use cluster_state::State;
use coordinator::raft::Node;
use coordinator::simulated::{LogEntry, read_entry};
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{JobPhase, LogIndex, Timestamp};

/// The tables as the committed log makes them.
#[derive(Default)]
pub struct Reference {
    /// After the last entry.
    pub state: State,
    time: Timestamp,
    next: u64,
    /// What each job was after an entry that changed it.
    phases: BTreeMap<(u64, u64), JobPhase>,
    /// After some of the last entries.
    former: BTreeMap<u64, State>,
}

/// After every such entry the tables are kept, and coordinators that reach it are compared.
const EVERY: u64 = 8;
const KEPT: usize = 100;

impl Reference {
    /// Entries that it holds.
    pub fn len(&self) -> u64 {
        self.next
    }

    /// The tables after this entry, if they were kept.
    pub fn after(&self, index: u64) -> Option<&State> {
        if index + 1 == self.next { Some(&self.state) } else { self.former.get(&index) }
    }

    /// What the job was after this entry, by its name in the API; none when the entry did not change it.
    pub fn phase_after(&self, index: u64, job: u64) -> Option<&'static str> {
        self.phases.get(&(index, job)).map(|phase| phase.name())
    }

    fn keep(&mut self, index: u64) {
        if index.is_multiple_of(EVERY) {
            self.former.insert(index, self.state.clone());
            if self.former.len() > KEPT {
                self.former.pop_first();
            }
        }
    }

    fn apply(&mut self, entry: LogEntry, world: &World) {
        let Some(batch) = entry.batch else { return };
        self.time = self.time.max(batch.time);
        for command in batch.commands.iter() {
            let before = self.state.clone();
            let outcome = self.state.apply(LogIndex(entry.index), self.time, command);
            world.note(&format!("entry {} {} {:?}", entry.index, name(command), outcome));
            let faults =
                transitions::faults(&before, &self.state, entry.index).into_iter().chain(capacity::faults(&self.state));
            for fault in faults {
                world.violated(format!("entry {}: {fault}", entry.index));
            }
        }
        let changed = self.state.changed_after(LogIndex(entry.index.saturating_sub(1)));
        self.phases.extend(changed.map(|(index, job)| ((index.0, job.id.0), job.phase)));
    }
}

/// An entry begins with the term of its leader.
fn term(record: &[u8]) -> u64 {
    postcard::take_from_bytes(record).map_or(0, |(term, _)| term)
}

/// The command without what it carries.
fn name(command: &cluster_state::Command) -> String {
    let text = format!("{command:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// Coordinator `id` has applied more: the reference catches up from its log, and the two are compared where they meet.
pub fn follow(world: &Arc<World>, id: u64, node: &Node) {
    let applied = node.applied().borrow().index.0;
    let disks: Vec<_> = locked(&world.coordinators).hosts.values().map(|host| host.disk.clone()).collect();
    let mut reference = locked(&world.reference);
    for index in reference.next..=applied {
        // A leader may apply what only the others have flushed, and a follower may still hold what is about to be replaced:
        // of different entries at one place the one of the newest term is the committed one.
        let newest = disks.iter().filter_map(|disk| disk.record(index)).max_by_key(|bytes| term(bytes));
        let Some(entry) = newest.and_then(|bytes| read_entry(&bytes)) else {
            world.violated(format!("I1: entry {index}, which coordinator {id} applied, is on no disk"));
            break;
        };
        reference.next += 1;
        world.count(|counts| counts.entries += 1);
        reference.apply(entry, world);
        reference.keep(index);
    }
    replicas::compare(world, id, node, &reference);
}
