//! `muster roles`: which roles there are, what each may do, and those of the cluster's own.

use super::Session;
use crate::failure::{Exit, not_found};
use crate::output::text::instant;
use crate::output::{Column, Table};
use clap::{Args, Subcommand};
use client::{Client, v1};
use serde_json::{Value, json};
use types::Permission;

/// `muster roles ...`
#[derive(Debug, Subcommand)]
pub enum RolesCommand {
    /// List all roles and what each may do
    List,
    /// Show one role, a permission a line
    Show(RoleArgs),
    /// Make a role of the cluster's own, or change what one gives: to everybody who has it, at once
    Set(SetArgs),
    /// Remove a role of the cluster's own that nobody has
    Remove(NameArgs),
}

/// A role.
#[derive(Args, Debug)]
#[command(
    after_help = "ROLE@WORKSPACE is a role in one workspace: of these permissions it gives those marked \"in a workspace\" there, those
marked \"everywhere\" everywhere, and no others. Who has which roles: muster users list. One's own: muster whoami.

Examples:
  muster roles show data-scientist
  muster users grant ana data-scientist@vision"
)]
pub struct RoleArgs {
    /// Its name
    role: String,
}

/// `muster roles set`
#[derive(Args, Debug)]
#[command(
    after_help = "It is given like the built-in ones (muster users grant, tokens create --role, providers set --group), everywhere or in a workspace.
What a pattern names is looked up now: permissions that a later version of Muster brings are not in it. Nobody makes a role that
gives what they lack.

Examples:
  muster roles set mlops --may 'jobs/*' --may queues/read --note 'runs what was released'
  muster roles set auditor-plus --may '*/read' --except jobs/read
  muster users grant ci mlops@vision"
)]
pub struct SetArgs {
    /// Its name
    name: String,
    /// What it gives: a permission, or a pattern (jobs/*, */read, *)
    #[arg(long = "may", value_name = "PERMISSION", required = true, value_delimiter = ',')]
    may: Vec<String>,
    /// What of that it does not give
    #[arg(long, value_name = "PERMISSION", value_delimiter = ',')]
    except: Vec<String>,
    /// What it is for [default: as it was]
    #[arg(long)]
    note: Option<String>,
}

/// A role of the cluster's own.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// Its name
    name: String,
}

/// Runs `muster roles`.
pub async fn run(command: RolesCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        RolesCommand::List => print(&client.roles().await?, session)?,
        RolesCommand::Show(args) => {
            let roles = client.roles().await?;
            let names = || roles.iter().map(|role| role.name.as_str()).collect::<Vec<_>>().join(", ");
            let Some(role) = roles.iter().find(|role| role.name == args.role) else {
                return Err(not_found(format!("there is no role {:?}: use {}", args.role, names())));
            };
            show(role, session)?;
        }
        RolesCommand::Set(args) => {
            let SetArgs { name, may, except, note } = args;
            let wanted = v1::SetRoleRequest { name, permissions: may, except, note };
            print(&[client.set_role(wanted).await?], session)?;
        }
        RolesCommand::Remove(args) => client.remove_role(&args.name).await?,
    }
    Ok(Exit::Success)
}

fn print(roles: &[v1::RoleInfo], session: &Session) -> anyhow::Result<()> {
    let all = json!({ "roles": roles.iter().map(value).collect::<Vec<_>>() });
    session.output.print(&all, |output| {
        let mut table = Table::new(vec![Column::whole("ROLE"), Column::text("MAY"), Column::text("NOTE")]);
        for role in roles {
            let may = role.permissions.join(", ");
            let may = if role.permissions.len() == Permission::ALL.len() { "everything".to_owned() } else { may };
            let note = if role.built_in { "built in" } else { role.note.as_str() };
            table.row(vec![role.name.as_str().into(), may.into(), note.into()]);
        }
        table.render(output, "no roles")
    })
}

fn show(role: &v1::RoleInfo, session: &Session) -> anyhow::Result<()> {
    session.output.print(&value(role), |output| {
        let mut table = Table::new(["PERMISSION", "COUNTS"].map(Column::whole).to_vec());
        for permission in &role.permissions {
            table.row(vec![permission.as_str().into(), place(permission).into()]);
        }
        table.render(output, "nothing")
    })
}

/// Where it counts for a role in a workspace; of a later version's permission it is not known here.
fn place(permission: &str) -> &'static str {
    let known = permission.parse::<Permission>();
    match known.map(|known| (known.is_of_workspaces(), known.is_a_look_at_the_cluster())) {
        Ok((true, _)) => "in a workspace",
        Ok((false, true)) => "everywhere",
        Ok((false, false)) => "in the cluster",
        Err(_) => "",
    }
}

fn value(role: &v1::RoleInfo) -> Value {
    let permissions = role.permissions.iter().map(|name| json!({ "name": name, "counts": place(name) }));
    json!({
        "name": role.name,
        "permissions": permissions.collect::<Vec<_>>(),
        "note": role.note,
        "built_in": role.built_in,
        "created": (role.created_ms > 0).then(|| instant(role.created_ms)),
    })
}
