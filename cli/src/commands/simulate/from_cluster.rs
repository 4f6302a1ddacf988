//! `muster simulate --from-cluster`: when what waits is expected to start, and what one more job would change.

use crate::commands::{Session, submit};
use crate::failure::Exit;
use crate::output::table::clean;
use crate::output::{Cell, Column, Output, Table, note, text};
use client::{Client, v1};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use types::Millis;

/// Asks and prints; submits nothing.
pub async fn run(job_file: Option<&Path>, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let spec = match job_file {
        None => None,
        Some(file) => {
            let file = file.to_owned();
            let prepared = tokio::task::spawn_blocking(move || submit::prepare(&file)).await??;
            for warning in &prepared.warnings {
                note(&format!("warning: {warning}"));
            }
            Some(prepared.spec)
        }
    };
    let forecast = client.foresee(spec.as_ref()).await?;
    session.output.print(&json(&forecast, spec.is_some()), |output| {
        if spec.is_some() { page(&forecast, output) } else { waiting(&forecast, output) }
    })?;
    Ok(Exit::Success)
}

fn json(forecast: &v1::Forecast, is_about_a_job: bool) -> Value {
    let known = |ms: u64| (ms > 0).then_some(ms);
    let rows = forecast.starts.iter().map(|row| {
        json!({
            "job_id": row.job_id,
            "display_name": row.display_name,
            "queue": row.queue,
            "start_ms": known(row.start_ms),
            "start_without_ms": known(row.start_without_ms),
        })
    });
    let starts: Vec<Value> = rows.collect();
    let mut value = json!({ "now_ms": forecast.now_ms, "waiting": forecast.waiting, "is_cut": forecast.is_cut });
    if is_about_a_job {
        let why = forecast.explanation.clone().unwrap_or_default();
        value["start_ms"] = json!(known(forecast.start_ms));
        value["obstacle"] = json!(why.obstacle);
        value["summary"] = json!(why.summary);
        value["delayed_jobs"] = json!(forecast.delayed);
        value["delayed"] = json!(starts);
        value["stopped"] = json!(forecast.stopped);
    } else {
        value["starts"] = json!(starts);
    }
    value
}

/// The answer about one job.
fn page(forecast: &v1::Forecast, output: &Output) -> String {
    let mut page = format!("{}\n", start(forecast));
    let why = forecast.explanation.clone().unwrap_or_default();
    if forecast.start_ms != forecast.now_ms && !why.summary.is_empty() {
        let _ = writeln!(page, "  {}", clean(&why.summary));
        for hint in &why.hints {
            let _ = writeln!(page, "  hint: {}", clean(hint));
        }
    }
    if !forecast.stopped.is_empty() {
        let jobs: Vec<String> = forecast.stopped.iter().map(ToString::to_string).collect();
        let _ = writeln!(page, "It would have these stopped, to go on later: {}", jobs.join(", "));
    }
    if forecast.delayed == 0 {
        let _ = writeln!(page, "It would delay none of the {} jobs that wait.", forecast.waiting);
    } else {
        let _ = writeln!(page, "It would delay {} of the {} jobs that wait:\n", forecast.delayed, forecast.waiting);
        page.push_str(&table(forecast, output, true));
    }
    page + cut(forecast)
}

fn start(forecast: &v1::Forecast) -> String {
    match forecast.start_ms {
        0 if forecast.is_cut => "It would not start within the look ahead.".to_owned(),
        0 => "It would never start.".to_owned(),
        at if at <= forecast.now_ms => "It would start now.".to_owned(),
        at => format!("It would start at {}, in {}.", text::instant(at), text::short(Millis(at - forecast.now_ms))),
    }
}

fn waiting(forecast: &v1::Forecast, output: &Output) -> String {
    table(forecast, output, false) + cut(forecast)
}

fn cut(forecast: &v1::Forecast) -> &'static str {
    if forecast.is_cut { "The look ahead ended at its bound: later starts are not known.\n" } else { "" }
}

fn table(forecast: &v1::Forecast, output: &Output, is_about_a_job: bool) -> String {
    let mut columns = vec![
        Column::number("JOB"),
        Column::text("NAME"),
        Column::text("QUEUE"),
        Column::whole("STARTS"),
        Column::whole("IN"),
    ];
    if is_about_a_job {
        columns.push(Column::whole("LATER BY"));
    }
    let mut table = Table::new(columns);
    let span = |from: u64, to: u64| text::short(Millis(to.saturating_sub(from)));
    for row in &forecast.starts {
        let (at, wait) = if row.start_ms == 0 {
            ("not known".to_owned(), "-".to_owned())
        } else {
            (text::instant(row.start_ms), span(forecast.now_ms, row.start_ms))
        };
        let mut cells: Vec<Cell> = vec![
            row.job_id.to_string().into(),
            row.display_name.as_str().into(),
            row.queue.as_str().into(),
            at.into(),
            wait.into(),
        ];
        if is_about_a_job {
            let later = if row.start_ms == 0 { "-".to_owned() } else { span(row.start_without_ms, row.start_ms) };
            cells.push(later.into());
        }
        table.row(cells);
    }
    table.render(output, "no job waits")
}
