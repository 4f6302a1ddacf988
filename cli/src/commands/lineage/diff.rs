//! `muster lineage JOB --diff`: how a job's code differed from its git commit, as it was recorded when it was submitted.

use crate::failure::{Exit, bad_input, not_found};
use crate::output::write_stdout;
use client::{Client, Place};
use types::{ContentHash, JobId};

/// More is not recorded.
const DIFF_BYTES_MAX: u64 = 4 << 20;

pub(super) async fn print(job: &str, client: &Client) -> anyhow::Result<Exit> {
    let job = job.strip_prefix("job:").unwrap_or(job).parse().map(JobId);
    let job = job.map_err(|_| bad_input("--diff is of a job: give its number"))?;
    let graph = client.lineage(job).await?;
    let facts = graph.nodes.iter().find(|node| node.kind == "diff").map(|node| &node.facts);
    let tree: Option<ContentHash> = facts.and_then(|facts| facts.get("tree")?.parse().ok());
    let Some(tree) = tree else {
        return Err(not_found(match graph.nodes.iter().find(|node| node.kind == "git") {
            None => format!("job {job} has no code from a git work tree"),
            Some(git) if git.facts.get("dirty").is_some_and(|dirty| dirty == "true") => {
                format!("how the code of job {job} differed from commit {} was not recorded", git.label)
            }
            Some(git) => format!("the code of job {job} is that of commit {}: it did not differ", git.label),
        }));
    };
    let place = Place::Job(job);
    for entry in client.tree(&place, tree).await?.entries() {
        write_stdout(&client.blob(&place, entry.hash, DIFF_BYTES_MAX).await?)?;
    }
    Ok(Exit::Success)
}
