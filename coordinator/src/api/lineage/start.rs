//! Where a walk begins: what a user calls a job, a folder, code, a commit, a worker, a GPU or a file, found among the jobs that the user sees.

use super::super::blobs::store_of;
use super::Graph;
use super::walk::Links;
use cluster_state::{Job, output_node};
use std::collections::BTreeSet;
use std::sync::Arc;
use stores::blobs::BlobStore;
use types::{ContentHash, JobId};

/// Digits of a hash or commit that are enough.
const DIGITS_MIN: usize = 8;
/// Jobs or folders that a walk begins at: more were asked for by too few digits, or by a worker that ran everything.
const BEGIN_MAX: usize = 100;
/// Lists of files that are read for one question.
const LISTS_MAX: usize = 100_000;

/// Why there is nothing to begin at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartError {
    /// It is no node as they are written.
    Malformed(String),
    /// No job that the caller may see has it.
    Unknown(String),
}

/// The nodes asked for, and the folders and jobs at which the walk begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    pub(super) nodes: Vec<String>,
    pub(super) folders: BTreeSet<ContentHash>,
    pub(super) jobs: BTreeSet<JobId>,
    /// A worker or GPU: no folder leads to it.
    machine: Option<Machine>,
    /// Folders with the file that was asked for, and its path in each.
    files: Vec<(ContentHash, String)>,
}

#[derive(Clone, Debug)]
enum Machine {
    Worker(String),
    Device(String),
}

impl Start {
    pub(super) fn find(links: &Links, store: &BlobStore, text: &str) -> Result<Self, StartError> {
        let (kind, rest) = text.split_once(':').unwrap_or(("", text));
        let found = match kind {
            "job" => Self::job(links, rest)?,
            "output" => Self::output(links, rest)?,
            "data" => Self::data(links, &digits(rest)?),
            "code" => Self::code(links, &digits(rest)?),
            "git" => Self::git(links, &digits(rest)?),
            "file" => Self::file(links, store, &digits(rest)?),
            "worker" => Self::machine(links, Machine::Worker(rest.to_owned())),
            "device" => Self::machine(links, Machine::Device(rest.to_owned())),
            "" => {
                let prefix = digits(rest)?;
                [Self::code, Self::data, Self::git]
                    .iter()
                    .map(|find| find(links, &prefix))
                    .fold(Self::default(), |all, one| if all.nodes.is_empty() { one } else { all })
            }
            _ => {
                return Err(StartError::Malformed(format!(
                    "{text:?} is no node: write job:7, output:7:model, data:HASH, code:HASH, file:HASH, git:COMMIT, worker:NAME or device:UUID"
                )));
            }
        };
        if found.nodes.is_empty() {
            return Err(StartError::Unknown(format!("no job that you may see has {text}")));
        }
        found.bounded(text)
    }

    fn bounded(self, text: &str) -> Result<Self, StartError> {
        let count = self.nodes.len().max(self.folders.len());
        if count > BEGIN_MAX {
            return Err(StartError::Malformed(format!("{count} nodes begin with {text}: give more digits")));
        }
        Ok(self)
    }

    fn job(links: &Links, text: &str) -> Result<Self, StartError> {
        let id = JobId(number(text)?);
        Ok(match links.job(id) {
            Some(_) => Self { nodes: vec![format!("job:{id}")], jobs: [id].into(), ..Self::default() },
            None => Self::default(),
        })
    }

    /// `7:model`, or `7:0:model` of the first instance only.
    fn output(links: &Links, text: &str) -> Result<Self, StartError> {
        let (job, rest) = text
            .split_once(':')
            .ok_or_else(|| StartError::Malformed(format!("output:{text} names no output: write output:7:model")))?;
        let Some(job) = links.job(JobId(number(job)?)) else { return Ok(Self::default()) };
        let outputs = job.outputs.iter().filter(|output| {
            output.output.name == rest || format!("output:{rest}") == output_node(output.node_rank, &output.output.name)
        });
        Ok(Self::of_folders("data", outputs.map(|output| output.output.tree)))
    }

    fn data(links: &Links, prefix: &Prefix) -> Self {
        let trees = links.trees().into_iter().filter(|tree| prefix.begins(&tree.0));
        Self::of_folders("data", trees)
    }

    fn code(links: &Links, prefix: &Prefix) -> Self {
        let codes = links.jobs().filter_map(|job| Some(job.spec.code.as_ref()?.tree));
        Self::of_folders("code", codes.filter(|tree| prefix.begins(&tree.0)))
    }

    fn of_folders(kind: &str, trees: impl Iterator<Item = ContentHash>) -> Self {
        let folders: BTreeSet<ContentHash> = trees.collect();
        Self { nodes: folders.iter().map(|tree| format!("{kind}:{tree}")).collect(), folders, ..Self::default() }
    }

