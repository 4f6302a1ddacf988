//! Takes the trust in a certificate authority back; without any, no node could prove what it is.

use crate::{Outcome, Refusal, State};
use std::sync::Arc;

pub(super) fn apply(state: &mut State, fingerprint: &[u8; 32]) -> Result<Outcome, Refusal> {
    let authorities = &mut state.access.authorities;
    let place = authorities.iter().position(|known| known.fingerprint == *fingerprint);
    let place = place.ok_or(Refusal::UnknownAuthority)?;
    if authorities.len() == 1 {
        return Err(Refusal::Invalid("the last authority stays: add another first".to_owned()));
    }
    authorities.remove(place);
    if let Some(left) = authorities.first_mut().filter(|_| place == 0) {
        // What the retired one said of it counts no more either, nor what it signed itself.
        state.access.certificates_from = state.access.certificates_from.max(left.created);
        Arc::make_mut(left).vouched = Vec::new();
    }
    state.access.version += 1;
    Ok(Outcome::Done)
}
