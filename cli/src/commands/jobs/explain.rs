//! `muster jobs explain`: the scheduler's own reason, what is ahead, and what would change it.

use super::super::Session;
use super::parse_job;
use crate::failure::Exit;
use crate::output::table::clean;
use crate::output::{Output, json, style, text};
use clap::Args;
use client::{Client, v1};
use std::fmt::Write as _;
use types::{JobId, Millis, Timestamp};

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
    if let Some(expected) = expected(answer) {
        let _ = writeln!(page, "expected start: {}", clean(&expected));
    }
    for hint in &answer.hints {
        let _ = writeln!(page, "{} {}", output.paint(style::BUSY, "hint:"), clean(hint));
    }
    page
}

/// When a waiting job is expected to start, and if what; or why that is not known. Nothing of a job that does not wait.
pub(super) fn expected(answer: &v1::Explanation) -> Option<String> {
    if answer.expected_start_ms > 0 {
        let at = text::instant(answer.expected_start_ms);
        let (wait, assumption) = (wait(answer.expected_start_ms), &answer.expected_start_assumption);
        return Some(format!("{at}, {wait}, {assumption}"));
    }
    if answer.expected_start_unknown.is_empty() {
        return None;
    }
    let guess = match answer.start_basis.as_str() {
        "releases" | "backlog" => format!(" (a first guess by the work ahead of it: {})", wait(answer.start_ms)),
        _ => String::new(),
    };
    Some(format!("not known: {}{guess}", answer.expected_start_unknown))
}

/// How long it is until then.
pub(super) fn wait(at_ms: u64) -> String {
    match Timestamp(at_ms).since(daemon::clock::now()) {
        Millis(0) => "now".to_owned(),
        left => format!("in {}", text::short(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(expected_start_ms: u64, unknown: &str, start_basis: &str) -> v1::Explanation {
        v1::Explanation {
            expected_start_ms,
            expected_start_assumption: "if all goes well".into(),
            expected_start_unknown: unknown.into(),
            start_ms: 1,
            start_basis: start_basis.into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_expected_start_stands_with_what_it_rests_on() {
        let text = expected(&answer(1_000, "", "promised")).unwrap();
        assert_eq!(text, format!("{}, now, if all goes well", text::instant(1_000)));
    }

    #[test]
    fn what_is_not_known_says_why_and_gives_a_guess_if_there_is_one() {
        let with = |basis| expected(&answer(0, "too many wait", basis)).unwrap();
        assert_eq!(with("promised"), "not known: too many wait");
        assert_eq!(with("backlog"), "not known: too many wait (a first guess by the work ahead of it: now)");
    }

    #[test]
    fn a_job_that_does_not_wait_has_no_expected_start() {
        assert_eq!(expected(&answer(0, "", "")), None);
    }
}
