//! What a rank reads of another one: the header of an operation, and a report on the control socket.

use super::{Call, DType, HEADER, Header, MAGIC, Op, Operation, Position, REPORT, Report};

/// The first byte tells whether it is a header or a report, and whether what every one begins with is put before. What is taken is
/// written again, and read as the same.
pub fn frame(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let magic = if kind & 2 == 0 { &MAGIC.to_le_bytes()[..] } else { &[] };
    let body = [magic, body].concat();
    if kind & 1 == 0 {
        let Some(header) = Header::decode(&padded::<HEADER>(&body)) else { return };
        assert_eq!(Header::decode(&header.encode()), Some(header), "a header is read as another");
        assert!(header.describe().len() < REPORT, "{} is longer than a report", header.describe());
    } else {
        let Some(report) = Report::decode(&padded::<REPORT>(&body)) else { return };
        // Texts are cut to what a report holds, and bytes that are no text become longer ones: from then on it is the same.
        let first = Report::decode(&report.encode());
        let again = first.as_ref().and_then(|first| Report::decode(&first.encode()));
        assert!(first.is_some() && again == first, "a report is read as another");
    }
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut padded = [0; N];
    let count = bytes.len().min(N);
    padded[..count].copy_from_slice(&bytes[..count]);
    padded
}

/// One of each kind.
pub fn frames() -> Vec<Vec<u8>> {
    let call =
        Call { operation: Operation::AllReduce, op: Op::ALL[0], dtype: DType::ALL[0], count: 7, root: 0, ring: true };
    let header = Header { token: 1, sequence: 2, from: 3, call };
    let position = Position { sequence: 4, running: true, call: Some(call) };
    let abort = super::Abort {
        culprit: Some(1),
        sequence: 2,
        operation: "barrier()".to_owned(),
        cause: "it ended".to_owned(),
        disagreement: Some(super::Disagreement {
            reporter: 0,
            reporter_called: "a".to_owned(),
            other: 1,
            other_called: "b".to_owned(),
        }),
    };
    let reports = [Report::Goodbye { sequence: 9 }, Report::Position { position, asks: true }, Report::Abort(abort)];
    let mut all = vec![[&[2][..], &header.encode()].concat(), [&[0][..], &header.encode()[4..]].concat()];
    all.extend(reports.iter().map(|report| [&[3][..], &report.encode()].concat()));
    all
}
