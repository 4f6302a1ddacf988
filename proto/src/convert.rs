//! Between wire messages and `types`: every count and size from outside is checked here, all faults at once.

mod code;

use crate::v1;
use code::{code_snapshot, wire_code};
use std::collections::BTreeMap;
use types::{
    Constraints, ContentHash, Distribution, GangSpec, Input, InputKind, JobSpec, Limits, Millis, Output, PlaceLevel,
    RankResources, RestartPolicy, Workspace,
};

/// Everything that is wrong with a message, in one text a fault a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidMessage(pub Vec<String>);

const GRACE_DEFAULT: Millis = Millis(10_000);
const BACKOFF_DEFAULT: Millis = Millis(1_000);

/// Reads a job from the wire. Every fault is listed.
pub fn job_spec(wire: v1::JobSpec) -> Result<JobSpec, InvalidMessage> {
    let mut faults = Vec::new();
    check_sizes(&wire, &mut faults);
    check_amounts(&wire, &mut faults);
    let gang = gang(wire.gang.unwrap_or_default(), &mut faults);
    let code = wire.code.and_then(|code| code_snapshot(code, &mut faults));
    let inputs = wire
        .inputs
        .into_iter()
        .filter_map(|(name, value)| Some((name.clone(), input(&name, value, &mut faults)?)))
        .collect();
    let outputs =
        wire.outputs.into_iter().map(|(name, output)| (name, Output { description: output.description })).collect();
    let workspace = (!wire.workspace.is_empty()).then(|| Workspace::new(wire.workspace)).transpose();
    let workspace = workspace.map_err(|fault| faults.push(fault.to_string())).ok().flatten();
    let spec = JobSpec {
        workspace,
        display_name: wire.display_name,
        experiment_name: wire.experiment_name,
        description: wire.description,
        tags: wire.tags,
        command: wire.command,
        code,
        environment_variables: wire.environment_variables,
        secrets: wire.secrets,
        secret_files: wire.secret_files.into_iter().collect(),
        inputs,
        outputs,
        gang,
        timeout: (wire.timeout_ms > 0).then_some(Millis(wire.timeout_ms)),
        grace: or_default(wire.grace_ms, GRACE_DEFAULT),
        priority: wire.priority,
        queue: if wire.queue.is_empty() { "default".into() } else { wire.queue },
        restart: RestartPolicy {
            max_restarts: wire.max_restarts,
            backoff: or_default(wire.restart_backoff_ms, BACKOFF_DEFAULT),
        },
        constraints: constraints(wire.constraints.unwrap_or_default(), &mut faults),
        preemptible: !wire.not_preemptible,
        estimate: (wire.estimate_ms > 0).then_some(Millis(wire.estimate_ms)),
        keep_telemetry: (wire.keep_telemetry_ms > 0).then_some(Millis(wire.keep_telemetry_ms)),
    };
    if faults.is_empty() { Ok(spec) } else { Err(InvalidMessage(faults)) }
}

fn or_default(value_ms: u64, default: Millis) -> Millis {
    if value_ms == 0 { default } else { Millis(value_ms) }
}

fn check_sizes(wire: &v1::JobSpec, faults: &mut Vec<String>) {
    if wire.command.trim().is_empty() {
        faults.push("command is empty: say what each rank runs".into());
    }
    if wire.command.contains('\0') {
        faults.push("command holds a NUL character".into());
    }
    if wire.command.len() > Limits::COMMAND_BYTES_MAX {
        faults.push(format!(
            "command has {} bytes; at most {} are allowed",
            wire.command.len(),
            Limits::COMMAND_BYTES_MAX
        ));
    }
    let bytes = prost::Message::encoded_len(wire);
    if bytes > Limits::SPEC_BYTES_MAX {
        faults.push(format!("the job has {bytes} bytes; at most {} are allowed", Limits::SPEC_BYTES_MAX));
    }
    for (what, count) in [
        ("tags", wire.tags.len()),
        ("environment_variables", wire.environment_variables.len()),
        ("inputs", wire.inputs.len()),
        ("outputs", wire.outputs.len()),
    ] {
        if count > Limits::MAP_ENTRIES_MAX {
            faults.push(format!("{what} has {count} entries; at most {} are allowed", Limits::MAP_ENTRIES_MAX));
        }
    }
    for name in wire.inputs.keys().chain(wire.outputs.keys()) {
        if !is_port_name(name) {
            faults.push(format!(
                "input or output name {name:?} is not valid: letters, digits and '_', not starting with a digit"
            ));
        }
    }
    for (name, value) in &wire.environment_variables {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            faults.push(format!("environment variable {name:?} is not valid"));
        }
    }
    check_secrets(wire, faults);
}

