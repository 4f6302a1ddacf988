//! One more certificate authority: the nodes trust the old and the new one until the old one is retired.

use super::At;
use crate::{Authority, Outcome, Refusal, State};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Bytes of a certificate.
const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
/// The one that signs, and the one before it.
const AUTHORITIES_MAX: usize = 2;

pub(super) fn apply(state: &mut State, at: At, certificate: &[u8], vouched: &[u8]) -> Result<Outcome, Refusal> {
    if certificate.is_empty() || certificate.len().max(vouched.len()) > CERTIFICATE_BYTES_MAX {
        let bytes = certificate.len().max(vouched.len());
        return Err(Refusal::Invalid(format!("a certificate has 1 to {CERTIFICATE_BYTES_MAX} bytes, not {bytes}")));
    }
    let fingerprint: [u8; 32] = Sha256::digest(certificate).into();
    let authorities = &mut state.access.authorities;
    if authorities.last().is_some_and(|last| last.fingerprint == fingerprint) {
        return Ok(Outcome::Done);
    }
    if authorities.iter().any(|known| known.fingerprint == fingerprint) {
        return Err(Refusal::Invalid("the authority is trusted already, but a newer one signs".to_owned()));
    }
    if authorities.len() >= AUTHORITIES_MAX {
        let text = format!("{AUTHORITIES_MAX} authorities are trusted already: retire the older one first");
        return Err(Refusal::Invalid(text));
    }
    let (certificate, vouched) = (certificate.to_vec(), vouched.to_vec());
    authorities.push(Arc::new(Authority { fingerprint, certificate, vouched, created: at.time }));
    state.access.version += 1;
    Ok(Outcome::Done)
}
