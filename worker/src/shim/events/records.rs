//! Event files as `TensorFlow` frames them (`TFRecord`): a file of which more may come, read from where it was left.
//!
//! ```text
//! length: u64 | masked CRC-32C of these 8 bytes: u32 | bytes | masked CRC-32C of them: u32        all little-endian
//! ```
//!
//! Nothing of a file is kept between two reads but how far it was read: an end that is torn is read again when there is more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Longer records are checked and passed over: pictures, sounds, graphs. A point has some dozens of bytes.
pub(super) const RECORD_BYTES_MAX: u64 = 256 * 1024;
/// What is read at once: the longest record with its frame, at least.
pub(super) const BUFFER_BYTES: usize = 384 * 1024;
/// More is in no message of the format (protobuf): the file is no event file, or damaged.
const LENGTH_MAX: u64 = 1 << 31;
const HEAD_BYTES: usize = 12;
const TAIL_BYTES: usize = 4;

/// Why nothing more of a file is read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("a record at byte {at} is damaged")]
    Damaged { at: u64 },
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// One file, and how far it was read.
#[derive(Debug)]
pub(super) struct Records {
    file: File,
    offset: u64,
    /// Within a record that is passed over.
    passing: Option<Passing>,
}

#[derive(Debug)]
struct Passing {
    begin: u64,
    left: u64,
    sum: Crc,
}

/// What one read of a file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More may be there.
    More,
    /// All that was whole is read.
    AtEnd,
}

impl Records {
    pub(super) fn new(file: File) -> Self {
        Self { file, offset: 0, passing: None }
    }

    /// No name leads to it any more: nobody will write in it but who has it open.
    pub(super) fn is_removed(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|facts| facts.st_nlink == 0)
    }

    /// Reads as much as the buffer holds. A record that `each` refuses is as bad as a damaged one.
    pub(super) fn read(&mut self, buffer: &mut [u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<Progress, Fault> {
        let count = match self.file.read_at(buffer, self.offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Progress::More),
            result => result?,
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let taken = if self.passing.is_some() { self.pass(rest)? } else { self.record(rest, each)? };
            if taken == 0 {
                break;
            }
            self.offset += taken as u64;
            rest = &rest[taken..];
        }
        Ok(if count == buffer.len() { Progress::More } else { Progress::AtEnd })
    }

    /// How many bytes one record takes, with its frame; of one that is passed over its head; 0 when it is not whole yet.
    fn record(&mut self, rest: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<usize, Fault> {
        let damaged = Fault::Damaged { at: self.offset };
        let Some((head, body)) = rest.split_first_chunk::<HEAD_BYTES>() else { return Ok(0) };
        let (length, sum) = (u64::from_le_bytes(first(head)), u32::from_le_bytes(first(&head[8..])));
        if Crc::of(&head[..8]).masked() != sum || length > LENGTH_MAX {
            return Err(damaged);
        }
        if length > RECORD_BYTES_MAX {
            self.passing = Some(Passing { begin: self.offset, left: length, sum: Crc::default() });
            return Ok(HEAD_BYTES);
        }
        let length = length as usize;
        if body.len() < length + TAIL_BYTES {
            return Ok(0);
        }
        let (bytes, tail) = body.split_at(length);
        if Crc::of(bytes).masked() != u32::from_le_bytes(first(tail)) || !each(bytes) {
            return Err(damaged);
        }
        Ok(HEAD_BYTES + length + TAIL_BYTES)
    }

    /// Goes on in a long record; its sum is taken by itself.
    fn pass(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let Some(passing) = &mut self.passing else { return Ok(0) };
        if passing.left > 0 {
            let count = rest.len().min(usize::try_from(passing.left).unwrap_or(usize::MAX));
            passing.sum.push(&rest[..count]);
            passing.left -= count as u64;
            return Ok(count);
        }
        let Some(tail) = rest.first_chunk::<TAIL_BYTES>() else { return Ok(0) };
        if passing.sum.masked() != u32::from_le_bytes(*tail) {
            return Err(Fault::Damaged { at: passing.begin });
        }
        self.passing = None;
        Ok(TAIL_BYTES)
    }
}

/// One record with its frame, as a fuzzer's bytes need it.
pub(super) fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let sum = |of: &[u8]| Crc::of(of).masked().to_le_bytes();
    [&length[..], &sum(&length), bytes, &sum(bytes)].concat()
}

/// The first bytes of a slice that is known to have them.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

/// CRC-32C (Castagnoli), eight bytes a step ("slicing by 8", Kounavis and Berry 2005).
#[derive(Debug)]
struct Crc(u32);

impl Default for Crc {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

impl Crc {
    fn of(bytes: &[u8]) -> Self {
        let mut sum = Self::default();
        sum.push(bytes);
        sum
    }

