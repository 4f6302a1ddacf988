//! `muster worker`: the daemon on each machine, and the entry of a rank's supervisor.

use super::Session;
use super::logs::parse_bytes;
use super::role::{JoinTokenArgs, RoleArgs};
use crate::failure::{Exit, bad_input};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// `muster worker`
#[derive(Args, Debug)]
#[command(
    after_help = "The coordinators are those of --coordinators, or of the context. SIGTERM stops the daemon; its ranks go on and are
adopted by the next start (see --on-stop).

Examples:
  muster worker --data /var/lib/muster --coordinators 10.0.0.1:7070,10.0.0.2:7070,10.0.0.3:7070
  muster worker --data /var/lib/muster --name gpu-01 --zone a --rack r3 --label disk=nvme \\
    --data-address 10.0.1.5 --insecure-listen --context lab"
)]
pub struct WorkerArgs {
    /// Name, unique in the cluster [default: the host name]
    #[arg(long)]
    name: Option<String>,
    /// Folder for everything the daemon keeps
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A label for placement, key=value; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Keep gangs away that do not tolerate it (x-muster.tolerations); may be given several times
    #[arg(long = "taint", value_name = "NAME")]
    taints: Vec<String>,
    /// Failure or power zone
    #[arg(long, default_value = "", hide_default_value = true)]
    zone: String,
    /// Block of racks with a fast network between them
    #[arg(long, default_value = "", hide_default_value = true)]
    block: String,
    /// Rack
    #[arg(long, default_value = "", hide_default_value = true)]
    rack: String,
    /// Switch within the rack
    #[arg(long, default_value = "", hide_default_value = true)]
    switch: String,
    /// CPU slots to offer [default: one a core]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory to offer to ranks: 64G, 512M [default: what the machine allows]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// IP address at which the ranks here listen for their gang; must be reachable by the other workers
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    data_address: String,
    /// Admit that ranks listen on an address that is not loopback, where what they send is not encrypted
    #[arg(long)]
    insecure_listen: bool,
    /// Encrypt what ranks send to ranks of other machines; gangs of frameworks that do not are refused here, unless --insecure-listen
    /// is said too
    #[arg(long)]
    encrypt_ranks: bool,
    /// Give the ranks of each PyTorch, TensorFlow or MPI job a network of their own, encrypted between machines, which nobody else reaches and from
    /// which nobody else is reached; needs --rank-user, and all workers alike
    #[arg(long)]
    rank_network: bool,
    /// Use of control groups
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    cgroups: Cgroups,
    /// Give a rank at most its CPU slots, also on an idle machine; without it a busy machine is shared in that
    /// proportion where cgroup v2 has the cpu controller
    #[arg(long)]
    hard_cpu_limit: bool,
    /// Give each rank as many processors for itself as it has CPU slots, and keep it on them; without it a rank runs wherever the machine
    /// is idle
    #[arg(long)]
    pin_cpus: bool,
    /// Most processes and threads of one rank; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pids_max: u32,
    /// Run ranks as this user (NAME, UID, or either with :GID), or as one of a range for each job (FIRST-LAST); needs root
    /// [default: the daemon's own user]
    #[arg(long, value_name = "USER")]
    rank_user: Option<String>,
    /// Where the daemon is not root: hide from ranks, by user namespaces, its folder but for what is theirs, its starter's tokens and all
    /// other processes; they have a /tmp and a /dev/shm of their own, and sum over TCP with ranks of the same machine
    #[arg(long)]
    rank_namespace: bool,
    /// Let ranks of --rank-user share /tmp, /dev/shm and the view of processes with the machine; without it these are each member's own
    #[arg(long)]
    shared_tmp: bool,
    /// Let ranks of --rank-user make each system call that their user may; without it those are denied that no training needs (mounts, namespaces,
    /// keys, tracing of the kernel, io_uring and others)
    #[arg(long)]
    allow_all_system_calls: bool,
    /// Give ranks no endpoint for OpenTelemetry's metrics and logs (OTEL_EXPORTER_OTLP_ENDPOINT in their environment): SDKs then send to
    /// what the machine has at their default address
    #[arg(long)]
    no_rank_otlp: bool,
    /// Let ranks of --rank-user reach the addresses at which clouds tell a machine its credentials (169.254.169.254 and others); without it
    /// rules of the kernel's routing keep these users from them, where the daemon may set such
    #[arg(long)]
    allow_metadata_address: bool,
    /// Most descriptors that a process of a rank has open
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    rank_files_max: u64,
    /// Largest file that a rank writes: 100G; past it the rank gets SIGXFSZ and EFBIG [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    rank_file_bytes_max: Option<u64>,
    /// How much is kept of each stream of a rank: 10G; what it writes beyond is dropped, which its stderr says [default: all]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    rank_log_bytes_max: Option<u64>,
    /// How much of the disk the files of a job take here: 500G; looked at every few seconds, past it its ranks are ended [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    job_disk_bytes_max: Option<u64>,
    /// Most processes and threads of one user of --rank-user, all its ranks here together; 0 = no limit
    /// [default: half of what the machine can have, at most 65536]
    #[arg(long, value_name = "N")]
    user_processes_max: Option<u64>,
    /// Bytes of one rank's stream kept here until the coordinators have them; past it the rank waits
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "256M")]
    spool_max: u64,
    /// What an orderly stop does to running ranks
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    on_stop: OnStop,
    /// How it is admitted to the cluster at its first start.
    #[command(flatten)]
    join_token: JoinTokenArgs,
    /// Options of every daemon.
    #[command(flatten)]
    role: RoleArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Cgroups {
    /// What the machine offers
    #[default]
    Auto,
    /// None: limits are not enforced
    Off,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OnStop {
    /// They go on, and the next start adopts them
    #[default]
    Keep,
    /// They are killed first
    Kill,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not key=value")),
    }
}

