//! `muster workers`: what they offer, what runs on them, and whether new gangs may come.

use super::Session;
use super::watching::{Shown, show};
use crate::failure::{Exit, bad_input, not_found};
use crate::output::{Cell, Column, Output, Table, json, style, text};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use client::{Client, v1};
use std::fmt::Write as _;
use std::time::Duration;

/// `muster workers ...`
#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// List all workers
    List(ListArgs),
    /// Show one worker with its devices, labels and jobs
    Show(NameArgs),
    /// Place nothing new here; what runs goes on
    Cordon(NamesArgs),
    /// Place gangs here again
    Uncordon(NamesArgs),
    /// Empty a worker: what runs here is stopped with its grace, at once or at a deadline, and goes on elsewhere
    Drain(DrainArgs),
    /// Plan a time in which a worker will be away: nothing is placed there that would still run then
    Window(WindowArgs),
    /// Make a join token for a worker
    Admit(super::admit::AdmitWorkerArgs),
    /// A worker's certificates count no more: its session ends at once, and it joins again only by a new token
    Revoke(NameArgs),
    /// Keep gangs away that do not tolerate a taint (x-muster.tolerations); what runs goes on
    Taint(TaintArgs),
}

/// `muster workers window`
#[derive(Args, Debug)]
#[command(
    after_help = "What runs when the window begins is not stopped by it: drain for that. Jobs without limits.timeout count as an hour.

Examples:
  muster workers window gpu-7 --in 2h --for 30m
  muster workers window gpu-7 --at 2026-12-01T06:00:00Z --for 4h
  muster workers window gpu-7 --at 2026-12-01T06:00:00Z --cancel"
)]
pub struct WindowArgs {
    /// The worker's name
    worker: String,
    /// It begins at this time, in UTC
    #[arg(long, value_name = "TIME", value_parser = text::parse_instant, conflicts_with = "begins_in", required_unless_present = "begins_in")]
    at: Option<u64>,
    /// It begins after this time, such as 90s, 30m, 2h or 1d
    #[arg(long = "in", value_name = "SPAN", value_parser = text::parse_span)]
    begins_in: Option<u64>,
    /// How long it lasts
    #[arg(long = "for", value_name = "SPAN", value_parser = text::parse_span, required_unless_present = "cancel")]
    lasts: Option<u64>,
    /// Take back the window that begins then
    #[arg(long, conflicts_with_all = ["lasts", "begins_in"])]
    cancel: bool,
}

/// `muster workers taint`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  muster workers taint gpu-7 only-vision
  muster workers taint gpu-7 only-vision --remove")]
pub struct TaintArgs {
    /// The worker's name
    worker: String,
    /// The taints
    #[arg(required = true)]
    taints: Vec<String>,
    /// Take them back; those that the worker was started with (--taint) stay
    #[arg(long)]
    remove: bool,
}

/// `muster workers list`
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Show again whenever something changes, until interrupted
    #[arg(long, short)]
    watch: bool,
}

/// One worker.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// The worker's name
    worker: String,
}

/// Some workers.
#[derive(Args, Debug)]
pub struct NamesArgs {
    /// The workers' names
    #[arg(required = true)]
    workers: Vec<String>,
}

/// `muster workers drain`
#[derive(Args, Debug)]
#[command(
    after_help = "Until a deadline what runs may end by itself, and only jobs come that will be gone by then (limits.timeout; without one
they count as an hour). What still runs then is stopped with its grace and goes on elsewhere from its last checkpoint.

Examples:
  muster workers drain gpu-7 --wait
  muster workers drain gpu-7 gpu-8 --within 2h"
)]
pub struct DrainArgs {
    /// The workers' names
    #[arg(required = true)]
    workers: Vec<String>,
    /// Empty after this time, such as 90s, 30m, 2h or 1d [default: now]
    #[arg(long, value_name = "SPAN", value_parser = text::parse_span)]
    within: Option<u64>,
    /// Empty at this time, in UTC, such as 2026-12-01T06:00:00Z
    #[arg(long, value_name = "TIME", value_parser = text::parse_instant, conflicts_with = "within")]
    by: Option<u64>,
    /// Return when nothing runs there any more
    #[arg(long)]
    wait: bool,
}

