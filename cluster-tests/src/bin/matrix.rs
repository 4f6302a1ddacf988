//! Runs rows of the fault matrix against a real cluster; `rank` is what the ranks of its load run.

use clap::{Parser, Subcommand, ValueEnum};
use cluster_tests::matrix::{self, Options, witness};
use std::process::ExitCode;

/// The fault matrix with real processes.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    rank: Option<Program>,
    #[command(flatten)]
    options: Options,
    /// How the result is told
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Subcommand)]
enum Program {
    /// One rank of the load
    #[command(hide = true)]
    Rank(witness::Arguments),
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// A table
    Text,
    /// An object for each row
    Json,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { rank, options, output } = Arguments::parse();
    if let Some(Program::Rank(arguments)) = rank {
        witness::run(&arguments).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if options.list {
        print!("{}", matrix::list());
        return Ok(ExitCode::SUCCESS);
    }
    let program = std::env::current_exe()?;
    // What was begun is dropped on an interrupt, and so ended.
    let results = tokio::select! {
        results = matrix::run(&options, &program) => results?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    match output {
        Output::Text => print!("{}", matrix::text(&results)),
        Output::Json => {
            let all: Vec<_> = results.iter().map(matrix::Line::json).collect();
            println!("{:#}", serde_json::Value::Array(all));
        }
    }
    Ok(if results.iter().all(matrix::Line::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
