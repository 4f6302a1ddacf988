//! Runs one benchmark and prints what it found; `cargo xtask bench` builds and calls it.

use clap::Parser;
use cluster_tests::bench::{self, Name, Options};
use std::path::PathBuf;

/// Benchmarks of Muster.
#[derive(Parser)]
struct Arguments {
    /// What is measured
    #[arg(value_enum)]
    name: Name,
    #[command(flatten)]
    options: Options,
    /// Where the figures go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.options.dir)?;
    let report = bench::run(arguments.name, &arguments.options).await?;
    print!("{}", report.text());
    if let Some(path) = arguments.json {
        std::fs::write(path, format!("{:#}\n", report.json()))?;
    }
    Ok(())
}
