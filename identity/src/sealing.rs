//! The key under which secrets of jobs are kept: AES-256-GCM by a data key of each workspace, each value bound to its place, so that what is changed or put
//! into another's place does not open.
//!
//! The key lies on the coordinators' disks beside their own (mode 600), or where the operator holds it; it never goes into
//! the tables or the log.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Salt of the data keys: nothing else is derived from these keys by it.
const DATA_KEYS: &[u8] = b"muster data keys of secrets 1";

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

    /// Seals a value for its place, under the data key of `scope` (a workspace's name; nothing for users' own).
    pub fn seal(&self, scope: &str, place: &[u8], value: &[u8]) -> Result<SealedValue, SealingError> {
        let nonce: [u8; NONCE_LEN] = daemon::random::bytes().map_err(SealingError::Random)?;
        let mut bytes = value.to_vec();
        let sealed = self.cipher(scope)?.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place),
            &mut bytes,
        );
        sealed.map_err(|_| SealingError::Sealing)?;
        Ok(SealedValue { key: self.id(), nonce, bytes })
    }

    /// Opens what was sealed for this place under the data key of that scope.
    pub fn open(&self, scope: &str, place: &[u8], sealed: SealedValue) -> Result<Zeroizing<Vec<u8>>, SealingError> {
        if sealed.key != self.id() {
            return Err(SealingError::OtherKey);
        }
        let mut bytes = Zeroizing::new(sealed.bytes);
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let opened = self.cipher(scope)?.open_in_place(nonce, Aad::from(place), &mut bytes);
        let length = opened.map_err(|_| SealingError::Altered)?.len();
        bytes.truncate(length);
        Ok(bytes)
    }

    /// By the data key of a scope: HKDF-SHA256 (RFC 5869) of this key, with the scope as its information.
    fn cipher(&self, scope: &str) -> Result<LessSafeKey, SealingError> {
        let mut data_key = Zeroizing::new([0; 32]);
        let extracted = Salt::new(HKDF_SHA256, DATA_KEYS).extract(self.0.as_slice());
        let expanded = extracted.expand(&[scope.as_bytes()], HKDF_SHA256).and_then(|key| key.fill(data_key.as_mut()));
        expanded.map_err(|_| SealingError::Sealing)?;
        UnboundKey::new(&AES_256_GCM, data_key.as_slice()).map(LessSafeKey::new).map_err(|_| SealingError::Sealing)
    }
}

/// More keys than an exchange of one for another leaves, however often it was begun anew.
const KEYS_MAX: usize = 8;

/// The keys of a coordinator, the oldest first: one, and while it is exchanged another. No `Debug`, as of each.
#[derive(Clone)]
pub struct SealingKeys(Vec<SealingKey>);

impl SealingKeys {
    /// One alone.
    pub fn of(key: SealingKey) -> Self {
        Self(vec![key])
    }

    /// A key a line, as `text` gives them.
    pub fn parse(text: &str) -> Result<Self, SealingError> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let keys = lines.take(KEYS_MAX + 1).map(SealingKey::parse).collect::<Result<Vec<_>, _>>()?;
        if (1..=KEYS_MAX).contains(&keys.len()) { Ok(Self(keys)) } else { Err(SealingError::NoKey) }
    }

    /// For the disk and for other coordinators only.
    pub fn text(&self) -> Zeroizing<String> {
        let mut all = Zeroizing::new(String::with_capacity(self.0.len() * 65));
        for (index, key) in self.0.iter().enumerate() {
            if index > 0 {
                all.push('\n');
            }
            all.push_str(&key.text());
        }
        all
    }

    /// The key of this id.
    pub fn get(&self, id: [u8; 8]) -> Option<&SealingKey> {
        self.0.iter().find(|key| key.id() == id)
    }

    /// The one that was there first.
    pub fn oldest(&self) -> Option<&SealingKey> {
        self.0.first()
    }

    /// The one that came last.
    pub fn newest(&self) -> Option<&SealingKey> {
        self.0.last()
    }

    /// Those of both; when they would be too many, the second oldest goes, which nothing can be sealed under any more.
    pub fn and(mut self, other: &Self) -> Self {
        for key in &other.0 {
            if self.get(key.id()).is_none() {
                self.0.push(key.clone());
            }
        }
        while self.0.len() > KEYS_MAX {
            self.0.remove(1);
        }
        self
    }

    /// That of this id alone, where there are others; none where it is alone or not there.
    pub fn without_others(&self, id: [u8; 8]) -> Option<Self> {
        self.get(id).filter(|_| self.0.len() > 1).cloned().map(Self::of)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_in_its_place_under_its_key_and_nowhere_else() {
        let key = SealingKey::generate().unwrap();
        let seal = || key.seal("vision", b"hf 1", b"hunter2-hunter2").unwrap();
        assert_eq!(key.open("vision", b"hf 1", seal()).unwrap().as_slice(), b"hunter2-hunter2");
        assert!(!seal().bytes.windows(7).any(|part| part == b"hunter2"));
        assert!(seal().nonce != seal().nonce);
        assert!(matches!(key.open("vision", b"hf 2", seal()), Err(SealingError::Altered)), "another place");
        assert!(
            matches!(key.open("speech", b"hf 1", seal()), Err(SealingError::Altered)),
            "another workspace's data key"
        );
        assert!(matches!(key.open("", b"hf 1", seal()), Err(SealingError::Altered)), "that of users' own");
        let mut bent = seal();
        bent.bytes[3] ^= 1;
        assert!(matches!(key.open("vision", b"hf 1", bent), Err(SealingError::Altered)));
        let other = SealingKey::generate().unwrap();
        assert!(matches!(other.open("vision", b"hf 1", seal()), Err(SealingError::OtherKey)));
        let read = SealingKey::parse(&format!("{}\n", key.text().as_str())).unwrap();
        assert_eq!(read.open("vision", b"hf 1", seal()).unwrap().as_slice(), b"hunter2-hunter2");
        assert!(SealingKey::parse("abc").is_err());
    }

    #[test]
    fn keys_are_told_by_their_ids_and_the_first_one_is_what_there_was() {
        let [old, new] = [(); 2].map(|()| SealingKey::generate().unwrap());
        let both = SealingKeys::of(old.clone()).and(&SealingKeys::of(new.clone())).and(&SealingKeys::of(old.clone()));
        let read = SealingKeys::parse(&format!("{}\n\n", both.text().as_str())).unwrap();
        assert_eq!(read.text().lines().count(), 2);
        assert!(read.oldest().unwrap().id() == old.id() && read.newest().unwrap().id() == new.id());
        assert!(read.get(new.id()).is_some() && read.get([0; 8]).is_none());
        let alone = read.without_others(new.id()).unwrap();
        assert!(alone.get(old.id()).is_none() && alone.without_others(new.id()).is_none());
        assert!(read.without_others([0; 8]).is_none(), "the only ones are not thrown away for one that is not here");
        let mut many = read;
        for _ in 0..20 {
            many = many.and(&SealingKeys::of(SealingKey::generate().unwrap()));
        }
        assert!(many.text().lines().count() == 8 && many.oldest().unwrap().id() == old.id());
        assert!(SealingKeys::parse("").is_err() && SealingKeys::parse("abc").is_err());
    }
}
