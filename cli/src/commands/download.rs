//! `muster download`: a job's output, or one of its checkpoints, into a folder; every file checked against its hash.

use super::Session;
use super::jobs::parse_job;
use crate::failure::{Exit, bad_input, not_found};
use crate::output::{note, text};
use clap::Args;
use client::{Client, Place, v1};
use std::collections::BTreeSet;
use std::path::PathBuf;
use types::{ContentHash, JobId};

/// `muster download`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  muster download 7 ./model                    the one output of job 7
  muster download 7 ./model --name model       the output called model
  muster download 7 ./state --checkpoint 120   the checkpoint of step 120 (or: last)")]
pub struct DownloadArgs {
    /// The job's number
    #[arg(value_parser = parse_job)]
    job: JobId,
    /// Where to put it; made if need be
    folder: PathBuf,
    /// Which output; may be left out when there is only one
    #[arg(long, value_name = "OUTPUT")]
    name: Option<String>,
    /// Which instance's, for a gang of several that all wrote this output
    #[arg(long, value_name = "N", requires = "name")]
    node_rank: Option<u32>,
    /// A checkpoint instead: its step, or last
    #[arg(long, value_name = "STEP", conflicts_with = "name")]
    checkpoint: Option<String>,
}

/// Downloads.
pub async fn run(args: &DownloadArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let job = client.get(args.job).await?;
    let parts = match &args.checkpoint {
        Some(step) => vec![(checkpoint(args.job, &job, step)?, args.folder.clone())],
        None => outputs(args, &job)?,
    };
    let mut total = client::Downloaded::default();
    let mut trees = Vec::new();
    for (tree, folder) in parts {
        let done = client.download(&Place::Job(args.job), tree, &folder, &|_| {}).await?;
        total.files += done.files;
        total.bytes += done.bytes;
        trees.push(tree.to_string());
    }
    let folder = args.folder.display().to_string();
    let value = serde_json::json!({
        "job_id": args.job.0, "folder": folder, "trees": trees, "files": total.files, "bytes": total.bytes
    });
    session.output.print(&value, |_| format!("{} files, {}, in {folder}\n", total.files, text::bytes(total.bytes)))?;
    Ok(Exit::Success)
}

/// Trees of the wanted output. Several instances that wrote different bytes go into one subfolder each.
fn outputs(args: &DownloadArgs, job: &v1::Job) -> anyhow::Result<Vec<(ContentHash, PathBuf)>> {
    let names: BTreeSet<&str> = job.outputs.iter().map(|output| output.name.as_str()).collect();
    let name = match (&args.name, names.len()) {
        (Some(name), _) => name.as_str(),
        (None, 1) => names.iter().next().copied().unwrap_or_default(),
        (None, 0) => return Err(not_found(format!("job {} has no outputs (yet)", args.job))),
        (None, _) => {
            let list = names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(bad_input(format!("job {} has several outputs; say --name: {list}", args.job)));
        }
    };
    let wanted: Vec<&v1::JobOutput> = job
        .outputs
        .iter()
        .filter(|output| output.name == name && args.node_rank.is_none_or(|rank| rank == output.node_rank))
        .collect();
    let distinct: BTreeSet<&[u8]> = wanted.iter().map(|output| &output.tree[..]).collect();
    // Instances that wrote nothing need no folder of their own.
    let filled: Vec<&&v1::JobOutput> = wanted.iter().filter(|output| output.bytes > 0).collect();
    if let [only] = filled[..] {
        return Ok(vec![(hash(&only.tree)?, args.folder.clone())]);
    }
    match wanted.first() {
        None => Err(not_found(format!("job {} has no output {name:?}; there are: {}", args.job, list(&names)))),
        Some(first) if distinct.len() == 1 => Ok(vec![(hash(&first.tree)?, args.folder.clone())]),
        Some(_) => {
            note(&format!("{} instances wrote {name}: each goes into a subfolder", wanted.len()));
            let part = |output: &&v1::JobOutput| {
                Ok((hash(&output.tree)?, args.folder.join(format!("instance-{}", output.node_rank))))
            };
            wanted.iter().map(part).collect()
        }
    }
}

fn list(names: &BTreeSet<&str>) -> String {
    if names.is_empty() { "none".into() } else { names.iter().copied().collect::<Vec<_>>().join(", ") }
}

fn checkpoint(id: JobId, job: &v1::Job, step: &str) -> anyhow::Result<ContentHash> {
    let found = if step == "last" {
        job.checkpoints.last()
    } else {
        let number: u64 = step.parse().map_err(|_| bad_input(format!("{step:?} is not a step: a number, or last")))?;
        job.checkpoints.iter().rev().find(|checkpoint| checkpoint.step == number)
    };
    let steps: Vec<String> = job.checkpoints.iter().map(|checkpoint| checkpoint.step.to_string()).collect();
    match found {
        Some(checkpoint) => hash(&checkpoint.tree),
        None => Err(not_found(format!("job {id} has no checkpoint of step {step}; steps: {}", steps.join(", ")))),
    }
}

fn hash(bytes: &[u8]) -> anyhow::Result<ContentHash> {
    ContentHash::from_slice(bytes).ok_or_else(|| anyhow::anyhow!("the coordinator's answer holds a damaged hash"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::failure::{Exit, exit_of};

    fn job(outputs: &[(&str, u32, u8, u64)]) -> v1::Job {
        let output = |(name, node_rank, byte, bytes): &(&str, u32, u8, u64)| v1::JobOutput {
            name: (*name).into(),
            node_rank: *node_rank,
            tree: vec![*byte; 32].into(),
            bytes: *bytes,
        };
        v1::Job { outputs: outputs.iter().map(output).collect(), ..Default::default() }
    }

    fn args(name: Option<&str>) -> DownloadArgs {
        let name = name.map(str::to_owned);
        DownloadArgs { job: JobId(1), folder: "out".into(), name, node_rank: None, checkpoint: None }
    }

    #[test]
    fn the_only_output_needs_no_name() {
        let one = outputs(&args(None), &job(&[("model", 0, 1, 9), ("model", 1, 2, 0)])).unwrap();
        assert_eq!(one, [(ContentHash([1; 32]), PathBuf::from("out"))]);
    }

    #[test]
    fn several_outputs_need_a_name_and_a_wrong_one_is_told() {
        let two = job(&[("model", 0, 1, 9), ("report", 0, 2, 9)]);
        assert_eq!(exit_of(&outputs(&args(None), &two).unwrap_err()), Exit::BadInput);
        let error = outputs(&args(Some("modle")), &two).unwrap_err();
        assert!(error.to_string().contains("model, report"), "{error}");
        assert_eq!(exit_of(&error), Exit::NotFound);
    }

    #[test]
    fn instances_that_differ_get_a_folder_each() {
        let parts = outputs(&args(None), &job(&[("logs", 0, 1, 9), ("logs", 1, 2, 9)])).unwrap();
        assert_eq!(parts[1].1, PathBuf::from("out/instance-1"));
    }
}
