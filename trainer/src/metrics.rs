//! What a rank tells its worker: one JSON object a line on the descriptor named by `MUSTER_METRICS_FD`.
//!
//! Training never waits long for a worker that does not read: a metric point that finds the pipe full is dropped and
//! counted; the line of a checkpoint, which a restart depends on, is waited for longer. Lines stay under the size
//! that a pipe takes at once, so they are never cut.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

/// For a metric point.
const PATIENCE: Duration = Duration::from_millis(20);
/// For a checkpoint's line.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(30);

/// The line of a stall, which the thread that waits writes: `docs/observability.md` has its meaning.
#[derive(Serialize)]
struct StallLine<'a> {
    kind: &'static str,
    collective: &'a str,
    sequence: u64,
    dtype: Option<String>,
    elements: u64,
    behind: Vec<BehindLine>,
    /// When nothing moved any more, in seconds since the epoch.
    since: f64,
}

#[derive(Serialize)]
struct BlameLine {
    kind: &'static str,
    rank: u32,
}

#[derive(Serialize)]
struct BehindLine {
    rank: u32,
    sequence: u64,
}

/// Ranks that are named in one line, so that it stays under the size that a pipe takes at once.
const BEHIND_MAX: usize = 64;

/// Writer of metric lines; without a descriptor it does nothing.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// `None` also after the reader has gone.
    file: Option<File>,
    dropped: u64,
}

#[derive(Serialize)]
struct Point<'a> {
    name: &'a str,
    value: f64,
    step: u64,
    /// Seconds since the epoch.
    time: f64,
}

#[derive(Serialize)]
struct Saved<'a> {
    checkpoint: &'a str,
    step: u64,
}

impl Metrics {
    pub(crate) fn new(file: Option<File>) -> Self {
        Metrics { file, dropped: 0 }
    }

    /// Reports a value; one that is not finite cannot be written in JSON and is left out.
    pub(crate) fn point(&mut self, name: &str, value: f64, step: u64) {
        if self.file.is_none() || !value.is_finite() {
            return;
        }
        let time = daemon::clock::now().0 as f64 / 1000.0;
        if !self.write(&Point { name, value, step, time }, PATIENCE) {
            self.dropped += 1;
        }
    }

    /// Says that the folder `checkpoint` is complete; true where the reader has taken it or there is none.
    pub(crate) fn saved(&mut self, checkpoint: &str, step: u64) -> bool {
        self.file.is_none() || self.write(&Saved { checkpoint, step }, CHECKPOINT_PATIENCE)
    }

    /// What tells the worker of collective operations that wait for long. It has a descriptor of its own, for the thread that
    /// waits is not the one that reports metrics.
    pub(crate) fn stall_teller(&self) -> Option<collectives::Tell> {
        let file = self.file.as_ref()?.try_clone().ok()?;
        let teller = Mutex::new(Metrics::new(Some(file)));
        Some(Box::new(move |stall| {
            let operation = &stall.operation;
            let behind = stall.behind.iter().take(BEHIND_MAX);
            let line = StallLine {
                kind: "stall",
                collective: operation.kind,
                sequence: operation.sequence,
                dtype: operation.dtype.map(|dtype| dtype.to_string()),
                elements: operation.elements,
                behind: behind.map(|behind| BehindLine { rank: behind.rank, sequence: behind.sequence }).collect(),
                since: daemon::clock::now().0 as f64 / 1000.0 - stall.waited.as_secs_f64(),
            };
            let (sequence, waited) = (operation.sequence, stall.waited);
            tracing::warn!(collective = operation.kind, sequence, ?waited, behind = ?stall.behind, "collective stalls");
            // Lost where nobody reads: the time limit still comes.
            let _ = teller.lock().unwrap_or_else(PoisonError::into_inner).write(&line, PATIENCE);
        }))
    }

    /// Another writer to the same reader.
    pub(crate) fn twin(&self) -> Metrics {
        Metrics::new(self.file.as_ref().and_then(|file| file.try_clone().ok()))
    }

    /// Says that this rank ends because of `rank`.
    pub(crate) fn blame(&mut self, rank: u32) {
        // Lost where nobody reads: the words on stderr name the rank too.
        let _ = self.file.is_none() || self.write(&BlameLine { kind: "blame", rank }, PATIENCE);
    }

    /// Points that found the pipe full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn write(&mut self, line: &impl Serialize, patience: Duration) -> bool {
        let (Some(file), Ok(mut bytes)) = (&mut self.file, serde_json::to_vec(line)) else { return false };
        bytes.push(b'\n');
        match write_within(file, &bytes, patience) {
            Ok(written) => written,
            Err(error) => {
                tracing::warn!(%error, "metrics cannot be written any more");
                self.file = None;
                false
            }
        }
    }
}

/// A pipe that polls as writable takes 4,096 bytes without blocking, and no line is longer.
fn write_within(file: &mut File, bytes: &[u8], patience: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    let ready = loop {
        let mut descriptors = [PollFd::new(&*file, PollFlags::OUT)];
        match poll(&mut descriptors, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if ready == 0 {
        return Ok(false);
    }
    file.write_all(bytes)?;
    Ok(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn lines_are_whole_json_objects() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut metrics = Metrics::new(Some(File::from(writer)));
        metrics.point("loss", 0.25, 3);
        metrics.point("loss", f64::NAN, 4);
        assert!(metrics.saved("step-5", 5));
        drop(metrics);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (&lines[0]["name"], &lines[0]["value"], &lines[0]["step"]),
            (&"loss".into(), &0.25.into(), &3.into())
        );
        assert!(lines[0]["time"].as_f64().unwrap() > 1.7e9);
        assert_eq!(lines[1], serde_json::json!({"checkpoint": "step-5", "step": 5}));
    }

    #[test]
    fn a_stall_is_one_line_that_is_no_point() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let metrics = Metrics::new(Some(File::from(writer)));
        let operation = collectives::Entry {
            sequence: 412,
            kind: "all_reduce",
            dtype: Some(collectives::DType::F32),
            op: Some(collectives::Op::Sum),
            root: None,
            elements: 1 << 20,
            transport: collectives::Transport::Tcp,
            method: collectives::Method::Pairwise,
            entered_ns: 1,
            ended_ns: None,
            state: collectives::State::Waiting(2),
        };
        let behind = vec![collectives::Behind { rank: 2, sequence: 411 }];
        let tell = metrics.stall_teller().unwrap();
        tell(&collectives::Stall { operation, behind, waited: Duration::from_secs(31) });
        drop((metrics, tell));
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        let mut line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        let since = line["since"].take().as_f64().unwrap();
        assert!(since > 1.7e9 && since < daemon::clock::now().0 as f64 / 1000.0 - 30.0);
        let expected = serde_json::json!({"kind": "stall", "collective": "all_reduce", "sequence": 412, "dtype": "f32",
            "elements": 1 << 20, "behind": [{"rank": 2, "sequence": 411}], "since": null});
        assert_eq!(line, expected);
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nothing_up() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut metrics = Metrics::new(Some(File::from(writer)));
        for step in 0..2_000 {
            metrics.point("loss", 0.25, step);
            if metrics.dropped() == 3 {
                break;
            }
        }
        assert_eq!(metrics.dropped(), 3);
        drop(reader);
        metrics.point("loss", 0.25, 1);
        assert!(metrics.file.is_none(), "a reader that has gone is not written to again");
        assert!(metrics.saved("step-1", 1));
    }
}
