//! Values for this crate's own unit tests.

use std::sync::Arc;
use types::{
    AttemptSecret, Distribution, GangSpec, Goal, JobSpec, Member, MemberKey, Millis, Placement, RankIndex,
    RankPlacement, RankResources, RestartPolicy, Token, Wish, WorkerId,
};

/// A job of `instances` members with one rank each.
#[allow(clippy::unwrap_used)]
pub(crate) fn spec(command: &str, instances: u32) -> JobSpec {
    JobSpec {
        display_name: "test".into(),
        experiment_name: "test".into(),
        description: String::new(),
        tags: Default::default(),
        command: command.into(),
        code: None,
        environment_variables: Default::default(),
        inputs: Default::default(),
        outputs: Default::default(),
        gang: GangSpec {
            instances,
            instances_min: None,
            ranks_per_instance: 1,
            per_rank: RankResources { cpus: 1, memory_bytes: 0, gpus: 0 },
            distribution: Distribution::None,
            spread: None,
        },
        timeout: None,
        grace: Millis(1_000),
        priority: 0,
        queue: "default".into(),
        restart: RestartPolicy { max_restarts: 0, backoff: Millis(1_000) },
        constraints: types::Constraints::default(),
        preemptible: true,
        estimate: None,
    }
}

/// A wish for a gang whose every member stands on worker `w`.
#[allow(clippy::unwrap_used)]
pub(crate) fn wish(key: MemberKey, token: Token, goal: Goal, devices: Vec<u32>) -> Wish {
    let members = (0..=key.node_rank).map(|node_rank| Member {
        node_rank,
        worker: WorkerId::new("w").unwrap(),
        ranks: vec![RankPlacement { rank: RankIndex(node_rank), local_rank: 0, devices: devices.clone() }],
    });
    Wish {
        key,
        token,
        goal,
        spec: Arc::new(spec("true", key.node_rank + 1)),
        placement: Arc::new(Placement { members: members.collect() }),
        secret: AttemptSecret([7; 32]),
        checkpoint: None,
        endpoints: Vec::new(),
    }
}
