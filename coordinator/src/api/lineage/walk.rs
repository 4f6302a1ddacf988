//! Lineage over all jobs, from any node both ways: what made this, and what was made of it.
//!
//! ```text
//!  git ─> code ─┐                  ┌─> output ─┐                  ┌─> output ..
//!               ├─> job 7 ─────────┤           ├─> job 9 ─────────┤
//!  data ────────┘                  └─> checkpoint                 └─> ..
//!  origins <──────────────── from a node in the middle ────────────────> uses
//! ```
//!
//! Jobs meet in folders: what one left and another took has the same hash. The jobs that the caller may see are read once, into
//! two sorted lists of (folder, job); the walk then looks up. It goes step by step, the nearest first, so that what is cut off is far.

use super::super::Context;
use super::start::{Start, StartError};
use super::{Graph, name};
use cluster_state::{Job, State};
use proto::v1;
use proto::v1::lineage_request::Direction;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use stores::blobs::BlobStore;
use tonic::Status;
use types::{Caller, ContentHash, JobId, Workspace};

/// Jobs of one answer.
const JOBS_MAX: usize = 500;
/// From job to job.
const STEPS_MAX: u32 = 64;
/// Jobs that one step goes on with, of those that took one folder: a data set may have been read by a hundred thousand.
const FANOUT_MAX: usize = 500;

/// For a turn, and for a walk.
const WALK_MAX: Duration = Duration::from_secs(20);

/// What a folder is to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Code,
    Input,
    Checkpoint,
    Output,
}

/// Which ways it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ways {
    origins: bool,
    uses: bool,
}

/// Jobs by the folders that they took, and by those that they left.
pub(super) struct Links {
    jobs: BTreeMap<JobId, Arc<Job>>,
    taken: Vec<(ContentHash, JobId)>,
    left: Vec<(ContentHash, JobId)>,
}

impl Links {
    /// Of the jobs that `may_see` lets through.
    pub(super) fn of(state: &State, may_see: impl Fn(&Job) -> bool) -> Self {
        let (mut jobs, mut taken, mut left) = (BTreeMap::new(), Vec::new(), Vec::new());
        for job in state.jobs_before(None).filter(|job| may_see(job)) {
            for (_, part, tree) in folders(job) {
                match part {
                    Part::Code | Part::Input => taken.push((tree, job.id)),
                    Part::Checkpoint | Part::Output => left.push((tree, job.id)),
                }
            }
            jobs.insert(job.id, job.clone());
        }
        for list in [&mut taken, &mut left] {
            list.sort_unstable();
            list.dedup();
        }
        Self { jobs, taken, left }
    }

    pub(super) fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values().rev()
    }

    /// Every folder that some job names, once.
    pub(super) fn trees(&self) -> BTreeSet<ContentHash> {
        self.taken.iter().chain(&self.left).map(|(tree, _)| *tree).collect()
    }

    /// The same, each with the workspaces of the jobs that name it.
    pub(super) fn places(&self) -> BTreeSet<(Workspace, ContentHash)> {
        let place = |job: &JobId| self.jobs.get(job).map(|job| job.spec.workspace().clone());
        self.taken.iter().chain(&self.left).filter_map(|(tree, job)| Some((place(job)?, *tree))).collect()
    }

    fn of_tree(list: &[(ContentHash, JobId)], tree: ContentHash) -> impl Iterator<Item = JobId> + '_ {
        let from = list.partition_point(|(known, _)| *known < tree);
        list[from..].iter().take_while(move |(known, _)| *known == tree).map(|(_, job)| *job)
    }
}

/// The folders of a job: the node that its own graph calls each by, what it is to the job, and its hash.
fn folders(job: &Job) -> Vec<(String, Part, ContentHash)> {
    let part = |node: &str| match node.split(':').next() {
        Some("code") => Some(Part::Code),
        Some("input") => Some(Part::Input),
        Some("checkpoint") => Some(Part::Checkpoint),
        Some("output") => Some(Part::Output),
        _ => None,
    };
    let all = job.folders().into_iter();
    all.filter_map(|(node, tree)| part(&node).map(|part| (node, part, tree))).collect()
}

