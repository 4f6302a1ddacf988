//! `muster jobs explain`: the scheduler's own reason, what is ahead, and what would change it.

use super::super::Session;
use super::parse_job;
use crate::failure::Exit;
use crate::output::table::clean;
use crate::output::{Output, json, style};
use clap::Args;
use client::{Client, v1};
use std::fmt::Write as _;
use types::JobId;

/// `muster jobs explain`
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The job's number
    #[arg(value_parser = parse_job)]
    job: JobId,
}

pub(super) async fn run(args: &ExplainArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let answer = client.explain(args.job).await?;
    session.output.print(&json::explanation(args.job.0, &answer), |output| page(args.job, &answer, output))?;
    Ok(Exit::Success)
}

fn page(job: JobId, answer: &v1::Explanation, output: &Output) -> String {
    let mut page = String::new();
    let phase = output.paint(style::state(&answer.phase), &answer.phase);
    let _ = writeln!(page, "job {job} is {phase}");
    let mut lines = answer.summary.trim_end().lines();
    let _ = writeln!(page, "{}", output.paint(style::HEAD, &clean(lines.next().unwrap_or_default())));
    for line in lines {
        let _ = writeln!(page, "  {}", clean(line));
    }
    for detail in &answer.details {
        for (at, line) in detail.trim_end().lines().enumerate() {
            let mark = if at == 0 { "- " } else { "    " };
            let _ = writeln!(page, "  {mark}{}", clean(line));
        }
    }
    if answer.position > 0 {
        let _ = write!(page, "position {} in its queue", answer.position);
        let ahead: Vec<String> = answer.ahead.iter().map(ToString::to_string).collect();
        let _ = match ahead.len() {
            0 => writeln!(page, ", nothing ahead"),
            _ => writeln!(page, "; ahead: job {}", ahead.join(", ")),
        };
    }
    for hint in &answer.hints {
        let _ = writeln!(page, "{} {}", output.paint(style::BUSY, "hint:"), clean(hint));
    }
    page
}
