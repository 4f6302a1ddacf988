//! Calls between coordinators, with a right checksum round any bytes.

use super::{Appended, Ask, Payload, Reply, pack, pack_bytes, unpack};
use crate::raft::types::{SnapshotMeta, TypeConfig, Vote};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte tells which call or answer it is. What is taken is sent again as the same bytes.
pub fn call(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let payload = pack_bytes(body);
    match kind % 8 {
        0 => same_again::<VoteRequest<TypeConfig>>(&payload),
        1 => same_again::<AppendEntriesRequest<TypeConfig>>(&payload),
        2 => same_again::<TransferLeaderRequest<TypeConfig>>(&payload),
        3 => same_again::<(Vote, SnapshotMeta, u64)>(&payload),
        4 => same_again::<Ask>(&payload),
        5 => same_again::<Reply>(&payload),
        6 => same_again::<Appended>(&payload),
        // As it came, with the checksum that it brought.
        _ => same_again::<Ask>(&Payload { data: body.to_vec().into() }),
    }
}

fn same_again<T: Serialize + DeserializeOwned>(payload: &Payload) {
    let Ok(value) = unpack::<T>(payload) else { return };
    let sent = pack(&value);
    let again = sent.clone().and_then(|sent| unpack::<T>(&sent)).and_then(|again| pack(&again));
    assert!(sent.is_ok() && again == sent, "what was taken is sent again as something else");
}

/// One of each kind.
pub fn calls() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..8).map(|kind| [vec![kind], vec![0; 32]].concat()).collect();
    let asks = [Ask::Transfer(None), Ask::Remove(types::CoordinatorId(2))];
    all.extend(asks.iter().filter_map(|ask| Some([vec![4], postcard::to_stdvec(ask).ok()?].concat())));
    all.extend(pack(&asks[1]).map(|payload| [&[7][..], &payload.data].concat()));
    all
}
