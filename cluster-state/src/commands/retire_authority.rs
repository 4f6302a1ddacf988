//! Takes the trust in a certificate authority back; without any, no node could prove what it is.

use crate::{Outcome, Refusal, State};

pub(super) fn apply(state: &mut State, fingerprint: &[u8; 32]) -> Result<Outcome, Refusal> {
    let authorities = &mut state.access.authorities;
    let place = authorities.iter().position(|known| known.fingerprint == *fingerprint);
    let place = place.ok_or(Refusal::UnknownAuthority)?;
    if authorities.len() == 1 {
        return Err(Refusal::Invalid("the last authority stays: add another first".to_owned()));
    }
    authorities.remove(place);
    state.access.version += 1;
    Ok(Outcome::Done)
}
