//! The audit trail: who did what and with what result, each record bound by its hash to all before it (`AUDIT-1`).
//!
//! ```text
//!  base (number, hash) ── record ── record ── … ── head (number, hash)
//!                           hash = SHA-256(hash of the one before · postcard of all other fields)
//! ```
//!
//! The oldest records are forgotten; the hash of the last forgotten one is the base, so what is kept can still be verified,
//! and continues what was exported before.

use crate::State;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ops::Bound;
use std::sync::Arc;
use types::{Caller, Principal, Timestamp};

/// Records that the tables keep.
pub const AUDIT_KEPT: usize = 16_384;
/// Signed heads that the tables keep.
pub const AUDIT_HEADS_KEPT: usize = 256;
/// Bytes of a certificate or signature of a head.
const HEAD_BYTES_MAX: usize = 4_096;
/// Denials in one command.
pub const DENIALS_MAX: usize = 256;
/// Bytes of each text of a record.
const TEXT_BYTES_MAX: usize = 200;

/// One thing that was done, or tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// From 1, without gaps.
    pub number: u64,
    /// Of the entry.
    pub time: Timestamp,
    /// Who, and from where.
    pub caller: Arc<Caller>,
    /// What was asked for, such as `jobs/submit`.
    pub action: String,
    /// The job, worker, queue, user or whatever it was asked of.
    pub object: String,
    /// `ok`, `refused: …` or `denied: …`.
    pub result: String,
    /// How often: denials that are alike are one record.
    pub times: u32,
    /// SHA-256 over the hash of the record before and the postcard bytes of all other fields.
    pub hash: [u8; 32],
}

impl AsRef<AuditRecord> for AuditRecord {
    fn as_ref(&self) -> &AuditRecord {
        self
    }
}

impl AuditRecord {
    /// What is hashed of it: the postcard bytes of all fields but the hash, in their order.
    pub fn body(&self) -> Vec<u8> {
        let Self { number, time, caller, action, object, result, times, hash: _ } = self;
        let bytes = postcard::to_allocvec(&(number, time, caller, action, object, result, times));
        debug_assert!(bytes.is_ok(), "plain fields always have a binary form");
        bytes.unwrap_or_default()
    }

    fn hash_after(&self, previous: &[u8; 32]) -> [u8; 32] {
        Sha256::new().chain_update(previous).chain_update(self.body()).finalize().into()
    }
}

/// Checks that the records follow each other and what hashed to `base_hash`; if not, says the number of the first that does
/// not, as it should be. That the end was cut off shows only when the last is compared with a head kept elsewhere.
pub fn verify_chain<R: AsRef<AuditRecord>>(
    base_hash: [u8; 32],
    records: impl IntoIterator<Item = R>,
) -> Result<(), u64> {
    let (mut previous, mut expected) = (base_hash, None);
    for record in records {
        let record = record.as_ref();
        let number = *expected.get_or_insert(record.number);
        if record.number != number || record.hash_after(&previous) != record.hash {
            return Err(number);
        }
        (previous, expected) = (record.hash, Some(number.saturating_add(1)));
    }
    Ok(())
}

/// What a new record says.
pub(crate) struct Deed<'a> {
    pub(crate) caller: &'a Arc<Caller>,
    pub(crate) action: &'a str,
    pub(crate) object: &'a str,
    pub(crate) result: &'a str,
    pub(crate) times: u32,
}

/// Where the trail stood, signed by the cluster's authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    /// Of the last record then.
    pub number: u64,
    /// Of that record.
    pub hash: [u8; 32],
    /// Of the signature.
    pub time: Timestamp,
    /// The certificate whose key signed, in DER.
    pub authority: Vec<u8>,
    /// In DER.
    pub signature: Vec<u8>,
}

/// What of the trail is in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trail {
    /// Number and hash of the last record that is forgotten; zeros before there is one.
    base: (u64, [u8; 32]),
    #[serde(deserialize_with = "crate::bounded::map")]
    records: OrdMap<u64, Arc<AuditRecord>>,
    /// By the number of the record, the newest of them.
    #[serde(deserialize_with = "crate::bounded::map")]
    heads: OrdMap<u64, Arc<SignedHead>>,
}