    fn git(links: &Links, prefix: &Prefix) -> Self {
        let mut start = Self::default();
        for code in links.jobs().filter_map(|job| job.spec.code.as_ref()) {
            let Some(git) = code.git.as_ref().filter(|git| git.commit.starts_with(&prefix.text)) else { continue };
            let node = format!("git:{}", git.commit);
            if !start.nodes.contains(&node) {
                start.nodes.push(node);
            }
            start.folders.insert(code.tree);
        }
        start
    }

    fn machine(links: &Links, machine: Machine) -> Self {
        // The newest: a machine has run more than anybody reads.
        let jobs: BTreeSet<JobId> =
            links.jobs().filter(|job| machine.ran(job)).map(|job| job.id).take(BEGIN_MAX).collect();
        let nodes = if jobs.is_empty() { Vec::new() } else { vec![machine.node()] };
        Self { nodes, jobs, machine: Some(machine), ..Self::default() }
    }

    /// The folders that hold it, of those whose lists of files are on this disk.
    fn file(links: &Links, store: &BlobStore, prefix: &Prefix) -> Self {
        let mut files = Vec::new();
        for (place, tree) in links.places().into_iter().take(LISTS_MAX) {
            let Ok(store) = store_of(store, &place) else { continue };
            let Ok(Some(list)) = stores::trees::load(&store, &tree) else { continue };
            let found = list.entries().iter().find(|entry| prefix.begins(&entry.hash.0));
            files.extend(found.map(|entry| (tree, entry.path.clone())));
        }
        // A folder of two workspaces is one.
        files.sort_unstable();
        files.dedup();
        let nodes = if files.is_empty() { Vec::new() } else { vec![format!("file:{}", prefix.text)] };
        Self { nodes, folders: files.iter().map(|(tree, _)| *tree).collect(), files, ..Self::default() }
    }

    /// What this node is called in the graph, where it stands for certain afterwards.
    pub(super) fn drawn(graph: &mut Graph, node: &str) -> String {
        let (kind, id) = node.split_once(':').unwrap_or(("data", node));
        let code = format!("code:{id}");
        if kind == "data" && graph.nodes.contains_key(&code) {
            return code;
        }
        graph.node(node, kind, &id.chars().take(12).collect::<String>(), []);
        node.to_owned()
    }

    /// What leads to the jobs but no folder.
    pub(super) fn draw(&self, graph: &mut Graph, jobs: &[&Arc<Job>]) {
        if let (Some(node), Some((_, path))) = (self.nodes.first(), self.files.first()) {
            graph.node(node, "file", path, []);
            for (tree, _) in &self.files {
                let folder = Self::drawn(graph, &format!("data:{tree}"));
                graph.edge(node, &folder, "in");
            }
        }
        let Some(machine) = &self.machine else { return };
        let node = machine.node();
        let (kind, label) = node.split_once(':').unwrap_or(("worker", &node));
        graph.node(&node, kind, label, []);
        for job in jobs.iter().filter(|job| machine.ran(job)) {
            graph.edge(&node, &format!("job:{}", job.id), "ran_on");
        }
    }
}

impl Machine {
    fn node(&self) -> String {
        match self {
            Self::Worker(name) => format!("worker:{name}"),
            Self::Device(uuid) => format!("device:{uuid}"),
        }
    }

    fn ran(&self, job: &Job) -> bool {
        job.attempts.iter().any(|attempt| {
            attempt.placement.members.iter().any(|member| match self {
                Self::Worker(name) => member.worker.as_str() == name,
                Self::Device(uuid) => attempt.devices_of(member.node_rank).any(|device| device.uuid == *uuid),
            })
        })
    }
}

fn number(text: &str) -> Result<u64, StartError> {
    text.parse().map_err(|_| StartError::Malformed(format!("{text:?} is no job's number")))
}

/// The first digits of a hash.
struct Prefix {
    text: String,
}

impl Prefix {
    fn begins(&self, hash: &[u8; 32]) -> bool {
        let digit = |at: usize| {
            let byte = hash[at / 2];
            char::from_digit(u32::from(if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 }), 16)
        };
        self.text.chars().enumerate().all(|(at, wanted)| digit(at) == Some(wanted))
    }
}

fn digits(text: &str) -> Result<Prefix, StartError> {
    let is_sound = (DIGITS_MIN..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_sound {
        return Err(StartError::Malformed(format!("{text:?} is no hash: give {DIGITS_MIN} to 64 of its digits")));
    }
    Ok(Prefix { text: text.to_ascii_lowercase() })
}
