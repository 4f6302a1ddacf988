//! `muster jobs show`: one job with everything that is known of it.

use super::super::Session;
use super::super::watching::{Shown, show};
use super::{explain, parse_job};
use crate::failure::Exit;
use crate::output::{Cell, Column, Output, Table, json, style, text};
use clap::Args;
use client::{Client, v1};
use std::fmt::Write as _;
use types::{JobId, JobPhase, Millis};

/// `muster jobs show`
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The job's number
    #[arg(value_parser = parse_job)]
    job: JobId,
    /// Show again whenever something changes, until interrupted
    #[arg(long, short)]
    watch: bool,
}

pub(super) async fn run(args: &ShowArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    show(session, args.watch, || async {
        let job = client.get(args.job).await?;
        let told = told(args.job, &job, client).await;
        let mut value = json::job(&job);
        if let Some(told) = &told {
            if waits(&job) {
                json::add_expected(&mut value, told);
            } else if let Some(object) = value.as_object_mut() {
                object.insert("stragglers".into(), json::stragglers(told));
            }
        }
        Ok(Shown { value, table: Box::new(move |output| page(&job, told.as_ref(), output)) })
    })
    .await
}

fn waits(job: &v1::Job) -> bool {
    job.summary.as_ref().is_some_and(|summary| summary.phase == JobPhase::Queued.name())
}

/// What the scheduler says of a job that waits, or how the ranks of a running gang keep up with each other. The page is of use
/// without it.
async fn told(id: JobId, job: &v1::Job, client: &Client) -> Option<v1::Explanation> {
    let summary = job.summary.as_ref()?;
    let is_gang = summary.phase == JobPhase::Running.name() && summary.world_size > 1;
    if !is_gang && !waits(job) {
        return None;
    }
    match client.explain(id).await {
        Ok(told) => Some(told),
        Err(error) if waits(job) => {
            Some(v1::Explanation { expected_start_unknown: error.to_string(), ..Default::default() })
        }
        Err(_) => None,
    }
}

fn page(job: &v1::Job, told: Option<&v1::Explanation>, output: &Output) -> String {
    let mut page = String::new();
    let mut summary = job.summary.clone().unwrap_or_default();
    // Where a rank hangs or is slow, this is the reason to look here.
    if let Some(told) = told.filter(|told| told.summary.contains(" but rank ")) {
        summary.reason.clone_from(&told.summary);
    }
    let spec = job.spec.clone().unwrap_or_default();
    head(&mut page, &summary, &spec, &job.submitted_by, output);
    if let Some(promise) = &job.promise {
        let by = text::instant(promise.start_by_ms);
        let _ = writeln!(page, "  {:<12} a start by {by}, on {}", "promised", promise.workers.join(", "));
    }
    if let Some(start) = told.and_then(explain::expected) {
        let _ = writeln!(page, "  {:<12} {}", "expected", crate::output::table::clean(&start));
    }
    attempts(&mut page, &job.attempts, output);
    if let Some(newest) = job.attempts.last() {
        ranks(&mut page, newest, output);
    }
    saved(&mut page, job, output);
    page
}

fn head(page: &mut String, job: &v1::JobSummary, spec: &v1::JobSpec, by: &str, output: &Output) {
    let now = daemon::clock::now();
    let phase = output.paint(style::state(&job.phase), &job.phase);
    let title = format!("job {}  {}", job.id, crate::output::table::clean(&job.display_name));
    let _ = writeln!(page, "{}  {phase}", output.paint(style::HEAD, &title));
    let mut line = |name: &str, value: &str| {
        for (i, part) in value.trim_end().lines().enumerate() {
            let name = if i == 0 { name } else { "" };
            let _ = writeln!(page, "  {name:<12} {}", crate::output::table::clean(part));
        }
    };
    line("workspace", &job.workspace);
    line("experiment", &job.experiment_name);
    line("description", &spec.description);
    line("reason", &job.reason);
    line("command", &spec.command);
    line("gang", &shape(&spec.gang.clone().unwrap_or_default(), job.world_size));
    line("queue", &format!("{}, priority {}", job.queue, job.priority));
    let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
    line("submitted", &format!("{}{by}", text::instant(job.submitted_ms)));
    if job.started_ms > 0 {
        let waited = text::duration(job.submitted_ms, job.started_ms, now);
        line("started", &format!("{} (waited {waited})", text::instant(job.started_ms)));
    }
    if job.ended_ms > 0 {
        let ran = text::duration(job.started_ms, job.ended_ms, now);
        line("ended", &format!("{} (ran {ran})", text::instant(job.ended_ms)));
    }
    if job.kept {
        line("kept", "its logs and metrics, whatever retention says");
    } else if spec.keep_telemetry_ms > 0 && job.forgotten_ms == 0 {
        line(
            "kept",
            &format!("its logs and metrics, for {} after its end", text::short(Millis(spec.keep_telemetry_ms))),
        );
    }
    if job.forgotten_ms > 0 {
        line("forgotten", &format!("its logs and metrics, by retention, on {}", text::instant(job.forgotten_ms)));
    }
    if let Some(code) = &spec.code {
        let git = match (code.git_commit.is_empty(), code.git_dirty) {
            (true, _) => String::new(),
            (false, dirty) => {
                let commit: String = code.git_commit.chars().take(12).collect();
                format!(", git {commit} {}{}", code.git_branch, if dirty { " with changes" } else { "" })
            }
        };
        line("code", &format!("{}{git}", text::hash(&code.tree)));
    }
    for (variable, secret) in &spec.secrets {
        let how = if spec.secret_files.contains(variable) { "in a file, its path in" } else { "as" };
        line("secret", &format!("{secret}, {how} {variable}"));
    }
    for (name, value) in &spec.inputs {
        line(&format!("input {name}"), &input(value));
    }
    for (name, value) in &spec.tags {
        line(&format!("tag {name}"), value);
    }
}

