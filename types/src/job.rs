//! What was asked: a validated job, as the job file's parser makes it and the replicated state keeps it.

use crate::{ContentHash, Millis, Workspace};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// A validated job. Texts may still hold `${{inputs.x}}` and `${{outputs.y}}`: the worker resolves them to local paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Where it is told who may see it and change it; none = where its submitter may submit, or the default one.
    pub workspace: Option<Workspace>,
    /// For people; not unique.
    pub display_name: String,
    /// Groups jobs for people.
    pub experiment_name: String,
    /// Free text.
    pub description: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Run by `/bin/sh -c` in the code folder, once a rank (once a gang for MPI).
    pub command: String,
    /// The snapshot of the local code folder.
    pub code: Option<CodeSnapshot>,
    /// Added to each rank's environment.
    pub environment_variables: BTreeMap<String, String>,
    /// Variables of each rank that hold a secret, with the secret's name.
    pub secrets: BTreeMap<String, String>,
    /// Of these variables, those that hold the path of a file with the secret instead.
    pub secret_files: BTreeSet<String>,
    /// By name.
    pub inputs: BTreeMap<String, Input>,
    /// By name; each becomes a folder whose content is kept when the job ends.
    pub outputs: BTreeMap<String, Output>,
    /// How many ranks, and what each needs.
    pub gang: GangSpec,
    /// Longest running time of one attempt; none = unlimited.
    pub timeout: Option<Millis>,
    /// From SIGTERM to SIGKILL.
    pub grace: Millis,
    /// Higher starts first; 0 is usual.
    pub priority: i32,
    /// Queue name; `default` is usual.
    pub queue: String,
    /// When a gang that ended badly starts again.
    pub restart: RestartPolicy,
    /// Where it may run.
    pub constraints: Constraints,
    /// May be stopped for others, with its grace; it goes on later from its last checkpoint.
    pub preemptible: bool,
    /// The submitter's guess of its running time.
    pub estimate: Option<Millis>,
    /// What its ranks write is kept so long after its end, whatever age the cluster has for others; none = as those.
    pub keep_telemetry: Option<Millis>,
}

impl JobSpec {
    /// The workspace that it is in, or would be in as it stands.
    pub fn workspace(&self) -> &Workspace {
        static DEFAULT: LazyLock<Workspace> = LazyLock::new(Workspace::default);
        self.workspace.as_ref().unwrap_or(&DEFAULT)
    }
}

/// Which workers will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraints {
    /// All instances within one place of this width, or not at all.
    pub required: Option<PlaceLevel>,
    /// All instances within one place of this width where that is possible at once.
    pub preferred: Option<PlaceLevel>,
    /// Labels that each worker must have.
    pub labels: BTreeMap<String, String>,
    /// Product names of devices that will do, best first; empty = any.
    pub devices: Vec<String>,
    /// Taints of workers that do not keep it away.
    pub tolerations: BTreeSet<String>,
    /// A name that jobs share which others may want to stay away from; empty = none.
    pub group: String,
    /// Never on a worker where a job of this group is; empty = anywhere.
    pub away_from: String,
}

/// A width of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlaceLevel {
    /// One worker.
    Worker,
    /// Below one switch of a rack.
    Switch,
    /// One rack.
    Rack,
    /// One block of racks.
    Block,
    /// One zone.
    Zone,
}

impl PlaceLevel {
    /// All widths, from narrow to wide.
    pub const ALL: [PlaceLevel; 5] =
        [PlaceLevel::Worker, PlaceLevel::Switch, PlaceLevel::Rack, PlaceLevel::Block, PlaceLevel::Zone];
    /// Their names, in the same order.
    pub const NAMES: [&str; 5] = ["worker", "switch", "rack", "block", "zone"];

    /// The word for it in files and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            PlaceLevel::Worker => "worker",
            PlaceLevel::Switch => "switch",
            PlaceLevel::Rack => "rack",
            PlaceLevel::Block => "block",
            PlaceLevel::Zone => "zone",
        }
    }

    /// The width of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// Code by content, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeSnapshot {
    /// Hash of the tree blob.
    pub tree: ContentHash,
    /// The git state of the folder when it was taken, if it was a git work tree.
    pub git: Option<GitState>,
}

/// Of the work tree that a snapshot was taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitState {
    /// Full commit id.
    pub commit: String,
    /// Branch, or empty when detached.
    pub branch: String,
    /// True when files differed from the commit.
    pub dirty: bool,
    /// Of a dirty one: the tree of one file that says how they differed, where that was recorded.
    pub diff: Option<ContentHash>,
}

/// An input of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Put into the command as it is.
    Literal(String),
    /// A local file or folder, uploaded by content; the command sees its local path.
    Data {
        /// File or folder.
        kind: InputKind,
        /// Hash of the tree blob (a file is a tree of one entry).
        tree: ContentHash,
        /// The path as the job file gave it, for people.
        origin: String,
    },
}

/// Azure ML's `uri_file` and `uri_folder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputKind {
    /// `uri_file`
    File,
    /// `uri_folder`
    Folder,
}

/// A named output folder of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Free text.
    pub description: String,
}

/// Shape of the gang: `instances` members of `ranks_per_instance` ranks each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GangSpec {
    /// `resources.instance_count`, at least 1: the most that it runs with.
    pub instances: u32,
    /// The fewest that an elastic gang can run with, 1 to `instances`; none = it runs with `instances` only.
    pub instances_min: Option<u32>,
    /// `distribution.process_count_per_instance`, at least 1.
    pub ranks_per_instance: u32,
    /// What each rank needs.
    pub per_rank: RankResources,
    /// How ranks find each other.
    pub distribution: Distribution,
    /// No two instances of the gang within one place of this width; none = anywhere.
    pub spread: Option<PlaceLevel>,
}

impl GangSpec {
    /// Number of ranks; of an elastic gang the most. How many an attempt has stands in its placement.
    pub fn world_size(&self) -> u32 {
        self.instances.saturating_mul(self.ranks_per_instance)
    }

    /// May it run with fewer instances than it would like to have?
    pub fn is_elastic(&self) -> bool {
        self.fewest() < self.instances
    }

    /// The fewest instances that it can run with.
    pub fn fewest(&self) -> u32 {
        self.instances_min.unwrap_or(self.instances)
    }
}

/// What one rank holds while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankResources {
    /// CPU slots, at least 1.
    pub cpus: u32,
    /// Bytes; 0 = no limit of its own.
    pub memory_bytes: u64,
    /// Whole GPUs.
    pub gpus: u32,
}

/// The launch contract of the job's framework.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distribution {
    /// Plain processes with Muster's own environment.
    None,
    /// `MASTER_ADDR`, `RANK` and the like.
    PyTorch,
    /// `TF_CONFIG`.
    TensorFlow {
        /// Workers in the cluster.
        worker_count: u32,
        /// Parameter servers in the cluster.
        parameter_server_count: u32,
    },
    /// One `mpirun` on the first member reaches the others through their daemons.
    Mpi,
}

/// What happens after an attempt that did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// Further attempts after a failure of the job's own making.
    pub max_restarts: u32,
    /// Wait before the first of them; doubles each time up to 5 minutes.
    pub backoff: Millis,
}