fn check_secrets(wire: &v1::JobSpec, faults: &mut Vec<String>) {
    let (count, most) = (wire.secrets.len(), Limits::SECRETS_OF_JOB_MAX);
    if count > most {
        faults.push(format!("secrets has {count} entries; at most {most} are allowed"));
    }
    for variable in wire.secret_files.iter().filter(|variable| !wire.secrets.contains_key(*variable)) {
        faults.push(format!("secret_files names {variable:?}, which is no variable of a secret"));
    }
    for (variable, secret) in &wire.secrets {
        if variable.is_empty() || variable.contains(['=', '\0']) || variable.starts_with("MUSTER_") {
            faults.push(format!("secrets: {variable:?} cannot name a variable that holds a secret"));
        }
        if wire.environment_variables.contains_key(variable) {
            faults.push(format!("secrets.{variable} is among the environment_variables too"));
        }
        if !types::is_secret_name(secret) {
            faults.push(format!("secrets.{variable}: {secret:?} is no name of a secret: {}", types::SECRET_NAME_RULE));
        }
    }
}

fn check_amounts(wire: &v1::JobSpec, faults: &mut Vec<String>) {
    let gang = wire.gang.clone().unwrap_or_default();
    for (what, value, max) in [
        ("timeout_ms", wire.timeout_ms, Limits::TIMEOUT_MS_MAX),
        ("estimate_ms", wire.estimate_ms, Limits::TIMEOUT_MS_MAX),
        ("keep_telemetry_ms", wire.keep_telemetry_ms, Limits::TIMEOUT_MS_MAX),
        ("grace_ms", wire.grace_ms, Limits::WAIT_MS_MAX),
        ("restart_backoff_ms", wire.restart_backoff_ms, Limits::WAIT_MS_MAX),
        ("max_restarts", wire.max_restarts.into(), Limits::RESTARTS_MAX.into()),
        ("priority (without its sign)", wire.priority.unsigned_abs().into(), Limits::PRIORITY_MAX.into()),
        ("gang.cpus_per_rank", gang.cpus_per_rank.into(), Limits::CPUS_PER_RANK_MAX.into()),
        ("gang.gpus_per_rank", gang.gpus_per_rank.into(), Limits::GPUS_PER_RANK_MAX.into()),
        ("gang.memory_bytes_per_rank", gang.memory_bytes_per_rank, Limits::MEMORY_BYTES_PER_RANK_MAX),
    ] {
        if value > max {
            faults.push(format!("{what} is {value}; at most {max} is allowed"));
        }
    }
    if !wire.queue.is_empty() && !types::is_queue_name(&wire.queue) {
        faults.push(format!("{:?} is no name of a queue: {}", wire.queue, types::QUEUE_NAME_RULE));
    }
}

