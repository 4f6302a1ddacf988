//! Bytes on the wire: the header before each operation's payload and the reports on the control socket. Fixed sizes,
//! little endian.

mod fuzzed;

pub use fuzzed::{frame, frames};
use std::fmt;

use crate::buffer::{DType, Op};

/// Bytes of a data header: one cache line.
pub(super) const HEADER: usize = 64;
/// Bytes of a control report; fixed, so that reading one needs no state but a fill level.
pub(super) const REPORT: usize = 512;

const MAGIC: u32 = 0x434d_554d;
const CALL: usize = 20;

/// Which collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast,
    Barrier,
}

impl Operation {
    /// All operations, in code order.
    pub(crate) const ALL: [Operation; 5] = [
        Operation::AllReduce,
        Operation::ReduceScatter,
        Operation::AllGather,
        Operation::Broadcast,
        Operation::Barrier,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::AllReduce => "all_reduce",
            Operation::ReduceScatter => "reduce_scatter",
            Operation::AllGather => "all_gather",
            Operation::Broadcast => "broadcast",
            Operation::Barrier => "barrier",
        }
    }
}

/// What a rank called, as far as all ranks must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) op: Op,
    pub(crate) dtype: DType,
    /// Elements of the part that has the same length on all ranks.
    pub(crate) count: u64,
    pub(crate) root: u32,
    pub(crate) ring: bool,
}

impl Call {
    fn encode(&self, to: &mut [u8]) {
        to[0] = self.operation as u8;
        to[1] = self.op as u8;
        to[2] = self.dtype as u8;
        to[3] = u8::from(self.ring);
        to[4..8].copy_from_slice(&self.root.to_le_bytes());
        to[8..16].copy_from_slice(&self.count.to_le_bytes());
    }

    fn decode(from: &[u8]) -> Option<Self> {
        Some(Call {
            operation: *Operation::ALL.get(usize::from(from[0]))?,
            op: *Op::ALL.get(usize::from(from[1]))?,
            dtype: *DType::ALL.get(usize::from(from[2]))?,
            ring: from[3] == 1,
            root: u32_at(from, 4),
            count: u64_at(from, 8),
        })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { op, dtype, count, root, .. } = self;
        let ring = if self.ring { ", ring" } else { "" };
        let name = self.operation.name();
        match self.operation {
            Operation::AllReduce => write!(f, "{name}({op}, {count} {dtype}{ring})"),
            Operation::ReduceScatter => write!(f, "{name}({op}, {count} {dtype})"),
            Operation::AllGather => write!(f, "{name}({count} {dtype})"),
            Operation::Broadcast => write!(f, "{name}({count} {dtype}, root {root})"),
            Operation::Barrier => write!(f, "{name}()"),
        }
    }
}

/// First bytes of every operation between two ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) token: u64,
    pub(crate) sequence: u64,
    pub(crate) from: u32,
    pub(crate) call: Call,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut to = [0; HEADER];
        to[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        to[4..8].copy_from_slice(&self.from.to_le_bytes());
        to[8..16].copy_from_slice(&self.token.to_le_bytes());
        to[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        self.call.encode(&mut to[24..24 + CALL]);
        to
    }

    /// `None` for bytes that no rank of ours sends.
    pub(super) fn decode(from: &[u8; HEADER]) -> Option<Self> {
        if u32_at(from, 0) != MAGIC {
            return None;
        }
        Some(Header {
            from: u32_at(from, 4),
            token: u64_at(from, 8),
            sequence: u64_at(from, 16),
            call: Call::decode(&from[24..24 + CALL])?,
        })
    }

    /// What was called, with its number.
    pub(super) fn describe(&self) -> String {
        format!("{} as number {}", self.call, self.sequence)
    }
}

/// The two sides of a mismatch, as the reporter saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disagreement {
    pub(super) reporter: u32,
    pub(super) reporter_called: String,
    pub(super) other: u32,
    pub(super) other_called: String,
}

/// Why a rank stops; the first one that a rank makes or hears is its cause for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Abort {
    pub(super) culprit: Option<u32>,
    pub(crate) sequence: u64,
    pub(super) operation: String,
    pub(super) cause: String,
    pub(super) disagreement: Option<Disagreement>,
}

/// How far a rank is in what goes on beside this group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Of the operation begun last; 0 before the first one.
    pub(crate) sequence: u64,
    /// Whether that is under way.
    pub(crate) running: bool,
    /// What it is, where that is known.
    pub(crate) call: Option<Call>,
}

/// What goes over the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Abort(Abort),
    Position {
        position: Position,
        /// Whether the sender wants to be told the same.
        asks: bool,
    },
    /// The sender leaves in order, having completed this many operations.
    Goodbye {
        sequence: u64,
    },
}

