//! `muster metrics`: the last and best of each metric in a table, and its course as a chart.

use super::Session;
use super::jobs::parse_job;
use crate::failure::Exit;
use crate::output::chart::{self, Series};
use crate::output::table::clean;
use crate::output::{Column, Format, Output, Table, json, text, write_stdout};
use clap::Args;
use client::{Client, MetricQuery, v1};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use types::JobId;

/// `muster metrics`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  muster metrics 7
  muster metrics 7 --name loss --rank 0
  muster metrics 7 --follow                     drawn anew as points come
  muster metrics 7 --follow -o json             one point a line")]
pub struct MetricsArgs {
    /// The job's number
    #[arg(value_parser = parse_job)]
    job: JobId,
    /// Only this metric; may be given several times
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Only this rank; may be given several times
    #[arg(long, short, value_name = "N")]
    rank: Vec<u32>,
    /// Go on until the job has ended
    #[arg(long, short)]
    follow: bool,
    /// No charts, only the table
    #[arg(long)]
    no_chart: bool,
}

/// Redraws at most so often.
const REDRAW_EVERY: Duration = Duration::from_millis(250);
/// Ranks drawn one by one; of more only the first are.
const SERIES_MAX: usize = 6;

/// Prints.
pub async fn run(args: MetricsArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let query = MetricQuery { names: args.name.clone(), follow: args.follow, ranks: args.rank.clone() };
    tokio::select! {
        shown = show(&args, query, client, session) => shown,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(Exit::Interrupted)
        }
    }
}

async fn show(args: &MetricsArgs, query: MetricQuery, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let output = &session.output;
    let live = args.follow && output.is_terminal && output.format == Format::Table;
    let line_by_line = args.follow && !live;
    let mut metrics = client.metrics(args.job, query);
    let mut board = Board::default();
    let mut points = Vec::new();
    let mut tick = tokio::time::interval(REDRAW_EVERY);
    let mut changed = false;
    loop {
        tokio::select! {
            batch = metrics.next() => {
                let Some(batch) = batch? else { break };
                for point in batch {
                    board.add(&point);
                    if line_by_line {
                        output.print_item(&json::point(&point), |_| line(&point))?;
                    } else if output.format != Format::Table {
                        points.push(json::point(&point));
                    }
                }
                changed = true;
            }
            _ = tick.tick(), if live => {
                if std::mem::take(&mut changed) {
                    write_stdout(format!("\x1b[2J\x1b[H{}", board.page(args, output)).as_bytes())?;
                }
            }
        }
    }
    if live {
        write_stdout(format!("\x1b[2J\x1b[H{}", board.page(args, output)).as_bytes())?;
    } else if !line_by_line {
        let value = serde_json::json!({ "job_id": args.job.0, "points": points });
        output.print(&value, |output| board.page(args, output))?;
    }
    if !args.follow {
        return Ok(Exit::Success);
    }
    Ok(Exit::of_phase(&client.wait(args.job).await?.phase))
}

fn line(point: &v1::MetricPoint) -> String {
    format!(
        "{}  attempt {}  rank {}  step {}  {} {}\n",
        text::instant(point.time_ms),
        point.attempt,
        point.rank,
        point.step,
        clean(&point.name),
        text::number(point.value)
    )
}

/// All points by name, rank and step; where an attempt did a step again, its value counts.
#[derive(Debug, Default)]
pub struct Board {
    metrics: BTreeMap<(String, u32), BTreeMap<u64, (u32, f64)>>,
}

impl Board {
    /// Adds a point.
    pub fn add(&mut self, point: &v1::MetricPoint) {
        let steps = self.metrics.entry((point.name.clone(), point.rank)).or_default();
        let known = steps.entry(point.step).or_insert((point.attempt, point.value));
        if point.attempt >= known.0 {
            *known = (point.attempt, point.value);
        }
    }

    /// The newest value of a metric of any rank, and its step.
    pub fn last(&self, name: &str) -> Option<(u64, f64)> {
        self.metrics
            .iter()
            .filter(|((known, _), _)| known == name)
            .filter_map(|(_, steps)| steps.last_key_value().map(|(step, (_, value))| (*step, *value)))
            .max_by_key(|(step, _)| *step)
    }

    /// Values of the lowest rank that reports this metric, in order of step.
    pub fn course(&self, name: &str) -> Vec<f64> {
        let first = self.metrics.iter().find(|((known, _), _)| known == name);
        first.map(|(_, steps)| steps.values().map(|(_, value)| *value).collect()).unwrap_or_default()
    }

    fn page(&self, args: &MetricsArgs, output: &Output) -> String {
        let mut page = self.table(output);
        if args.no_chart || self.metrics.is_empty() {
            return page;
        }
        let width = output.width.unwrap_or(80).min(120);
        let mut names: Vec<&str> = self.metrics.keys().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        for name in names {
            let series = self.series(name);
            if series.iter().any(|one| one.points.len() > 1) {
                let _ = write!(page, "\n{}", chart::render(name, &series, width, 12, output));
            }
        }
        page
    }

    fn series(&self, name: &str) -> Vec<Series> {
        self.metrics
            .iter()
            .filter(|((known, _), _)| known == name)
            .take(SERIES_MAX)
            .map(|((_, rank), steps)| Series {
                label: format!("rank {rank}"),
                points: steps.iter().map(|(step, (_, value))| (*step as f64, *value)).collect(),
            })
            .collect()
    }

    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(vec![
            Column::text("METRIC"),
            Column::number("RANK"),
            Column::number("POINTS"),
            Column::number("STEP"),
            Column::number("LAST"),
            Column::number("MIN"),
            Column::number("MAX"),
        ]);
        for ((name, rank), steps) in &self.metrics {
            let Some((step, (_, last))) = steps.last_key_value() else { continue };
            let values = || steps.values().map(|(_, value)| *value);
            table.row(vec![
                name.as_str().into(),
                rank.to_string().into(),
                steps.len().to_string().into(),
                step.to_string().into(),
                text::number(*last).into(),
                text::number(values().fold(f64::INFINITY, f64::min)).into(),
                text::number(values().fold(f64::NEG_INFINITY, f64::max)).into(),
            ]);
        }
        table.render(output, "no metrics (yet)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(attempt: u32, rank: u32, step: u64, value: f64) -> v1::MetricPoint {
        v1::MetricPoint { attempt, rank, name: "loss".into(), value, step, time_ms: 0 }
    }

    #[test]
    fn a_step_done_again_counts_once_with_its_last_value() {
        let mut board = Board::default();
        for one in [point(1, 0, 10, 0.5), point(2, 0, 10, 0.4), point(1, 0, 10, 0.6), point(2, 0, 20, 0.2)] {
            board.add(&one);
        }
        assert_eq!(board.course("loss"), [0.4, 0.2]);
        assert_eq!(board.last("loss"), Some((20, 0.2)));
        assert_eq!(board.last("accuracy"), None);
    }
}
