//! What worker and leader say to each other in a session, as values in postcard.

use crate::formats::same_again;
use types::{
    Inventory, MemberKey, MemberState, MemberStatus, RankIndex, Topology, Wish, WorkerId, WorkerInstance,
    WorkerRegistration,
};

/// The first byte tells which value it is.
pub(crate) fn session(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => same_again::<WorkerRegistration>(body),
        1 => same_again::<Vec<MemberStatus>>(body),
        2 => same_again::<Vec<Wish>>(body),
        _ => same_again::<Vec<MemberKey>>(body),
    }
}

pub(crate) fn sessions() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..4).map(|kind| [vec![kind, 1], vec![0; 200]].concat()).collect();
    let key = MemberKey { job: types::JobId(1), attempt: types::AttemptNumber(1), node_rank: 0 };
    let ended = MemberState::Ended(types::MemberEnd::Unknown);
    let status = |state| MemberStatus { key, token: types::Token(7), state };
    let endpoint = types::Endpoint { rank: RankIndex(0), data: "a:1".to_owned(), framework: "a:2".to_owned() };
    let statuses = vec![status(MemberState::Prepared(vec![endpoint])), status(ended)];
    all.extend(postcard::to_allocvec(&statuses).map(|body| [vec![1], body].concat()));
    all.extend(registration().and_then(|of| Some([vec![0], postcard::to_allocvec(&of).ok()?].concat())));
    all
}

fn registration() -> Option<WorkerRegistration> {
    Some(WorkerRegistration {
        worker: WorkerId::new("worker-1").ok()?,
        instance: WorkerInstance(1),
        inventory: Inventory { cpus: 4, memory_bytes: 1 << 30, ..Inventory::default() },
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        taints: std::collections::BTreeSet::default(),
        topology: Topology::default(),
        data_address: "10.0.0.1".to_owned(),
        version: "0".to_owned(),
    })
}
