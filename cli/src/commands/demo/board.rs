//! What is known of the demo's run, gathered from watch, metrics and status; pure, so that it can be drawn and judged.

use crate::commands::metrics::Board as Metrics;
use crate::output::chart::sparkline;
use crate::output::{Output, style, text};
use client::v1;
use std::fmt::Write as _;

/// What the streams bring.
#[derive(Debug)]
pub enum News {
    /// The job changed.
    Job(Box<v1::Job>),
    /// Metric points.
    Points(Vec<v1::MetricPoint>),
    /// The cluster as some coordinator sees it.
    Status(Box<v1::ClusterStatus>),
    /// The workers.
    Workers(Vec<v1::Worker>),
    /// A stream failed for good.
    Failed(String),
}

/// All that is shown.
#[derive(Debug, Default)]
pub struct Board {
    /// Number of steps of the whole training, where known.
    pub steps_total: Option<u64>,
    /// The job, once submitted.
    pub job: Option<v1::Job>,
    /// The cluster.
    pub status: Option<v1::ClusterStatus>,
    /// The workers.
    pub workers: Vec<v1::Worker>,
    /// Values by step.
    pub metrics: Metrics,
    /// Wall time of the first metric point and its step.
    pub first_point: Option<(u64, u64)>,
    /// Highest step that the newest attempt reported.
    pub step: u64,
    newest_attempt: u32,
}

impl Board {
    /// Nothing is known but how long the training will be.
    pub fn new(steps_total: Option<u64>) -> Self {
        Board { steps_total, ..Board::default() }
    }

    /// Takes news in; answers a line worth telling, if there is one.
    pub fn take(&mut self, news: News) -> Option<String> {
        match news {
            News::Job(job) => self.take_job(*job),
            News::Points(points) => self.take_points(&points),
            News::Status(status) => self.take_status(*status),
            News::Workers(workers) => {
                self.workers = workers;
                None
            }
            News::Failed(_) => None,
        }
    }

    /// Its phase, or nothing before the submit.
    pub fn phase(&self) -> &str {
        self.job.as_ref().and_then(|job| job.summary.as_ref()).map_or("", |summary| &summary.phase)
    }

    /// The newest attempt.
    pub fn attempt(&self) -> Option<&v1::Attempt> {
        self.job.as_ref()?.attempts.last()
    }

    fn take_job(&mut self, job: v1::Job) -> Option<String> {
        let words = |job: &v1::Job| {
            let summary = job.summary.clone().unwrap_or_default();
            let mut words = format!("job {} is {}", summary.id, summary.phase);
            if let Some(attempt) = job.attempts.last() {
                let workers: Vec<&str> = attempt.members.iter().map(|member| member.worker.as_str()).collect();
                let _ = write!(words, ", attempt {} {} on {}", attempt.number, attempt.phase, workers.join(", "));
                if attempt.resumed_from_step > 0 {
                    let _ = write!(words, ", from step {}", attempt.resumed_from_step);
                }
            }
            if !summary.reason.is_empty() {
                let _ = write!(words, ": {}", summary.reason.lines().next().unwrap_or_default());
            }
            words
        };
        let now = words(&job);
        let before = self.job.as_ref().map(words);
        self.job = Some(job);
        (before.as_ref() != Some(&now)).then_some(now)
    }

    fn take_points(&mut self, points: &[v1::MetricPoint]) -> Option<String> {
        let mut line = None;
        for point in points {
            if point.attempt > self.newest_attempt {
                self.newest_attempt = point.attempt;
                self.step = 0;
            }
            if point.attempt == self.newest_attempt {
                self.step = self.step.max(point.step);
            }
            if self.first_point.is_none_or(|(time, _)| point.time_ms < time) {
                self.first_point = Some((point.time_ms, point.step));
            }
            self.metrics.add(point);
            if point.name == "test_accuracy" {
                let loss = self.metrics.last("loss").map_or(f64::NAN, |(_, loss)| loss);
                let accuracy = text::number(point.value);
                line = Some(format!("step {}: loss {}, test accuracy {accuracy}", point.step, text::number(loss)));
            }
        }
        line
    }

