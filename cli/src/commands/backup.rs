//! `muster cluster backup|restore|recover`: a copy of everything in one file, and a cluster that begins anew.

use super::{Session, small_runtime};
use crate::failure::{Exit, bad_input};
use crate::output::note;
use crate::output::text::{bytes, instant};
use anyhow::Context as _;
use clap::Args;
use client::Client;
use coordinator::backup::{self, Contents, Recovered, Restore, Restored};
use identity::SealingKey;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use types::CoordinatorId;

/// `muster cluster backup`
#[derive(Args, Debug)]
#[command(
    after_help = "The file holds the tables, the cluster's keys, and all that jobs brought, saved, wrote and measured, sealed with the key. Without
the key nobody can read it; with both, anybody is the cluster. Running jobs are not held up.

Examples:
  muster cluster backup /backup/monday.muster --key /safe/backup.key
  muster cluster restore /backup/monday.muster --key /safe/backup.key --check"
)]
pub struct BackupArgs {
    /// The file to write; one that is there is replaced once the new one is whole
    file: PathBuf,
    /// File with the key, 64 hexadecimal digits for its user alone; made when it is not there
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Without the jobs' code, inputs, checkpoints, outputs, logs and metrics
    #[arg(long)]
    tables_only: bool,
}

/// `muster cluster restore`
#[derive(Args, Debug)]
#[command(
    after_help = "Makes the data folder of one coordinator, which is then the whole cluster: start it, let others join, and point the workers to
it. What ran at the time of the backup starts again from its last checkpoint. No coordinator of before may run any more.

Example:
  muster cluster restore monday.muster --key backup.key --data /var/lib/muster --id 1 --address 10.0.0.1:7070
  muster coordinator --id 1 --data /var/lib/muster --listen 10.0.0.1:7070"
)]
pub struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// File with its key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Read every byte of the backup and say what is in it; restore nothing
    #[arg(long, conflicts_with_all = ["data", "id", "address"])]
    check: bool,
    /// The data folder to make; absent or empty
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    data: Option<PathBuf>,
    /// The coordinator's number
    #[arg(long, value_name = "N", required_unless_present = "check", value_parser = clap::value_parser!(u64).range(1..))]
    id: Option<u64>,
    /// Where the others will reach its gRPC: its --advertise or --listen
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "check")]
    address: Option<String>,
    /// Where people and Prometheus will reach its HTTP [default: the same host, the next port]
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// Numbers of jobs to leave out: more than were submitted after the backup
    #[arg(long, value_name = "COUNT", default_value_t = backup::JOBS_LEFT_OUT)]
    skip_jobs: u64,
}

/// `muster cluster recover`
#[derive(Args, Debug)]
#[command(
    after_help = "For when so many coordinators are lost for good that no majority is left: makes the one whose folder this is the whole cluster,
with all that it has. What the others acknowledged and it never got is lost; a majority that can still be had is better. Stop it
first. The store of before is kept beside the new one.

Example:
  muster cluster recover --data /var/lib/muster --id 2 --others-are-gone
  muster coordinator --id 2 --data /var/lib/muster --listen 10.0.0.2:7070"
)]
pub struct RecoverArgs {
    /// Its data folder
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Its number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// No other coordinator of this cluster runs or will ever run again
    #[arg(long, required = true)]
    others_are_gone: bool,
}

/// Takes a backup.
pub async fn take(args: &BackupArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let (key, made) = key_for(&args.key)?;
    if made {
        note(&format!(
            "made a new key: {}; keep it apart from the backup, nobody can read that without it",
            args.key.display()
        ));
    }
    let name = args.file.file_name().ok_or_else(|| bad_input(format!("{} is no file name", args.file.display())))?;
    let part = args.file.with_file_name(format!(".{}.part", name.to_string_lossy()));
    let taken = receive(args, client, session, &key, &part).await;
    let checked = taken.and_then(|()| {
        let contents = backup::check(&part, &key).context("what was written is not what was sent")?;
        let size = std::fs::metadata(&part).with_context(|| format!("cannot look at {}", part.display()))?.len();
        std::fs::rename(&part, &args.file).with_context(|| format!("cannot write {}", args.file.display()))?;
        let parent = args.file.parent().unwrap_or(Path::new(""));
        daemon::files::sync_folder(parent)
            .with_context(|| format!("cannot flush the folder of {}", args.file.display()))?;
        Ok((contents, size))
    });
    if checked.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    let (contents, size) = checked?;
    let mut value = contents_value(&contents);
    value["file"] = json!(args.file);
    value["file_bytes"] = json!(size);
    value["key_made"] = json!(made);
    session.output.print(&value, |_| {
        format!("{}: {}, {}\n{}", args.file.display(), bytes(size), "every byte checked", contents_text(&contents))
    })?;
    Ok(missing_exit(&contents))
}

/// What needs no cluster.
pub fn restore(args: &RestoreArgs, session: &Session) -> anyhow::Result<Exit> {
    let key = read_key(&args.key)?;
    let (Some(data), Some(id), Some(address)) = (&args.data, args.id, &args.address) else {
        let contents = backup::check(&args.file, &key)?;
        session.output.print(&contents_value(&contents), |_| contents_text(&contents))?;
        return Ok(missing_exit(&contents));
    };
    let http = http_address(address, args.http.as_deref())?;
    let mut wanted = Restore::new(data, CoordinatorId(id), address.clone(), http);
    wanted.jobs_left_out = args.skip_jobs;
    let restored = backup::restore(&args.file, &key, &wanted)?;
    let Restored { contents, admin, owner, next_job } = &restored;
    let mut value = contents_value(contents);
    value["data"] = json!(data);
    value["admin"] = json!(admin);
    value["owner"] = json!(owner);
    value["next_job"] = json!(next_job);
    session.output.print(&value, |_| {
        format!(
            "{}restored into {}; new jobs begin at {next_job}\nstart it:   muster coordinator --id {id} --data {} --listen \
             {address}\na token of {owner} is in {}; all tokens that counted at the backup count again\n",
            contents_text(contents),
            data.display(),
            data.display(),
            admin.display()
        )
    })?;
    Ok(missing_exit(contents))
}

