//! What travels between coordinators: values in postcard with a checksum, and in each call's metadata who calls whom.

pub mod fuzzed;

use super::types::{Addresses, LogId, Vote};
use crate::store::Identity;
use bytes::Bytes;
use cluster_state::{Command, Outcome};
use proto::internal::Payload;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status};
use types::{ClusterId, CoordinatorId, LogIndex};

/// Bytes of one message between coordinators: the largest entry, with room for the rest.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Bytes of a snapshot in one message.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

const CLUSTER: &str = "muster-cluster";
const INCARNATION: &str = "muster-incarnation";
const FROM: &str = "muster-from";
const TO: &str = "muster-to";
const PROTOCOL: &str = "muster-protocol";

/// The answer to one append, as openraft's own type has no wire form.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Appended {
    /// Taken up to here.
    Matched(Option<LogId>),
    /// The log differs at this place.
    Conflict(LogId),
    /// A newer leader or candidate is known.
    HigherVote(Vote),
}

/// What a coordinator asks of the leader.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Apply these commands.
    Propose(Arc<Vec<Command>>),
    /// Add a member.
    Add(CoordinatorId, Addresses),
    /// Remove a member.
    Remove(CoordinatorId),
    /// Hand leadership over, to this one if given.
    Transfer(Option<CoordinatorId>),
}

/// The leader's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The commands were applied.
    Applied(LogIndex, Vec<Outcome>),
    /// The members are as asked.
    Changed,
    /// This one leads now.
    Transferred(CoordinatorId),
    /// Nothing was done: the one asked does not lead.
    NotLeader,
    /// Nothing was done: too much waits there.
    Busy,
    /// It may have been done.
    Unknown(String),
    /// Nothing was done, and asking again does not help.
    Refused(String),
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) cluster: ClusterId,
    pub(crate) incarnation: u32,
    pub(crate) from: u64,
}

/// A value with its checksum.
pub(crate) fn pack(value: &impl Serialize) -> Result<Payload, String> {
    let mut data = vec![0; 4];
    data = postcard::to_extend(value, data).map_err(|error| format!("cannot encode: {error}"))?;
    let crc = crc32fast::hash(&data[4..]);
    data[..4].copy_from_slice(&crc.to_le_bytes());
    Ok(Payload { data: data.into() })
}

/// The value, if its checksum is right.
pub(crate) fn unpack<T: DeserializeOwned>(payload: &Payload) -> Result<T, String> {
    postcard::from_bytes(checked(&payload.data)?).map_err(|error| format!("cannot decode: {error}"))
}

/// Bytes with their checksum.
pub(crate) fn pack_bytes(bytes: &[u8]) -> Payload {
    let mut data = crc32fast::hash(bytes).to_le_bytes().to_vec();
    data.extend_from_slice(bytes);
    Payload { data: data.into() }
}

/// The bytes, if their checksum is right.
pub(crate) fn unpack_bytes(payload: &Payload) -> Result<&[u8], String> {
    checked(&payload.data)
}

fn checked(data: &Bytes) -> Result<&[u8], String> {
    let (crc, body) = data.split_first_chunk::<4>().ok_or_else(|| "a message without a checksum".to_owned())?;
    if crc32fast::hash(body).to_le_bytes() == *crc {
        Ok(body)
    } else {
        Err("a message with a wrong checksum".to_owned())
    }
}

/// Says in the metadata who calls whom. Refused before this coordinator belongs to a cluster.
pub(crate) fn stamp<T>(request: &mut Request<T>, identity: &Identity, to: u64) -> Result<(), String> {
    let cluster = identity.cluster().ok_or_else(|| "this coordinator belongs to no cluster yet".to_owned())?;
    let fields = [
        (CLUSTER, cluster.to_string()),
        (INCARNATION, identity.incarnation().to_string()),
        (FROM, identity.coordinator().to_string()),
        (TO, to.to_string()),
        (PROTOCOL, proto::PROTOCOL.to_string()),
    ];
    for (name, value) in fields {
        let value = AsciiMetadataValue::try_from(value).map_err(|error| error.to_string())?;
        request.metadata_mut().insert(name, value);
    }
    Ok(())
}

/// Lets in callers of this cluster and protocol who mean this coordinator. One that belongs to no cluster yet lets in
/// the first: it is then to adopt the caller's cluster before it serves the call.
pub(crate) fn admit(metadata: &MetadataMap, identity: &Identity) -> Result<Caller, Status> {
    let field = |name: &'static str| {
        let value = metadata.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| Status::failed_precondition(format!("a coordinator's call without {name}")))
    };
    let number =
        |name| field(name)?.parse::<u64>().map_err(|_| Status::invalid_argument(format!("{name} is no number")));
    let protocol = number(PROTOCOL)?;
    if protocol != u64::from(proto::PROTOCOL) {
        let text = format!("protocol {protocol} of the caller is not {} of this coordinator", proto::PROTOCOL);
        return Err(Status::failed_precondition(text));
    }
    let to = number(TO)?;
    if to != identity.coordinator() {
        let text = format!("coordinator {to} is wanted; this is coordinator {}", identity.coordinator());
        return Err(Status::failed_precondition(text));
    }
    let cluster = parse_cluster(field(CLUSTER)?).ok_or_else(|| Status::invalid_argument("not a cluster id"))?;
    if let Some(own) = identity.cluster().filter(|own| *own != cluster) {
        let text = format!("the caller belongs to cluster {cluster}; this coordinator belongs to cluster {own}");
        return Err(Status::failed_precondition(text));
    }
    let incarnation = u32::try_from(number(INCARNATION)?)
        .map_err(|_| Status::invalid_argument(format!("{INCARNATION} is too large")))?;
    if identity.cluster().is_some() && identity.incarnation() != incarnation {
        let own = identity.incarnation();
        let text = format!(
            "this coordinator is of incarnation {own} of the cluster, the caller of incarnation {incarnation}: the lower one was \
             replaced when the cluster began anew, and must not run any more"
        );
        return Err(Status::failed_precondition(text));
    }
    Ok(Caller { cluster, incarnation, from: number(FROM)? })
}

fn parse_cluster(text: &str) -> Option<ClusterId> {
    let mut bytes = [0; 16];
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(ClusterId(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_message_is_refused() {
        let payload = pack(&Ask::Remove(CoordinatorId(7))).unwrap();
        assert!(matches!(unpack::<Ask>(&payload), Ok(Ask::Remove(CoordinatorId(7)))));
        for at in 0..payload.data.len() {
            let mut data = payload.data.to_vec();
            data[at] ^= 1;
            assert!(unpack::<Ask>(&Payload { data: data.into() }).is_err(), "byte {at}");
        }
        assert!(unpack::<Ask>(&Payload { data: Bytes::new() }).is_err());
        assert_eq!(unpack_bytes(&pack_bytes(b"abc")).unwrap(), b"abc");
    }

    #[test]
    fn cluster_ids_travel_as_text() {
        let id = ClusterId([0xA5; 16]);
        assert_eq!(parse_cluster(&id.to_string()), Some(id));
        assert_eq!(parse_cluster("zz"), None);
        assert_eq!(parse_cluster(&"+1".repeat(16)), None);
    }
}
