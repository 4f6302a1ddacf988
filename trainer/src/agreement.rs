//! Proof that all ranks hold the same: hashes compared by least and greatest over the ranks, and the odd ones named.

use collectives::{Buf, BufMut, Communicator, Op};
use sha2::{Digest, Sha256};
use types::ContentHash;

use crate::error::Error;

/// 64-bit words of a hash.
const WORDS: usize = 4;

/// Compares `hash` over all ranks.
///
/// # Errors
/// [`Error::Unequal`] on every rank, with the ranks that differ from rank 0.
pub(crate) fn check(communicator: &dyn Communicator, what: &'static str, hash: &ContentHash) -> Result<(), Error> {
    let mine = words(hash);
    let (mut least, mut greatest) = (mine, mine);
    communicator.all_reduce(BufMut::from(&mut least[..]), Op::Min)?;
    communicator.all_reduce(BufMut::from(&mut greatest[..]), Op::Max)?;
    if least == greatest {
        return Ok(());
    }
    let mut all = vec![0_i64; WORDS * communicator.world_size() as usize];
    communicator.all_gather(Buf::from(&mine[..]), BufMut::from(&mut all[..]))?;
    let (first, rest) = all.split_at(WORDS);
    let odd = rest.chunks_exact(WORDS).zip(1..).filter(|(words, _)| *words != first);
    Err(Error::Unequal { what, ranks: odd.map(|(_, rank)| rank).collect() })
}

fn words(hash: &ContentHash) -> [i64; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(hash.0.as_chunks().0) {
        *word = i64::from_le_bytes(*bytes);
    }
    words
}

/// Hash of parameters, bit for bit.
pub(crate) fn hash_of<'a, L: AsRef<[f32]> + ?Sized + 'a>(lists: impl IntoIterator<Item = &'a L>) -> ContentHash {
    let mut hash = Sha256::new();
    for list in lists {
        let list = list.as_ref();
        hash.update((list.len() as u64).to_le_bytes());
        hash.update(list.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect::<Vec<u8>>());
    }
    ContentHash(hash.finalize().into())
}