    fn push(&mut self, bytes: &[u8]) {
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let word = u64::from_le_bytes(*eight) ^ u64::from(self.0);
            self.0 = word
                .to_le_bytes()
                .iter()
                .zip(TABLES.iter().rev())
                .fold(0, |sum, (byte, table)| sum ^ table[*byte as usize]);
        }
        for byte in rest {
            self.0 = (self.0 >> 8) ^ TABLES[0][((self.0 ^ u32::from(*byte)) & 0xff) as usize];
        }
    }

    /// As the format stores it.
    fn masked(&self) -> u32 {
        (!self.0).rotate_right(15).wrapping_add(0xa282_ead8)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{crc32c, record};
    use super::*;
    use std::io::Write;

    /// All records that are there now; an error as it is told.
    fn read_all(records: &mut Records) -> Result<Vec<Vec<u8>>, String> {
        let (mut all, mut buffer) = (Vec::new(), vec![0; BUFFER_BYTES]);
        loop {
            let mut each = |bytes: &[u8]| {
                all.push(bytes.to_vec());
                true
            };
            match records.read(&mut buffer, &mut each) {
                Ok(Progress::More) => {}
                Ok(Progress::AtEnd) => return Ok(all),
                Err(fault) => return Err(fault.to_string()),
            }
        }
    }

    fn file() -> (File, Records) {
        let write = tempfile::NamedTempFile::new().unwrap();
        let read = File::open(write.path()).unwrap();
        (write.into_file(), Records::new(read))
    }

    #[test]
    fn the_sum_is_that_of_the_standard() {
        // RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
        assert_eq!(!Crc::of(b"123456789").0, 0xe306_9283);
        assert_eq!(!Crc::of(&[0; 32]).0, 0x8a91_36aa);
        let bytes: Vec<u8> = (0..1_000_u32).map(|n| (n * n) as u8).collect();
        for length in [0, 1, 7, 8, 9, 100, 1_000] {
            assert_eq!(!Crc::of(&bytes[..length]).0, crc32c(&bytes[..length]));
        }
    }

    #[test]
    fn an_end_that_is_torn_anywhere_waits_for_the_rest() {
        let (mut file, mut records) = file();
        let second = record(b"second");
        file.write_all(&record(b"first")).unwrap();
        for (at, byte) in second.iter().enumerate() {
            let expected: &[&[u8]] = if at == 0 { &[b"first"] } else { &[] };
            assert_eq!(read_all(&mut records).unwrap(), expected, "torn after {at}");
            file.write_all(&[*byte]).unwrap();
        }
        assert_eq!(read_all(&mut records).unwrap(), [b"second"]);
        assert!(records.is_removed());
    }

    #[test]
    fn a_bit_that_flipped_anywhere_is_found() {
        let whole = record(b"a record");
        for at in 0..whole.len() * 8 {
            let (mut file, mut records) = file();
            let mut bytes = [record(b"sound"), whole.clone()].concat();
            let sound = bytes.len() - whole.len();
            bytes[sound + at / 8] ^= 1 << (at % 8);
            file.write_all(&bytes).unwrap();
            assert_eq!(read_all(&mut records).unwrap_err(), format!("a record at byte {sound} is damaged"));
        }
    }

    #[test]
    fn a_long_record_is_checked_and_passed_over() {
        let long: Vec<u8> = (0..3 * BUFFER_BYTES + 5).map(|n| n as u8).collect();
        let (mut file, mut records) = file();
        let frame = record(&long);
        let (now, later) = frame.split_at(BUFFER_BYTES + 77);
        file.write_all(now).unwrap();
        assert!(read_all(&mut records).unwrap().is_empty());
        file.write_all(later).unwrap();
        file.write_all(&record(b"after")).unwrap();
        assert_eq!(read_all(&mut records).unwrap(), [b"after"]);
        let mut damaged = frame;
        damaged[2 * BUFFER_BYTES] ^= 1;
        let (mut file, mut records) = self::file();
        file.write_all(&damaged).unwrap();
        assert_eq!(read_all(&mut records).unwrap_err(), "a record at byte 0 is damaged");
    }

    #[test]
    fn a_length_that_cannot_be_is_damage_and_takes_no_memory() {
        for length in [LENGTH_MAX + 1, u64::MAX] {
            let (mut file, mut records) = file();
            let head = length.to_le_bytes();
            file.write_all(&head).unwrap();
            file.write_all(&Crc::of(&head).masked().to_le_bytes()).unwrap();
            assert_eq!(read_all(&mut records).unwrap_err(), "a record at byte 0 is damaged");
        }
    }

    #[test]
    fn a_record_that_means_nothing_is_damage() {
        let (mut file, mut records) = file();
        file.write_all(&record(b"nothing")).unwrap();
        let fault = records.read(&mut vec![0; BUFFER_BYTES], &mut |_| false).unwrap_err();
        assert_eq!(fault.to_string(), "a record at byte 0 is damaged");
    }
}
