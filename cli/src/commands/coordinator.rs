//! `muster coordinator`: a member of the Raft group.

use super::Session;
use super::logs::parse_bytes;
use super::role::{JoinTokenArgs, RoleArgs};
use crate::context;
use crate::failure::{Exit, bad_input};
use crate::output::text::parse_span;
use anyhow::Context as _;
use clap::Args;
use coordinator::{Config, Start};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;
use types::CoordinatorId;

/// Between two looks whether the founder listens already.
const OWNER_LOOK: Duration = Duration::from_millis(20);

/// `muster coordinator`
#[derive(Args, Debug)]
#[command(
    after_help = "The first coordinator of a cluster starts with --bootstrap, the others with --join. Later starts need neither: the data
folder says who it is. SIGTERM hands leadership over first. With port 0 the system chooses: see `addresses` in the folder.

Examples:
  muster coordinator --id 1 --data /var/lib/muster --bootstrap
  muster coordinator --id 2 --data /var/lib/muster --listen 10.0.0.2:7070 --http 10.0.0.2:7071 \\
    --join 10.0.0.1:7070 --join-token-file token"
)]
pub struct CoordinatorArgs {
    /// Its number in the group, from 1; never used again for another machine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Folder for everything it keeps
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address for gRPC
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    listen: String,
    /// Address for HTTP: /healthz, /readyz, /metrics
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7071")]
    http: String,
    /// Address at which the others reach it, where that is not --listen
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Begin a new cluster, with this coordinator alone; once
    #[arg(long, conflicts_with = "join")]
    bootstrap: bool,
    /// Ask these coordinators to be added to their cluster
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    join: Vec<String>,
    /// Between the leader's heartbeats, in milliseconds [default: 50]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    heartbeat_ms: Option<u64>,
    /// Least silence before an election, in milliseconds; the most is twice that [default: 150]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    election_ms: Option<u64>,
    /// How the scheduler orders jobs, when this coordinator leads: give all of them the same
    #[arg(long, value_name = "NAME", default_value = coordinator::POLICIES[0], value_parser = clap::builder::PossibleValuesParser::new(coordinator::POLICIES))]
    policy: String,
    /// A job runs so long before it may be stopped for another one
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = parse_span)]
    preempt_after: u64,
    /// Under fair-share, also stop a job for a much shorter one of its own queue, when it loses little by that; without this only
    /// for a queue that takes its guarantee back
    #[arg(long)]
    preempt_in_queue: bool,
    /// Under fair-share a job of several workers or devices waits so long before it gets a promised start
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = parse_span)]
    reserve_after: u64,
    /// Under fair-share an elastic job (x-muster.min_instances) grows at most so often: it is stopped and started again each time
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = parse_span)]
    resize_after: u64,
    /// How long the certificates count that it signs
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = parse_span)]
    certificate_life: u64,
    /// A file with the key under which secrets of jobs are kept, 64 hexadecimal digits for its user alone; the same for all
    /// coordinators. Without it the cluster makes a key of its own in their data folders
    #[arg(long, value_name = "FILE")]
    secrets_key: Option<PathBuf>,
    /// Calls that one user may make here in a second before they are told to wait; 0 = as many as they like
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    user_calls_per_second: u32,
    /// Forget the logs and metrics of a job so long after its end, when this coordinator leads: give all of them the same [default:
    /// never]. `muster jobs keep` keeps those of a job
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    keep_telemetry_for: Option<u64>,
    /// Forget the logs and metrics of the jobs that ended longest ago when all of them take more than so much of the leader's disk
    /// [default: no bound]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    keep_telemetry_bytes: Option<u64>,
    /// Remove files that no job names (uploads that no job followed, old checkpoints) so long after that was first seen; with
    /// --object-store also files of ended jobs that are there
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = parse_span)]
    keep_unnamed_files_for: u64,
    /// Keep the files of jobs (code, inputs, checkpoints, outputs) in this object store too: s3://BUCKET/PREFIX, az://CONTAINER/PREFIX,
    /// gs://BUCKET/PREFIX, or file:///FOLDER that all coordinators share. What is there goes from the coordinators' disks after its
    /// jobs have ended (see --keep-unnamed-files-for), and comes back when it is asked for. Give all coordinators the same
    #[arg(long, value_name = "URL")]
    object_store: Option<String>,
    /// A file of options of that store, a line `name = value` each (access_key_id, secret_access_key, region, endpoint; account_name,
    /// account_key; service_account ...), mode 600
    #[arg(long, value_name = "FILE", requires = "object_store")]
    object_store_options: Option<PathBuf>,
    /// Sign where the audit trail stands after so many records, or an hour after the first of them, when this coordinator leads
    #[arg(long, value_name = "RECORDS", default_value_t = 1_024)]
    sign_audit_every: u64,
    /// Send the spans of each job's way from its submission to its first step there, by OTLP over HTTP (path /v1/traces unless it
    /// has one), and signed heads of the audit trail (to /v1/logs beside it); https, or http on this machine. Give all coordinators the same
    #[arg(long, value_name = "URL")]
    otlp_url: Option<String>,
    /// A file of header fields for that collector, a line `name: value` each (authorization: Bearer ...), mode 600; read again when the
    /// collector refuses
    #[arg(long, value_name = "FILE", requires = "otlp_url")]
    otlp_headers_file: Option<PathBuf>,
    /// Send OpenLineage's run events of each job there (path /api/v1/lineage unless it has one); https, or http on this machine. Give
    /// all coordinators the same
    #[arg(long, value_name = "URL")]
    openlineage_url: Option<String>,
    /// A file of header fields for that collector, as with --otlp-headers-file
    #[arg(long, value_name = "FILE", requires = "openlineage_url")]
    openlineage_headers_file: Option<PathBuf>,
    /// How it is admitted to the cluster that it joins.
    #[command(flatten)]
    join_token: JoinTokenArgs,
    /// Options of every daemon.
    #[command(flatten)]
    role: RoleArgs,
}

