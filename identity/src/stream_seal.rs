//! A long sequence of bytes under a key, piece by piece: none can be read, changed, exchanged, left out or cut off unnoticed.
//!
//! Each piece is AES-256-GCM under a key of this one sequence (HKDF-SHA256 of the operator's key and a random salt), with the
//! piece's number as its nonce and whether it is the last as additional data: the construction STREAM of Hoang, Reyhanitabar,
//! Rogaway and Vizár ("Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015).

use crate::sealing::{SealingError, SealingKey};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

/// Random bytes that make each sequence's key its own; no secret.
pub const SALT_BYTES: usize = 32;

/// Seals one sequence.
pub struct StreamSealer(Pieces);

/// Opens one sequence.
pub struct StreamOpener(Pieces);

struct Pieces {
    cipher: LessSafeKey,
    next: u64,
    is_over: bool,
}

impl Pieces {
    fn new(key: &SealingKey, salt: &[u8; SALT_BYTES]) -> Result<Self, SealingError> {
        let derived = Salt::new(HKDF_SHA256, salt).extract(key.bytes());
        let okm = derived.expand(&[b"muster sealed stream 1"], &AES_256_GCM).map_err(|_| SealingError::Sealing)?;
        Ok(Self { cipher: LessSafeKey::new(UnboundKey::from(okm)), next: 0, is_over: false })
    }

    /// What seals the next piece; none comes after the last.
    fn advance(&mut self, is_last: bool) -> Result<(Nonce, Aad<[u8; 1]>), SealingError> {
        if self.is_over {
            return Err(SealingError::Altered);
        }
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        self.is_over = is_last;
        Ok((Nonce::assume_unique_for_key(nonce), Aad::from([u8::from(is_last)])))
    }
}

impl StreamSealer {
    /// For one sequence only: the salt must never have been used with this key before.
    pub fn new(key: &SealingKey, salt: &[u8; SALT_BYTES]) -> Result<Self, SealingError> {
        Pieces::new(key, salt).map(Self)
    }

    /// Seals the next piece in place; it grows by 16 bytes.
    pub fn seal(&mut self, piece: &mut Vec<u8>, is_last: bool) -> Result<(), SealingError> {
        let (nonce, place) = self.0.advance(is_last)?;
        self.0.cipher.seal_in_place_append_tag(nonce, place, piece).map_err(|_| SealingError::Sealing)
    }
}

impl StreamOpener {
    /// With the salt that it was sealed with.
    pub fn new(key: &SealingKey, salt: &[u8; SALT_BYTES]) -> Result<Self, SealingError> {
        Pieces::new(key, salt).map(Self)
    }

    /// Opens the next piece, which says of itself whether it is the last.
    pub fn open(&mut self, piece: Vec<u8>, is_last: bool) -> Result<Zeroizing<Vec<u8>>, SealingError> {
        let (nonce, place) = self.0.advance(is_last)?;
        let mut piece = Zeroizing::new(piece);
        let opened = self.0.cipher.open_in_place(nonce, place, &mut piece);
        let length = opened.map_err(|_| SealingError::Altered)?.len();
        piece.truncate(length);
        Ok(piece)
    }

    /// Did the last piece come?
    pub fn is_over(&self) -> bool {
        self.0.is_over
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SALT: [u8; SALT_BYTES] = [7; SALT_BYTES];

    fn sealed(key: &SealingKey) -> Vec<Vec<u8>> {
        let mut sealer = StreamSealer::new(key, &SALT).unwrap();
        let pieces = ["one", "two", "three"].map(|text| text.as_bytes().to_vec());
        let seal = |(at, mut piece): (usize, Vec<u8>)| {
            sealer.seal(&mut piece, at == 2).unwrap();
            piece
        };
        pieces.into_iter().enumerate().map(seal).collect()
    }

    /// The texts up to the first piece that does not open, and whether the last was seen.
    fn opened(key: &SealingKey, salt: &[u8; SALT_BYTES], pieces: &[(Vec<u8>, bool)]) -> (Vec<String>, bool) {
        let mut opener = StreamOpener::new(key, salt).unwrap();
        let mut texts = Vec::new();
        for (piece, is_last) in pieces {
            let Ok(text) = opener.open(piece.clone(), *is_last) else { return (texts, false) };
            texts.push(String::from_utf8(text.to_vec()).unwrap());
        }
        (texts, opener.is_over())
    }

    #[test]
    fn what_is_changed_exchanged_left_out_or_cut_off_is_noticed() {
        let key = SealingKey::generate().unwrap();
        let pieces = sealed(&key);
        let whole: Vec<(Vec<u8>, bool)> = pieces.iter().cloned().zip([false, false, true]).collect();
        let texts = |count: usize| ["one", "two", "three"][..count].iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(opened(&key, &SALT, &whole), (texts(3), true));
        assert_eq!(opened(&key, &SALT, &whole[..2]), (texts(2), false), "cut off");
        let ended = [whole[0].clone(), (pieces[1].clone(), true)];
        assert_eq!(opened(&key, &SALT, &ended), (texts(1), false), "said to be the last");
        assert_eq!(opened(&key, &SALT, &[whole[0].clone(), whole[2].clone()]), (texts(1), false), "left out");
        assert_eq!(opened(&key, &SALT, &[whole[1].clone(), whole[0].clone()]), (texts(0), false), "exchanged");
        let more = [whole.clone(), vec![whole[2].clone()]].concat();
        assert_eq!(opened(&key, &SALT, &more), (texts(3), false), "more after the last");
        for at in 0..pieces[1].len() {
            let mut bent = whole.clone();
            bent[1].0[at] ^= 1;
            assert_eq!(opened(&key, &SALT, &bent), (texts(1), false), "byte {at}");
        }
        assert_eq!(opened(&key, &[8; SALT_BYTES], &whole), (texts(0), false), "another sequence's salt");
        assert_eq!(opened(&SealingKey::generate().unwrap(), &SALT, &whole), (texts(0), false), "another key");
    }
}