/// Runs until it is stopped.
pub fn run(args: WorkerArgs, session: &Session) -> anyhow::Result<Exit> {
    let mut config = config(&args, session.target()?.coordinators)?;
    config.admission = args.join_token.admission(session)?;
    args.role.run(|shutdown| async { worker::run(config, shutdown).await.context("the worker ended") })?;
    Ok(Exit::Success)
}

fn config(args: &WorkerArgs, coordinators: Vec<String>) -> anyhow::Result<worker::Config> {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let name = args.name.clone().unwrap_or_else(host);
    let config = worker::Config {
        data_address: args.data_address.clone(),
        insecure_listen: args.insecure_listen,
        encrypt_ranks: args.encrypt_ranks,
        rank_network: args.rank_network,
        labels: args.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        taints: args.taints.iter().cloned().collect(),
        zone: args.zone.clone(),
        block: args.block.clone(),
        rack: args.rack.clone(),
        switch: args.switch.clone(),
        cpus: args.cpus,
        memory_bytes: args.memory,
        spool_bytes_max: args.spool_max,
        cgroups: match args.cgroups {
            Cgroups::Auto => worker::CgroupMode::Auto,
            Cgroups::Off => worker::CgroupMode::Off,
        },
        hard_cpu_limit: args.hard_cpu_limit,
        pin_cpus: args.pin_cpus,
        pids_max: args.pids_max,
        rank_user: args.rank_user.clone(),
        rank_namespace: args.rank_namespace,
        hidden_folders: crate::context::token_folders(),
        shared_tmp: args.shared_tmp,
        allow_all_system_calls: args.allow_all_system_calls,
        rank_otlp: !args.no_rank_otlp,
        allow_metadata_address: args.allow_metadata_address,
        rank_files_max: args.rank_files_max,
        rank_file_bytes_max: args.rank_file_bytes_max.unwrap_or(0),
        rank_log_bytes_max: args.rank_log_bytes_max.unwrap_or(0),
        job_disk_bytes_max: args.job_disk_bytes_max.unwrap_or(0),
        user_processes_max: args.user_processes_max,
        on_stop: match args.on_stop {
            OnStop::Keep => worker::OnStop::KeepRanks,
            OnStop::Kill => worker::OnStop::KillRanks,
        },
        ..worker::Config::new(name, &args.data, coordinators, &program)
    };
    config.validate().map_err(|faults| bad_input(faults.to_string()))?;
    Ok(config)
}

/// What a worker starts with each rank, when this process is such.
pub fn rank_entry() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let subcommand = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    match subcommand.to_str()? {
        "rank-network" => Some(worker::network::main()),
        "rank-nursery" => Some(worker::shim::nursery::main(&arguments)),
        other => worker::mpi::main(other, &arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_key_and_value() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_label("a").is_err() && parse_label("=b").is_err());
    }
}
