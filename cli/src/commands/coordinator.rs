//! `muster coordinator`: a member of the Raft group.

use super::role::RoleArgs;
use crate::failure::Exit;
use clap::Args;

/// `muster coordinator`
#[derive(Args, Debug)]
pub struct CoordinatorArgs {
    /// Options of every daemon.
    #[command(flatten)]
    role: RoleArgs,
}

/// Runs until it is stopped.
pub fn run(args: CoordinatorArgs) -> anyhow::Result<Exit> {
    args.role.run(|_| async { Ok(()) })?;
    Ok(Exit::Success)
}
