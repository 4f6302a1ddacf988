//! What a daemon and its ranks' supervisors say to each other: a specification in, records out. Both sides are of one
//! version or of two versions that differ by one: fields are only added, with defaults.

use super::silence::SilenceLimits;
use crate::cgroup::Groups;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use types::RankEnd;

/// What a supervisor shall run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    /// Which rank.
    pub(crate) rank: types::RankIndex,
    /// Program (absolute path) and arguments.
    pub(crate) command: Vec<String>,
    /// The same without the shell, where it needs none: tried first.
    #[serde(default)]
    pub(crate) direct: Vec<String>,
    /// The rank's whole environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Variables that hold the path of a file with a secret instead of it.
    #[serde(default)]
    pub(crate) secret_files: Vec<String>,
    /// Where it starts.
    pub(crate) folder: PathBuf,
    /// Where spools and records go.
    pub(crate) rank_folder: PathBuf,
    /// Until when the rank may live.
    pub(crate) lease: PathBuf,
    /// From SIGTERM to SIGKILL.
    pub(crate) grace_ms: u64,
    /// Bytes on disk of each stream that nobody has taken yet.
    pub(crate) spool_bytes_max: u64,
    /// Control groups to make.
    pub(crate) groups: Groups,
    /// That it has for itself; none = the machine's.
    #[serde(default)]
    pub(crate) processors: Vec<u32>,
    /// The supervisor's stdin is a listening socket to hand on.
    pub(crate) listens: bool,
    /// What is done when the rank says nothing for long.
    #[serde(default)]
    pub(crate) silence: SilenceLimits,
    /// Whom the rank becomes; none = it stays the daemon's user.
    #[serde(default)]
    pub(crate) user: Option<Credentials>,
    /// Places that are the member's alone; none = the machine's.
    #[serde(default)]
    pub(crate) places: Option<super::places::Places>,
    /// Where its user is the daemon's, which is not root: what it sees.
    #[serde(default)]
    pub(crate) namespace: Option<super::namespace::Namespace>,
    /// The network that it enters; none = the machine's.
    #[serde(default)]
    pub(crate) network: Option<crate::network::Place>,
    /// The rank may make each system call that its user may.
    #[serde(default)]
    pub(crate) all_calls: bool,
    /// Bounds of its processes.
    #[serde(default)]
    pub(crate) limits: super::limits::RankLimits,
    /// Where its programs may write event files; none = the job has no outputs.
    #[serde(default)]
    pub(crate) events: Option<EventFiles>,
    /// Its programs may send metrics and logs by OpenTelemetry's protocol.
    #[serde(default)]
    pub(crate) otlp: OtlpOffer,
}

/// How a rank's programs are told where to send metrics and logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OtlpOffer {
    /// Not at all.
    #[default]
    Nothing,
    /// By the variables for all that they send.
    All,
    /// By those for metrics and those for logs: the job says where spans go.
    BySignal,
}

/// Event files whose scalars are metrics of the rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventFiles {
    /// They lie below this folder, which the ranks of the member share.
    pub(crate) outputs: PathBuf,
    /// A folder of the daemon's in the member's, where the member's ranks say which file is whose; none = it is the only rank.
    #[serde(default)]
    pub(crate) claims: Option<PathBuf>,
    /// Has those that no rank's process is known of.
    pub(crate) is_first: bool,
}

impl ShimSpec {
    /// Whether it is kept from what is the daemon's.
    pub(crate) fn is_apart(&self) -> bool {
        self.user.is_some() || self.namespace.is_some()
    }
}

/// Of a process: user, group and further groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// Number of the listening socket in the rank.
pub(crate) const LISTEN_FD: i32 = 3;
/// Number of the pipe for metrics in the rank.
pub(crate) const METRICS_FD: i32 = 4;

/// Who the supervisor is: enough to tell it from another process with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimRecord {
    pub(crate) process: crate::process::Identity,
}

/// How a rank ended, and why when it was not by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub(crate) end: RankEnd,
    /// Why it was never started.
    #[serde(default)]
    pub(crate) launch_fault: Option<LaunchFault>,
    /// Who had it stopped.
    #[serde(default)]
    pub(crate) stopped_by: Option<StoppedBy>,
    /// Output bytes that found no room on a full disk.
    #[serde(default)]
    pub(crate) bytes_lost: u64,
}

/// Why a rank could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaunchFault {
    pub(crate) reason: String,
    /// True when the machine is at fault, false when the job is.
    pub(crate) machine_fault: bool,
}

/// Who had a rank stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StoppedBy {
    /// The daemon, for the leader.
    Daemon,
    /// The end of the worker's lease.
    Lease,
}

/// A checkpoint that the rank announced: a folder's name below the member's checkpoint folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckpointNotice {
    pub(crate) checkpoint: String,
    #[serde(default)]
    pub(crate) step: u64,
}

impl CheckpointNotice {
    /// The name is one plain folder name: a rank must not make the daemon upload other places.
    pub(crate) fn is_sound(&self) -> bool {
        let name = &self.checkpoint;
        !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\0'])
    }
}

/// Reads a JSON record; none when it is absent or not (yet) whole.
pub(crate) fn read_record<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    const RECORD_BYTES_MAX: u64 = 4 << 20;
    if std::fs::metadata(path).ok()?.len() > RECORD_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes a record beside and renames it: a reader sees it whole. Not flushed: it is of use to this boot only.
pub(crate) fn write_record<T: Serialize>(path: &Path, record: &T) -> std::io::Result<()> {
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, serde_json::to_vec(record)?)?;
    std::fs::rename(&beside, path)
}
