//! The cipher of a connection that is encrypted: records in order, each direction with keys of its own (COLL-7).
//!
//! AES-128-GCM. The number of a record is its nonce and is not sent, so a record that is left out, repeated, exchanged or altered does
//! not open. After [`RECORDS_PER_KEY`] records both sides go on to the next key of their chain, as TLS 1.3 does with `KeyUpdate`: what
//! one key may seal is bounded (RFC 8446, 5.5).

use std::fmt;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::handshake::hmac;

/// Bytes that a record is longer by.
pub(super) const TAG: usize = 16;
/// Of the full records that [`super::line`] makes, 64 GiB.
const RECORDS_PER_KEY: u64 = 1 << 22;

/// The keys of one direction, one after another.
struct Chain {
    secret: [u8; 32],
    key: LessSafeKey,
    count: u64,
    per_key: u64,
}

/// Seals what this rank sends.
#[derive(Debug)]
pub(super) struct Sealer(Chain);

/// Opens what the other rank has sealed.
#[derive(Debug)]
pub(super) struct Opener(Chain);

/// Both directions of a connection.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
}

impl Keys {
    /// `None` where the cipher refuses the keys, which it has no reason to.
    pub(super) fn new(sending: [u8; 32], receiving: [u8; 32]) -> Option<Self> {
        Some(Keys {
            sealer: Sealer(Chain::new(sending, RECORDS_PER_KEY)?),
            opener: Opener(Chain::new(receiving, RECORDS_PER_KEY)?),
        })
    }
}

impl Chain {
    fn new(secret: [u8; 32], per_key: u64) -> Option<Self> {
        let key = hmac(&secret, b"key");
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key[..16]).ok()?);
        Some(Chain { secret, key, count: 0, per_key })
    }

    /// The nonce of the next record, under the key that is its turn.
    fn turn(&mut self) -> Option<Nonce> {
        if self.count == self.per_key {
            *self = Chain::new(hmac(&self.secret, b"next"), self.per_key)?;
        }
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&self.count.to_be_bytes());
        self.count += 1;
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

impl fmt::Debug for Chain {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Sealer {
    /// Seals `bytes` where they are; `beside` is vouched for and not hidden. The tag, or `None` where the cipher fails.
    pub(super) fn seal(&mut self, beside: &[u8], bytes: &mut [u8]) -> Option<[u8; TAG]> {
        let nonce = self.0.turn()?;
        let tag = self.0.key.seal_in_place_separate_tag(nonce, Aad::from(beside), bytes).ok()?;
        let mut whole = [0; TAG];
        whole.copy_from_slice(tag.as_ref());
        Some(whole)
    }
}

impl Opener {
    /// Opens `bytes`, the tag at their end, where they are; `None` for what the other side did not seal as its next record.
    pub(super) fn open<'a>(&mut self, beside: &[u8], bytes: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let nonce = self.0.turn()?;
        self.0.key.open_in_place(nonce, Aad::from(beside), bytes).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pair(per_key: u64) -> (Sealer, Opener) {
        (Sealer(Chain::new([5; 32], per_key).unwrap()), Opener(Chain::new([5; 32], per_key).unwrap()))
    }

    fn sealed(sealer: &mut Sealer, text: &[u8]) -> Vec<u8> {
        let mut bytes = text.to_vec();
        let tag = sealer.seal(b"beside", &mut bytes).unwrap();
        bytes.extend_from_slice(&tag);
        bytes
    }

    #[test]
    fn coll_7_records_open_in_their_order_and_past_a_change_of_keys() {
        let (mut sealer, mut opener) = pair(3);
        let mut seen = Vec::new();
        for number in 0..10u8 {
            let mut record = sealed(&mut sealer, &[number; 40]);
            assert!(!record.windows(40).any(|part| part == [number; 40]));
            assert!(!seen.contains(&record), "the same bytes look alike each time");
            seen.push(record.clone());
            assert_eq!(opener.open(b"beside", &mut record).unwrap(), [number; 40]);
        }
    }

    #[test]
    fn coll_7_what_is_altered_repeated_left_out_or_said_to_be_another_length_does_not_open() {
        for at in 0..56 {
            let (mut sealer, mut opener) = pair(9);
            let mut record = sealed(&mut sealer, &[1; 40]);
            record[at] ^= 1;
            assert!(opener.open(b"beside", &mut record).is_none(), "byte {at}");
        }
        let (mut sealer, mut opener) = pair(9);
        let first = sealed(&mut sealer, b"first");
        let second = sealed(&mut sealer, b"second");
        assert!(opener.open(b"beside", &mut second.clone()).is_none(), "left out");
        let (_, mut again) = pair(9);
        assert!(again.open(b"beside", &mut first.clone()).is_some());
        assert!(again.open(b"beside", &mut first.clone()).is_none(), "repeated");
        let (_, mut other) = pair(9);
        assert!(other.open(b"besides", &mut first.clone()).is_none());
    }

    #[test]
    fn keys_are_in_no_debug_text() {
        let (sealer, _) = pair(1);
        assert_eq!(format!("{sealer:?}"), "Sealer(Chain { count: 0, .. })");
    }
}
