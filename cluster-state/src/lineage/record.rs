//! The text of a job's lineage: a JSON object whose fields are always in this order, so that equal facts are equal bytes.

use crate::{Attempt, HeldDevice, Job};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use types::{
    AttemptPhase, CheckpointRef, ContentHash, Distribution, Input, InputKind, JobSpec, MemberEnd, OutputTree, RankEnd,
    RankExit,
};

/// Of the text: another number when it says more or says it otherwise.
const FORM: u32 = 2;

/// What a record says.
#[derive(Serialize)]
struct Record<'a> {
    form: u32,
    number: u64,
    job: u64,
    name: &'a str,
    workspace: &'a str,
    submitted_by: Option<&'a str>,
    submitted_ms: u64,
    ended_ms: Option<u64>,
    phase: &'static str,
    command: &'a str,
    code: Option<Code<'a>>,
    environment: Environment<'a>,
    secrets: &'a BTreeMap<String, String>,
    /// Left out where there are none.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    secret_files: &'a BTreeSet<String>,
    inputs: BTreeMap<&'a str, Given<'a>>,
    gang: Gang,
    attempts: Vec<Try<'a>>,
    checkpoints: Vec<Saved>,
    outputs: Vec<Left<'a>>,
}

#[derive(Serialize)]
struct Code<'a> {
    tree: String,
    git_commit: Option<&'a str>,
    git_branch: Option<&'a str>,
    git_dirty: Option<bool>,
    git_diff: Option<String>,
}

/// Values may be secrets: they are in the hash only, which tells whether two jobs had the same.
#[derive(Serialize)]
struct Environment<'a> {
    names: Vec<&'a str>,
    sha256: String,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Given<'a> {
    Literal(&'a str),
    File { tree: String, origin: &'a str },
    Folder { tree: String, origin: &'a str },
}

#[derive(Serialize)]
struct Gang {
    instances: u32,
    ranks_per_instance: u32,
    cpus_per_rank: u32,
    memory_bytes_per_rank: u64,
    gpus_per_rank: u32,
    distribution: &'static str,
}

#[derive(Serialize)]
struct Try<'a> {
    number: u32,
    token: u64,
    result: &'static str,
    placed_ms: u64,
    running_ms: Option<u64>,
    ended_ms: Option<u64>,
    resumed_from: Option<Point>,
    members: Vec<Placed<'a>>,
}

#[derive(Serialize)]
struct Point {
    step: u64,
    tree: String,
}

#[derive(Serialize)]
struct Placed<'a> {
    node_rank: u32,
    worker: &'a str,
    devices: Vec<&'a HeldDevice>,
    ranks: Vec<Ran<'a>>,
    outputs: Vec<Left<'a>>,
}

#[derive(Serialize)]
struct Ran<'a> {
    rank: u32,
    end: String,
    ended_ms: u64,
    metrics: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct Saved {
    step: u64,
    tree: String,
    attempt: u32,
    saved_ms: u64,
}

#[derive(Serialize)]
struct Left<'a> {
    node_rank: u32,
    name: &'a str,
    tree: String,
    bytes: u64,
}

/// Of a job in a final phase, under this number.
pub(super) fn text(job: &Job, number: u64) -> String {
    let spec = &job.spec;
    let record = Record {
        form: FORM,
        number,
        job: job.id.0,
        name: &spec.display_name,
        workspace: spec.workspace().as_str(),
        submitted_by: job.submitter.as_deref(),
        submitted_ms: job.submitted.0,
        ended_ms: job.ended.map(|ended| ended.0),
        phase: job.phase.name(),
        command: &spec.command,
        code: code(spec),
        environment: environment(&spec.environment_variables),
        secrets: &spec.secrets,
        secret_files: &spec.secret_files,
        inputs: spec.inputs.iter().map(|(name, input)| (name.as_str(), given(input))).collect(),
        gang: gang(spec),
        attempts: job.attempts.iter().map(|attempt| self::attempt(attempt)).collect(),
        checkpoints: job.checkpoints.iter().map(saved).collect(),
        outputs: job.outputs.iter().map(|output| left(output.node_rank, &output.output)).collect(),
    };
    let text = serde_json::to_string(&record);
    debug_assert!(text.is_ok(), "plain fields with text for keys always have a JSON form");
    text.unwrap_or_default()
}

