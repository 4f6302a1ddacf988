//! Messages of `muster.v1` as JSON: the proto's own snake_case names, hashes as hex, times in milliseconds since 1970.
//!
//! Names here are an interface: they may be added to, never changed. `docs/cli.md` lists them.

use client::v1;
use serde_json::{Map, Value, json};

/// A job in a list.
pub fn summary(job: &v1::JobSummary) -> Value {
    json!({
        "id": job.id,
        "phase": job.phase,
        "display_name": job.display_name,
        "experiment_name": job.experiment_name,
        "submitted_ms": job.submitted_ms,
        "started_ms": job.started_ms,
        "ended_ms": job.ended_ms,
        "attempts": job.attempts,
        "world_size": job.world_size,
        "reason": job.reason,
        "priority": job.priority,
        "queue": job.queue,
        "workspace": job.workspace,
        "workers": job.workers,
        "kept": job.kept, "forgotten_ms": job.forgotten_ms,
    })
}

/// A change of a job.
pub fn event(event: &v1::JobEvent) -> Value {
    json!({ "index": event.index, "job": event.job.as_ref().map(summary) })
}

/// A job with everything that is known of it.
pub fn job(job: &v1::Job) -> Value {
    json!({
        "summary": job.summary.as_ref().map(summary),
        "submitted_by": job.submitted_by,
        "spec": job.spec.as_ref().map(spec),
        "attempts": job.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "checkpoints": job.checkpoints.iter().map(checkpoint).collect::<Vec<_>>(),
        "outputs": job.outputs.iter().map(output).collect::<Vec<_>>(),
        "promise": job.promise.as_ref().map(|promise| json!({
            "start_by_ms": promise.start_by_ms,
            "workers": promise.workers,
        })),
    })
}

/// What was asked for.
pub fn spec(spec: &v1::JobSpec) -> Value {
    let inputs: Map<String, Value> = spec.inputs.iter().map(|(name, value)| (name.clone(), input(value))).collect();
    let outputs: Map<String, Value> =
        spec.outputs.iter().map(|(name, value)| (name.clone(), json!({ "description": value.description }))).collect();
    json!({
        "display_name": spec.display_name,
        "experiment_name": spec.experiment_name,
        "description": spec.description,
        "tags": spec.tags,
        "command": spec.command,
        "code": spec.code.as_ref().map(|code| json!({
            "tree": hex(&code.tree),
            "git_commit": code.git_commit,
            "git_branch": code.git_branch,
            "git_dirty": code.git_dirty,
        })),
        "environment_variables": spec.environment_variables,
        "secrets": spec.secrets,
        "secret_files": spec.secret_files,
        "inputs": inputs,
        "outputs": outputs,
        "gang": spec.gang.as_ref().map(gang),
        "timeout_ms": spec.timeout_ms,
        "grace_ms": spec.grace_ms,
        "priority": spec.priority,
        "queue": spec.queue,
        "workspace": spec.workspace,
        "max_restarts": spec.max_restarts,
        "restart_backoff_ms": spec.restart_backoff_ms,
        "preemptible": !spec.not_preemptible,
        "estimate_ms": spec.estimate_ms,
        "keep_telemetry_ms": spec.keep_telemetry_ms,
        "constraints": constraints(&spec.constraints.clone().unwrap_or_default()),
    })
}

fn constraints(constraints: &v1::Constraints) -> Value {
    json!({
        "required": constraints.required,
        "preferred": constraints.preferred,
        "labels": constraints.labels,
        "devices": constraints.devices,
        "tolerations": constraints.tolerations,
        "group": constraints.group,
        "away_from": constraints.away_from,
    })
}

fn input(input: &v1::Input) -> Value {
    match &input.value {
        Some(v1::input::Value::Literal(text)) => json!({ "literal": text }),
        Some(v1::input::Value::Data(data)) => {
            json!({ "data": { "folder": data.folder, "tree": hex(&data.tree), "origin": data.origin } })
        }
        None => Value::Null,
    }
}

fn gang(gang: &v1::Gang) -> Value {
    let distribution = match gang.distribution() {
        v1::Distribution::None => "none",
        v1::Distribution::Pytorch => "pytorch",
        v1::Distribution::Tensorflow => "tensorflow",
        v1::Distribution::Mpi => "mpi",
    };
    json!({
        "instances": gang.instances,
        "instances_min": if gang.instances_min == 0 { gang.instances } else { gang.instances_min },
        "ranks_per_instance": gang.ranks_per_instance,
        "cpus_per_rank": gang.cpus_per_rank,
        "memory_bytes_per_rank": gang.memory_bytes_per_rank,
        "gpus_per_rank": gang.gpus_per_rank,
        "distribution": distribution,
        "tensorflow_worker_count": gang.tensorflow_worker_count,
        "tensorflow_parameter_server_count": gang.tensorflow_parameter_server_count,
        "spread": gang.spread,
    })
}