/// Answers a request that names a node.
pub(super) async fn of(
    context: &Context,
    state: State,
    caller: Arc<Caller>,
    request: v1::LineageRequest,
) -> Result<v1::LineageGraph, Status> {
    if request.job_id != 0 {
        return Err(Status::invalid_argument("a job and a node are asked for: name one"));
    }
    let (origins, uses) = match request.direction() {
        Direction::Unspecified => (true, true),
        Direction::Origins => (true, false),
        Direction::Uses => (false, true),
    };
    let turn = tokio::time::timeout(WALK_MAX, context.lineage_walks.0.clone().acquire_owned()).await;
    let turn = turn.map_err(|_| Status::unavailable("other walks over all jobs are under way here"))?;
    let turn = turn.map_err(|error| Status::internal(error.to_string()))?;
    let store = context.blobs.clone();
    let walking = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let links = Links::of(&state, |job| state.may_see(&caller.principal, job.spec.workspace()));
        walk(&links, &store, &request.node, Ways { origins, uses }, request.steps)
    });
    let walked = tokio::time::timeout(WALK_MAX, walking).await;
    let walked =
        walked.map_err(|_| Status::deadline_exceeded("there are too many jobs for this question: name a job"))?;
    walked.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| match error {
        StartError::Malformed(why) => Status::invalid_argument(why),
        StartError::Unknown(why) => Status::not_found(why),
    })
}

/// The graph round what was asked for.
fn walk(links: &Links, store: &BlobStore, start: &str, ways: Ways, steps: u32) -> Result<v1::LineageGraph, StartError> {
    let start = Start::find(links, store, start)?;
    let mut walk = Walk { links, graph: Graph::default(), jobs: start.jobs.clone(), cut: false };
    let steps = if steps == 0 { STEPS_MAX } else { steps.min(STEPS_MAX) };
    let (folders, jobs) = (&start.folders, &start.jobs);
    if ways.origins {
        walk.go(folders, jobs, steps, Way::Origins);
    }
    if ways.uses {
        walk.go(folders, jobs, steps, Way::Uses);
    }
    let Walk { mut graph, jobs, cut, .. } = walk;
    draw(links, &mut graph, &jobs, &start);
    let begin = start.nodes.iter().map(|node| Start::drawn(&mut graph, node)).collect();
    let mut done = graph.done();
    done.begin = begin;
    done.cut = cut;
    Ok(done)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Origins,
    Uses,
}

struct Walk<'a> {
    links: &'a Links,
    graph: Graph,
    jobs: BTreeSet<JobId>,
    cut: bool,
}

impl Walk<'_> {
    /// Each step: from folders to the jobs that left or took them, and from these to their folders on the other side.
    fn go(&mut self, folders: &BTreeSet<ContentHash>, jobs: &BTreeSet<JobId>, steps: u32, way: Way) {
        let (mut folders, mut seen) = (folders.clone(), jobs.clone());
        folders.extend(jobs.iter().flat_map(|job| self.beyond(*job, way)));
        let mut looked = BTreeSet::new();
        for step in 0.. {
            let list = if way == Way::Origins { &self.links.left } else { &self.links.taken };
            let mut found = BTreeSet::new();
            for tree in folders.iter().filter(|tree| looked.insert(**tree)) {
                let of_tree: Vec<JobId> = Links::of_tree(list, *tree).take(FANOUT_MAX + 1).collect();
                self.cut |= of_tree.len() > FANOUT_MAX;
                found.extend(of_tree.into_iter().take(FANOUT_MAX).filter(|job| !seen.contains(job)));
            }
            if found.is_empty() {
                return;
            }
            if step >= steps {
                self.cut = true;
                return;
            }
            for job in &found {
                if self.jobs.len() >= JOBS_MAX && !self.jobs.contains(job) {
                    self.cut = true;
                    return;
                }
                self.jobs.insert(*job);
                seen.insert(*job);
            }
            folders = found.iter().flat_map(|job| self.beyond(*job, way)).collect();
        }
    }

    /// The folders of a job on the side that the way leads to.
    fn beyond(&self, job: JobId, way: Way) -> Vec<ContentHash> {
        let Some(job) = self.links.job(job) else { return Vec::new() };
        let is_there = |part: Part| matches!(part, Part::Code | Part::Input) == (way == Way::Origins);
        folders(job).into_iter().filter(|(_, part, _)| is_there(*part)).map(|(_, _, tree)| tree).collect()
    }
}

