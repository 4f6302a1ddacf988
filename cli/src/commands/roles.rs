//! `muster roles`: which roles there are, and what each may do. The same in every cluster of this version, so that no cluster is asked.

use super::Session;
use crate::failure::Exit;
use crate::output::{Column, Table};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use types::{Permission, Role};

/// `muster roles ...`
#[derive(Debug, Subcommand)]
pub enum RolesCommand {
    /// List all roles and what each may do
    List,
    /// Show one role, a permission a line
    Show(RoleArgs),
}

/// A role.
#[derive(Args, Debug)]
#[command(
    after_help = "ROLE@WORKSPACE is a role in one workspace: of these permissions it gives those marked \"in a workspace\" there, and a look at
workers and queues. Who has which roles: muster users list. One's own: muster whoami.

Examples:
  muster roles show data-scientist
  muster users grant ana data-scientist@vision"
)]
pub struct RoleArgs {
    /// Its name
    #[arg(value_parser = |text: &str| text.parse::<Role>())]
    role: Role,
}

/// Runs `muster roles`.
pub fn run(command: &RolesCommand, session: &Session) -> anyhow::Result<Exit> {
    match command {
        RolesCommand::List => {
            let value = json!({ "roles": Role::ALL.iter().map(|role| value(*role)).collect::<Vec<_>>() });
            session.output.print(&value, |output| {
                let mut table = Table::new(vec![Column::whole("ROLE"), Column::text("MAY")]);
                for role in Role::ALL {
                    let may: Vec<&str> = given(*role).map(Permission::name).collect();
                    let may = if may.len() == Permission::ALL.len() { "everything".to_owned() } else { may.join(", ") };
                    table.row(vec![role.name().into(), may.into()]);
                }
                table.render(output, "no roles")
            })?;
        }
        RolesCommand::Show(args) => session.output.print(&value(args.role), |output| {
            let mut table = Table::new(["PERMISSION", "COUNTS"].map(Column::whole).to_vec());
            for permission in given(args.role) {
                table.row(vec![permission.name().into(), place(permission).into()]);
            }
            table.render(output, "nothing")
        })?,
    }
    Ok(Exit::Success)
}

fn given(role: Role) -> impl Iterator<Item = Permission> {
    Permission::ALL.iter().copied().filter(move |permission| role.gives(*permission))
}

/// Where it counts for a role in a workspace.
fn place(permission: Permission) -> &'static str {
    match (permission.is_of_workspaces(), permission.is_a_look_at_the_cluster()) {
        (true, _) => "in a workspace",
        (false, true) => "with any role",
        (false, false) => "in the cluster",
    }
}

fn value(role: Role) -> Value {
    let permissions = given(role).map(|permission| json!({ "name": permission.name(), "counts": place(permission) }));
    json!({ "name": role.name(), "permissions": permissions.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_says_what_it_gives() {
        let reader = value(Role::Reader);
        let names: Vec<_> = reader["permissions"].as_array().into_iter().flatten().map(|one| &one["name"]).collect();
        assert_eq!(names, ["cluster/read", "compute/read", "queues/read", "jobs/read"]);
        assert_eq!(value(Role::Owner)["permissions"].as_array().map(Vec::len), Some(Permission::ALL.len()));
    }
}