fn attempt(attempt: &v1::Attempt) -> Value {
    let members: Vec<Value> = attempt
        .members
        .iter()
        .map(|member| {
            json!({
                "node_rank": member.node_rank,
                "worker": member.worker,
                "ranks": member.ranks,
                "devices": member.devices,
            })
        })
        .collect();
    json!({
        "number": attempt.number,
        "token": attempt.token,
        "phase": attempt.phase,
        "placed_ms": attempt.placed_ms,
        "running_ms": attempt.running_ms,
        "ended_ms": attempt.ended_ms,
        "cause_kind": attempt.cause_kind,
        "cause": attempt.cause,
        "members": members,
        "ranks": attempt.ranks.iter().map(rank).collect::<Vec<_>>(),
        "resumed_from_step": attempt.resumed_from_step,
        "lost_device_ms": attempt.lost_device_ms,
    })
}

fn rank(rank: &v1::RankResult) -> Value {
    json!({
        "rank": rank.rank,
        "worker": rank.worker,
        "exit_code": rank.exit_code,
        "signal": rank.signal,
        "stopped": rank.stopped,
        "ended_ms": rank.ended_ms,
        "final_metrics": rank.final_metrics,
    })
}

fn checkpoint(checkpoint: &v1::Checkpoint) -> Value {
    json!({
        "step": checkpoint.step,
        "tree": hex(&checkpoint.tree),
        "saved_ms": checkpoint.saved_ms,
        "attempt": checkpoint.attempt,
    })
}

fn output(output: &v1::JobOutput) -> Value {
    json!({ "name": output.name, "node_rank": output.node_rank, "tree": hex(&output.tree), "bytes": output.bytes })
}

/// A queue; `cpu` stands for CPU slots among the classes.
pub fn queue(status: &v1::QueueStatus) -> Value {
    let queue = status.queue.clone().unwrap_or_default();
    let class = |class: &str| if class.is_empty() { "cpu".to_owned() } else { class.to_owned() };
    let quota = |quota: &v1::QueueQuota| json!({ "guaranteed": quota.guaranteed, "ceiling": quota.ceiling, "lend": quota.lend });
    let quotas: serde_json::Map<String, Value> =
        queue.quotas.iter().map(|(name, bounds)| (class(name), quota(bounds))).collect();
    let used: serde_json::Map<String, Value> =
        status.used.iter().map(|(name, amount)| (class(name), json!(amount))).collect();
    json!({
        "name": queue.name,
        "weight": queue.weight,
        "leaf": status.leaf,
        "jobs_waiting": status.jobs_waiting,
        "jobs_running": status.jobs_running,
        "quotas": quotas,
        "used": used,
    })
}

/// Why a job waits or how it ended.
pub fn explanation(job_id: u64, explanation: &v1::Explanation) -> Value {
    json!({
        "job_id": job_id,
        "phase": explanation.phase,
        "summary": explanation.summary,
        "details": explanation.details,
        "position": explanation.position,
        "ahead": explanation.ahead,
        "hints": explanation.hints,
        "obstacle": explanation.obstacle,
        "start_ms": explanation.start_ms,
        "start_basis": explanation.start_basis,
        "queue": explanation.queue,
        "stragglers": stragglers(explanation),
        "expected_start_ms": explanation.expected_start_ms,
        "expected_start_assumption": explanation.expected_start_assumption,
        "expected_start_unknown": explanation.expected_start_unknown,
    })
}

/// Ranks that are slower than the rest of their gang.
pub fn stragglers(explanation: &v1::Explanation) -> Value {
    explanation.stragglers.iter().map(straggler).collect()
}

fn straggler(straggler: &v1::Straggler) -> Value {
    json!({
        "rank": straggler.rank,
        "worker": straggler.worker,
        "compute_ms": straggler.compute_ms,
        "others_compute_ms": straggler.others_compute_ms,
        "all_wait_share": straggler.all_wait_share,
        "since_ms": straggler.since_ms,
    })
}

/// The same of a waiting job, beside what else is shown of it.
pub fn add_expected(value: &mut Value, explanation: &v1::Explanation) {
    value["expected_start_ms"] = json!(explanation.expected_start_ms);
    value["expected_start_assumption"] = json!(explanation.expected_start_assumption);
    value["expected_start_unknown"] = json!(explanation.expected_start_unknown);
}

