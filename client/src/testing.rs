//! For this crate's own unit tests.
#![allow(clippy::unwrap_used)]

use identity::{Fingerprint, Secret, SecretKind};

/// A token of a cluster that is nowhere.
pub(crate) fn token() -> Secret {
    Secret::generate(SecretKind::Access, Fingerprint([7; 32])).unwrap()
}
