//! Several ranks of built-in training on this machine without a cluster, to try and to time things:
//! `cargo run --release -p trainer --example ranks -- 2 --config train.yml --training.epochs 5`.
//!
//! Starts itself once a rank with the environment that a worker sets, and says at the end what rank 0's metrics were on
//! average over the second half of the steps.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, ExitCode};

use rustix::io::{FdFlags, fcntl_setfd};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if let Some(rank) = daemon::environment::text("MUSTER_RANK") {
        pin(rank.parse()?)?;
        trainer::run(trainer::TrainArgs::parse(arguments)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let world: usize = arguments.next().ok_or("how many ranks?")?.parse()?;
    let options: Vec<String> = arguments.collect();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let folder = std::env::temp_dir().join(format!("ranks-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let ranks = start(world, &options, &folder, writer)?;
    for (name, values) in metrics(reader)? {
        let later = &values[values.len() / 2..];
        println!("{name} {:.6}", later.iter().sum::<f64>() / later.len() as f64);
    }
    let mut good = true;
    for mut rank in ranks {
        good &= rank.wait()?.success();
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// With `RANKS_PINNED` set each rank has a processor of its own, as far as there are as many.
fn pin(rank: usize) -> Result<(), Box<dyn Error>> {
    if daemon::environment::text("RANKS_PINNED").is_some() {
        let may = rustix::thread::sched_getaffinity(None)?;
        let processors: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|at| may.is_set(*at)).collect();
        let mut one = rustix::thread::CpuSet::new();
        one.set(processors[rank % processors.len()]);
        rustix::thread::sched_setaffinity(None, &one)?;
    }
    Ok(())
}

fn start(
    world: usize,
    options: &[String],
    folder: &std::path::Path,
    metrics: OwnedFd,
) -> Result<Vec<Child>, Box<dyn Error>> {
    let listeners = (0..world).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let mut peers = Vec::new();
    for (rank, listener) in listeners.iter().enumerate() {
        let data = listener.local_addr()?.to_string();
        peers.push(serde_json::json!({"rank": rank, "worker": "here", "data": data, "framework": data}));
    }
    let manifest = folder.join("manifest.json");
    let secret = "5a".repeat(32);
    let json = serde_json::json!({"token": 1, "world_size": world, "secret": secret, "peers": peers});
    std::fs::write(&manifest, json.to_string())?;
    let mut ranks = Vec::new();
    for (rank, listener) in listeners.into_iter().enumerate() {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(options).env("MUSTER_MANIFEST", &manifest).env("MUSTER_RANK", rank.to_string());
        command.env("MUSTER_LISTEN_FD", listener.as_raw_fd().to_string());
        // Only the one child that is started next inherits it: this program has one thread, and closes it then.
        fcntl_setfd(listener.as_fd(), FdFlags::empty())?;
        if rank == 0 {
            command.env("MUSTER_METRICS_FD", metrics.as_raw_fd().to_string());
            fcntl_setfd(&metrics, FdFlags::empty())?;
        }
        ranks.push(command.spawn()?);
        fcntl_setfd(&metrics, FdFlags::CLOEXEC)?;
    }
    Ok(ranks)
}

/// All points by name, until rank 0 has ended.
fn metrics(reader: OwnedFd) -> Result<BTreeMap<String, Vec<f64>>, Box<dyn Error>> {
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in BufReader::new(File::from(reader)).lines() {
        let line: serde_json::Value = serde_json::from_str(&line?)?;
        if let (Some(name), Some(value)) = (line["name"].as_str(), line["value"].as_f64()) {
            found.entry(name.to_owned()).or_default().push(value);
        }
    }
    Ok(found)
}