/// A metric point. A value that JSON has no number for is `null`.
pub fn point(point: &v1::MetricPoint) -> Value {
    json!({
        "attempt": point.attempt,
        "rank": point.rank,
        "name": point.name,
        "value": point.value,
        "step": point.step,
        "time_ms": point.time_ms,
    })
}

/// The state of the cluster.
pub fn status(status: &v1::ClusterStatus) -> Value {
    json!({
        "cluster_id": status.cluster_id,
        "leader": status.leader,
        "term": status.term,
        "commit_index": status.commit_index,
        "applied_index": status.applied_index,
        "members": members(&status.members),
        "workers_ready": status.workers_ready,
        "workers_lost": status.workers_lost,
        "workers_cordoned": status.workers_cordoned,
        "jobs_by_phase": status.jobs_by_phase,
        "cpus_total": status.cpus_total,
        "cpus_used": status.cpus_used,
        "devices_total": status.devices_total,
        "devices_used": status.devices_used,
        "version": status.version,
        "answered_by": status.answered_by,
        "telemetry": status.telemetry.as_ref().map(|held| json!({
            "jobs": held.jobs, "since_ms": held.since_ms, "stream_bytes": held.stream_bytes,
            "file_bytes": held.file_bytes, "compacted_bytes": held.compacted_bytes,
        })),
    })
}

/// The coordinators.
pub fn members(members: &[v1::ClusterMember]) -> Value {
    let member = |member: &v1::ClusterMember| {
        json!({
            "id": member.id,
            "address": member.address,
            "http_address": member.http_address,
            "role": member.role,
            "voter": member.voter,
            "lag_entries": member.lag_entries,
        })
    };
    members.iter().map(member).collect()
}

/// One worker.
pub fn worker(worker: &v1::Worker) -> Value {
    let devices: Vec<Value> = worker
        .devices
        .iter()
        .map(|device| {
            json!({
                "index": device.index,
                "uuid": device.uuid,
                "name": device.name,
                "memory_bytes": device.memory_bytes,
                "healthy": device.healthy,
                "island": device.island,
                "numa_node": device.numa_node,
                "nvlinks": device.nvlinks,
                "job": device.job,
                "held": device.held,
            })
        })
        .collect();
    json!({
        "name": worker.name,
        "state": worker.state,
        "cpus_total": worker.cpus_total,
        "cpus_used": worker.cpus_used,
        "memory_bytes_total": worker.memory_bytes_total,
        "memory_bytes_used": worker.memory_bytes_used,
        "devices": devices,
        "labels": worker.labels,
        "taints": worker.taints,
        "zone": worker.zone,
        "block": worker.block,
        "rack": worker.rack,
        "switch": worker.switch,
        "data_address": worker.data_address,
        "version": worker.version,
        "driver": (!worker.driver.is_empty()).then_some(&worker.driver),
        "cuda": (!worker.cuda.is_empty()).then_some(&worker.cuda),
        "nccl": (!worker.nccl.is_empty()).then_some(&worker.nccl),
        "jobs": worker.jobs,
        "jobs_hidden": worker.jobs_hidden,
        "registered_ms": worker.registered_ms,
        "aside_until_ms": (worker.aside_until_ms > 0).then_some(worker.aside_until_ms),
        "drained_by_ms": (worker.drained_by_ms > 0).then_some(worker.drained_by_ms),
        "windows": worker.windows.iter().map(|w| json!({ "from_ms": w.from_ms, "to_ms": w.to_ms })).collect::<Vec<_>>(),
    })
}

/// The graph of what made what.
pub fn lineage(graph: &v1::LineageGraph) -> Value {
    let nodes: Vec<Value> = graph
        .nodes
        .iter()
        .map(|node| json!({ "id": node.id, "kind": node.kind, "label": node.label, "facts": node.facts }))
        .collect();
    let edges: Vec<Value> =
        graph.edges.iter().map(|edge| json!({ "from": edge.from, "to": edge.to, "role": edge.role })).collect();
    json!({ "nodes": nodes, "edges": edges, "begin": graph.begin, "cut": graph.cut })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_job_in_a_list_stay() {
        let value = summary(&v1::JobSummary::default());
        let names: Vec<&str> =
            value.as_object().map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default();
        assert_eq!(
            names.join(" "),
            "attempts display_name ended_ms experiment_name forgotten_ms id kept phase priority queue reason started_ms \
             submitted_ms workers workspace world_size"
        );
    }

    #[test]
    fn hashes_are_hex_and_absent_parts_null() {
        let value = job(&v1::Job {
            checkpoints: vec![v1::Checkpoint { tree: vec![0xab, 1].into(), ..Default::default() }],
            ..Default::default()
        });
        assert_eq!(value["checkpoints"][0]["tree"], "ab01");
        assert!(value["summary"].is_null());
    }
}