    fn take_status(&mut self, status: v1::ClusterStatus) -> Option<String> {
        let led = |status: &v1::ClusterStatus| (status.leader, status.term);
        let before = self.status.as_ref().map(led);
        let now = led(&status);
        self.status = Some(status);
        (before != Some(now) && now.0 > 0).then(|| format!("coordinator {} leads in term {}", now.0, now.1))
    }

    /// The live view, one string of several lines.
    pub fn draw(&self, output: &Output) -> String {
        let width = output.width.unwrap_or(80);
        let mut lines = vec![self.cluster_line(output), self.workers_line(output), self.gang_line(output)];
        lines.push(self.progress_line(width, output));
        for (name, label) in [("loss", "loss"), ("test_accuracy", "accuracy")] {
            let course = self.metrics.course(name);
            if let Some((_, last)) = self.metrics.last(name) {
                let line = sparkline(&course, width.saturating_sub(24).min(60));
                lines.push(format!("{label:<10}{} {}", output.paint(style::BUSY, &line), text::number(last)));
            }
        }
        lines.iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "  {line}");
            text
        })
    }

    fn cluster_line(&self, output: &Output) -> String {
        let Some(status) = &self.status else { return "cluster   starting".into() };
        let members: Vec<String> = status
            .members
            .iter()
            .map(|member| {
                let mark = if member.id == status.leader { "●" } else { "○" };
                let role = if member.id == status.leader { "leader" } else { member.role.as_str() };
                output.paint(style::state(role), &format!("{mark} {} {role}", member.id))
            })
            .collect();
        format!(
            "{:<10}{}  {}",
            "cluster",
            members.join("  "),
            output.paint(style::DIM, &format!("term {}", status.term))
        )
    }

    fn workers_line(&self, output: &Output) -> String {
        let one = |worker: &v1::Worker| {
            let text = format!("■ {} {}/{}", worker.name, worker.cpus_used, worker.cpus_total);
            output.paint(style::state(&worker.state), &text)
        };
        let workers: Vec<String> = self.workers.iter().map(one).collect();
        format!("{:<10}{}", "workers", workers.join("  "))
    }

    fn gang_line(&self, output: &Output) -> String {
        let Some(attempt) = self.attempt() else {
            return format!("{:<10}{}", "gang", output.paint(style::state(self.phase()), self.phase()));
        };
        let ranks: Vec<String> = attempt
            .members
            .iter()
            .map(|member| {
                let ranks: Vec<String> = member.ranks.iter().map(ToString::to_string).collect();
                format!("{}→{}", ranks.join(","), member.worker)
            })
            .collect();
        let phase = output.paint(style::state(&attempt.phase), &attempt.phase);
        format!("{:<10}attempt {} {phase}  ranks {}", "gang", attempt.number, ranks.join(" "))
    }

    fn progress_line(&self, width: usize, output: &Output) -> String {
        let Some(total) = self.steps_total.filter(|total| *total > 0) else {
            return format!("{:<10}{}", "step", self.step);
        };
        let room = width.saturating_sub(30).clamp(10, 50);
        let done = (self.step.min(total) as usize * room) / total as usize;
        let bar = output.paint(style::GOOD, &"█".repeat(done));
        format!("{:<10}{bar}{} {}/{total}", "step", "░".repeat(room - done), self.step.min(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(attempt: u32, steps: &[u64]) -> News {
        let one = |step: &u64| v1::MetricPoint {
            attempt,
            name: "loss".into(),
            value: 0.5,
            step: *step,
            time_ms: 1_000 + *step,
            ..Default::default()
        };
        News::Points(steps.iter().map(one).collect())
    }

    #[test]
    fn the_step_is_that_of_the_newest_attempt() {
        let mut board = Board::default();
        board.take(points(1, &[5, 90]));
        assert_eq!(board.step, 90);
        board.take(points(2, &[55]));
        board.take(points(1, &[95]));
        assert_eq!(board.step, 55);
        assert_eq!(board.first_point, Some((1_005, 5)));
    }

    #[test]
    fn only_changes_are_told() {
        let mut board = Board::default();
        let status = |term| News::Status(Box::new(v1::ClusterStatus { leader: 1, term, ..Default::default() }));
        assert!(board.take(status(1)).is_some());
        assert!(board.take(status(1)).is_none());
        assert!(board.take(status(2)).is_some());
    }
}