/// Runs until it is stopped.
pub fn run(args: CoordinatorArgs, session: &Session) -> anyhow::Result<Exit> {
    let mut config = config(&args)?;
    if let Start::Join(_) = config.start {
        config.admission = args.join_token.admission(session)?;
    }
    let (founds, data) = (config.start == Start::Bootstrap, config.data_dir.clone());
    args.role.run(|shutdown| async {
        if founds {
            tokio::spawn(remember_owner(data));
        }
        coordinator::run(config, shutdown).await.context("the coordinator ended")
    })?;
    Ok(Exit::Success)
}

/// Whoever founds a cluster can use it at once: its owner's token becomes a context of theirs.
async fn remember_owner(data: PathBuf) {
    let (admin, addresses) = (data.join("admin.json"), data.join("addresses"));
    while !addresses.exists() {
        tokio::time::sleep(OWNER_LOOK).await;
    }
    let remembered = identity::Credentials::load(&admin).map_err(anyhow::Error::from).and_then(|credentials| {
        let port = credentials.coordinators.first().and_then(|address| address.rsplit_once(':')).map(|(_, port)| port);
        let name = match port {
            None | Some("7070") => "local".to_owned(),
            Some(port) => format!("local-{port}"),
        };
        let path = context::config_path()?;
        context::remember(&path, &name, credentials.coordinators.clone(), Some(&credentials.token))?;
        Ok(name)
    });
    match remembered {
        Ok(context) => tracing::info!(context, "its owner's token is kept as this context"),
        // A service has no home; the file is there all the same.
        Err(error) => {
            tracing::info!(error = %format!("{error:#}"), file = %admin.display(), "the owner's token is in this file");
        }
    }
}