fn code(spec: &JobSpec) -> Option<Code<'_>> {
    let code = spec.code.as_ref()?;
    let git = code.git.as_ref();
    Some(Code {
        tree: code.tree.to_string(),
        git_commit: git.map(|git| git.commit.as_str()),
        git_branch: git.map(|git| git.branch.as_str()),
        git_dirty: git.map(|git| git.dirty),
        git_diff: git.and_then(|git| git.diff).map(|diff| diff.to_string()),
    })
}

fn environment(variables: &BTreeMap<String, String>) -> Environment<'_> {
    let names = variables.keys().map(String::as_str).collect();
    Environment { names, sha256: environment_hash(variables).to_string() }
}

/// Of `NAME=VALUE` and a NUL for each, in the order of the names. Neither holds a NUL, no name holds `=`.
pub fn environment_hash(variables: &BTreeMap<String, String>) -> ContentHash {
    let mut hasher = Sha256::new();
    for (name, value) in variables {
        for part in [name, "=", value, "\0"] {
            hasher.update(part.as_bytes());
        }
    }
    ContentHash(hasher.finalize().into())
}

fn given(input: &Input) -> Given<'_> {
    match input {
        Input::Literal(text) => Given::Literal(text),
        Input::Data { kind: InputKind::File, tree, origin } => Given::File { tree: tree.to_string(), origin },
        Input::Data { kind: InputKind::Folder, tree, origin } => Given::Folder { tree: tree.to_string(), origin },
    }
}

fn gang(spec: &JobSpec) -> Gang {
    let (gang, each) = (&spec.gang, spec.gang.per_rank);
    Gang {
        instances: gang.instances,
        ranks_per_instance: gang.ranks_per_instance,
        cpus_per_rank: each.cpus,
        memory_bytes_per_rank: each.memory_bytes,
        gpus_per_rank: each.gpus,
        distribution: match gang.distribution {
            Distribution::None => "none",
            Distribution::PyTorch => "pytorch",
            Distribution::TensorFlow { .. } => "tensorflow",
            Distribution::Mpi => "mpi",
        },
    }
}

fn attempt(attempt: &Attempt) -> Try<'_> {
    let result = match &attempt.phase {
        AttemptPhase::Stopping(cause) | AttemptPhase::Ended(cause) => cause.kind(),
        AttemptPhase::Preparing | AttemptPhase::Running => "live",
    };
    let members = attempt.placement.members.iter().zip(&attempt.ends);
    Try {
        number: attempt.number.0,
        token: attempt.token.0,
        result,
        placed_ms: attempt.placed.0,
        running_ms: attempt.running.map(|time| time.0),
        ended_ms: attempt.ended.map(|time| time.0),
        resumed_from: attempt.resumed_from.as_ref().map(point),
        members: members
            .map(|(member, end)| {
                let (ranks, outputs) = match end {
                    Some(MemberEnd::Exited { ranks, outputs }) => (ranks.as_slice(), outputs.as_slice()),
                    Some(MemberEnd::NotPrepared { .. } | MemberEnd::Unknown) | None => (&[][..], &[][..]),
                };
                Placed {
                    node_rank: member.node_rank,
                    worker: member.worker.as_str(),
                    devices: attempt.devices_of(member.node_rank).collect(),
                    ranks: ranks.iter().map(ran).collect(),
                    outputs: outputs.iter().map(|output| left(member.node_rank, output)).collect(),
                }
            })
            .collect(),
    }
}

fn point(checkpoint: &CheckpointRef) -> Point {
    Point { step: checkpoint.step, tree: checkpoint.tree.to_string() }
}

fn ran(rank: &RankEnd) -> Ran<'_> {
    let end = match rank.exit {
        RankExit::Code(code) => format!("code {code}"),
        RankExit::Signal(signal) => format!("signal {signal}"),
        RankExit::NotStarted => "not started".to_owned(),
        RankExit::Stopped => "stopped".to_owned(),
        RankExit::LeaseOver => "lease over".to_owned(),
    };
    let metrics = rank.final_metrics.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Ran { rank: rank.rank.0, end, ended_ms: rank.ended.0, metrics }
}

fn saved(saved: &crate::SavedCheckpoint) -> Saved {
    let Point { step, tree } = point(&saved.checkpoint);
    Saved { step, tree, attempt: saved.attempt.0, saved_ms: saved.saved.0 }
}

fn left(node_rank: u32, output: &OutputTree) -> Left<'_> {
    Left { node_rank, name: &output.name, tree: output.tree.to_string(), bytes: output.bytes }
}
