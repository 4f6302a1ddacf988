//! `muster workspaces`: jobs that belong together, and who may see them.

use super::Session;
use crate::failure::Exit;
use crate::output::text::{age, instant};
use crate::output::{Column, Table};
use clap::{Args, Subcommand};
use client::{Client, v1};
use serde_json::{Value, json};

/// `muster workspaces ...`
#[derive(Debug, Subcommand)]
pub enum WorkspacesCommand {
    /// List the workspaces whose jobs one may see, and one's roles there
    List,
    /// Make a workspace, or note something else of one that is there
    Create(CreateArgs),
    /// Remove a workspace that has no jobs and in which nobody has a role
    Remove(NameArgs),
}

/// `muster workspaces create`
#[derive(Args, Debug)]
#[command(
    after_help = "A job is in one workspace, for good: `muster submit --workspace vision job.yml`, or x-muster.workspace in its file.
It is seen, cancelled and downloaded by who has a role there (`muster users grant ana data-scientist@vision`) or everywhere;
to everybody else it is as if it were not there. Jobs that name none are in the workspace `default`.

Examples:
  muster workspaces create vision --note 'the vision group'
  muster users create ana --role data-scientist@vision"
)]
pub struct CreateArgs {
    /// Its name
    name: String,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
}

/// A workspace.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// Its name
    name: String,
}

/// Runs `muster workspaces`.
pub async fn run(command: WorkspacesCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        WorkspacesCommand::List => print(&client.workspaces().await?, session)?,
        WorkspacesCommand::Create(args) => print(&[client.set_workspace(&args.name, &args.note).await?], session)?,
        WorkspacesCommand::Remove(args) => client.remove_workspace(&args.name).await?,
    }
    Ok(Exit::Success)
}

fn value(workspace: &v1::WorkspaceInfo) -> Value {
    json!({
        "name": workspace.name,
        "note": workspace.note,
        "created": (workspace.created_ms > 0).then(|| instant(workspace.created_ms)),
        "jobs": workspace.jobs,
        "roles": workspace.roles,
    })
}

fn print(workspaces: &[v1::WorkspaceInfo], session: &Session) -> anyhow::Result<()> {
    let all = json!({ "workspaces": workspaces.iter().map(value).collect::<Vec<_>>() });
    let now = daemon::clock::now();
    session.output.print(&all, |output| {
        let mut table = Table::new(vec![
            Column::whole("WORKSPACE"),
            Column::number("JOBS"),
            Column::whole("AGE"),
            Column::text("YOUR ROLES"),
            Column::text("NOTE"),
        ]);
        for workspace in workspaces {
            let age = if workspace.created_ms > 0 { age(workspace.created_ms, now) } else { String::new() };
            table.row(vec![
                workspace.name.as_str().into(),
                workspace.jobs.to_string().into(),
                age.into(),
                workspace.roles.join(", ").into(),
                workspace.note.as_str().into(),
            ]);
        }
        table.render(output, "no workspaces")
    })
}
