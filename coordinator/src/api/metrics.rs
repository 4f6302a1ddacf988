//! `Jobs.Metrics`: points out of the metrics streams' lines, oldest first for each rank; read and followed like logs.
//!
//! Which lines are points depends on their bytes alone, so every coordinator gives a rank's points in the same number and
//! order, and a follower that changes coordinators can count.

pub mod fuzzed;

use super::follow::{self, Selection};
use super::{Context, logs};
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use stores::streams::StreamName;
use tonic::Status;
use types::{Caller, JobId, RankIndex, StreamKind};

type Batches = BoxStream<'static, Result<v1::MetricBatch, Status>>;

/// Longest line that is read, and longest name, as in the rank's supervisor.
const LINE_BYTES_MAX: usize = 64 * 1024;
const NAME_BYTES_MAX: usize = 250;

pub(super) async fn metrics(
    context: &Context,
    caller: &Caller,
    request: v1::MetricsRequest,
) -> Result<Batches, Status> {
    let selection = Selection {
        job: JobId(request.job_id),
        attempt: None,
        ranks: request.ranks.iter().copied().map(RankIndex).collect(),
        kinds: [StreamKind::Metrics].into(),
        follow: request.follow,
        tail: None,
        window: None,
        from: BTreeMap::new(),
    };
    let state = context.read(false).await?;
    logs::check(context.job(&state, caller, request.job_id)?, &selection)?;
    let names: BTreeSet<String> = request.names.into_iter().collect();
    let mut lines: BTreeMap<StreamName, Lines> = BTreeMap::new();
    let batches = follow::follow(context, selection).filter_map(move |piece| {
        let batch = piece.map(|piece| {
            let name = piece.name;
            // An attempt is read after the one before it was read to its end.
            lines.retain(|known, _| known.attempt == name.attempt);
            lines.entry(name).or_default().points(name, &piece.data, &names)
        });
        let news = !matches!(&batch, Ok(points) if points.is_empty());
        futures::future::ready(news.then(|| batch.map(|points| v1::MetricBatch { points })))
    });
    Ok(batches.boxed())
}

/// Cuts a stream's bytes into lines, however they come.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// The current line is too long: dropped up to its end.
    skipping: bool,
}

impl Lines {
    fn points(&mut self, of: StreamName, mut bytes: &[u8], names: &BTreeSet<String>) -> Vec<v1::MetricPoint> {
        let mut points = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            let wanted = |point: &v1::MetricPoint| names.is_empty() || names.contains(&point.name);
            if !std::mem::take(&mut self.skipping) {
                points.extend(point(of, &self.line).filter(wanted));
            }
            self.line.clear();
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
        points
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.skipping || self.line.len() + bytes.len() > LINE_BYTES_MAX {
            self.skipping = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }
}

#[derive(Deserialize)]
struct Line {
    name: String,
    value: f64,
    step: Option<f64>,
    time: Option<f64>,
}

/// Nothing for a line that is no point: it means nothing here.
fn point(of: StreamName, line: &[u8]) -> Option<v1::MetricPoint> {
    let Line { name, value, step, time } = serde_json::from_slice(line).ok()?;
    let (step, time) = (step.unwrap_or(0.0), time.unwrap_or(0.0));
    let sound = name.len() <= NAME_BYTES_MAX && value.is_finite() && step >= 0.0 && time >= 0.0;
    // Steps and milliseconds are whole numbers far below 2^53, which f64 holds exactly.
    sound.then(|| v1::MetricPoint {
        attempt: of.attempt.0,
        rank: of.rank.0,
        name,
        value,
        step: step as u64,
        time_ms: (time * 1_000.0).round() as u64,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::AttemptNumber;

    fn stream() -> StreamName {
        let (job, attempt, rank) = (JobId(1), AttemptNumber(2), RankIndex(3));
        StreamName { job, attempt, rank, kind: StreamKind::Metrics }
    }

    const TEXT: &str = concat!(
        r#"{"name": "loss", "value": 0.231, "step": 40, "time": 1764000000.25}"#,
        "\nnot json\n",
        r#"{"checkpoint": "step-40", "step": 40}"#,
        "\n",
        r#"{"name": "accuracy", "value": 1}"#,
        "\n",
        r#"{"name": "loss", "value": "much"}"#,
        "\n",
        r#"{"name": "loss", "value": 0.5, "step": -1}"#,
        "\n",
        r#"{"name": "loss", "value": 0.1"#,
    );

    #[test]
    fn points_are_the_same_however_the_bytes_are_cut() {
        let whole = Lines::default().points(stream(), TEXT.as_bytes(), &BTreeSet::new());
        let point = v1::MetricPoint { attempt: 2, rank: 3, ..Default::default() };
        let loss = v1::MetricPoint {
            name: "loss".into(),
            value: 0.231,
            step: 40,
            time_ms: 1_764_000_000_250,
            ..point.clone()
        };
        assert_eq!(whole, [loss, v1::MetricPoint { name: "accuracy".into(), value: 1.0, ..point }]);
        let mut lines = Lines::default();
        let cut: Vec<_> =
            TEXT.as_bytes().iter().flat_map(|byte| lines.points(stream(), &[*byte], &BTreeSet::new())).collect();
        assert_eq!(cut, whole);
    }

    #[test]
    fn names_filter_and_a_line_without_end_does_not_grow() {
        let mut lines = Lines::default();
        assert_eq!(lines.points(stream(), TEXT.as_bytes(), &["accuracy".to_owned()].into()).len(), 1);
        for _ in 0..100 {
            lines.points(stream(), &[b'x'; 10_000], &BTreeSet::new());
        }
        assert!(lines.line.capacity() <= 4 * LINE_BYTES_MAX);
        assert_eq!(lines.points(stream(), b"\n{\"name\":\"a\",\"value\":1}\n", &BTreeSet::new()).len(), 1);
    }
}
