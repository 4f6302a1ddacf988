//! `muster`: the one binary. Roles (coordinator, worker, rank) and the operator's commands, one a file under `commands/`.
//!
//! A library only so that the tests of whole clusters can run the very same program under a name of their own.

mod args;
mod commands;
mod context;
mod failure;
mod output;

use failure::Exit;
use std::process::ExitCode;

/// The program: reads the command line of this process, does what it says, answers with its exit code.
pub fn main() -> ExitCode {
    // What runs once per rank must not pay for the command line parser or a runtime.
    if let Some(code) = commands::rank_entry() {
        return code;
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
