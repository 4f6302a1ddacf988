//! `muster`: the one binary. Roles (coordinator, worker, rank) and the operator's commands, one a file under `commands/`.

mod args;
mod commands;
mod context;
mod failure;
mod output;

use failure::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A rank's supervisor is started once per rank: it must not pay for the command line parser or a runtime.
    if std::env::args_os().nth(1).is_some_and(|name| name == "rank-shim") {
        return commands::rank_shim();
    }
    let outcome = match commands::train::TrainArgs::from_command_line() {
        Some(args) => commands::train::run(args),
        None => match args::parse() {
            Ok(command) => commands::run(command),
            Err(error) => {
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            }
        },
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) if failure::is_broken_pipe(&error) => Exit::Success.into(),
        Err(error) => {
            failure::print(&error);
            failure::exit_of(&error).into()
        }
    }
}
