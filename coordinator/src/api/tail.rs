//! Where the end of a stream begins for a reader that wants only that: so many bytes, or so many lines.

use stores::streams::{StreamError, StreamName, StreamStore};
use tonic::Status;
use types::Limits;

/// Looked back for lines at most: one line may be a gigabyte long.
const LOOK_BACK_BYTES_MAX: u64 = 16 << 20;

/// How much of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    Bytes(u64),
    /// Or what of them lies in the last 16 MiB.
    Lines(u64),
}

impl Tail {
    /// Of a request, where 0 says nothing.
    pub(super) fn of(bytes: u64, lines: u64) -> Result<Option<Self>, Status> {
        match (bytes, lines) {
            (0, 0) => Ok(None),
            (bytes, 0) => Ok(Some(Self::Bytes(bytes))),
            (0, lines) => Ok(Some(Self::Lines(lines))),
            _ => Err(Status::invalid_argument("the end of a stream is asked for in bytes or in lines, not in both")),
        }
    }

    /// The offset of the first byte wanted of a stream of `length` bytes.
    pub(super) fn begin(self, store: &StreamStore, name: &StreamName, length: u64) -> Result<u64, StreamError> {
        match self {
            Self::Bytes(bytes) => Ok(length.saturating_sub(bytes)),
            Self::Lines(lines) => last_lines(length, lines, |offset, max| store.read(name, offset, max)),
        }
    }
}

/// Goes back block by block to the line's end before the wanted lines. The last byte is no such end: it ends the last line.
fn last_lines<B: AsRef<[u8]>, E>(length: u64, lines: u64, read: impl Fn(u64, usize) -> Result<B, E>) -> Result<u64, E> {
    let least = length.saturating_sub(LOOK_BACK_BYTES_MAX);
    let (mut end, mut left) = (length.saturating_sub(1), lines);
    while end > least {
        let begin = end.saturating_sub(Limits::CHUNK_BYTES_MAX as u64).max(least);
        let block = read(begin, (end - begin) as usize)?;
        let ends = block.as_ref().iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        for (place, _) in ends {
            left -= 1;
            if left == 0 {
                return Ok(begin + place as u64 + 1);
            }
        }
        end = begin;
    }
    Ok(least)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tail(text: &[u8], lines: u64) -> Vec<u8> {
        let read = |offset: u64, max: usize| Ok::<_, ()>(text[offset as usize..][..max].to_vec());
        text[last_lines(text.len() as u64, lines, read).unwrap() as usize..].to_vec()
    }

    #[test]
    fn the_last_lines_are_whole_with_or_without_an_end() {
        for (text, lines, wanted) in [
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\nc", 3, "a\nb\nc"),
            ("a\nb\nc", 9, "a\nb\nc"),
            ("a\n\n\n", 2, "\n\n"),
            ("", 3, ""),
            ("\n", 1, "\n"),
        ] {
            assert_eq!(tail(text.as_bytes(), lines), wanted.as_bytes(), "{text:?} {lines}");
        }
    }

    #[test]
    fn lines_that_span_blocks_are_found_and_one_without_end_is_cut() {
        let mut text = b"first\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 3 * Limits::CHUNK_BYTES_MAX));
        text.extend(b"\nlast\n");
        assert_eq!(tail(&text, 1), b"last\n");
        assert_eq!(tail(&text, 2), text[6..]);
        let endless = vec![b'y'; LOOK_BACK_BYTES_MAX as usize + 5];
        assert_eq!(tail(&endless, 1).len() as u64, LOOK_BACK_BYTES_MAX);
    }

    #[test]
    fn bytes_and_lines_together_are_a_fault() {
        assert_eq!(Tail::of(0, 0).unwrap(), None);
        assert_eq!(Tail::of(5, 0).unwrap(), Some(Tail::Bytes(5)));
        assert_eq!(Tail::of(0, 5).unwrap(), Some(Tail::Lines(5)));
        assert_eq!(Tail::of(1, 1).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
