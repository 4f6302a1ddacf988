//! `muster worker`: the daemon on each machine, and the entry of a rank's supervisor.

use super::Session;
use super::role::RoleArgs;
use crate::failure::Exit;
use clap::Args;
use std::process::ExitCode;

/// `muster worker`
#[derive(Args, Debug)]
pub struct WorkerArgs {
    /// Options of every daemon.
    #[command(flatten)]
    role: RoleArgs,
}

/// Runs until it is stopped.
pub fn run(args: WorkerArgs, _session: &Session) -> anyhow::Result<Exit> {
    args.role.run(|_| async { Ok(()) })?;
    Ok(Exit::Success)
}

/// The supervisor of one rank.
pub fn rank_shim() -> ExitCode {
    ExitCode::FAILURE
}
