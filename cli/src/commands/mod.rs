//! One command a file. Each takes its own options and a `Session`, prints, and says how the process ends.

pub mod access;
pub mod admit;
pub mod audit;
mod authority;
pub mod backup;
pub mod bench;
pub mod cluster;
pub mod collective;
pub mod completions;
pub mod contexts;
pub mod coordinator;
pub mod demo;
pub mod download;
pub mod follow;
pub mod jobs;
pub mod lineage;
pub mod login;
pub mod logs;
pub mod metrics;
pub mod providers;
pub mod queues;
pub mod reproduce;
pub mod role;
pub mod roles;
pub mod secrets;
pub mod simulate;
pub mod submit;
pub mod train;
pub mod version;
pub mod watching;
pub mod worker;
pub mod workers;
pub mod workspaces;

use crate::args::{Cli, Command, Global};
use crate::context::{self, Target};
use crate::failure::Exit;
use crate::output::{Output, note};
use anyhow::Context as _;
use client::Client;
use identity::{Admission, Credentials};
use std::process::ExitCode;

/// What a command works with.
pub struct Session {
    global: Global,
    /// Where and how to print.
    pub output: Output,
}

impl Session {
    /// A client of the cluster that is meant.
    pub fn client(&self) -> anyhow::Result<Client> {
        let Target { coordinators, token } = self.target()?;
        // Without one, what needs no call is done all the same, and bad input is told first.
        Ok(match token {
            Some(token) => Client::connect(coordinators, &token),
            None => Client::without_token(coordinators),
        })
    }

    /// How the user of this command may admit a node that it starts; none without a token.
    pub fn admission(&self) -> anyhow::Result<Option<Admission>> {
        let Target { coordinators, token } = self.target()?;
        Ok(token.map(|token| Admission::User(Credentials { coordinators, token })))
    }

    /// The cluster that is meant, and the token for it.
    pub fn target(&self) -> anyhow::Result<Target> {
        let wanted = self.global.wanted();
        let environment = context::Environment::read();
        // With addresses given, a damaged file must not stand in the way.
        let said = !wanted.coordinators.is_empty() || environment.coordinators.is_some();
        let file = match context::config_path() {
            Ok(path) => context::load(&path).or_else(|error| {
                if !said {
                    return Err(error);
                }
                note(&format!("warning: {error:#}; it is not used"));
                Ok(context::Contexts::default())
            })?,
            // A service has no home.
            Err(_) if said => context::Contexts::default(),
            Err(error) => return Err(error),
        };
        context::target(&wanted, &environment, &file)
    }
}

/// Runs the command and says how the process ends.
pub fn run(cli: Cli) -> anyhow::Result<Exit> {
    let session = Session { output: Output::new(cli.global.output, cli.global.color), global: cli.global };
    match cli.command {
        Command::Version => version::run(&session),
        Command::Completions(args) => completions::run(&args),
        Command::Train(args) => train::run(args),
        Command::Contexts(command) => contexts::run(&command, &session),
        Command::Login(args) => login::run(&args, &session),
        Command::Audit(audit::AuditCommand::Verify(args)) if args.is_local() => audit::verify_file(&args, &session),
        Command::Lineage(args) if args.is_offline() => lineage::run_offline(&args, &session),
        Command::Cluster(cluster::ClusterCommand::Restore(args)) => backup::restore(&args, &session),
        Command::Cluster(cluster::ClusterCommand::Recover(args)) => backup::recover(&args, &session),
        Command::Coordinator(args) => coordinator::run(args, &session),
        Command::Worker(args) => worker::run(args, &session),
        Command::Demo(args) => demo::run(args, &session),
        Command::Collective(command) => collective::run(&command, &session),
        Command::Bench(command) => bench::run(&command, &session),
        Command::Simulate(args) if !args.from_cluster => simulate::run(&args, &session),
        other => small_runtime()?.block_on(with_client(other, &session)),
    }
}

async fn with_client(command: Command, session: &Session) -> anyhow::Result<Exit> {
    let client = session.client()?;
    match command {
        Command::Submit(args) => submit::run(args, &client, session).await,
        Command::Jobs(command) => jobs::run(command, &client, session).await,
        Command::Logs(args) => logs::run(args, &client, session).await,
        Command::Metrics(args) => metrics::run(args, &client, session).await,
        Command::Lineage(args) => lineage::run(&args, &client, session).await,
        Command::Reproduce(args) => reproduce::run(args, &client, session).await,
        Command::Download(args) => download::run(&args, &client, session).await,
        Command::Workers(command) => workers::run(command, &client, session).await,
        Command::Whoami => access::who_am_i(&client, session).await,
        Command::Users(command) => access::users(command, &client, session).await,
        Command::Roles(command) => roles::run(command, &client, session).await,
        Command::Workspaces(command) => workspaces::run(command, &client, session).await,
        Command::Tokens(command) => access::tokens(command, &client, session).await,
        Command::Providers(command) => providers::run(command, &client, session).await,
        Command::Secrets(command) => secrets::run(command, &client, session).await,
        Command::Audit(command) => audit::run(command, &client, session).await,
        Command::Queues(command) => queues::run(command, &client, session).await,
        Command::Cluster(command) => cluster::run(command, &client, session).await,
        Command::Simulate(args) => simulate::run_live(&args, &client, session).await,
        // Run without a client, above.
        _ => Ok(Exit::Error),
    }
}

/// One thread is enough for a command that asks and prints.
pub fn small_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// What a worker starts with each rank, when this process is such: the rank's supervisor, or a part of an MPI launch.
pub fn rank_entry() -> Option<ExitCode> {
    worker::rank_entry()
}
