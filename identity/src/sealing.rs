//! The key under which secrets of jobs are kept: AES-256-GCM, each value bound to its place, so that what is changed or put
//! into another's place does not open.
//!
//! The key lies on the coordinators' disks beside their own (mode 600), or where the operator holds it; it never goes into
//! the tables or the log.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Why a value was not sealed or opened. Says nothing of the value.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// What should be a key is none.
    #[error("a key is 64 hexadecimal digits")]
    NoKey,
    /// Under another key.
    #[error("the secret was sealed under another key than the one that is here")]
    OtherKey,
    /// Changed, or put into another's place.
    #[error("the secret was altered: set it again")]
    Altered,
    /// No random bytes.
    #[error("random bytes cannot be drawn")]
    Random(#[source] std::io::Error),
    /// By the cipher, which takes every value that may come here.
    #[error("the secret cannot be sealed")]
    Sealing,
}

/// 256 random bits. No `Debug`, and gone from memory when it is dropped.
#[derive(Clone)]
pub struct SealingKey(Zeroizing<[u8; 32]>);

/// A value under a key.
pub struct SealedValue {
    /// First bytes of the key's SHA-256.
    pub key: [u8; 8],
    /// Random: with 96 bits and the writes of people none comes twice.
    pub nonce: [u8; NONCE_LEN],
    /// As long as the value, and 16 bytes that prove it.
    pub bytes: Vec<u8>,
}

impl SealingKey {
    /// A new one.
    pub fn generate() -> Result<Self, SealingError> {
        daemon::random::bytes().map(|bytes| Self(Zeroizing::new(bytes))).map_err(SealingError::Random)
    }

    /// Of 64 hexadecimal digits, as `text` gives them.
    pub fn parse(text: &str) -> Result<Self, SealingError> {
        let bytes: crate::Fingerprint = text.trim().parse().map_err(|_| SealingError::NoKey)?;
        Ok(Self(Zeroizing::new(bytes.0)))
    }

    /// For the disk and for other coordinators only.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::Fingerprint(*self.0).to_string())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Of 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealingError> {
        bytes.try_into().map(|bytes| Self(Zeroizing::new(bytes))).map_err(|_| SealingError::NoKey)
    }

    /// What names it without giving it away.
    pub fn id(&self) -> [u8; 8] {
        let digest: [u8; 32] = Sha256::digest(*self.0).into();
        digest[..8].try_into().unwrap_or_default()
    }

    /// Seals a value for its place.
    pub fn seal(&self, place: &[u8], value: &[u8]) -> Result<SealedValue, SealingError> {
        let nonce: [u8; NONCE_LEN] = daemon::random::bytes().map_err(SealingError::Random)?;
        let mut bytes = value.to_vec();
        let sealed =
            self.cipher()?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut bytes);
        sealed.map_err(|_| SealingError::Sealing)?;
        Ok(SealedValue { key: self.id(), nonce, bytes })
    }

    /// Opens what was sealed for this place.
    pub fn open(&self, place: &[u8], sealed: SealedValue) -> Result<Zeroizing<Vec<u8>>, SealingError> {
        if sealed.key != self.id() {
            return Err(SealingError::OtherKey);
        }
        let mut bytes = Zeroizing::new(sealed.bytes);
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let opened = self.cipher()?.open_in_place(nonce, Aad::from(place), &mut bytes);
        let length = opened.map_err(|_| SealingError::Altered)?.len();
        bytes.truncate(length);
        Ok(bytes)
    }

    fn cipher(&self) -> Result<LessSafeKey, SealingError> {
        UnboundKey::new(&AES_256_GCM, self.0.as_slice()).map(LessSafeKey::new).map_err(|_| SealingError::Sealing)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_in_its_place_under_its_key_and_nowhere_else() {
        let key = SealingKey::generate().unwrap();
        let seal = || key.seal(b"hf 1", b"hunter2-hunter2").unwrap();
        assert_eq!(key.open(b"hf 1", seal()).unwrap().as_slice(), b"hunter2-hunter2");
        assert!(!seal().bytes.windows(7).any(|part| part == b"hunter2"));
        assert!(seal().nonce != seal().nonce);
        assert!(matches!(key.open(b"hf 2", seal()), Err(SealingError::Altered)), "another place");
        let mut bent = seal();
        bent.bytes[3] ^= 1;
        assert!(matches!(key.open(b"hf 1", bent), Err(SealingError::Altered)));
        let other = SealingKey::generate().unwrap();
        assert!(matches!(other.open(b"hf 1", seal()), Err(SealingError::OtherKey)));
        let read = SealingKey::parse(&format!("{}\n", key.text().as_str())).unwrap();
        assert_eq!(read.open(b"hf 1", seal()).unwrap().as_slice(), b"hunter2-hunter2");
        assert!(SealingKey::parse("abc").is_err());
    }
}