fn is_port_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn gang(wire: v1::Gang, faults: &mut Vec<String>) -> GangSpec {
    let distribution = match wire.distribution() {
        v1::Distribution::None => Distribution::None,
        v1::Distribution::Pytorch => Distribution::PyTorch,
        v1::Distribution::Tensorflow => Distribution::TensorFlow {
            worker_count: wire.tensorflow_worker_count,
            parameter_server_count: wire.tensorflow_parameter_server_count,
        },
        v1::Distribution::Mpi => Distribution::Mpi,
    };
    let instances = wire.instances.max(1);
    let gang = GangSpec {
        instances,
        instances_min: (wire.instances_min > 0).then_some(wire.instances_min),
        ranks_per_instance: wire.ranks_per_instance.max(1),
        per_rank: RankResources {
            cpus: wire.cpus_per_rank.max(1),
            memory_bytes: wire.memory_bytes_per_rank,
            gpus: wire.gpus_per_rank,
        },
        distribution,
        spread: level("gang.spread", &wire.spread, faults),
    };
    if let Distribution::TensorFlow { worker_count, parameter_server_count } = gang.distribution
        && worker_count.saturating_add(parameter_server_count) > gang.world_size()
    {
        faults.push(format!(
            "the gang has {} ranks, too few for {worker_count} TensorFlow workers and {parameter_server_count} \
             parameter servers",
            gang.world_size()
        ));
    }
    if gang.fewest() > instances {
        faults.push(format!("gang.instances_min is {}, more than the {instances} instances", gang.fewest()));
    }
    if gang.is_elastic() && matches!(gang.distribution, Distribution::TensorFlow { .. }) {
        faults.push("gang.instances_min: the roles of a TensorFlow gang are for one number of instances".into());
    }
    if gang.world_size() > Limits::RANKS_MAX {
        faults.push(format!("the gang has {} ranks; at most {} are allowed", gang.world_size(), Limits::RANKS_MAX));
    }
    gang
}

fn constraints(wire: v1::Constraints, faults: &mut Vec<String>) -> Constraints {
    let required = level("constraints.required", &wire.required, faults);
    let preferred = level("constraints.preferred", &wire.preferred, faults);
    for (what, count) in
        [("devices", wire.devices.len()), ("labels", wire.labels.len()), ("tolerations", wire.tolerations.len())]
    {
        if count > Limits::WISHES_MAX {
            faults.push(format!("constraints.{what} has {count} entries; at most {} are allowed", Limits::WISHES_MAX));
        }
    }
    for taint in wire.tolerations.iter().filter(|taint| !types::is_taint(taint)) {
        faults.push(format!("constraints.tolerations: {taint:?} is no taint: {}", types::TAINT_RULE));
    }
    for (what, group) in [("group", &wire.group), ("away_from", &wire.away_from)] {
        if !group.is_empty() && !types::is_taint(group) {
            faults.push(format!("constraints.{what}: {group:?} is no name of a group: {}", types::TAINT_RULE));
        }
    }
    Constraints {
        required,
        preferred,
        labels: wire.labels,
        devices: wire.devices,
        tolerations: wire.tolerations.into_iter().collect(),
        group: wire.group,
        away_from: wire.away_from,
    }
}

fn level(what: &str, name: &str, faults: &mut Vec<String>) -> Option<PlaceLevel> {
    let level = PlaceLevel::from_name(name);
    if level.is_none() && !name.is_empty() {
        faults.push(format!("{what} is {name:?}; known are {}", PlaceLevel::NAMES.join(", ")));
    }
    level
}

fn level_name(level: Option<PlaceLevel>) -> String {
    level.map(|level| level.name().to_owned()).unwrap_or_default()
}

fn wire_constraints(constraints: &Constraints) -> v1::Constraints {
    v1::Constraints {
        required: level_name(constraints.required),
        preferred: level_name(constraints.preferred),
        labels: constraints.labels.clone(),
        devices: constraints.devices.clone(),
        tolerations: constraints.tolerations.iter().cloned().collect(),
        group: constraints.group.clone(),
        away_from: constraints.away_from.clone(),
    }
}

fn input(name: &str, wire: v1::Input, faults: &mut Vec<String>) -> Option<Input> {
    match wire.value {
        Some(v1::input::Value::Literal(text)) => Some(Input::Literal(text)),
        Some(v1::input::Value::Data(data)) => {
            let Some(tree) = ContentHash::from_slice(&data.tree) else {
                faults.push(format!("inputs.{name}: tree has {} bytes; a content hash has 32", data.tree.len()));
                return None;
            };
            let kind = if data.folder { InputKind::Folder } else { InputKind::File };
            Some(Input::Data { kind, tree, origin: data.origin })
        }
        None => {
            faults.push(format!("inputs.{name} has no value"));
            None
        }
    }
}