/// The nodes and edges of these jobs. Of checkpoints, of which a job may have a hundred, only those that another of them took.
fn draw(links: &Links, graph: &mut Graph, jobs: &BTreeSet<JobId>, start: &Start) {
    let all: Vec<&Arc<Job>> = jobs.iter().filter_map(|job| links.job(*job)).collect();
    let taken: BTreeSet<ContentHash> = all
        .iter()
        .flat_map(|job| folders(job))
        .filter(|(_, part, _)| matches!(part, Part::Code | Part::Input))
        .map(|(_, _, tree)| tree)
        .collect();
    for job in &all {
        let id = format!("job:{}", job.id);
        graph.node(&id, "job", &name(job), [("phase", job.phase.name().to_owned())]);
    }
    // Who left a folder names it, before who took it.
    for job in &all {
        let id = format!("job:{}", job.id);
        for (node, part, tree) in folders(job) {
            let is_shown = part == Part::Output || taken.contains(&tree) || start.folders.contains(&tree);
            if matches!(part, Part::Checkpoint | Part::Output) && is_shown {
                let what = node.replacen(':', " ", 1);
                let data = data(graph, &format!("{what} of job {}", job.id), tree);
                graph.edge(&id, &data, if part == Part::Output { "produced" } else { "saved" });
            }
        }
    }
    for job in &all {
        let id = format!("job:{}", job.id);
        for (node, part, tree) in folders(job) {
            match part {
                Part::Input => {
                    let label = node.trim_start_matches("input:");
                    let data = data(graph, label, tree);
                    graph.edge(&data, &id, "input");
                }
                Part::Code => {
                    super::code(graph, job, &id);
                }
                Part::Checkpoint | Part::Output => {}
            }
        }
    }
    start.draw(graph, &all);
}

/// The node of a folder: one for all jobs that took or left it.
fn data(graph: &mut Graph, label: &str, tree: ContentHash) -> String {
    let code = format!("code:{tree}");
    if graph.nodes.contains_key(&code) {
        return code;
    }
    let id = format!("data:{tree}");
    graph.node(&id, "data", label, [("tree", tree.to_string())]);
    id
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;
    use types::{Input, InputKind};

    const BOTH: Ways = Ways { origins: true, uses: true };

    fn reading(tables: &mut Tables, byte: u8) -> JobId {
        tables.submit(|spec| {
            let data = Input::Data { kind: InputKind::Folder, tree: ContentHash([byte; 32]), origin: "data".into() };
            spec.inputs = [("data".to_owned(), data)].into();
        })
    }

    fn walked(tables: &Tables, hidden: Option<JobId>, start: &str, ways: Ways) -> Result<v1::LineageGraph, StartError> {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let links = Links::of(&tables.state, |job| Some(job.id) != hidden);
        walk(&links, &store, start, ways, 0)
    }

    fn jobs(graph: &v1::LineageGraph) -> Vec<&str> {
        graph.nodes.iter().filter(|node| node.kind == "job").map(|node| node.id.as_str()).collect()
    }

    #[test]
    fn jobs_that_the_caller_may_not_see_are_not_there_and_lead_nowhere() {
        let mut tables = Tables::default();
        let (one, other, third) = (reading(&mut tables, 7), reading(&mut tables, 7), reading(&mut tables, 8));
        let seen = walked(&tables, None, "data:07070707", BOTH).unwrap();
        assert_eq!(jobs(&seen), [format!("job:{one}"), format!("job:{other}")]);
        assert_eq!(seen.begin, [format!("data:{}", "07".repeat(32))]);
        let hidden = walked(&tables, Some(other), "data:07070707", BOTH).unwrap();
        assert_eq!(jobs(&hidden), [format!("job:{one}")]);
        assert!(!format!("{hidden:?}").contains(&format!("job:{other}")));
        let unknown = walked(&tables, Some(third), "data:08080808", BOTH);
        assert!(matches!(unknown, Err(StartError::Unknown(_))), "{unknown:?}");
        let unknown = walked(&tables, Some(third), &format!("job:{third}"), BOTH);
        assert!(matches!(unknown, Err(StartError::Unknown(_))), "{unknown:?}");
    }

    #[test]
    fn what_many_jobs_took_is_cut_and_that_is_told() {
        let mut tables = Tables::default();
        for _ in 0..JOBS_MAX + 2 {
            reading(&mut tables, 7);
        }
        let graph = walked(&tables, None, "07070707", BOTH).unwrap();
        assert_eq!((jobs(&graph).len(), graph.cut), (JOBS_MAX, true));
        let whole = walked(&tables, None, "07070707", Ways { origins: true, uses: false }).unwrap();
        assert_eq!((jobs(&whole).len(), whole.cut), (0, false), "nobody made it");
        assert_eq!(whole.nodes.len(), 1, "it is shown by itself");
    }

    #[test]
    fn what_is_no_node_is_refused() {
        let mut tables = Tables::default();
        reading(&mut tables, 7);
        for wrong in [
            "",
            "7:",
            "model:7",
            "data:0707",
            "data:zzzzzzzz",
            "output:1",
            "job:x",
            &format!("code:{}", "0".repeat(65)),
        ] {
            let refused = walked(&tables, None, wrong, BOTH);
            assert!(matches!(refused, Err(StartError::Malformed(_))), "{wrong:?}: {refused:?}");
        }
    }
}
