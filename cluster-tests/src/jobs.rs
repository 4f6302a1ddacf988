//! Jobs as values, for tests that submit through the SDK.

use std::collections::BTreeMap;
use types::{Distribution, GangSpec, JobSpec, Millis, RankResources, RestartPolicy};

/// A job of one rank that runs this in a shell, with every default but a short grace.
pub fn spec(command: &str) -> JobSpec {
    JobSpec {
        workspace: None,
        display_name: String::new(),
        experiment_name: String::new(),
        description: String::new(),
        tags: BTreeMap::new(),
        command: command.to_owned(),
        code: None,
        environment_variables: BTreeMap::new(),
        secrets: BTreeMap::new(),
        secret_files: Default::default(),
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        gang: GangSpec {
            instances: 1,
            instances_min: None,
            ranks_per_instance: 1,
            per_rank: RankResources { cpus: 1, memory_bytes: 0, gpus: 0 },
            distribution: Distribution::None,
            spread: None,
        },
        timeout: None,
        grace: Millis(2_000),
        priority: 0,
        queue: "default".into(),
        restart: RestartPolicy { max_restarts: 0, backoff: Millis(100) },
        constraints: types::Constraints::default(),
        preemptible: true,
        estimate: None,
        keep_telemetry: None,
    }
}

/// The same on so many workers, one rank each.
pub fn gang(instances: u32, command: &str) -> JobSpec {
    let mut spec = spec(command);
    spec.gang.instances = instances;
    spec.gang.spread = Some(types::PlaceLevel::Worker);
    spec
}