/// Writes a job for the wire; `job_spec` of the result is the same job.
pub fn wire_job_spec(spec: &JobSpec) -> v1::JobSpec {
    v1::JobSpec {
        workspace: spec.workspace.as_ref().map(ToString::to_string).unwrap_or_default(),
        display_name: spec.display_name.clone(),
        experiment_name: spec.experiment_name.clone(),
        description: spec.description.clone(),
        tags: spec.tags.clone(),
        command: spec.command.clone(),
        code: spec.code.as_ref().map(wire_code),
        environment_variables: spec.environment_variables.clone(),
        secrets: spec.secrets.clone(),
        secret_files: spec.secret_files.iter().cloned().collect(),
        inputs: spec.inputs.iter().map(|(name, value)| (name.clone(), wire_input(value))).collect(),
        outputs: wire_outputs(&spec.outputs),
        gang: Some(wire_gang(&spec.gang)),
        timeout_ms: spec.timeout.map_or(0, |t| t.0),
        grace_ms: spec.grace.0,
        priority: spec.priority,
        queue: spec.queue.clone(),
        max_restarts: spec.restart.max_restarts,
        restart_backoff_ms: spec.restart.backoff.0,
        constraints: (spec.constraints != Constraints::default()).then(|| wire_constraints(&spec.constraints)),
        not_preemptible: !spec.preemptible,
        estimate_ms: spec.estimate.map_or(0, |estimate| estimate.0),
        keep_telemetry_ms: spec.keep_telemetry.map_or(0, |kept| kept.0),
    }
}

fn wire_outputs(outputs: &BTreeMap<String, Output>) -> BTreeMap<String, v1::Output> {
    outputs
        .iter()
        .map(|(name, output)| (name.clone(), v1::Output { description: output.description.clone() }))
        .collect()
}

fn wire_input(input: &Input) -> v1::Input {
    let value = match input {
        Input::Literal(text) => v1::input::Value::Literal(text.clone()),
        Input::Data { kind, tree, origin } => v1::input::Value::Data(v1::DataInput {
            folder: *kind == InputKind::Folder,
            tree: tree.0.to_vec().into(),
            origin: origin.clone(),
        }),
    };
    v1::Input { value: Some(value) }
}

fn wire_gang(gang: &GangSpec) -> v1::Gang {
    let (distribution, workers, servers) = match gang.distribution {
        Distribution::None => (v1::Distribution::None, 0, 0),
        Distribution::PyTorch => (v1::Distribution::Pytorch, 0, 0),
        Distribution::TensorFlow { worker_count, parameter_server_count } => {
            (v1::Distribution::Tensorflow, worker_count, parameter_server_count)
        }
        Distribution::Mpi => (v1::Distribution::Mpi, 0, 0),
    };
    v1::Gang {
        instances: gang.instances,
        ranks_per_instance: gang.ranks_per_instance,
        cpus_per_rank: gang.per_rank.cpus,
        memory_bytes_per_rank: gang.per_rank.memory_bytes,
        gpus_per_rank: gang.per_rank.gpus,
        distribution: distribution.into(),
        tensorflow_worker_count: workers,
        tensorflow_parameter_server_count: servers,
        spread: level_name(gang.spread),
        instances_min: gang.instances_min.unwrap_or(0),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wire() -> v1::JobSpec {
        v1::JobSpec {
            workspace: "vision".into(),
            command: "true".into(),
            inputs: [("data".to_owned(), v1::Input { value: Some(v1::input::Value::Literal("3".into())) })].into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_job_round_trips() {
        let spec = job_spec(wire()).unwrap();
        assert_eq!(job_spec(wire_job_spec(&spec)).unwrap(), spec);
        assert_eq!(spec.gang.world_size(), 1);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let mut bad = wire();
        bad.command = " ".into();
        bad.inputs.insert("1x".into(), v1::Input::default());
        bad.gang = Some(v1::Gang { instances: 100_000, ..Default::default() });
        bad.code = Some(v1::CodeSnapshot::default());
        bad.grace_ms = u64::MAX;
        bad.priority = i32::MIN;
        bad.queue = "x".repeat(64);
        bad.constraints = Some(v1::Constraints { required: "row".into(), ..Default::default() });
        let faults = job_spec(bad).unwrap_err().0;
        assert_eq!(faults.len(), 9, "{faults:?}");
    }
}
