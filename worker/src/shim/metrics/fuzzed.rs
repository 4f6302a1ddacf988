//! The metrics pipe of a rank, into which its program may write anything.

use super::{Metrics, NAMES_MAX};
use std::path::PathBuf;

/// The first byte tells how long the pieces are in which the others come: what is kept of them is the same as of one piece, and is
/// bounded.
pub fn metrics(bytes: &[u8]) {
    let Some((step, text)) = bytes.split_first() else { return };
    // Below no folder: nothing is announced to anybody.
    let notice = || PathBuf::from("/dev/null/checkpoint.json");
    let (mut whole, mut cut) = (Metrics::new(notice()), Metrics::new(notice()));
    whole.push(text);
    for piece in text.chunks(usize::from(*step).max(1)) {
        cut.push(piece);
    }
    assert_eq!(whole.last(), cut.last(), "other values when the lines come in pieces");
    assert_eq!((whole.blamed(), whole.is_between_lines()), (cut.blamed(), cut.is_between_lines()));
    assert!(whole.last().len() <= NAMES_MAX, "{} metrics are kept", whole.last().len());
}

/// Lines of every kind.
pub fn metric_texts() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"name":"loss","value":0.5,"step":1,"time":1764000000.25}"#,
        r#"{"checkpoint":"step-1","step":1}"#,
        r#"{"kind":"blame","rank":2}"#,
        r#"{"kind":"stall","rank":1}"#,
        r#"{"name":"a","value":-1e308}"#,
    ];
    let mut all: Vec<Vec<u8>> = lines.iter().map(|line| format!("\u{7}{line}\n").into_bytes()).collect();
    all.push(format!("\u{3}{}", lines.join("\n")).into_bytes());
    all
}
