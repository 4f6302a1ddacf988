//! What is compared: how each system is started, pinned alike, and its rows read.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Longer than this and a system counts as hanging.
const SECONDS_MAX: &str = "120";

/// What every system measures.
pub(super) struct Setting {
    pub(super) bytes: Vec<usize>,
    pub(super) seconds: f64,
}

pub(super) struct System {
    pub(super) name: &'static str,
    pub(super) ours: bool,
    /// Goes through memory, not sockets.
    pub(super) shared: bool,
    start: Start,
}

enum Start {
    Muster { program: PathBuf, way: &'static str },
    Mpi { program: PathBuf, transport: &'static [&'static str] },
    Gloo { python: PathBuf, script: PathBuf },
}

impl System {
    /// Ours, and the peers that this machine has.
    pub(super) fn present() -> Vec<System> {
        let folder =
            std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned())).unwrap_or_default();
        let muster = |name, way| {
            let start = Start::Muster { program: folder.join("all_reduce"), way };
            System { name, ours: true, shared: way != "tcp", start }
        };
        let mut systems =
            vec![muster("muster shm", "shm"), muster("muster alloc", "alloc"), muster("muster tcp", "tcp")];
        match build_mpi(&folder) {
            Ok(program) => {
                let sm: &[&str] = &["--mca", "btl", "self,vader"];
                let tcp: &[&str] = &["--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"];
                for (name, shared, transport) in [("openmpi sm", true, sm), ("openmpi tcp", false, tcp)] {
                    let start = Start::Mpi { program: program.clone(), transport };
                    systems.push(System { name, ours: false, shared, start });
                }
            }
            Err(reason) => eprintln!("Open MPI is left out: {reason}"),
        }
        match find_torch(&folder) {
            Ok(start) => systems.push(System { name: "torch gloo", ours: false, shared: false, start }),
            Err(reason) => eprintln!("gloo is left out: {reason}"),
        }
        systems
    }

    /// Bytes and median microseconds of each size.
    pub(super) fn measure(&self, ranks: usize, setting: &Setting) -> Result<Vec<(usize, f64)>, String> {
        let sizes = setting.bytes.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let (ranks_text, seconds) = (ranks.to_string(), setting.seconds.to_string());
        let mut command = Command::new("timeout");
        command.arg(SECONDS_MAX);
        match &self.start {
            Start::Muster { program, way } => {
                command.arg(program).args(["--csv", "--way", way, "--ranks", &ranks_text]);
                command.args(["--bytes", &sizes, "--seconds", &seconds]);
            }
            Start::Mpi { program, transport } => {
                command.args(["mpirun", "-np", &ranks_text]).args(*transport);
                let processors = std::thread::available_parallelism().map_or(1, usize::from);
                // The ways that Open MPI's own manual gives for either case.
                if ranks <= processors {
                    command.args(["--bind-to", "core"]);
                } else {
                    command.args(["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]);
                }
                command.arg(program).args([&sizes, &seconds]);
                command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
            }
            Start::Gloo { python, script } => {
                let store = script.with_extension("store");
                // What an earlier run left would be taken for this one's.
                let _ = std::fs::remove_file(&store);
                command.arg(python).arg(script).args([&ranks_text, &sizes, &seconds]).arg(store);
                command.env("GLOO_SOCKET_IFNAME", "lo");
            }
        }
        let output = command.stderr(Stdio::null()).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("ended with {}", output.status));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(row).collect())
    }
}

/// `[labels,]bytes,median,p10,p90,algbw,busbw`.
fn row(line: &str) -> Option<(usize, f64)> {
    let fields: Vec<&str> = line.rsplit(',').collect();
    Some((fields.get(5)?.parse().ok()?, fields.get(4)?.parse().ok()?))
}

fn build_mpi(folder: &Path) -> Result<PathBuf, String> {
    let (source, program) = (folder.join("peer_mpi.c"), folder.join("peer_mpi"));
    std::fs::write(&source, include_str!("peer_mpi.c")).map_err(|error| error.to_string())?;
    let mut command = Command::new("mpicc");
    command.args(["-O3", "-march=native", "-o"]).arg(&program).arg(&source);
    let built = command.output().map_err(|error| format!("mpicc: {error}"))?;
    if built.status.success() { Ok(program) } else { Err("mpicc fails; are the headers installed?".to_owned()) }
}

/// The first interpreter that has torch with gloo.
fn find_torch(folder: &Path) -> Result<Start, String> {
    let script = folder.join("peer_gloo.py");
    std::fs::write(&script, include_str!("peer_gloo.py")).map_err(|error| error.to_string())?;
    let pythons = ["python3", "/usr/bin/python3"].map(PathBuf::from);
    let has_torch = |python: &&PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", "import torch.distributed as d; assert d.is_gloo_available()"]);
        command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    // Older versions do not say what they have.
    let older = |python: &&PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", "import torch.distributed as d; assert d.is_available()"]);
        command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let found = pythons.iter().find(has_torch).or_else(|| pythons.iter().find(older));
    found.map(|python| Start::Gloo { python: python.clone(), script }).ok_or_else(|| "no python has torch".to_owned())
}
