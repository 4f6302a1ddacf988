//! Snapshots, with a right checksum round any bytes.

use super::{END, FORMAT, MAGIC, SnapshotMeta, decode};
use cluster_state::State;
use types::Timestamp;

/// The first byte tells whether the others are the whole file, or what a checksum stands round. What is taken is written again as
/// a snapshot that is read as the same.
pub fn snapshot(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let file = if kind.is_multiple_of(2) { file_of(body) } else { body.to_vec() };
    let Ok((meta, tables)) = decode::<(Timestamp, State)>(&file) else { return };
    let body = postcard::to_stdvec(&meta)
        .and_then(|meta| Ok([meta, postcard::to_stdvec(&tables)?].concat()))
        .unwrap_or_default();
    let again = decode::<(Timestamp, State)>(&file_of(&body));
    assert!(again.is_ok_and(|again| again == (meta, tables)), "what was read is not what is written of it");
}

fn file_of(body: &[u8]) -> Vec<u8> {
    let mut file = [&MAGIC[..], &FORMAT.to_le_bytes(), body, &(body.len() as u64).to_le_bytes()].concat();
    file.extend_from_slice(&crc32fast::hash(&file).to_le_bytes());
    file.extend_from_slice(END);
    file
}

/// Of nothing.
pub fn snapshots() -> Vec<Vec<u8>> {
    let meta = postcard::to_stdvec(&SnapshotMeta::default()).unwrap_or_default();
    let tables = postcard::to_stdvec(&(Timestamp(1), State::default())).unwrap_or_default();
    let body = [meta, tables].concat();
    vec![[&[0][..], &body].concat(), [&[1][..], &file_of(&body)].concat()]
}