impl Trail {
    fn head(&self) -> (u64, [u8; 32]) {
        self.records.get_max().map_or(self.base, |(number, last)| (*number, last.hash))
    }

    /// Keeps a signed head; false for one of a record that is not there so, or not newer than the last.
    pub(crate) fn keep_head(&mut self, head: &SignedHead) -> bool {
        let is_there = self.records.get(&head.number).is_some_and(|record| record.hash == head.hash);
        let is_newer = self.heads.get_max().is_none_or(|(newest, _)| *newest < head.number);
        let fits = head.authority.len().max(head.signature.len()) <= HEAD_BYTES_MAX;
        if !(is_there && is_newer && fits) {
            return false;
        }
        self.heads.insert(head.number, Arc::new(head.clone()));
        while self.heads.len() > AUDIT_HEADS_KEPT {
            self.heads = self.heads.without_min().1;
        }
        true
    }

    /// Adds one record; its texts are cut and made one line each.
    pub(crate) fn append(&mut self, time: Timestamp, deed: &Deed) {
        let Deed { caller, action, object, result, times } = *deed;
        let (number, previous) = self.head();
        let mut record = AuditRecord {
            number: number + 1,
            time,
            caller: cut_caller(caller),
            action: one_line(action),
            object: one_line(object),
            result: one_line(result),
            times,
            hash: [0; 32],
        };
        record.hash = record.hash_after(&previous);
        self.records.insert(record.number, Arc::new(record));
        while self.records.len() > AUDIT_KEPT {
            let Some((number, oldest)) = self.records.get_min().map(|(number, oldest)| (*number, oldest.hash)) else {
                return;
            };
            self.base = (number, oldest);
            self.records.remove(&number);
        }
    }
}

/// Shared with the command that came, but for one whose texts must be cut.
fn cut_caller(caller: &Arc<Caller>) -> Arc<Caller> {
    let texts = match &caller.principal {
        Principal::User { name, token } => [&caller.from, name, token],
        _ => [&caller.from; 3],
    };
    if texts.iter().all(|text| is_one_line(text)) {
        return caller.clone();
    }
    let principal = match &caller.principal {
        Principal::User { name, token } => Principal::User { name: one_line(name), token: one_line(token) },
        node => node.clone(),
    };
    Arc::new(Caller { principal, from: one_line(&caller.from) })
}

fn is_one_line(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
}

/// At most so many bytes, and no line break or other control character: a name cannot look like a second record.
fn one_line(text: &str) -> String {
    if is_one_line(text) {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl State {
    /// The records that are kept, the oldest first.
    pub fn audit(&self) -> impl Iterator<Item = &Arc<AuditRecord>> {
        self.audit.records.values()
    }

    /// The hash that the record of this number was bound to; zeros when that is forgotten.
    pub fn audit_before(&self, number: u64) -> [u8; 32] {
        match number.saturating_sub(1) {
            before if before == self.audit.base.0 => self.audit.base.1,
            before => self.audit.records.get(&before).map_or([0; 32], |record| record.hash),
        }
    }

    /// Kept records past this number, the oldest first.
    pub fn audit_after(&self, number: u64) -> impl Iterator<Item = &Arc<AuditRecord>> {
        self.audit.records.range((Bound::Excluded(number), Bound::Unbounded)).map(|(_, record)| record)
    }

    /// Number and hash of the newest record; zeros before there is one.
    pub fn audit_head(&self) -> (u64, [u8; 32]) {
        self.audit.head()
    }

    /// Signatures of where the trail stood, the oldest first.
    pub fn audit_heads(&self) -> impl DoubleEndedIterator<Item = &Arc<SignedHead>> {
        self.audit.heads.values()
    }

    /// Number and hash of the record before the oldest that is kept; zeros when that is the first.
    pub fn audit_base(&self) -> (u64, [u8; 32]) {
        self.audit.base
    }
}
