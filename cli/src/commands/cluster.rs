//! `muster cluster`: the coordinators, who leads, and changes of membership.

use super::Session;
use super::watching::{Shown, show};
use crate::failure::Exit;
use crate::output::{Cell, Column, Output, Table, json, style, text};
use clap::{Args, Subcommand};
use client::{Client, v1};
use std::fmt::Write as _;
use types::CoordinatorId;

/// `muster cluster ...`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show leader, members, workers, jobs and capacity
    Status(StatusArgs),
    /// List the coordinators
    Members,
    /// Add a coordinator that runs and is no member yet: it copies the state, then votes
    Add(AddArgs),
    /// Make a join token for a coordinator
    Admit(super::admit::AdmitCoordinatorArgs),
    /// Remove a coordinator, running or dead: its certificate ends with its membership
    Remove(RemoveArgs),
    /// Hand leadership to another coordinator
    Transfer(TransferArgs),
    /// List the cluster's certificate authorities, make a new one, retire the old one
    #[command(subcommand)]
    Authority(super::authority::AuthorityCommand),
    /// Copy everything into one sealed file, while all goes on
    Backup(super::backup::BackupArgs),
    /// Make a coordinator's data folder from a backup: a cluster that begins anew
    Restore(super::backup::RestoreArgs),
    /// Make the last coordinator that is left the whole cluster
    Recover(super::backup::RecoverArgs),
}

/// `muster cluster status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Ask one coordinator for what it knows, leader or not: works when there is no majority
    #[arg(long)]
    stale: bool,
    /// Show again whenever something changes, until interrupted
    #[arg(long, short)]
    watch: bool,
}

/// `muster cluster add`
#[derive(Args, Debug)]
#[command(
    after_help = "One that is started with --join asks for this by itself; this is for one that was admitted to the cluster and is no member.

Example:
  muster cluster add 4 10.0.0.4:7070"
)]
pub struct AddArgs {
    /// The id it was started with
    id: u64,
    /// Its gRPC address, host:port
    address: String,
    /// Its HTTP address, for people and Prometheus
    #[arg(long, default_value = "", hide_default_value = true, value_name = "HOST:PORT")]
    http: String,
}

/// `muster cluster remove`
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Its id
    id: u64,
}

/// `muster cluster transfer`
#[derive(Args, Debug)]
pub struct TransferArgs {
    /// The id of the new leader; any voter that is up to date when left out
    to: Option<u64>,
}

/// Runs it.
pub async fn run(command: ClusterCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        ClusterCommand::Status(args) => {
            return show(session, args.watch, || async {
                let status = client.status(args.stale).await?;
                Ok(Shown { value: json::status(&status), table: Box::new(move |output| page(&status, output)) })
            })
            .await;
        }
        ClusterCommand::Members => print_members(&client.members().await?, session)?,
        ClusterCommand::Add(args) => {
            let member = v1::AddMemberRequest { id: args.id, address: args.address, http_address: args.http };
            print_members(&client.add_member(member).await?, session)?;
        }
        ClusterCommand::Admit(args) => return super::admit::coordinator(args, client, session).await,
        ClusterCommand::Backup(args) => return super::backup::take(&args, client, session).await,
        // They need no cluster, and run without one.
        ClusterCommand::Restore(_) | ClusterCommand::Recover(_) => return Ok(Exit::Error),
        ClusterCommand::Authority(command) => return super::authority::run(command, client, session).await,
        ClusterCommand::Remove(args) => {
            print_members(&client.remove_member(CoordinatorId(args.id)).await?, session)?;
        }
        ClusterCommand::Transfer(args) => {
            let leader = client.transfer_leadership(args.to.map(CoordinatorId)).await?;
            let value = serde_json::json!({ "leader": leader.0 });
            session.output.print(&value, |_| format!("coordinator {leader} leads\n"))?;
        }
    }
    Ok(Exit::Success)
}

fn print_members(members: &[v1::ClusterMember], session: &Session) -> anyhow::Result<()> {
    let value = serde_json::json!({ "members": json::members(members) });
    session.output.print(&value, |output| table(members, output))
}

fn table(members: &[v1::ClusterMember], output: &Output) -> String {
    let mut table = Table::new(vec![
        Column::number("ID"),
        Column::whole("ROLE"),
        Column::whole("VOTER"),
        Column::text("ADDRESS"),
        Column::text("HTTP"),
        Column::number("LAG"),
    ]);
    for member in members {
        table.row(vec![
            member.id.to_string().into(),
            Cell::state(&member.role),
            if member.voter { "yes" } else { "no" }.into(),
            member.address.as_str().into(),
            member.http_address.as_str().into(),
            member.lag_entries.map_or_else(|| "-".to_owned(), |lag| lag.to_string()).into(),
        ]);
    }
    table.render(output, "no members")
}

/// Also the head of the demo's live view.
pub fn page(status: &v1::ClusterStatus, output: &Output) -> String {
    let leader = match status.leader {
        0 => output.paint(style::BAD, "no leader"),
        id => format!("coordinator {id} leads in term {}", status.term),
    };
    let mut page = format!("{}  {leader}\n", output.paint(style::HEAD, &format!("cluster {}", status.cluster_id)));
    let _ = writeln!(
        page,
        "  version {}, answered by coordinator {}, commit {}, applied {}",
        status.version, status.answered_by, status.commit_index, status.applied_index
    );
    let lost = output.paint(if status.workers_lost > 0 { style::BAD } else { style::DIM }, &lost_text(status));
    let _ = writeln!(page, "  workers {} ready, {} cordoned, {lost}", status.workers_ready, status.workers_cordoned);
    let _ = writeln!(
        page,
        "  cpus {} of {} used, gpus {} of {} used",
        status.cpus_used, status.cpus_total, status.devices_used, status.devices_total
    );
    if let Some(held) = status.telemetry.as_ref().filter(|held| held.jobs > 0) {
        let _ = writeln!(
            page,
            "  logs and metrics of {} jobs since {}: {} there, of {} written",
            held.jobs,
            text::instant(held.since_ms),
            text::bytes(held.file_bytes),
            text::bytes(held.stream_bytes)
        );
    }
    let jobs: Vec<String> = status
        .jobs_by_phase
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(phase, count)| format!("{count} {}", output.paint(style::state(phase), phase)))
        .collect();
    let _ = writeln!(page, "  jobs {}", if jobs.is_empty() { "none".into() } else { jobs.join(", ") });
    let _ = write!(page, "\n{}", table(&status.members, output));
    page
}

fn lost_text(status: &v1::ClusterStatus) -> String {
    format!("{} lost", status.workers_lost)
}
