//! What a job's results were made of, sealed when it ends: each record bound by its hash to all before it (`LINEAGE-1`).
//!
//! ```text
//!  zeros ── seal of the first job that ended ── … ── seal of the last one
//!             hash = SHA-256(hash of the seal before · text of the job's record)
//! ```
//!
//! The text is read off the job's row whenever it is asked for; kept are the hashes alone. So a row that is not what it was
//! when its job ended no longer has the hash that its seal holds, and a seal that is not what it was does not lead to the
//! next one.

mod record;

pub use record::environment_hash;

use crate::{Job, State};
use imbl::Vector;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use types::{ContentHash, Input, JobId, MemberEnd};

/// The end of one job's lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seal {
    pub(crate) job: JobId,
    pub(crate) hash: [u8; 32],
}

/// All of them, in the order in which jobs ended: the n-th has number n+1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seals(#[serde(deserialize_with = "crate::bounded::list")] Vector<Seal>);

impl Seals {
    fn get(&self, number: u64) -> Option<&Seal> {
        self.0.get(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    fn hash_before(&self, number: u64) -> [u8; 32] {
        number.checked_sub(1).and_then(|before| self.get(before)).map_or([0; 32], |seal| seal.hash)
    }
}

/// What the tables have of a job that ended, beside what its seal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageRecord {
    /// Of the seal: from 1, without gaps, in the order in which jobs ended.
    pub number: u64,
    /// Whose.
    pub job: JobId,
    /// The hash of the seal before; zeros before the first.
    pub previous: [u8; 32],
    /// That the seal holds.
    pub hash: [u8; 32],
    /// JSON of what is in the job's row now; empty when there is no such row.
    pub text: String,
}

impl LineageRecord {
    /// Does the row still have the hash of its seal?
    pub fn is_true(&self) -> bool {
        hash_after(&self.previous, &self.text) == self.hash
    }
}

/// What the graph calls an output.
pub fn output_node(node_rank: u32, name: &str) -> String {
    format!("output:{node_rank}:{name}")
}

fn hash_after(previous: &[u8; 32], text: &str) -> [u8; 32] {
    Sha256::new().chain_update(previous).chain_update(text).finalize().into()
}

impl State {
    /// How many jobs' lineage is sealed, and the hash of the last seal; zeros before there is one.
    pub fn lineage_head(&self) -> (u64, [u8; 32]) {
        let last = self.lineage.0.last().map_or([0; 32], |seal| seal.hash);
        (self.lineage.0.len() as u64, last)
    }

    /// The record of this number.
    pub fn lineage_record(&self, number: u64) -> Option<LineageRecord> {
        let Seal { job, hash } = *self.lineage.get(number)?;
        let text = self.job(job).map(|job| record::text(job, number)).unwrap_or_default();
        Some(LineageRecord { number, job, previous: self.lineage.hash_before(number), hash, text })
    }

    /// The first record whose job is not what it was when it ended. Reads every row.
    pub fn lineage_fault(&self) -> Option<LineageRecord> {
        let all = (1..=self.lineage_head().0).filter_map(|number| self.lineage_record(number));
        all.into_iter().find(|record| !record.is_true())
    }

    /// Closes the lineage of a job that has just reached a final phase.
    pub(crate) fn seal_lineage(&mut self, id: JobId) {
        let (count, previous) = self.lineage_head();
        let number = count + 1;
        let Some(job) = self.jobs.get_mut(&id).map(std::sync::Arc::make_mut) else { return };
        let hash = hash_after(&previous, &record::text(job, number));
        job.sealed = Some(number);
        self.lineage.0.push_back(Seal { job: id, hash });
    }
}

impl Job {
    /// The number of its lineage's record, from when it has ended.
    pub fn sealed(&self) -> Option<u64> {
        self.sealed
    }

    /// The folders that it names, each under its node in the graph; one may come several times.
    pub fn folders(&self) -> Vec<(String, ContentHash)> {
        let code = self.spec.code.iter().map(|code| ("code".to_owned(), code.tree));
        let inputs = self.spec.inputs.iter().filter_map(|(name, input)| match input {
            Input::Data { tree, .. } => Some((format!("input:{name}"), *tree)),
            Input::Literal(_) => None,
        });
        let saved = self.checkpoints.iter().map(|saved| &saved.checkpoint);
        let resumed = self.attempts.iter().filter_map(|attempt| attempt.resumed_from.as_ref());
        let checkpoints = saved.chain(resumed).map(|point| (format!("checkpoint:{}", point.step), point.tree));
        let outputs =
            self.outputs.iter().map(|left| (output_node(left.node_rank, &left.output.name), left.output.tree));
        let left = self.attempts.iter().flat_map(|attempt| (0..).zip(&attempt.ends)).flat_map(|(node_rank, end)| {
            let outputs = match end {
                Some(MemberEnd::Exited { outputs, .. }) => outputs.as_slice(),
                Some(MemberEnd::NotPrepared { .. } | MemberEnd::Unknown) | None => &[],
            };
            outputs.iter().map(move |output| (output_node(node_rank, &output.name), output.tree))
        });
        let git = self.spec.code.iter().filter_map(|code| code.git.as_ref());
        let diff = git.filter_map(|git| Some(("diff".to_owned(), git.diff?)));
        code.chain(diff).chain(inputs).chain(checkpoints).chain(outputs).chain(left).collect()
    }
}
