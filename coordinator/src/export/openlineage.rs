//! A job as OpenLineage has it: one run, whose events say that it began and how it ended (`OpenLineage.json`, version 2-0-2).

use bytes::Bytes;
use cluster_state::Job;
use serde_json::{Value, json};
use types::{ClusterId, EndCause, Input, JobPhase, Timestamp, TraceId};

const PRODUCER: &str = concat!("urn:x-muster:", env!("CARGO_PKG_VERSION"));
const SCHEMA: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
const ERROR_FACET: &str =
    "https://openlineage.io/spec/facets/1-0-0/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet";

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Start,
    End,
}

/// The event of this job, which has begun or ended.
pub(super) fn event(cluster: ClusterId, job: &Job, kind: Kind) -> Bytes {
    let (word, time) = match (kind, job.phase) {
        (Kind::Start, _) => ("START", job.attempts.first().map_or(job.submitted, |first| first.placed)),
        (Kind::End, JobPhase::Completed) => ("COMPLETE", job.ended.unwrap_or(job.submitted)),
        (Kind::End, JobPhase::Canceled) => ("ABORT", job.ended.unwrap_or(job.submitted)),
        (Kind::End, _) => ("FAIL", job.ended.unwrap_or(job.submitted)),
    };
    let mut run = json!({ "runId": run_id(cluster, job) });
    if let Some(cause) = job.last_cause().filter(|_| word == "FAIL") {
        run["facets"] = json!({ "errorMessage": error(cause) });
    }
    let outputs: Vec<Value> = match kind {
        Kind::Start => Vec::new(),
        Kind::End => job.outputs.iter().map(|output| dataset(cluster, &output.output.tree.to_string())).collect(),
    };
    let event = json!({
        "eventType": word,
        "eventTime": rfc3339(time),
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
        "run": run,
        "job": { "namespace": format!("muster://{cluster}/{}", job.spec.workspace()), "name": name(job) },
        "inputs": inputs(cluster, job),
        "outputs": outputs,
    });
    event.to_string().into()
}

/// What its submitter calls it; jobs that are submitted again under one name are runs of one job.
fn name(job: &Job) -> String {
    let names = [&job.spec.display_name, &job.spec.experiment_name];
    names.into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_else(|| format!("job-{}", job.id))
}

/// The job's trace, in the form of a UUID of one's own making (version 8, RFC 9562).
fn run_id(cluster: ClusterId, job: &Job) -> String {
    let mut bytes = TraceId::of(cluster, job.id).0;
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = TraceId(bytes).to_string();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Its code and its data, by content.
fn inputs(cluster: ClusterId, job: &Job) -> Vec<Value> {
    let code = job.spec.code.iter().map(|code| code.tree);
    let data = job.spec.inputs.values().filter_map(|input| match input {
        Input::Literal(_) => None,
        Input::Data { tree, .. } => Some(*tree),
    });
    code.chain(data).map(|tree| dataset(cluster, &tree.to_string())).collect()
}

/// A folder in the cluster's blob store.
fn dataset(cluster: ClusterId, hash: &str) -> Value {
    json!({ "namespace": format!("muster://{cluster}"), "name": hash })
}

/// What kind of end it was, and no word of what the job itself printed.
fn error(cause: &EndCause) -> Value {
    json!({ "_producer": PRODUCER, "_schemaURL": ERROR_FACET, "message": cause.kind(), "programmingLanguage": "unknown" })
}

fn rfc3339(at: Timestamp) -> String {
    let (year, month, day) = daemon::clock::date(at.0 / 86_400_000);
    let millis = at.0 % 86_400_000;
    let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", millis % 1_000)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;
    use types::MemberEnd;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn read(job: &Job, kind: Kind) -> Value {
        serde_json::from_slice(&event(CLUSTER, job, kind)).unwrap()
    }

    #[test]
    fn instants_are_written_as_the_standard_has_them() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_764_273_600_001, "2025-11-27T20:00:00.001Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(millis)), text);
        }
    }

    #[test]
    fn events_have_what_the_schema_requires_and_one_run() {
        let mut tables = Tables::default();
        tables.worker("a", 1, &[]);
        let id = tables.submit(|spec| spec.experiment_name = "images".into());
        tables.plan();
        tables.start(id);
        let began = read(tables.state.job(id).unwrap(), Kind::Start);
        let reason = "no disk".to_owned();
        tables.end(id, &MemberEnd::NotPrepared { reason, machine_fault: false });
        let ended = read(tables.state.job(id).unwrap(), Kind::End);
        assert_eq!((&began["eventType"], &ended["eventType"]), (&json!("START"), &json!("FAIL")));
        for event in [&began, &ended] {
            // Required of a RunEvent by the schema, 2-0-2.
            for field in ["eventTime", "producer", "schemaURL"] {
                assert!(event[field].is_string(), "{field} of {event}");
            }
            assert_eq!(event["job"], json!({ "namespace": format!("muster://{CLUSTER}/default"), "name": "images" }));
            let run = event["run"]["runId"].as_str().unwrap();
            let parts: Vec<usize> = run.split('-').map(str::len).collect();
            assert_eq!((parts.as_slice(), &run[14..15]), (&[8, 4, 4, 4, 12][..], "8"));
            assert!(event["inputs"].is_array() && event["outputs"].is_array());
        }
        assert_eq!(began["run"]["runId"], ended["run"]["runId"]);
        let facet = &ended["run"]["facets"]["errorMessage"];
        assert_eq!((&facet["message"], facet["_schemaURL"].is_string()), (&json!("not_prepared"), true));
    }

    #[test]
    fn one_that_is_cancelled_is_aborted() {
        let mut tables = Tables::default();
        let id = tables.submit(|_| {});
        tables.apply(&cluster_state::Command::CancelJob { job: id });
        assert_eq!(read(tables.state.job(id).unwrap(), Kind::End)["eventType"], "ABORT");
    }
}