fn shape(gang: &v1::Gang, world_size: u32) -> String {
    let fewest = if gang.instances_min > 0 { format!("{} to ", gang.instances_min) } else { String::new() };
    let (instances, each) = (gang.instances.max(1), gang.ranks_per_instance.max(1));
    let mut text = format!("{world_size} ranks: {fewest}{instances} x {each}");
    let _ = write!(text, ", each {} cpus", gang.cpus_per_rank.max(1));
    if gang.memory_bytes_per_rank > 0 {
        let _ = write!(text, ", {}", text::bytes(gang.memory_bytes_per_rank));
    }
    if gang.gpus_per_rank > 0 {
        let _ = write!(text, ", {} gpus", gang.gpus_per_rank);
    }
    if gang.distribution() != v1::Distribution::None {
        let _ =
            write!(text, "; {}", gang.distribution().as_str_name().trim_start_matches("DISTRIBUTION_").to_lowercase());
    }
    if !gang.spread.is_empty() {
        let _ = write!(text, "; no two in one {}", gang.spread);
    }
    text
}

fn input(input: &v1::Input) -> String {
    match &input.value {
        Some(v1::input::Value::Literal(text)) => text.clone(),
        Some(v1::input::Value::Data(data)) => format!("{} ({})", data.origin, text::hash(&data.tree)),
        None => String::new(),
    }
}

fn attempts(page: &mut String, attempts: &[v1::Attempt], output: &Output) {
    if attempts.is_empty() {
        return;
    }
    let now = daemon::clock::now();
    let mut table = Table::new(vec![
        Column::number("TRY"),
        Column::whole("PHASE"),
        Column::number("RAN"),
        Column::number("FROM STEP"),
        Column::text("WORKERS"),
        Column::whole("CAUSE"),
        Column::text("DETAIL"),
    ]);
    for attempt in attempts {
        let workers: Vec<&str> = attempt.members.iter().map(|member| member.worker.as_str()).collect();
        table.row(vec![
            attempt.number.to_string().into(),
            Cell::state(&attempt.phase),
            text::duration(attempt.running_ms, attempt.ended_ms, now).into(),
            attempt.resumed_from_step.to_string().into(),
            workers.join(",").into(),
            attempt.cause_kind.as_str().into(),
            attempt.cause.lines().next().unwrap_or_default().into(),
        ]);
    }
    let _ = write!(page, "\n{}", table.render(output, ""));
}

fn ranks(page: &mut String, attempt: &v1::Attempt, output: &Output) {
    if attempt.ranks.is_empty() {
        return;
    }
    let mut table = Table::new(vec![
        Column::number("RANK"),
        Column::text("WORKER"),
        Column::whole("EXIT"),
        Column::text("FINAL METRICS"),
    ]);
    for rank in &attempt.ranks {
        let exit = match (rank.exit_code, rank.signal) {
            (Some(0), _) => Cell::styled("0", style::GOOD),
            (Some(code), _) => Cell::styled(code.to_string(), style::BAD),
            (None, Some(signal)) => Cell::styled(format!("signal {signal}"), style::BAD),
            (None, None) if rank.stopped => Cell::styled("stopped", style::WARN),
            (None, None) => "-".into(),
        };
        let metrics: Vec<String> = rank.final_metrics.iter().map(|(name, value)| format!("{name}={value}")).collect();
        table.row(vec![rank.rank.to_string().into(), rank.worker.as_str().into(), exit, metrics.join(" ").into()]);
    }
    let _ = write!(page, "\n{}", table.render(output, ""));
}

fn saved(page: &mut String, job: &v1::Job, output: &Output) {
    if let Some(last) = job.checkpoints.last() {
        let count = job.checkpoints.len();
        let hash = text::hash(&last.tree);
        let _ = writeln!(page, "\n{count} checkpoints, the last at step {} ({hash})", last.step);
    }
    if job.outputs.is_empty() {
        return;
    }
    let mut table =
        Table::new(vec![Column::text("OUTPUT"), Column::number("NODE"), Column::number("SIZE"), Column::whole("TREE")]);
    for one in &job.outputs {
        table.row(vec![
            one.name.as_str().into(),
            one.node_rank.to_string().into(),
            text::bytes(one.bytes).into(),
            text::hash(&one.tree).into(),
        ]);
    }
    let _ = write!(page, "\n{}", table.render(output, ""));
}
