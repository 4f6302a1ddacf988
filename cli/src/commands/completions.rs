//! `muster completions`: a script for the user's shell, on stdout.

use crate::args::Cli;
use crate::failure::Exit;
use crate::output::write_stdout;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// `muster completions`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  muster completions bash > /etc/bash_completion.d/muster
  muster completions zsh > ~/.zfunc/_muster
  muster completions fish > ~/.config/fish/completions/muster.fish")]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints it.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "muster", &mut script);
    write_stdout(&script)?;
    Ok(Exit::Success)
}
