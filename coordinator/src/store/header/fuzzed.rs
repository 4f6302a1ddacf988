//! The two small files beside the log, with a right checksum round any bytes.

use super::{HEADER_MAGIC, Header, MARK_BYTES, MARK_MAGIC, Mark, frame, unframe};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use types::ClusterId;

/// The first byte tells which file it is, and whether the bytes are all of it or what a checksum stands before.
pub fn header(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => same_again::<Header>(HEADER_MAGIC, &framed(HEADER_MAGIC, body)),
        1 => same_again::<Mark>(MARK_MAGIC, &framed(MARK_MAGIC, body)),
        2 => same_again::<Header>(HEADER_MAGIC, body),
        _ => same_again::<Mark>(MARK_MAGIC, body),
    }
}

fn framed(magic: [u8; 8], body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_le_bytes();
    [&magic[..], &crc32fast::hash(body).to_le_bytes(), &length, body].concat()
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(magic: [u8; 8], file: &[u8]) {
    let Ok(value) = unframe::<T>(magic, file) else { return };
    let again = frame(magic, &value);
    assert!(again.as_ref().is_ok_and(|again| again.len() <= MARK_BYTES), "{value:?} does not fit its sector");
    let again = again.and_then(|again| unframe::<T>(magic, &again));
    assert_eq!(again, Ok(value), "what was read is not what is written of it");
}

/// Of a cluster's member, and of one that belongs to none yet.
pub fn headers() -> Vec<Vec<u8>> {
    let member = Header { cluster: Some(ClusterId([3; 16])), incarnation: 1, ..Header::fresh(2) };
    let body = |kind: u8, value: Result<Vec<u8>, postcard::Error>| [vec![kind], value.unwrap_or_default()].concat();
    vec![
        body(0, postcard::to_stdvec(&Header::fresh(1))),
        body(0, postcard::to_stdvec(&member)),
        body(1, postcard::to_stdvec(&Mark::default())),
        [vec![2], frame(HEADER_MAGIC, &member).unwrap_or_default()].concat(),
        [vec![3], frame(MARK_MAGIC, &Mark::default()).unwrap_or_default()].concat(),
    ]
}
