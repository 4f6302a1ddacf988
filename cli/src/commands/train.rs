//! `muster train`: the built-in data-parallel training; a job's command calls it once a rank.

use crate::failure::{Exit, bad_input};
use clap::Args;

/// `muster train`
#[derive(Args, Debug)]
#[command(
    after_help = "Options are --config FILE, and --key value for single settings of it. --output DIR says where the model goes.

Examples:
  command: muster train --config train.yml --output ${{outputs.model}}      in a job file
  muster train --training.epochs 5 --output /tmp/model                      alone, on the built-in digits"
)]
pub struct TrainArgs {
    /// --config FILE, and --key value for single settings, as in --training.epochs 5
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

impl TrainArgs {
    /// The options as they stand on the command line after `muster train`; nothing when they ask for help, which is the
    /// parser's. Settings have any name, also that of a global option, so the parser must not see them.
    pub fn from_command_line() -> Option<TrainArgs> {
        let mut arguments = std::env::args_os().skip(1);
        if arguments.next().is_none_or(|name| name != "train") {
            return None;
        }
        let options: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
        let asks_for_help = options.iter().any(|option| option == "--help" || option == "-h");
        (!asks_for_help).then_some(TrainArgs { options })
    }
}

/// Trains until done.
pub fn run(args: TrainArgs) -> anyhow::Result<Exit> {
    daemon::logging::init(
        daemon::logging::LogFormat::Text,
        Some(daemon::environment::text("MUSTER_LOG").as_deref().unwrap_or("warn")),
    );
    let outcome = trainer::TrainArgs::parse(args.options).and_then(trainer::run);
    match outcome {
        Ok(_) => Ok(Exit::Success),
        Err(error @ trainer::Error::Config { .. }) => Err(bad_input(error.to_string())),
        Err(error) => Err(error.into()),
    }
}
