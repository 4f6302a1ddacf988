//! Two jobs side by side: what went in, and what came out, to the bit.

use crate::commands::lineage::differences;
use crate::output::{Output, json, style, table::clean};
use anyhow::Context as _;
use client::{Client, Place, v1};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use types::{ContentHash, FileKind, JobId, Tree};

/// Metrics of the built-in training that measure the machine.
const TIMES: [&str; 4] = ["checkpoint_stall", "samples_per_second", "step_time", "wait_share"];
/// What of a job is compared field by field; code, inputs and variables have a closer look.
const FIELDS: [&str; 4] = ["command", "secrets", "secret_files", "gang"];
/// Characters of a value that are shown to people.
const VALUE_WIDTH: usize = 40;

/// One thing that differs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// `code`, `input`, `environment`, `command`, `secrets`, `gang`, `phase`, `output` or `metric`.
    part: &'static str,
    /// Which file, variable, field or metric.
    name: String,
    before: Option<String>,
    after: Option<String>,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) differences: Vec<Difference>,
    files_same: u64,
    metrics_same: u64,
    not_compared: BTreeSet<String>,
}

/// Whose folders are looked into.
struct Jobs<'a> {
    client: &'a Client,
    before: Place,
    after: Place,
}

fn place(job: &v1::Job) -> Place {
    Place::Job(JobId(job.summary.as_ref().map_or(0, |summary| summary.id)))
}

/// Looks into folders only where their hashes differ.
pub(super) async fn compare(
    client: &Client,
    before: &v1::Job,
    after: &v1::Job,
    ignored: &[String],
) -> anyhow::Result<Compared> {
    let mut compared = Compared::default();
    let jobs = Jobs { client, before: place(before), after: place(after) };
    let empty = v1::JobSpec::default();
    let (old, new) = (before.spec.as_ref().unwrap_or(&empty), after.spec.as_ref().unwrap_or(&empty));
    compared.fields(old, new);
    let code = |spec: &v1::JobSpec| spec.code.as_ref().map(|code| code.tree.clone());
    compared.folders(&jobs, "code", "", code(old).as_deref(), code(new).as_deref()).await?;
    compared.variables(&old.environment_variables, &new.environment_variables);
    for name in old.inputs.keys().chain(new.inputs.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (old.inputs.get(name), new.inputs.get(name));
        compared.input(&jobs, name, old, new).await?;
    }
    let phase = |job: &v1::Job| job.summary.as_ref().map(|summary| summary.phase.clone());
    compared.value_of("phase", "", phase(before), phase(after));
    let (old, new) = (outputs(before), outputs(after));
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let place = if key.1 == 0 { format!("{}/", key.0) } else { format!("{} of instance {}/", key.0, key.1) };
        compared.folders(&jobs, "output", &place, old.get(key).copied(), new.get(key).copied()).await?;
    }
    compared.metrics(&metrics(before), &metrics(after), ignored);
    Ok(compared)
}

fn outputs(job: &v1::Job) -> BTreeMap<(&str, u32), &[u8]> {
    job.outputs.iter().map(|output| ((output.name.as_str(), output.node_rank), &output.tree[..])).collect()
}

/// By rank and name, of the last attempt.
fn metrics(job: &v1::Job) -> BTreeMap<(u32, &str), &str> {
    let ranks = job.attempts.last().map(|attempt| attempt.ranks.as_slice()).unwrap_or_default();
    let of = |rank: &v1::RankResult| rank.rank;
    let all = ranks.iter().flat_map(|rank| {
        rank.final_metrics.iter().map(move |(name, value)| ((of(rank), name.as_str()), value.as_str()))
    });
    all.collect()
}

/// Files of a folder by path: what is compared of each.
fn files(tree: &Tree) -> BTreeMap<&str, String> {
    let file = |entry: &types::TreeEntry| {
        if entry.kind == FileKind::Executable { format!("{}, executable", entry.hash) } else { entry.hash.to_string() }
    };
    tree.entries().iter().map(|entry| (entry.path.as_str(), file(entry))).collect()
}

impl Compared {
    fn value_of(&mut self, part: &'static str, name: &str, before: Option<String>, after: Option<String>) {
        if before != after {
            self.differences.push(Difference { part, name: name.to_owned(), before, after });
        }
    }

    fn fields(&mut self, before: &v1::JobSpec, after: &v1::JobSpec) {
        let (before, after) = (json::spec(before), json::spec(after));
        for part in FIELDS {
            for (name, before, after) in differences(&before[part], &after[part]) {
                self.value_of(part, &name, before, after);
            }
        }
    }

