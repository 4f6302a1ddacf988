//! `muster submit`: a job file, all its faults at once, the bytes the cluster lacks, one job exactly once.

use super::{Session, follow};
use crate::failure::{Exit, Failure, bad_input};
use crate::output::{Format, json, note, text};
use anyhow::Context as _;
use clap::Args;
use client::{Blob, Client, LogQuery, Place, Progress, Source};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use job_spec::{Faults, Prepared, UploadSource};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use types::Workspace;

/// `muster submit`
#[derive(Args, Debug)]
#[command(after_help = "Prints the job's number. With --follow it prints the job's logs and ends as the job ends:
0 completed, 10 failed, 11 cancelled.

Examples:
  muster submit job.yml
  muster submit job.yml --follow
  muster submit job.yml --no-git-diff      without what muster lineage JOB --diff would show
  muster submit job.yml --check            only say what is wrong with it
  job=$(muster submit job.yml) && muster logs $job -f")]
pub struct SubmitArgs {
    /// The job file (Azure ML CLI v2 command job in YAML); - reads it from stdin
    file: PathBuf,
    /// Follow the job's logs, and end as the job ends
    #[arg(long, short)]
    follow: bool,
    /// Check the file and hash what it names; show the job, upload and submit nothing
    #[arg(long, conflicts_with = "follow")]
    check: bool,
    /// The workspace that the job is to be in, whatever its file says [env: MUSTER_WORKSPACE, where the file says nothing]
    #[arg(long, short, visible_alias = "workspace-name", value_name = "NAME")]
    workspace: Option<Workspace>,
    /// Do not record how the code differs from its git commit: that shows lines which were removed since, too
    #[arg(long)]
    no_git_diff: bool,
    /// Submit it though no worker that is known could ever host it: one may join
    #[arg(long)]
    wait_for_workers: bool,
}

/// Submits.
pub async fn run(args: SubmitArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let file = args.file.clone();
    let mut prepared = tokio::task::spawn_blocking(move || prepare(&file)).await??;
    if args.no_git_diff {
        prepared.leave_out_git_diff();
    }
    prepared.spec.workspace = workspace(args.workspace, prepared.spec.workspace.take())?;
    for warning in &prepared.warnings {
        note(&format!("warning: {warning}"));
    }
    if args.check {
        let spec = proto::convert::wire_job_spec(&prepared.spec);
        let bytes: u64 = prepared.uploads.iter().map(|upload| upload.bytes).sum();
        session.output.print(&json::spec(&spec), |_| {
            format!(
                "{} is good: {} ranks, {} files, {}\n",
                args.file.display(),
                prepared.spec.gang.world_size(),
                prepared.uploads.len(),
                text::bytes(bytes)
            )
        })?;
        return Ok(Exit::Success);
    }
    upload(client, &prepared, session).await?;
    let spec = &prepared.spec;
    let job = if args.wait_for_workers { client.submit_for_later(spec).await? } else { client.submit(spec).await? };
    let value = serde_json::json!({ "job_id": job.0 });
    match (args.follow, session.output.format) {
        (true, Format::Table) => note(&format!("job {job} submitted")),
        (true, _) => session.output.print_item(&value, |_| String::new())?,
        (false, _) => session.output.print(&value, |_| format!("{job}\n"))?,
    }
    if args.follow {
        return follow::follow(client, job, LogQuery { follow: true, ..Default::default() }, true, session).await;
    }
    if session.output.is_terminal && session.output.format == Format::Table {
        note(&format!("follow it with: muster logs {job} -f"));
    }
    Ok(Exit::Success)
}

/// The one of the command line, else the file's, else the environment's; else the coordinators choose.
fn workspace(asked: Option<Workspace>, of_file: Option<Workspace>) -> anyhow::Result<Option<Workspace>> {
    match asked.or(of_file) {
        Some(workspace) => Ok(Some(workspace)),
        None => daemon::environment::text("MUSTER_WORKSPACE")
            .map(Workspace::new)
            .transpose()
            .map_err(|error| bad_input(format!("MUSTER_WORKSPACE: {error}"))),
    }
}

/// Reads and resolves a job file; its faults are bad input. Blocks on the disk.
pub fn prepare(file: &Path) -> anyhow::Result<Prepared> {
    let (text, folder) = read(file)?;
    let name = file.display().to_string();
    job_spec::prepare(&text, &name, &folder).map_err(|faults| refused(&name, &faults))
}

fn read(file: &Path) -> anyhow::Result<(Vec<u8>, PathBuf)> {
    // One byte past the limit is enough for the parser to refuse it.
    let limit = job_spec::DOCUMENT_BYTES_MAX as u64 + 1;
    let mut text = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut text).context("cannot read stdin")?;
        return Ok((text, PathBuf::from(".")));
    }
    let opened = std::fs::File::open(file).and_then(|open| open.take(limit).read_to_end(&mut text));
    opened.map_err(|error| bad_input(format!("cannot read {}: {error}", file.display())))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((text, folder.to_owned()))
}

fn refused(name: &str, faults: &Faults) -> anyhow::Error {
    let count = faults.0.len();
    let s = if count == 1 { "" } else { "s" };
    Failure { exit: Exit::BadInput, text: format!("{name} has {count} fault{s}:\n{faults}") }.into()
}

/// Sends what the cluster lacks, with a bar where someone sees it.
pub async fn upload(client: &Client, prepared: &Prepared, session: &Session) -> anyhow::Result<()> {
    let blobs: Vec<Blob> = prepared
        .uploads
        .iter()
        .map(|upload| Blob {
            hash: upload.hash,
            bytes: upload.bytes,
            source: match &upload.source {
                UploadSource::File(path) => Source::File(path.clone()),
                UploadSource::Bytes(bytes) => Source::Memory(bytes.clone().into()),
            },
        })
        .collect();
    let bar = bar(session.output.bars);
    let progress = |progress: Progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_sent);
    };
    let uploaded = client.upload(&Place::from(prepared.spec.workspace.clone()), &blobs, &progress).await;
    bar.finish_and_clear();
    uploaded?;
    Ok(())
}

fn bar(visible: bool) -> ProgressBar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let template = "uploading {bytes}/{total_bytes} [{bar:30}] {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
