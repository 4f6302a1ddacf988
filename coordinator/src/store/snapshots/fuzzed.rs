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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Snapshots;

    /// Found by fuzzing: the checksum is right, and there are no such jobs.
    #[test]
    fn a_snapshot_of_more_jobs_than_memory_is_refused_in_words() {
        let meta = postcard::to_stdvec(&SnapshotMeta::default()).unwrap();
        let tables = postcard::to_stdvec(&(Timestamp(1), State::default())).unwrap();
        // The time, no cluster, no entry; then how many jobs there are.
        assert_eq!(tables[..4], [1, 0, 0, 0]);
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(folder.path()).unwrap();
        let told = |jobs: u64| {
            let jobs = postcard::to_stdvec(&jobs).unwrap();
            let file = file_of(&[&meta, &tables[..3], &jobs, &tables[4..]].concat());
            let mut arriving = snapshots.receive(file.len() as u64).unwrap();
            arriving.write(&file).unwrap();
            let (meta, file) = arriving.finish().unwrap();
            snapshots.adopt(&meta, &file).unwrap();
            snapshots.newest().unwrap().whole.unwrap().1.load::<(Timestamp, State)>()
        };
        assert_eq!(told(0), Ok((SnapshotMeta::default(), (Timestamp(1), State::default()))));
        for jobs in [1 << 30, 1 << 40, u64::MAX] {
            let text = told(jobs).unwrap_err();
            assert!(text.starts_with("its tables cannot be read: "), "{text}");
        }
    }
}