impl Report {
    pub(super) fn encode(&self) -> [u8; REPORT] {
        let mut writer = Writer { to: [0; REPORT], at: 0 };
        writer.bytes(&MAGIC.to_le_bytes());
        match self {
            Report::Goodbye { sequence } => {
                writer.bytes(&[1]);
                writer.bytes(&sequence.to_le_bytes());
            }
            Report::Position { position: Position { sequence, running, call }, asks } => {
                writer.bytes(&[3]);
                writer.bytes(&sequence.to_le_bytes());
                writer.bytes(&[u8::from(*asks), u8::from(*running), u8::from(call.is_some())]);
                let mut bytes = [0; CALL];
                call.inspect(|call| call.encode(&mut bytes));
                writer.bytes(&bytes);
            }
            Report::Abort(abort) => {
                writer.bytes(&[2]);
                writer.bytes(&abort.sequence.to_le_bytes());
                writer.bytes(&abort.culprit.unwrap_or(u32::MAX).to_le_bytes());
                writer.text(&abort.operation, 64);
                match &abort.disagreement {
                    None => writer.bytes(&[0]),
                    Some(sides) => {
                        writer.bytes(&[1]);
                        writer.bytes(&sides.reporter.to_le_bytes());
                        writer.text(&sides.reporter_called, 72);
                        writer.bytes(&sides.other.to_le_bytes());
                        writer.text(&sides.other_called, 72);
                    }
                }
                writer.text(&abort.cause, REPORT);
            }
        }
        writer.to
    }

    pub(super) fn decode(from: &[u8; REPORT]) -> Option<Self> {
        let mut reader = Reader { from };
        if reader.u32()? != MAGIC {
            return None;
        }
        let kind = reader.take(1)?[0];
        let sequence = reader.u64()?;
        if kind == 1 {
            return Some(Report::Goodbye { sequence });
        }
        if kind == 3 {
            let flags = reader.take(3)?;
            let call = reader.take(CALL)?;
            let call = if flags[2] == 1 { Some(Call::decode(call)?) } else { None };
            let position = Position { sequence, running: flags[1] == 1, call };
            return Some(Report::Position { position, asks: flags[0] == 1 });
        }
        let culprit = Some(reader.u32()?).filter(|rank| *rank != u32::MAX);
        let operation = reader.text()?;
        let disagreement = if reader.take(1)?[0] == 0 {
            None
        } else {
            Some(Disagreement {
                reporter: reader.u32()?,
                reporter_called: reader.text()?,
                other: reader.u32()?,
                other_called: reader.text()?,
            })
        };
        let cause = reader.text()?;
        (kind == 2).then_some(Report::Abort(Abort { culprit, sequence, operation, cause, disagreement }))
    }
}

struct Writer {
    to: [u8; REPORT],
    at: usize,
}

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        let end = REPORT.min(self.at + bytes.len());
        self.to[self.at..end].copy_from_slice(&bytes[..end - self.at]);
        self.at = end;
    }

    /// At most `limit` bytes and never past the end: a cut cause is better than none.
    fn text(&mut self, text: &str, limit: usize) {
        let room = REPORT.saturating_sub(self.at + 2).min(limit);
        let mut length = text.len().min(room);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        self.bytes(&(length as u16).to_le_bytes());
        self.bytes(&text.as_bytes()[..length]);
    }
}

struct Reader<'a> {
    from: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.from.split_at_checked(length)?;
        self.from = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32_at(bytes, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64_at(bytes, 0))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.take(2)?;
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        Some(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}

pub(super) fn u32_at(from: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&from[at..at + 4]);
    u32::from_le_bytes(bytes)
}

pub(super) fn u64_at(from: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&from[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call() -> impl Strategy<Value = Call> {
        (0..5usize, 0..4usize, 0..6usize, any::<u64>(), any::<u32>(), any::<bool>()).prop_map(
            |(operation, op, dtype, count, root, ring)| Call {
                operation: Operation::ALL[operation],
                op: Op::ALL[op],
                dtype: DType::ALL[dtype],
                count,
                root,
                ring,
            },
        )
    }

    proptest! {
        #[test]
        fn headers_survive_the_wire(call in call(), token: u64, sequence: u64, from: u32) {
            let header = Header { token, sequence, from, call };
            prop_assert_eq!(Header::decode(&header.encode()), Some(header));
        }

        #[test]
        fn reports_survive_the_wire(sequence: u64, culprit in proptest::option::of(0..9u32), cause in ".{0,80}") {
            let report = Report::Abort(Abort {
                culprit, sequence, operation: "barrier()".into(), cause,
                disagreement: Some(Disagreement {
                    reporter: 1, reporter_called: "a".into(), other: 2, other_called: "b".into(),
                }),
            });
            prop_assert_eq!(Report::decode(&report.encode()), Some(report));
        }

        #[test]
        fn positions_survive_the_wire(
            sequence: u64, running: bool, asks: bool, call in proptest::option::of(call()),
        ) {
            let report = Report::Position { position: Position { sequence, running, call }, asks };
            prop_assert_eq!(Report::decode(&report.encode()), Some(report));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), REPORT)) {
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            let _ = Report::decode(bytes.as_slice().try_into().unwrap());
            let _ = Header::decode(bytes[..HEADER].try_into().unwrap());
        }
    }

    #[test]
    fn long_causes_are_cut_at_a_character() {
        let abort =
            Abort { culprit: None, sequence: 1, operation: "x".into(), cause: "ä".repeat(500), disagreement: None };
        let Some(Report::Abort(back)) = Report::decode(&Report::Abort(abort).encode()) else { unreachable!() };
        assert!(back.cause.len() > 400 && back.cause.chars().all(|character| character == 'ä'));
    }
}