    /// Their names only: values may be secrets.
    fn variables(&mut self, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
        for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (before, after) = (before.get(name), after.get(name));
            if before != after {
                let said = |value: Option<&String>, what: &str| value.map(|_| what.to_owned());
                let (before, after) = (said(before, "one value"), said(after, "another value"));
                self.differences.push(Difference { part: "environment", name: name.clone(), before, after });
            }
        }
    }

    async fn input(
        &mut self,
        jobs: &Jobs<'_>,
        name: &str,
        before: Option<&v1::Input>,
        after: Option<&v1::Input>,
    ) -> anyhow::Result<()> {
        use v1::input::Value::{Data, Literal};
        let (before, after) =
            (before.and_then(|input| input.value.as_ref()), after.and_then(|input| input.value.as_ref()));
        if let (Some(Data(before)), Some(Data(after))) = (before, after) {
            let place = format!("{name}/");
            return self.folders(jobs, "input", &place, Some(&before.tree), Some(&after.tree)).await;
        }
        let said = |value: Option<&v1::input::Value>| match value? {
            Literal(text) => Some(text.clone()),
            Data(data) => Some(crate::output::text::hex(&data.tree)),
        };
        self.value_of("input", name, said(before), said(after));
        Ok(())
    }

    async fn folders(
        &mut self,
        jobs: &Jobs<'_>,
        part: &'static str,
        place: &str,
        before: Option<&[u8]>,
        after: Option<&[u8]>,
    ) -> anyhow::Result<()> {
        if before == after && part != "output" {
            return Ok(());
        }
        let old = tree(jobs.client, &jobs.before, before).await?.unwrap_or_default();
        if before == after {
            self.files_same += old.entries().len() as u64;
            return Ok(());
        }
        let new = tree(jobs.client, &jobs.after, after).await?.unwrap_or_default();
        let (old, new) = (files(&old), files(&new));
        for path in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            let (before, after) = (old.get(path), new.get(path));
            self.files_same += u64::from(part == "output" && before == after);
            self.value_of(part, &format!("{place}{path}"), before.cloned(), after.cloned());
        }
        Ok(())
    }

    fn metrics(
        &mut self,
        before: &BTreeMap<(u32, &str), &str>,
        after: &BTreeMap<(u32, &str), &str>,
        ignored: &[String],
    ) {
        for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (rank, name) = key;
            if TIMES.contains(name) || ignored.iter().any(|ignored| ignored == name) {
                self.not_compared.insert((*name).to_owned());
                continue;
            }
            let said = |of: &BTreeMap<(u32, &str), &str>| of.get(key).map(|value| (*value).to_owned());
            let (before, after) = (said(before), said(after));
            self.metrics_same += u64::from(before == after);
            self.value_of("metric", &format!("{name} of rank {rank}"), before, after);
        }
    }

    pub(super) fn value(&self, first: JobId, again: JobId) -> Value {
        let one = |difference: &Difference| {
            let Difference { part, name, before, after } = difference;
            json!({ "part": part, "name": name, "before": before, "after": after })
        };
        json!({
            "job_id": first.0,
            "reproduced_by": again.0,
            "equal": self.differences.is_empty(),
            "differences": self.differences.iter().map(one).collect::<Vec<_>>(),
            "output_files_same": self.files_same,
            "metrics_same": self.metrics_same,
            "metrics_not_compared": self.not_compared,
        })
    }

    pub(super) fn text(&self, first: JobId, again: JobId, output: &Output) -> String {
        let mut text = String::new();
        for Difference { part, name, before, after } in &self.differences {
            let short = |value: &Option<String>| match value {
                Some(value) => crate::output::table::cut(&clean(value), VALUE_WIDTH),
                None => "nothing".to_owned(),
            };
            let part = output.paint(style::BUSY, part);
            let _ = writeln!(text, "{part} {}: {} -> {}", clean(name), short(before), short(after));
        }
        let how = if self.differences.is_empty() { "is the same as" } else { "differs from" };
        let (files, metrics) = (self.files_same, self.metrics_same);
        let _ = writeln!(
            text,
            "job {again} {how} job {first}: {files} files of outputs and {metrics} metrics are equal to the bit"
        );
        if !self.not_compared.is_empty() {
            let names: Vec<&str> = self.not_compared.iter().map(String::as_str).collect();
            let _ = writeln!(text, "not compared: {}", names.join(", "));
        }
        text
    }
}

async fn tree(client: &Client, place: &Place, hash: Option<&[u8]>) -> anyhow::Result<Option<Tree>> {
    let Some(hash) = hash else { return Ok(None) };
    let hash = ContentHash::from_slice(hash).context("the coordinator's answer holds a damaged hash")?;
    Ok(Some(client.tree(place, hash).await?))
}