/// Makes the coordinator of a folder the whole cluster.
pub fn recover(args: &RecoverArgs, session: &Session) -> anyhow::Result<Exit> {
    let recovered = small_runtime()?.block_on(backup::recover(&args.data, CoordinatorId(args.id)))?;
    let Recovered { last, committed, dropped, next_job, kept } = &recovered;
    let dropped: Vec<u64> = dropped.iter().map(|id| id.0).collect();
    let value = json!({
        "last_entry": last.0, "committed_entry": committed.map(|index| index.0), "members_dropped": dropped,
        "next_job": next_job, "kept": kept,
    });
    session.output.print(&value, |_| {
        let names: Vec<String> = dropped.iter().map(ToString::to_string).collect();
        format!(
            "coordinator {} is the whole cluster now, with the log up to entry {last}; dropped: {}\nnew jobs begin at {next_job}; \
             the store of before is in {}: remove it when all is well\n",
            args.id,
            if names.is_empty() { "none".to_owned() } else { names.join(", ") },
            kept.display()
        )
    })?;
    Ok(Exit::Success)
}

async fn receive(
    args: &BackupArgs,
    client: &Client,
    session: &Session,
    key: &SealingKey,
    part: &Path,
) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", part.display());
    let mut file = File::create(part).with_context(failed)?;
    let text = key.text();
    let raw = crate::output::text::unhex(&text).unwrap_or_default();
    let mut chunks = client.backup(&raw, args.tables_only).await?;
    let bar = bar(session.output.bars);
    while let Some(chunk) = chunks.next().await.inspect_err(|_| bar.finish_and_clear())? {
        file.write_all(&chunk.data).with_context(failed)?;
        bar.set_length(chunk.total);
        bar.set_position(chunk.done);
    }
    bar.finish_and_clear();
    file.sync_all().with_context(failed)
}

fn bar(visible: bool) -> ProgressBar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let template = "files and jobs {pos}/{len} [{bar:30}] {eta}";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// The key, and whether it was made just now.
fn key_for(path: &Path) -> anyhow::Result<(SealingKey, bool)> {
    if path.exists() {
        return Ok((read_key(path)?, false));
    }
    let key = SealingKey::generate()?;
    let text = format!("{}\n", key.text().as_str());
    daemon::files::write_secret(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((key, true))
}

fn read_key(path: &Path) -> anyhow::Result<SealingKey> {
    let read = daemon::files::read_secret(path).with_context(|| format!("cannot read {}", path.display()));
    let read = read.map_err(|error| bad_input(format!("{error:#}")))?;
    let key = SealingKey::parse(&String::from_utf8_lossy(&read));
    key.map_err(|error| bad_input(format!("{}: {error}", path.display())))
}

fn http_address(grpc: &str, given: Option<&str>) -> anyhow::Result<String> {
    let split = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        Some((host.to_owned(), port.parse::<u16>().ok().filter(|port| *port > 0)?)).filter(|(host, _)| !host.is_empty())
    };
    let wrong = |text: &str| bad_input(format!("{text:?} is no HOST:PORT"));
    let (host, port) = split(grpc).ok_or_else(|| wrong(grpc))?;
    match given {
        Some(text) => split(text).map(|_| text.to_owned()).ok_or_else(|| wrong(text)),
        None => Ok(format!("{host}:{}", port.checked_add(1).ok_or_else(|| wrong(grpc))?)),
    }
}

fn contents_value(contents: &Contents) -> Value {
    let Contents { head, jobs, workers, users, blobs, bytes, missing, altered } = contents;
    json!({
        "cluster": head.cluster.to_string(), "program": head.program, "entry": head.index.0, "time": instant(head.time.0),
        "has_data": head.has_data, "jobs": jobs, "workers": workers, "users": users, "blobs": blobs, "data_bytes": bytes,
        "missing": missing.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "lineage_altered_job": altered.map(|(job, _)| job.0),
    })
}

fn contents_text(contents: &Contents) -> String {
    let Contents { head, jobs, workers, users, blobs, bytes: data, missing, altered } = contents;
    let data = if head.has_data {
        format!("{blobs} files, {} of files, logs and metrics", bytes(*data))
    } else {
        "tables only".to_owned()
    };
    let mut text = format!(
        "cluster {} at {}, entry {}: {jobs} jobs, {workers} workers, {users} users, {data}\n",
        head.cluster,
        instant(head.time.0),
        head.index
    );
    for hash in missing {
        let _ = writeln!(text, "missing: {hash}, which a job names and no coordinator had");
    }
    if let Some((job, number)) = altered {
        let _ = writeln!(text, "altered: job {job} is not what was sealed when it ended (record {number} of lineage)");
    }
    text
}

/// A backup that lacks something, or holds what was altered, is no success.
fn missing_exit(contents: &Contents) -> Exit {
    if contents.missing.is_empty() && contents.altered.is_none() { Exit::Success } else { Exit::Error }
}
