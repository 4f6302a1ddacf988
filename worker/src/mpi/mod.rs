//! MPI programs: one `mpirun` on the first member, which starts Open MPI's daemons on all members through their workers.
//!
//! ```text
//!  member 0: muster mpi-run ──> mpirun ──> muster mpi-agent HOST orted... ─┐ one for each member
//!            └─ serves its own node                                        │ data endpoint of the member's first rank
//!  member 1: muster mpi-node <─────────────────────────────────────────────┘
//!            └─> orted ──> the ranks of this member
//! ```
//!
//! No ssh, no keys, no host file: the agent finds the member's endpoint in the manifest and proves with the attempt's
//! secret that it belongs to the gang. What the daemons start stays below this member's supervisor, with its limits.
//! Open MPI 4 and later; its own options pass through `OMPI_MCA_*` variables of the job.

mod node;
mod wire;

use serde::Deserialize;
use std::ffi::OsString;
use std::io;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// As a shell says it.
const NOT_FOUND: u8 = 127;
/// Open MPI's variable for lines that say whose they are; one of version 5 does not know it.
const TAGS: &str = "OMPI_MCA_orte_tag_output";

/// What this gang's manifest says, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct Manifest {
    token: u64,
    secret: String,
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    rank: u32,
    data: String,
}

/// The gang as one of its processes sees it.
#[derive(Debug)]
struct Gang {
    manifest: Manifest,
    ranks_per_member: u32,
}

impl Gang {
    fn of_environment() -> io::Result<Self> {
        let path = variable("MUSTER_MANIFEST")?;
        let manifest = serde_json::from_slice(&std::fs::read(path)?)?;
        let ranks_per_member = variable("MUSTER_LOCAL_WORLD_SIZE")?.parse().map_err(io::Error::other)?;
        Ok(Self { manifest, ranks_per_member })
    }

    fn members(&self) -> u32 {
        u32::try_from(self.manifest.peers.len()).unwrap_or(u32::MAX) / self.ranks_per_member.max(1)
    }

    /// Where a member's node listens.
    fn endpoint(&self, host: &str) -> io::Result<&str> {
        let unknown = || io::Error::other(format!("{host} is no member of this gang"));
        let member: u32 = host.strip_prefix(HOST).and_then(|text| text.parse().ok()).ok_or_else(unknown)?;
        let first = member.checked_mul(self.ranks_per_member).ok_or_else(unknown)?;
        let peer = self.manifest.peers.iter().find(|peer| peer.rank == first);
        peer.map(|peer| peer.data.as_str()).ok_or_else(unknown)
    }
}

/// Members' names for `mpirun`: not to be resolved, so that it starts all of them alike.
const HOST: &str = "muster-node-";

fn variable(name: &str) -> io::Result<String> {
    daemon::environment::text(name)
        .ok_or_else(|| io::Error::other(format!("{name} is not set: this runs in a rank only")))
}

/// Runs `muster mpi-run COMMAND`, `mpi-node` or `mpi-agent HOST COMMAND...`; none for another subcommand.
pub fn main(subcommand: &str, args: &[OsString]) -> Option<ExitCode> {
    let result = match subcommand {
        "mpi-run" => run(args),
        "mpi-node" => node::serve_alone(),
        "mpi-agent" => agent(args),
        _ => return None,
    };
    Some(result.unwrap_or_else(|error| {
        eprintln!("{subcommand}: {error}");
        ExitCode::FAILURE
    }))
}

fn run(args: &[OsString]) -> io::Result<ExitCode> {
    let [command] = args else { return Err(io::Error::other("usage: mpi-run COMMAND")) };
    let gang = Gang::of_environment()?;
    let hosts: Vec<String> =
        (0..gang.members()).map(|member| format!("{HOST}{member}:{}", gang.ranks_per_member)).collect();
    let program = std::env::current_exe()?;
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--mca", "plm_rsh_agent", &format!("{} mpi-agent", program.display())]);
    mpirun.args(["--mca", "plm_rsh_no_tree_spawn", "1", "--leave-session-attached"]);
    mpirun.args(["--bind-to", "none", "--oversubscribe"]);
    if gang.manifest.peers.iter().all(|peer| is_loopback(&peer.data)) {
        for layer in ["oob_tcp_if_include", "btl_tcp_if_include"] {
            mpirun.args(["--mca", layer, "lo"]);
        }
    }
    mpirun.args(["--host", &hosts.join(","), "-np", &gang.manifest.peers.len().to_string()]);
    mpirun.args(["/bin/sh", "-c"]).arg(command);
    // What ranks print comes through one pipe: whose line it is stands before it, unless the job wants it bare.
    if daemon::environment::text(TAGS).is_none() {
        mpirun.env(TAGS, "1");
    }
    if rustix::process::geteuid().is_root() {
        mpirun.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    let own = node::Node::of_environment(&gang)?;
    let mut child = match mpirun.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("mpirun is not on the PATH of this worker: install Open MPI there (Debian: openmpi-bin)");
            return Ok(ExitCode::from(NOT_FOUND));
        }
        Err(error) => return Err(error),
    };
    // It ends with this process.
    std::thread::Builder::new().name("node".into()).spawn(move || own.serve())?;
    Ok(code_of(child.wait()?))
}

fn agent(args: &[OsString]) -> io::Result<ExitCode> {
    let [host, command @ ..] = args else { return Err(io::Error::other("usage: mpi-agent HOST COMMAND...")) };
    let gang = Gang::of_environment()?;
    let address = gang.endpoint(&host.to_string_lossy())?;
    // As ssh does: the words are put together and read by a shell on the other side.
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let address = address.parse().map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
    wire::ask(stream, &gang.manifest, &words.join(" ")).map(ExitCode::from)
}

fn is_loopback(endpoint: &str) -> bool {
    endpoint.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}

/// A signal counts as 128 and its number, as shells say it.
fn byte_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn code_of(status: ExitStatus) -> ExitCode {
    ExitCode::from(byte_of(status))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_members_first_rank_is_its_node() {
        let peers = (0..4).map(|rank| Peer { rank, data: format!("127.0.0.1:{}", 100 + rank) }).collect();
        let gang = Gang { manifest: Manifest { token: 1, secret: "00".into(), peers }, ranks_per_member: 2 };
        assert_eq!(gang.members(), 2);
        assert_eq!(gang.endpoint("muster-node-1").unwrap(), "127.0.0.1:102");
        for other in ["muster-node-2", "muster-node-x", "elsewhere", "muster-node-4294967295"] {
            assert!(gang.endpoint(other).is_err(), "{other}");
        }
    }
}