/// Runs it.
pub async fn run(command: WorkersCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        WorkersCommand::List(args) => list(args.watch, client, session).await,
        WorkersCommand::Show(args) => {
            let worker = one(client, &args.worker).await?;
            session.output.print(&json::worker(&worker), |output| page(&worker, output))?;
            Ok(Exit::Success)
        }
        WorkersCommand::Cordon(args) => {
            let mut changed = Vec::new();
            for name in &args.workers {
                changed.push(client.cordon(name).await?);
            }
            print_states(&changed, session)
        }
        WorkersCommand::Uncordon(args) => {
            let mut changed = Vec::new();
            for name in &args.workers {
                changed.push(client.uncordon(name).await?);
            }
            print_states(&changed, session)
        }
        WorkersCommand::Drain(args) => drain(&args, client, session).await,
        WorkersCommand::Window(args) => {
            let from_ms = args.at.unwrap_or_else(|| daemon::clock::now().0 + args.begins_in.unwrap_or(0));
            let window = v1::MaintenanceWindow { from_ms, to_ms: from_ms + args.lasts.unwrap_or(0) };
            let worker = client.plan_window(&args.worker, window).await?;
            session.output.print(&json::worker(&worker), |output| page(&worker, output))?;
            Ok(Exit::Success)
        }
        WorkersCommand::Admit(args) => super::admit::worker(args, client, session).await,
        WorkersCommand::Revoke(args) => {
            client.revoke_node(v1::revoke_node_request::Node::Worker(args.worker)).await?;
            Ok(Exit::Success)
        }
        WorkersCommand::Taint(TaintArgs { worker, taints, remove }) => {
            let (add, remove) = if remove { (Vec::new(), taints) } else { (taints, Vec::new()) };
            let worker = client.taint(v1::TaintRequest { worker, add, remove }).await?;
            session.output.print(&json::worker(&worker), |output| page(&worker, output))?;
            Ok(Exit::Success)
        }
    }
}

async fn list(watch: bool, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    show(session, watch, || async {
        let workers = client.workers().await?;
        let value = serde_json::json!({ "workers": workers.iter().map(json::worker).collect::<Vec<_>>() });
        Ok(Shown { value, table: Box::new(move |output| table(&workers, output)) })
    })
    .await
}

async fn one(client: &Client, name: &str) -> anyhow::Result<v1::Worker> {
    let workers = client.workers().await?;
    let known: Vec<String> = workers.iter().map(|worker| worker.name.clone()).collect();
    workers
        .into_iter()
        .find(|worker| worker.name == name)
        .ok_or_else(|| not_found(format!("no worker {name:?}; there are: {}", known.join(", "))))
}

async fn drain(args: &DrainArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let mut changed = Vec::new();
    let now = daemon::clock::now().0;
    if let Some(past) = args.by.filter(|by| *by <= now) {
        let past = text::instant(past);
        return Err(bad_input(format!("--by {past} is past; to stop at once what runs there leave --by out")));
    }
    let within = args.within.map(|span| now.saturating_add(span));
    let deadline_ms = args.by.or(within).unwrap_or(0);
    for name in &args.workers {
        changed.push(client.drain(name, deadline_ms).await?);
    }
    while args.wait && changed.iter().any(|worker| jobs_count(worker) > 0) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let workers = client.workers().await?;
        for worker in &mut changed {
            let now = workers.iter().find(|now| now.name == worker.name);
            *worker = now.cloned().with_context(|| format!("worker {} is gone", worker.name))?;
        }
    }
    print_states(&changed, session)
}

fn print_states(workers: &[v1::Worker], session: &Session) -> anyhow::Result<Exit> {
    let value = serde_json::json!({ "workers": workers.iter().map(json::worker).collect::<Vec<_>>() });
    session.output.print(&value, |output| {
        workers.iter().fold(String::new(), |mut text, worker| {
            let state = output.paint(style::state(&worker.state), &worker.state);
            let _ = writeln!(text, "{}: {state}, {} jobs running", worker.name, jobs_count(worker));
            text
        })
    })?;
    Ok(Exit::Success)
}

fn table(workers: &[v1::Worker], output: &Output) -> String {
    let mut table = Table::new(vec![
        Column::whole("NAME"),
        Column::whole("STATE"),
        Column::number("CPUS"),
        Column::number("MEMORY"),
        Column::number("GPUS"),
        Column::text("JOBS"),
        Column::text("ZONE"),
        Column::text("RACK"),
        Column::text("ADDRESS"),
        Column::text("VERSION"),
    ]);
    for worker in workers {
        let gpus_used = worker.devices.iter().filter(|device| device.held).count();
        table.row(vec![
            worker.name.as_str().into(),
            Cell::state(&worker.state),
            format!("{}/{}", worker.cpus_used, worker.cpus_total).into(),
            format!("{}/{}", text::bytes(worker.memory_bytes_used), text::bytes(worker.memory_bytes_total)).into(),
            format!("{gpus_used}/{}", worker.devices.len()).into(),
            jobs(worker, ",").into(),
            worker.zone.as_str().into(),
            worker.rack.as_str().into(),
            worker.data_address.as_str().into(),
            worker.version.as_str().into(),
        ]);
    }
    table.render(output, "no workers")
}

