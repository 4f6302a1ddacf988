//! Developer tasks: `verify` says whether the tree keeps the project's rules, `tidy` is its fast part, `fix` repairs,
//! `bench` measures, `fuzz` looks for inputs that break a reader, `dashboards` writes what Grafana shows, `release` what is shipped, and `sbom` what the
//! program is made of.
//!
//! One subcommand is one file in `commands`, with one arm below. A check is one file in `checks`: a function from the
//! tree (or from `cargo metadata`) to faults, so that its unit tests need no files. Nothing but `fix`, `dashboards`, `sbom` and
//! `fuzz --keep` writes, but for what cargo, `bench` and `fuzz` put into `target`.

mod checks;
mod commands;
mod dashboards;
mod fault;
mod metadata;
mod process;
mod source;
mod tree;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Developer tasks of Muster.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks everything that a change must keep; prints a line for each check and every fault; writes nothing.
    Verify(commands::verify::Arguments),
    /// The checks of `verify` that only read text: done within a second.
    Tidy,
    /// Formats, and applies what clippy can repair by itself.
    Fix,
    /// Builds the release and measures it, beside its peers where they are installed.
    Bench(commands::bench::Arguments),
    /// Looks for inputs that bring a reader of foreign bytes down, led by the code that they reach.
    Fuzz(commands::fuzz::Arguments),
    /// Builds the program as it is shipped, with the list of what it is made of inside and beside it.
    Release,
    /// Says what the program is made of, as a bill of materials (CycloneDX).
    Sbom(commands::sbom::Arguments),
    /// Writes the Grafana dashboards of `deploy/grafana` anew.
    Dashboards,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Verify(arguments) => commands::verify::run(&arguments),
        Command::Tidy => commands::tidy::run(),
        Command::Fix => commands::fix::run(),
        Command::Bench(arguments) => commands::bench::run(&arguments),
        Command::Fuzz(arguments) => commands::fuzz::run(&arguments),
        Command::Release => commands::release::run(),
        Command::Sbom(arguments) => commands::sbom::run(&arguments),
        Command::Dashboards => commands::dashboards::run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_unknown_check_is_refused() {
        assert!(Arguments::try_parse_from(["xtask", "verify", "--only", "nonsense"]).is_err());
        assert!(Arguments::try_parse_from(["xtask", "verify", "--only", "heads", "--only", "layers"]).is_ok());
    }
}
