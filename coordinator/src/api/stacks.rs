//! Where ranks that fell silent were: what their supervisors saw of their threads and wrote into their metrics streams.

use super::stalls::Worker;
use serde::Deserialize;
use std::collections::BTreeMap;
use types::Millis;

/// Ranks whose threads are shown.
const SHOWN_MAX: usize = 8;
/// Longest text that is shown of one rank; supervisors write no longer ones.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// A silent rank's threads.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Stack {
    pub(super) text: String,
    /// For how long the rank had said nothing, in seconds.
    silent: f64,
    /// Seconds since the epoch.
    pub(super) time: f64,
}

impl Stack {
    /// A line, and one for each thread.
    pub(super) fn text(&self) -> String {
        let text = &self.text[..self.text.floor_char_boundary(TEXT_BYTES_MAX)];
        let silent = Millis((self.silent.max(0.0) * 1_000.0) as u64);
        format!("its threads when it had said nothing for {silent}:\n{}", text.trim_end())
    }
}

/// The last one in a stream's end.
pub(super) fn last(tail: &[u8]) -> Option<Stack> {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        #[serde(flatten)]
        stack: Stack,
    }
    let lines = tail.split(|byte| *byte == b'\n').rev();
    let mut stacks = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    stacks.find(|line| line.kind == "stack").map(|line| line.stack)
}

/// Of ranks whose gang does not say who waits for whom.
pub(super) fn explain(stacks: &BTreeMap<u32, Stack>, worker: Worker<'_>) -> Vec<String> {
    let line = |(rank, stack): (&u32, &Stack)| format!("rank {rank} on worker {}; {}", worker(*rank), stack.text());
    stacks.iter().take(SHOWN_MAX).map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stack_is_read_and_told() {
        let line =
            |text: &str, silent: f64| format!(r#"{{"kind":"stack","text":"{text}","silent":{silent},"time":100.5}}"#);
        let tail =
            [line("old", 1.0), line(r"process 7 sh\n  sh: stopped", 31.5), r#"{"name":"loss","value":1}"#.into()];
        let stack = last(tail.join("\n").as_bytes()).unwrap();
        let expected =
            "rank 3 on worker w3; its threads when it had said nothing for 31.5 s:\nprocess 7 sh\n  sh: stopped";
        assert_eq!(explain(&[(3, stack)].into(), &|rank| format!("w{rank}")), [expected]);
        assert_eq!(last(tail[2].as_bytes()), None);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let stack = Stack { text: "é".repeat(TEXT_BYTES_MAX), silent: 1.0, time: 1.0 };
        assert!(stack.text().len() < TEXT_BYTES_MAX + 100);
    }
}
