//! What goes into the job that is done again: what went into the first one, but for what is to be another.

use crate::commands::lineage::Line;
use crate::failure::bad_input;
use job_spec::{DataInput, Draft, LocalPath, Prepared};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use types::{Input, InputKind, JobId, JobSpec};

/// Of the job that is done again; its value is the number of the first one.
const TAG: &str = "reproduces";

/// What of the job is not as its record says.
pub(super) fn differs_from(spec: &JobSpec, record: &Line) -> Option<&'static str> {
    let said: Value = serde_json::from_str(&record.text).unwrap_or_default();
    let code = spec.code.as_ref().map(|code| code.tree.to_string());
    let inputs: BTreeMap<&str, Value> =
        spec.inputs.iter().map(|(name, input)| (name.as_str(), sealed(input))).collect();
    let is_so = [
        ("command", said["command"] == spec.command),
        ("code", said["code"]["tree"].as_str() == code.as_deref()),
        ("environment", said["environment"]["sha256"] == environment_hash(&spec.environment_variables)),
        ("input data", said["inputs"] == serde_json::json!(inputs)),
    ];
    is_so.into_iter().find(|(_, is_so)| !is_so).map(|(what, _)| what)
}

/// As a record says it.
fn sealed(input: &Input) -> Value {
    match input {
        Input::Literal(text) => serde_json::json!({ "literal": text }),
        Input::Data { kind, tree, origin } => {
            let kind = if *kind == InputKind::File { "file" } else { "folder" };
            serde_json::json!({ kind: { "tree": tree.to_string(), "origin": origin } })
        }
    }
}

/// As the graph and the records have it: of `NAME=VALUE` and a NUL for each, in the order of the names.
fn environment_hash(variables: &BTreeMap<String, String>) -> String {
    let mut hasher = Sha256::new();
    for (name, value) in variables {
        for part in [name, "=", value, "\0"] {
            hasher.update(part);
        }
    }
    crate::output::text::hex(&hasher.finalize())
}

/// The job as it ran: an elastic gang with as many instances as it had at last, and no others.
pub(super) fn same_again(mut spec: JobSpec, first: JobId, placed: u32) -> JobSpec {
    if spec.gang.is_elastic() && placed > 0 {
        (spec.gang.instances, spec.gang.instances_min) = (placed, None);
    }
    spec.tags.insert(TAG.to_owned(), first.to_string());
    spec
}

/// With other code, inputs and variables. Blocks on the disk.
pub(super) fn changed(
    mut spec: JobSpec,
    code: Option<&Path>,
    inputs: &[String],
    variables: &[String],
) -> anyhow::Result<Prepared> {
    for variable in variables {
        let (name, value) = pair("--env", variable)?;
        spec.environment_variables.insert(name.to_owned(), value.to_owned());
    }
    let mut data = BTreeMap::new();
    for input in inputs {
        let (name, value) = pair("--with-input", input)?;
        match spec.inputs.get_mut(name) {
            Some(Input::Literal(text)) => value.clone_into(text),
            Some(Input::Data { kind, .. }) => {
                data.insert(name.to_owned(), DataInput { kind: *kind, path: local(value, "--with-input") });
            }
            None => {
                let known: Vec<&str> = spec.inputs.keys().map(String::as_str).collect();
                return Err(bad_input(format!("the job has no input {name:?}; there are: {}", known.join(", "))));
            }
        }
    }
    let before = spec.code.clone();
    let code = code.map(|folder| local(&folder.display().to_string(), "--with-code"));
    let file = "the command line".to_owned();
    let draft = Draft { file, spec, code, data, warnings: Vec::new() };
    let keeps_code = draft.code.is_none();
    let mut prepared = job_spec::resolve(draft, Path::new("")).map_err(|faults| bad_input(faults.to_string()))?;
    if keeps_code {
        prepared.spec.code = before;
    }
    Ok(prepared)
}

fn pair<'a>(option: &str, text: &'a str) -> anyhow::Result<(&'a str, &'a str)> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.ok_or_else(|| bad_input(format!("{option} {text:?} is not NAME=...")))
}

fn local(written: &str, field: &str) -> LocalPath {
    LocalPath { written: written.to_owned(), field: field.to_owned(), line: 1, column: 1 }
}
