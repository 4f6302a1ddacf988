//! What the demo says at its beginning and end, and the checks that make it fail.

use super::chaos::Chaos;
use super::course::Course;
use super::start::{Addresses, Submitted};
use super::{CONTEXT, DemoArgs};
use crate::commands::Session;
use crate::commands::lineage;
use crate::output::{json, note, style, text, write_stdout};
use anyhow::Context as _;
use client::{Client, v1};
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use types::{ContentHash, JobId, Millis};

/// Below this the demo fails.
const ACCURACY_MIN: f64 = 0.97;
/// Lines of each log that are shown after a failure.
const TAIL_LINES: usize = 12;

/// A trained model that was downloaded.
#[derive(Clone, Debug)]
pub struct Model {
    /// Where it is.
    pub folder: PathBuf,
    /// Share of the test images that it gets right.
    pub test_accuracy: f64,
    /// Of all parameters.
    pub parameters_sha256: String,
}

/// How the demo ended.
pub struct Outcome {
    job_value: serde_json::Value,
    model: Model,
    first_step: Option<(Millis, u64)>,
    lineage: v1::LineageGraph,
    /// What the same training ends with when nobody disturbs it.
    pub undisturbed: Option<Model>,
}

/// Says where everything is.
pub fn begin(folder: &Path, addresses: &Addresses) {
    note(&format!("muster demo in {}", folder.display()));
    note(&format!("  logs          {}", folder.join("logs").display()));
    note(&format!("  coordinators  {}", addresses.grpc.join("  ")));
    let http: Vec<String> = addresses.http.iter().map(|address| format!("https://{address}/metrics")).collect();
    note(&format!("  metrics       {}", http.join("  ")));
}

/// Gathers what the end is about.
pub async fn collect(
    course: &mut Course<'_>,
    client: &Client,
    submitted: &Submitted,
    job: &v1::Job,
    folder: &Path,
) -> anyhow::Result<Outcome> {
    let model = model(course, client, job, &folder.join("model")).await?;
    let lineage = course.during(async { Ok(client.lineage(submitted.job).await?) }).await?;
    let first_step =
        course.board.first_point.map(|(time_ms, step)| (Millis(time_ms.saturating_sub(submitted.at.0)), step));
    Ok(Outcome { job_value: json::job(job), model, first_step, lineage, undisturbed: None })
}

/// Downloads the model of a finished job and reads what it says of itself.
pub async fn model(course: &mut Course<'_>, client: &Client, job: &v1::Job, folder: &Path) -> anyhow::Result<Model> {
    // Every member has the output's folder; rank 0 wrote into its own.
    let output = job.outputs.iter().filter(|output| output.name == "model").max_by_key(|output| output.bytes);
    let output = output.context("the job has no output called model")?;
    let tree = ContentHash::from_slice(&output.tree).context("the output's hash is damaged")?;
    let place = client::Place::Job(JobId(job.summary.as_ref().map_or(0, |summary| summary.id)));
    course.during(async { Ok(client.download(&place, tree, folder, &|_| {}).await?) }).await?;
    let path = folder.join("model.json");
    let description = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let description: serde_json::Value = serde_json::from_slice(&description).context("model.json is damaged")?;
    Ok(Model {
        folder: folder.to_owned(),
        test_accuracy: description["test_accuracy"].as_f64().context("model.json has no test accuracy")?,
        parameters_sha256: description["parameters_sha256"].as_str().unwrap_or_default().to_owned(),
    })
}

impl Outcome {
    /// What must be true of the end.
    pub fn check(&self) -> anyhow::Result<()> {
        let accuracy = self.model.test_accuracy;
        anyhow::ensure!(accuracy >= ACCURACY_MIN, "test accuracy {accuracy:.4} is below {ACCURACY_MIN}");
        if let Some(undisturbed) = &self.undisturbed {
            anyhow::ensure!(
                undisturbed.parameters_sha256 == self.model.parameters_sha256,
                "the disturbed training ended with other parameters ({} instead of {}), test accuracy {:.4} instead of {:.4}",
                short(&self.model.parameters_sha256),
                short(&undisturbed.parameters_sha256),
                accuracy,
                undisturbed.test_accuracy
            );
        }
        Ok(())
    }
}