fn jobs_count(worker: &v1::Worker) -> usize {
    worker.jobs.len() + worker.jobs_hidden as usize
}

/// Numbers of those that one may see, and how many others there are.
fn jobs(worker: &v1::Worker, between: &str) -> String {
    let seen = worker.jobs.iter().map(ToString::to_string);
    let others = (worker.jobs_hidden > 0).then(|| format!("{} of others", worker.jobs_hidden));
    seen.chain(others).collect::<Vec<_>>().join(between)
}

fn page(worker: &v1::Worker, output: &Output) -> String {
    let state = output.paint(style::state(&worker.state), &worker.state);
    let mut page = format!("{}  {state}\n", output.paint(style::HEAD, &worker.name));
    let memory = (text::bytes(worker.memory_bytes_used), text::bytes(worker.memory_bytes_total));
    let _ = writeln!(page, "  cpus       {} of {} used", worker.cpus_used, worker.cpus_total);
    let _ = writeln!(page, "  memory     {} of {} used", memory.0, memory.1);
    for (level, name) in
        [("zone", &worker.zone), ("block", &worker.block), ("rack", &worker.rack), ("switch", &worker.switch)]
    {
        if !name.is_empty() {
            let _ = writeln!(page, "  {level:<10} {}", crate::output::table::clean(name));
        }
    }
    let _ = writeln!(page, "  address    {}", worker.data_address);
    let _ = writeln!(page, "  version    {}", worker.version);
    if !worker.devices.is_empty() {
        let _ = writeln!(page, "  driver     {}, CUDA {}", or_dash(&worker.driver), or_dash(&worker.cuda));
        let _ = writeln!(page, "  nccl       {}", or_dash(&worker.nccl));
    }
    let _ = writeln!(page, "  registered {}", text::instant(worker.registered_ms));
    if worker.drained_by_ms > 0 {
        let _ = writeln!(page, "  empty by   {}", text::instant(worker.drained_by_ms));
    }
    if worker.aside_until_ms > 0 {
        let until = text::instant(worker.aside_until_ms);
        let _ = writeln!(
            page,
            "  set aside  until {until}: it failed several jobs; restart it when it is mended, or cordon and uncordon it"
        );
    }
    for window in &worker.windows {
        let _ = writeln!(page, "  away       {} to {}", text::instant(window.from_ms), text::instant(window.to_ms));
    }
    for (key, value) in &worker.labels {
        let _ = writeln!(page, "  label      {}", crate::output::table::clean(&format!("{key}={value}")));
    }
    for taint in &worker.taints {
        let _ = writeln!(page, "  taint      {taint}");
    }
    let _ = writeln!(page, "  jobs       {}", or_dash(&jobs(worker, ", ")));
    if !worker.devices.is_empty() {
        let _ = write!(page, "\n{}", devices(&worker.devices, output));
    }
    page
}

fn devices(devices: &[v1::Device], output: &Output) -> String {
    let mut table = Table::new(vec![
        Column::number("GPU"),
        Column::text("NAME"),
        Column::number("MEMORY"),
        Column::number("ISLAND"),
        Column::number("NUMA"),
        Column::number("NVLINKS"),
        Column::whole("STATE"),
        Column::text("UUID"),
    ]);
    for device in devices {
        let state = match (device.healthy, device.job) {
            (false, _) => Cell::styled("unhealthy", style::BAD),
            (true, 0) if device.held => "held".into(),
            (true, 0) => Cell::styled("free", style::GOOD),
            (true, job) => format!("job {job}").into(),
        };
        table.row(vec![
            device.index.to_string().into(),
            device.name.as_str().into(),
            text::bytes(device.memory_bytes).into(),
            device.island.to_string().into(),
            device.numa_node.map_or("-".to_owned(), |node| node.to_string()).into(),
            device.nvlinks.to_string().into(),
            state,
            device.uuid.as_str().into(),
        ]);
    }
    table.render(output, "")
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
