//! `muster demo`: three coordinators and four workers as processes on this machine, a gang of four training on digits.
//!
//! ```text
//! folder ── processes (one thread owns the daemons) ── cluster up ── submit ── course ── report
//!                                                                      └ chaos: kill the leader, kill a worker
//! ```
//!
//! Nothing is left running, whatever happens, unless `--keep` says so.

mod board;
mod chaos;
mod course;
mod folder;
mod processes;
mod report;
mod start;
mod stop;
mod sweep;

use super::Session;
use crate::context;
use crate::failure::Exit;
use crate::output::note;
use anyhow::Context as _;
use clap::Args;
use folder::Folder;
use processes::Processes;
use std::path::{Path, PathBuf};

/// `muster demo`
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  muster demo
  muster demo --chaos                      kill the leader, then a worker, in the middle of training
  muster demo --keep                       leave the cluster up: muster --context demo jobs list
  muster demo --stop                       end what --keep left")]
pub struct DemoArgs {
    /// Leave the cluster running at the end
    #[arg(long)]
    keep: bool,
    /// Kill the leader and then a worker in the middle of training, and check that nothing is lost
    #[arg(long)]
    chaos: bool,
    /// Where data, logs and the model go; an empty folder or that of a former demo [default: ~/.local/share/muster/demo]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Seed of the training
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the cluster that a demo with --keep left in DIR
    #[arg(long, conflicts_with_all = ["keep", "chaos", "seed"])]
    stop: bool,
}

/// The context that a running demo has.
pub const CONTEXT: &str = "demo";
/// Coordinators and workers.
pub const COORDINATORS: usize = 3;
/// See above.
pub const WORKERS: usize = 4;

/// Runs it.
pub fn run(args: DemoArgs, session: &Session) -> anyhow::Result<Exit> {
    let dir = args.dir.clone().unwrap_or_else(folder::default_path);
    if args.stop {
        return stop::run(&dir);
    }
    let folder = Folder::take(&dir)?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let processes = Processes::start(program, folder.logs(), folder.path.join(start::CREDENTIALS), args.keep)?;
    let runtime = super::small_runtime()?;
    let outcome = runtime.block_on(guarded(&args, session, &folder, &processes));
    // The runtime first: its tasks still talk to the daemons that end with `processes`.
    drop(runtime);
    drop(processes);
    outcome
}

/// Runs the demo and, however it ends, ends the daemons that are not to stay.
async fn guarded(args: &DemoArgs, session: &Session, folder: &Folder, processes: &Processes) -> anyhow::Result<Exit> {
    let addresses = start::Addresses::choose()?;
    let config = context::config_path();
    let interrupted = interrupt()?;
    let outcome = tokio::select! {
        outcome = play(args, session, folder, processes, &addresses) => outcome.map(|()| Exit::Success),
        () = interrupted => {
            note("\ninterrupted: ending the cluster");
            Ok(Exit::Interrupted)
        }
    };
    if matches!(outcome, Ok(Exit::Success)) && args.keep {
        let running = processes.free().await?;
        folder.note_running(&addresses.grpc, &running)?;
        report::kept(&folder.path, args.dir.is_some());
        return outcome;
    }
    if outcome.is_err() {
        report::log_tails(&folder.logs());
    }
    processes.stop().await?;
    if let Ok(path) = &config {
        context::forget(path, CONTEXT, &addresses.grpc)?;
    }
    if matches!(outcome, Ok(Exit::Success)) {
        report::stopped(&folder.path);
    }
    outcome
}

/// SIGINT or SIGTERM, watched from the start so that none ends the process with its daemons still up.
fn interrupt() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut kinds = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        kinds.push(signal(kind).context("cannot watch signals")?);
    }
    Ok(async move {
        std::future::poll_fn(|context| {
            if kinds.iter_mut().any(|kind| kind.poll_recv(context).is_ready()) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    })
}

async fn play(
    args: &DemoArgs,
    session: &Session,
    folder: &Folder,
    processes: &Processes,
    addresses: &start::Addresses,
) -> anyhow::Result<()> {
    report::begin(&folder.path, addresses);
    let token = start::founder(processes, &folder.path, addresses).await?;
    if let Ok(path) = context::config_path() {
        context::remember(&path, CONTEXT, addresses.grpc.clone(), Some(&token))?;
    }
    let client = client::Client::connect(addresses.grpc.clone(), &token);
    let mut course = course::Course::new(client.clone(), processes, &session.output, Folder::steps_total());
    start::cluster(&mut course, &client, processes, &folder.path, addresses).await?;
    let submitted = start::submit(&mut course, &client, folder, args, session).await?;
    course.watch_job(submitted.job);
    let chaos = if args.chaos { Some(chaos::run(&mut course, &client, processes).await?) } else { None };
    let job = finished(&mut course, &client, submitted.job).await?;
    let mut result = report::collect(&mut course, &client, &submitted, &job, &folder.path).await?;
    if chaos.is_some() {
        result.undisturbed = Some(undisturbed(&mut course, &client, folder, args, session).await?);
    }
    course.finish()?;
    report::print(&result, chaos.as_ref(), session, args)?;
    result.check()
}

async fn finished(
    course: &mut course::Course<'_>,
    client: &client::Client,
    job: types::JobId,
) -> anyhow::Result<client::v1::Job> {
    let ended = course.during(async { Ok(client.wait(job).await?) }).await?;
    anyhow::ensure!(ended.phase == "Completed", "job {job} is {}: {}", ended.phase, ended.reason);
    course.during(async { Ok(client.get(job).await?) }).await
}

/// The same job again, left alone: what it ends with is what the disturbed one must have ended with.
async fn undisturbed(
    course: &mut course::Course<'_>,
    client: &client::Client,
    folder: &Folder,
    args: &DemoArgs,
    session: &Session,
) -> anyhow::Result<report::Model> {
    course.tell("the same training once more, undisturbed, to compare")?;
    let alone = start::Alone { chaos: false, name: "digits-undisturbed" };
    let job = start::submit_job(course, client, folder, args, session, &alone).await?;
    let job = finished(course, client, job).await?;
    let path: &Path = &folder.path.join("model-undisturbed");
    report::model(course, client, &job, path).await
}
