//! Values for this crate's own unit tests.
#![allow(clippy::unwrap_used)]

use identity::{Authority, CERTIFICATE_LIFE, Material, Node, NodeRequest, Subject};
use std::sync::{Arc, OnceLock};
use types::{
    AttemptSecret, Distribution, GangSpec, Goal, JobSpec, Member, MemberKey, Millis, Placement, RankIndex,
    RankPlacement, RankResources, RestartPolicy, Token, Wish, WorkerId,
};

/// A coordinator of the tests' cluster.
pub(crate) fn coordinator() -> Node {
    certified(&Subject::Coordinator { cluster: CLUSTER, id: types::CoordinatorId(1) })
}

/// Dials as a worker of the tests' cluster.
pub(crate) fn dialer() -> identity::Dialer {
    let name = WorkerId::new("w").unwrap();
    identity::Dialer::node(certified(&Subject::Worker { cluster: CLUSTER, name }))
}

const CLUSTER: types::ClusterId = types::ClusterId([7; 16]);

fn certified(subject: &Subject) -> Node {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    let now = daemon::clock::now();
    let authority = AUTHORITY.get_or_init(|| Authority::create(CLUSTER, now).unwrap());
    let trusted = [authority.certificate().clone()];
    let request = NodeRequest { subject, hosts: &[], trusted: &trusted, vouched: None, now, life: CERTIFICATE_LIFE };
    Node::new(Material::issue(authority, &request).unwrap())
}

/// A job of `instances` members with one rank each.
pub(crate) fn spec(command: &str, instances: u32) -> JobSpec {
    JobSpec {
        workspace: None,
        display_name: "test".into(),
        experiment_name: "test".into(),
        description: String::new(),
        tags: Default::default(),
        command: command.into(),
        code: None,
        environment_variables: Default::default(),
        secrets: Default::default(),
        secret_files: Default::default(),
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
        keep_telemetry: None,
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
