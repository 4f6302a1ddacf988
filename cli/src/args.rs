//! The command line: global options and one variant a command; each command's own options stand in its file.

use crate::commands;
use crate::context::Wanted;
use crate::output::{ColorChoice, Format};
use clap::{Args, Parser, Subcommand};

/// One self-hosted cluster that runs machine-learning jobs.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    max_term_width = 120,
    after_help = "Examples:
  muster demo                              a whole cluster on this machine, training on handwritten digits
  muster submit job.yml --follow           submit a job, follow its logs, end as it ends
  muster jobs list --watch                 what waits, what runs
  muster jobs explain 7                    why job 7 waits, or why it ended
  muster logs 7 -f --rank 0                follow one rank
  muster cluster status                    coordinators, workers, capacity

Exit codes: 0 done, 1 error, 2 bad usage or input, 3 not found, 4 no cluster reachable,
  5 not allowed, 10 the followed job failed, 11 it was cancelled, 12 a reproduced job differs, 130 interrupted."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// How answers are printed
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Global")]
    pub output: Format,
    /// Colours: never where NO_COLOR is set or the output is no terminal, unless asked for
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Global")]
    pub color: ColorChoice,
    /// The cluster of this name (see `muster contexts list`) [env: MUSTER_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global")]
    pub context: Option<String>,
    /// The cluster behind these coordinators: host:port,.. [env: MUSTER_COORDINATORS]
    #[arg(long, global = true, value_name = "ADDRESSES", value_delimiter = ',', help_heading = "Global")]
    pub coordinators: Vec<String>,
}

impl Global {
    /// What was said about the cluster.
    pub fn wanted(&self) -> Wanted {
        Wanted { coordinators: self.coordinators.clone(), context: self.context.clone() }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole cluster on this machine and train on handwritten digits
    Demo(commands::demo::DemoArgs),
    /// Run a coordinator: a member of the Raft group that schedules and keeps the state
    Coordinator(commands::coordinator::CoordinatorArgs),
    /// Run a worker: the daemon on each machine that starts ranks
    Worker(commands::worker::WorkerArgs),
    /// Run the built-in data-parallel training; this is what a job's command calls
    Train(commands::train::TrainArgs),
    /// Submit a job file
    Submit(commands::submit::SubmitArgs),
    /// List, show, cancel, explain and watch jobs
    #[command(subcommand)]
    Jobs(commands::jobs::JobsCommand),
    /// Print or follow what a job's ranks write
    Logs(commands::logs::LogsArgs),
    /// Show a job's metrics, reported by its ranks or read from event files in its outputs: a table and charts
    Metrics(commands::metrics::MetricsArgs),
    /// Show what made a job's results; export and verify the records that prove it
    Lineage(commands::lineage::LineageArgs),
    /// Do a job again from its lineage alone, and say what came out otherwise
    Reproduce(commands::reproduce::ReproduceArgs),
    /// Download a job's outputs or checkpoints
    Download(commands::download::DownloadArgs),
    /// List, show, cordon, uncordon and drain workers
    #[command(subcommand)]
    Workers(commands::workers::WorkersCommand),
    /// The queues that jobs wait in: weights, quotas, what they use
    #[command(subcommand)]
    Queues(commands::queues::QueuesCommand),
    /// The coordinators: status, members, leadership
    #[command(subcommand)]
    Cluster(commands::cluster::ClusterCommand),
    /// Store a token for a cluster, under a name
    Login(commands::login::LoginArgs),
    /// As whom commands call, and what that may do
    Whoami,
    /// People and programs, and their roles
    #[command(subcommand)]
    Users(commands::access::UsersCommand),
    /// Which roles there are, and what each may do
    #[command(subcommand)]
    Roles(commands::roles::RolesCommand),
    /// Workspaces: jobs that belong together, and who may see them
    #[command(subcommand)]
    Workspaces(commands::workspaces::WorkspacesCommand),
    /// Tokens: shown once, kept as hashes
    #[command(subcommand)]
    Tokens(commands::access::TokensCommand),
    /// Identity providers (OpenID Connect) whose users are let in by their tokens
    #[command(subcommand)]
    Providers(commands::providers::ProvidersCommand),
    /// Values that jobs need and nobody is to see: kept sealed, given to their ranks, kept out of logs
    #[command(subcommand)]
    Secrets(commands::secrets::SecretsCommand),
    /// What was done and what was denied, and by whom
    #[command(subcommand)]
    Audit(commands::audit::AuditCommand),
    /// Names for clusters, and which one is meant when nothing is said
    #[command(subcommand)]
    Contexts(commands::contexts::ContextsCommand),
    /// Run a trace through the scheduler in virtual time, under one policy or several
    Simulate(Box<commands::simulate::SimulateArgs>),
    /// How ranks sum their gradients
    #[command(subcommand)]
    Collective(commands::collective::CollectiveCommand),
    /// Measure this machine
    #[command(subcommand)]
    Bench(commands::bench::BenchCommand),
    /// Show what this build speaks and reads
    Version,
    /// Print a completion script for a shell
    Completions(commands::completions::CompletionsArgs),
}

/// Reads the command line of this process.
pub fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_a_help_text() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
                check(sub);
            }
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{} of {} has no help", arg.get_id(), command.get_name());
            }
        }
        check(&Cli::command());
    }
}
