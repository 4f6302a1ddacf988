//! The last words of a rank that hangs: what its threads were at, and what it said itself when it was asked.
//!
//! Only a process that catches SIGABRT is asked, for it mostly writes where it is and ends: Python does for all its threads with
//! `faulthandler`, which ranks are started with. One that was stopped is let go on for it; the signal comes before its next
//! instruction.

use super::threads;
use serde::Serialize;
use std::time::Duration;

/// For the answer, before it is killed.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Of what the kernel shows, where an answer follows it.
const THREADS_BYTES_MAX: usize = 1536;

/// See the module.
#[derive(Debug)]
pub(super) struct LastWords {
    threads: String,
    silent: Duration,
    stderr_before: u64,
}

impl LastWords {
    pub(super) fn new(threads: String, silent: Duration, stderr_before: u64) -> Self {
        Self { threads, silent, stderr_before }
    }

    /// How much it had written to stderr before it was asked.
    pub(super) fn stderr_before(&self) -> u64 {
        self.stderr_before
    }

    /// The line for the metrics stream; `answer` is what it wrote to stderr since, of which the end counts.
    pub(super) fn line(&self, answer: &str) -> Vec<u8> {
        let answer = answer.trim();
        if answer.is_empty() {
            return line(&self.threads, self.silent);
        }
        let threads = &self.threads[..self.threads.floor_char_boundary(THREADS_BYTES_MAX)];
        let said = "it said on stderr:\n";
        let room = threads::TEXT_BYTES_MAX - threads.len() - said.len() - 1;
        let answer = &answer[answer.ceil_char_boundary(answer.len().saturating_sub(room))..];
        line(&format!("{}\n{said}{answer}", threads.trim_end()), self.silent)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    text: &'a str,
    /// Seconds without a byte before.
    silent: f64,
    /// Seconds since the epoch.
    time: f64,
}

/// What is seen of a silent rank's threads now, as a line of the metrics stream.
pub(super) fn line(text: &str, silent: Duration) -> Vec<u8> {
    let time = daemon::clock::now().0 as f64 / 1000.0;
    let line = Line { kind: "stack", text, silent: silent.as_secs_f64(), time };
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Asks those that can answer; false where nobody can.
pub(super) fn ask(processes: &[i32]) -> bool {
    let mut asked = false;
    for pid in processes.iter().copied().filter(|pid| threads::catches_abort(*pid)) {
        // SAFETY: plain system calls. The process is this one's descendant and nobody else reaps here, so the number is its own.
        asked |= unsafe { libc::kill(pid, libc::SIGABRT) == 0 && libc::kill(pid, libc::SIGCONT) == 0 };
    }
    asked
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text_of(line: &[u8]) -> String {
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!((&value["kind"], &value["silent"]), (&"stack".into(), &2.5.into()));
        assert!(value["time"].as_f64().unwrap() > 1.7e9);
        value["text"].as_str().unwrap().to_owned()
    }

    fn told(threads: &str, answer: &str) -> String {
        text_of(&LastWords::new(threads.into(), Duration::from_millis(2_500), 0).line(answer))
    }

    #[test]
    fn an_answer_follows_what_the_kernel_shows() {
        assert_eq!(told("process 7, sh:\n  sh: sleeps\n", "\n"), "process 7, sh:\n  sh: sleeps\n");
        assert_eq!(told("process 7, sh:\n", "File \"a.py\"\n"), "process 7, sh:\nit said on stderr:\nFile \"a.py\"");
    }

    #[test]
    fn of_a_long_answer_the_end_is_kept_within_the_limit() {
        let text = told(&"é".repeat(threads::TEXT_BYTES_MAX), &format!("{}end", "ü".repeat(threads::TEXT_BYTES_MAX)));
        assert!(text.len() <= threads::TEXT_BYTES_MAX && text.ends_with("üend") && text.starts_with('é'));
        assert!(text.len() > threads::TEXT_BYTES_MAX - 8);
    }
}