fn config(args: &CoordinatorArgs) -> anyhow::Result<Config> {
    let mut config = Config::new(CoordinatorId(args.id), &args.data);
    config.listen = address("--listen", &args.listen)?;
    config.http_listen = address("--http", &args.http)?;
    config.advertise.clone_from(&args.advertise);
    config.start = match (args.bootstrap, args.join.is_empty()) {
        (true, _) => Start::Bootstrap,
        (false, false) => Start::Join(args.join.clone()),
        (false, true) => Start::Wait,
    };
    if let Some(heartbeat_ms) = args.heartbeat_ms {
        config.timers.heartbeat_ms = heartbeat_ms;
    }
    if let Some(election_ms) = args.election_ms {
        config.timers.election_ms_min = election_ms;
        config.timers.election_ms_max = election_ms.saturating_mul(2);
    }
    config.policy.clone_from(&args.policy);
    config.preempt_after = Duration::from_millis(args.preempt_after);
    config.preempt_in_queue = args.preempt_in_queue;
    config.reserve_after = Duration::from_millis(args.reserve_after);
    config.resize_after = Duration::from_millis(args.resize_after);
    config.certificate_life = Duration::from_millis(args.certificate_life);
    config.secrets_key.clone_from(&args.secrets_key);
    config.user_calls_per_second = args.user_calls_per_second;
    config.keep_telemetry_for = args.keep_telemetry_for.map(Duration::from_millis);
    config.keep_telemetry_bytes = args.keep_telemetry_bytes;
    config.keep_unnamed_files_for = Duration::from_millis(args.keep_unnamed_files_for);
    config.object_store.clone_from(&args.object_store);
    config.object_store_options.clone_from(&args.object_store_options);
    config.sign_audit_every = args.sign_audit_every;
    config.otlp_url.clone_from(&args.otlp_url);
    config.openlineage_url.clone_from(&args.openlineage_url);
    config.otlp_headers.clone_from(&args.otlp_headers_file);
    config.openlineage_headers.clone_from(&args.openlineage_headers_file);
    config.validate().map_err(|faults| bad_input(faults.to_string()))?;
    Ok(config)
}

/// The first address of a host's name.
fn address(option: &str, text: &str) -> anyhow::Result<SocketAddr> {
    let found = text.to_socket_addrs().map_err(|error| bad_input(format!("{option} {text:?}: {error}")))?.next();
    found.ok_or_else(|| bad_input(format!("{option} {text:?} has no address")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CoordinatorArgs,
    }

    fn read(arguments: &[&str]) -> anyhow::Result<Config> {
        let fixed = ["muster", "--id", "2", "--data", "/d"];
        config(&Line::try_parse_from(fixed.iter().chain(arguments)).unwrap().args)
    }

    #[test]
    fn options_become_the_configuration() {
        let config = read(&["--listen", "127.0.0.1:0", "--join", "a:1,b:2", "--election-ms", "400"]).unwrap();
        assert_eq!((config.id, config.listen.port()), (CoordinatorId(2), 0));
        assert_eq!(config.start, Start::Join(vec!["a:1".into(), "b:2".into()]));
        assert_eq!((config.timers.election_ms_min, config.timers.election_ms_max), (400, 800));
        let kept = read(&["--keep-telemetry-for", "30d", "--keep-telemetry-bytes", "2G"]).unwrap();
        assert_eq!(kept.keep_telemetry_for, Some(Duration::from_hours(30 * 24)));
        assert_eq!((kept.keep_telemetry_bytes, config.keep_telemetry_bytes), (Some(2 << 30), None));
        assert_eq!(read(&["--bootstrap"]).unwrap().start, Start::Bootstrap);
        assert_eq!(read(&[]).unwrap().start, Start::Wait);
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_anything_runs() {
        assert!(read(&["--listen", "127.0.0.1"]).is_err());
        let open = read(&["--listen", "0.0.0.0:7070"]).err().unwrap().to_string();
        assert!(open.contains("--advertise"), "{open}");
    }
}
