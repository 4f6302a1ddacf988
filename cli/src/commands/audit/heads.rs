//! Heads of the audit trail that were signed and kept: what the records must lead to.

use super::{VerifyArgs, broken};
use crate::commands::Session;
use crate::failure::bad_input;
use crate::output::text;
use anyhow::Context as _;
use client::v1;
use identity::{Certificate, Fingerprint, fingerprint, is_signed_by};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A signed head on a line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeadLine {
    cluster: String,
    number: u64,
    hash: String,
    time_ms: u64,
    authority: String,
    signature: String,
}

impl From<v1::SignedAuditHead> for HeadLine {
    fn from(head: v1::SignedAuditHead) -> Self {
        let [hash, authority, signature] = [&head.hash, &head.authority, &head.signature].map(|bytes| text::hex(bytes));
        HeadLine { cluster: head.cluster, number: head.number, hash, time_ms: head.time_ms, authority, signature }
    }
}

impl HeadLine {
    /// Was it signed by an authority of these fingerprints?
    fn check(&self, by: &[Fingerprint]) -> Result<(), String> {
        let bytes = |text: &str| text::unhex(text).unwrap_or_default();
        let certificate = Certificate::from(bytes(&self.authority));
        let head = v1::SignedAuditHead {
            cluster: self.cluster.clone(),
            number: self.number,
            hash: bytes(&self.hash).into(),
            time_ms: self.time_ms,
            ..v1::SignedAuditHead::default()
        };
        let signer = fingerprint(&certificate);
        if !by.contains(&signer) {
            let number = self.number;
            return Err(format!(
                "the head at record {number} was signed by {signer}, which is not the authority that was named"
            ));
        }
        let said = proto::audit_head_text(&head);
        if is_signed_by(&certificate, said.as_bytes(), &bytes(&self.signature)) {
            return Ok(());
        }
        Err(format!("the head at record {} is not what the authority signed", self.number))
    }
}

/// The heads of a file, all signed as they should be.
pub(super) fn read(args: &VerifyArgs, session: &Session) -> anyhow::Result<BTreeMap<u64, String>> {
    let Some(path) = &args.head else { return Ok(BTreeMap::new()) };
    let parse =
        |given: &String| given.parse().map_err(|_| bad_input(format!("{given:?} is no SHA-256 of an authority")));
    let mut by: Vec<Fingerprint> = args.authority.iter().map(parse).collect::<anyhow::Result<_>>()?;
    if by.is_empty() {
        let token = session.target().ok().and_then(|target| target.token);
        let own = token.map(|token| token.authority());
        let unknown =
            || bad_input("which authority signed? Say --authority SHA256, or log in to the cluster".to_owned());
        by.push(own.ok_or_else(unknown)?);
    }
    let content = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut heads = BTreeMap::new();
    for (index, line) in content.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), index + 1);
        let head: HeadLine = serde_json::from_str(line).map_err(|error| bad_input(format!("{}: {error}", place())))?;
        head.check(&by).map_err(|why| broken(format!("{}: {why}", place())))?;
        heads.insert(head.number, head.hash);
    }
    Ok(heads)
}