/// Prints the end: for people, or as JSON or YAML.
pub fn print(outcome: &Outcome, chaos: Option<&Chaos>, session: &Session, args: &DemoArgs) -> anyhow::Result<()> {
    let value = json!({
        "job": outcome.job_value,
        "test_accuracy": outcome.model.test_accuracy,
        "parameters_sha256": outcome.model.parameters_sha256,
        "model": outcome.model.folder.display().to_string(),
        "submit_to_first_step_ms": outcome.first_step.map(|(span, _)| span.0),
        "chaos": chaos.map(|chaos| json!({
            "killed_leader": chaos.leader,
            "failover_ms": chaos.failover.as_millis() as u64,
            "killed_worker": chaos.worker,
            "recovery_ms": chaos.recovery.as_millis() as u64,
            "step_at_death": chaos.step_at_death,
            "resumed_from_step": chaos.resumed_from_step,
        })),
        "undisturbed": outcome.undisturbed.as_ref().map(|model| json!({
            "test_accuracy": model.test_accuracy,
            "parameters_sha256": model.parameters_sha256,
        })),
    });
    let text = session.output.render(&value, |output| page(outcome, chaos, args, output));
    write_stdout(text.as_bytes())
}

fn page(outcome: &Outcome, chaos: Option<&Chaos>, args: &DemoArgs, output: &crate::output::Output) -> String {
    let mut page = format!("\n{}\n", output.paint(style::HEAD, "lineage"));
    page.push_str(&lineage::tree(&outcome.lineage, output));
    let _ = writeln!(page, "\n{}", output.paint(style::HEAD, "result"));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(page, "  {name:<26}{value}");
    };
    let good = outcome.model.test_accuracy >= ACCURACY_MIN;
    let accuracy = format!("{:.4}", outcome.model.test_accuracy);
    line("test accuracy", output.paint(if good { style::GOOD } else { style::BAD }, &accuracy));
    if let Some((span, step)) = outcome.first_step {
        line("submit to first step", format!("{} (its first metric, of step {step})", text::short(span)));
    }
    if let Some(chaos) = chaos {
        line(
            "leader killed",
            format!("coordinator {}; next write after {} ms", chaos.leader, chaos.failover.as_millis()),
        );
        line("training meanwhile", "the same attempt went on".into());
        line("worker killed", format!("{} at step {}", chaos.worker, chaos.step_at_death));
        line("resumed from step", format!("{} after {:.1} s", chaos.resumed_from_step, chaos.recovery.as_secs_f64()));
    }
    if let Some(other) = &outcome.undisturbed {
        let same = other.parameters_sha256 == outcome.model.parameters_sha256;
        let word = if same { "the same parameters, bit for bit" } else { "OTHER PARAMETERS" };
        line("undisturbed accuracy", format!("{:.4}: {word}", other.test_accuracy));
    }
    line("parameters", short(&outcome.model.parameters_sha256));
    line("model", outcome.model.folder.display().to_string());
    if !args.keep {
        line("to look around", format!("muster demo --keep, then muster --context {CONTEXT} jobs list"));
    }
    page
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// After `--keep`: how to go on, and how to end it.
pub fn kept(dir: &Path, named: bool) {
    note(&format!("\nThe cluster stays up. Go on with:\n  muster --context {CONTEXT} jobs list"));
    note(&format!("  muster --context {CONTEXT} cluster status\n  muster --context {CONTEXT} metrics 1"));
    note(&format!("  muster --context {CONTEXT} submit {}", dir.join("digits/job.yml").display()));
    let dir = if named { format!(" --dir {}", dir.display()) } else { String::new() };
    note(&format!("End it with:\n  muster demo --stop{dir}"));
}

/// Nothing runs any more.
pub fn stopped(dir: &Path) {
    note(&format!("The cluster is stopped; its files stay in {}", dir.display()));
}

/// The ends of all daemons' logs, after a failure.
pub fn log_tails(logs: &Path) {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(logs).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let tail = tail(&path).unwrap_or_else(|error| format!("(cannot be read: {error})"));
        note(&format!("--- the end of {}\n{tail}", path.display()));
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    /// Enough for the lines that are shown.
    const BYTES: u64 = 16 * 1024;
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}
