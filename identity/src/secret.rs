//! Tokens: 256 bits of chance behind a word that scanners find, and the fingerprint of the authority of their cluster.
//!
//! `muster_pat_<64 hex>.<64 hex>`: the secret, and after the point what a client checks the cluster by before it sends the
//! secret. Coordinators keep SHA-256 of the part before the point only; no slow hash is needed for a secret that nobody can
//! guess.
//!
//! A token of an identity provider (`HEADER.CLAIMS.SIGNATURE`) stands in the same place, with the fingerprint behind it likewise.

use crate::jwt::{JWT_BYTES_MAX, is_jwt};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// SHA-256 of an authority's certificate in DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Of this certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// A person's or program's.
    Access,
    /// A node's that joins.
    Join,
}

impl SecretKind {
    const fn prefix(self) -> &'static str {
        match self {
            SecretKind::Access => "muster_pat_",
            SecretKind::Join => "muster_join_",
        }
    }
}

/// A token. No `Debug` and no `Display`: only [`Secret::expose`] gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    kind: SecretKind,
    text: String,
    authority: Fingerprint,
}

/// Not a token. Says nothing of what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a token: one is muster_pat_ or muster_join_, 64 hexadecimal digits, a point, and 64 more; or an identity provider's JSON Web Token, a point, and the 64 digits of the cluster's authority"
)]
pub struct InvalidSecret;

impl Secret {
    /// A new one for the cluster of this authority.
    pub fn generate(kind: SecretKind, authority: Fingerprint) -> std::io::Result<Self> {
        let chance = Fingerprint(daemon::random::bytes()?);
        Ok(Self { kind, text: format!("{}{chance}", kind.prefix()), authority })
    }

    /// Reads what `expose` gave.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let (secret, authority) = text.trim().rsplit_once('.').ok_or(InvalidSecret)?;
        if is_jwt(secret) {
            let authority = Fingerprint(unhex(authority).ok_or(InvalidSecret)?);
            return Self::of_provider(secret, authority);
        }
        let kinds = [SecretKind::Access, SecretKind::Join];
        let kind = kinds.into_iter().find(|kind| secret.starts_with(kind.prefix())).ok_or(InvalidSecret)?;
        unhex(&secret[kind.prefix().len()..]).ok_or(InvalidSecret)?;
        let authority = Fingerprint(unhex(authority).ok_or(InvalidSecret)?);
        Ok(Self { kind, text: secret.to_owned(), authority })
    }

    /// A token that an identity provider issued, for the cluster of this authority.
    pub fn of_provider(jwt: &str, authority: Fingerprint) -> Result<Self, InvalidSecret> {
        if !is_jwt(jwt) || jwt.len() > JWT_BYTES_MAX {
            return Err(InvalidSecret);
        }
        Ok(Self { kind: SecretKind::Access, text: jwt.to_owned(), authority })
    }

    /// What it is for.
    pub fn kind(&self) -> SecretKind {
        self.kind
    }

    /// The authority of its cluster.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// The same for who is to know the cluster by another authority of it.
    pub fn under(&self, authority: Fingerprint) -> Self {
        Self { authority, ..self.clone() }
    }

    /// The whole token, for its owner.
    pub fn expose(&self) -> String {
        format!("{}.{}", self.text, self.authority)
    }

    /// The part that is sent to a coordinator, inside TLS.
    pub fn bearer(&self) -> &str {
        &self.text
    }

    /// What coordinators keep of it.
    pub fn digest(&self) -> [u8; 32] {
        digest(&self.text)
    }
}

/// Of the part that is sent.
pub fn digest(bearer: &str) -> [u8; 32] {
    Sha256::digest(bearer.as_bytes()).into()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

impl std::str::FromStr for Fingerprint {
    type Err = InvalidSecret;
    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        unhex(text).map(Self).ok_or(InvalidSecret)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_given_and_no_two_are_alike() {
        let authority = Fingerprint([7; 32]);
        let one = Secret::generate(SecretKind::Access, authority).unwrap();
        let other = Secret::generate(SecretKind::Access, authority).unwrap();
        assert!(one != other);
        let read = Secret::parse(&format!(" {}\n", one.expose())).unwrap();
        assert!(read == one && read.digest() == one.digest() && read.authority() == authority);
        assert!(one.bearer().starts_with("muster_pat_") && !one.bearer().contains('.'));
    }

    #[test]
    fn a_token_of_a_provider_stands_in_the_same_place() {
        let authority = Fingerprint([9; 32]);
        let text = format!("eyJhbGciOiJFUzI1NiJ9.e30.c2ln.{authority}");
        let read = Secret::parse(&text).unwrap();
        assert_eq!(
            (read.bearer(), read.authority(), read.expose()),
            ("eyJhbGciOiJFUzI1NiJ9.e30.c2ln", authority, text.clone())
        );
        assert!(read == Secret::of_provider("eyJhbGciOiJFUzI1NiJ9.e30.c2ln", authority).unwrap());
        for bad in ["eyJhbGciOiJFUzI1NiJ9.e30.c2ln", &text.replace("e30", "e 0"), &text.replacen(".e30", "", 1)] {
            assert!(Secret::parse(bad).is_err(), "{bad}");
        }
        assert!(Secret::of_provider(&format!("eyJ.e30.{}", "a".repeat(9_000)), authority).is_err());
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_told() {
        let good = Secret::generate(SecretKind::Join, Fingerprint([0xab; 32])).unwrap().expose();
        for bad in ["", "muster_pat_", &good[..good.len() - 1], &good.replace("join", "root"), &good.replace('.', "-")]
        {
            assert_eq!(Secret::parse(bad).err(), Some(InvalidSecret), "{bad}");
        }
        assert!(Secret::parse(&good.to_uppercase()).is_err());
    }
}
