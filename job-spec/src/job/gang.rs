//! The shape of the gang: `resources`, `distribution`, and what stands under `x-muster`.

use super::Reader;
use crate::fields::{Field, Fields, shorten};
use crate::yaml::Value;
use std::collections::{BTreeMap, BTreeSet};
use types::{Constraints, Distribution, GangSpec, Limits, Millis, RankResources, RestartPolicy, Workspace};

const RESOURCES: [&str; 7] =
    ["instance_count", "instance_type", "shm_size", "docker_args", "locations", "max_instance_count", "properties"];

const EXTRAS: [&str; 23] = [
    "gpus_per_rank",
    "cpus_per_rank",
    "memory_per_rank",
    "priority",
    "queue",
    "max_restarts",
    "restart_backoff",
    "grace",
    "spread",
    "checkpoint",
    "required",
    "preferred",
    "worker_labels",
    "devices",
    "preemptible",
    "estimate",
    "keep_telemetry_for",
    "min_instances",
    "tolerations",
    "group",
    "away_from",
    "secrets",
    "workspace",
];

/// GPUs one rank may ask for: the largest machines have 16, boards in one address space 72.
const GPUS_MAX: i64 = Limits::GPUS_PER_RANK_MAX as i64;
/// CPU slots one rank may ask for.
const CPUS_MAX: i64 = Limits::CPUS_PER_RANK_MAX as i64;
/// Least memory a rank can be held to: below it not even the shell starts.
const MEMORY_BYTES_MIN: u64 = 1 << 20;
/// Most memory a rank may ask for: 1 PiB.
const MEMORY_BYTES_MAX: u64 = Limits::MEMORY_BYTES_PER_RANK_MAX;
/// Bounds of the priority.
const PRIORITY_MAX: i64 = Limits::PRIORITY_MAX as i64;
/// Most restarts.
const RESTARTS_MAX: i64 = Limits::RESTARTS_MAX as i64;
/// Longest grace or first back-off: 1 hour. The least is what a timer can tell apart.
const WAIT_MS: std::ops::RangeInclusive<u64> = 1..=Limits::WAIT_MS_MAX;

/// What stands under `x-muster` and does not belong to the gang.
pub(super) struct Extras {
    pub(super) grace: Millis,
    pub(super) priority: i32,
    pub(super) queue: String,
    pub(super) restart: RestartPolicy,
    pub(super) constraints: Constraints,
    pub(super) preemptible: bool,
    pub(super) estimate: Option<Millis>,
    pub(super) keep_telemetry: Option<Millis>,
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) secret_files: BTreeSet<String>,
    pub(super) workspace: Option<Workspace>,
}

impl Default for Extras {
    fn default() -> Self {
        Self {
            grace: Millis(10_000),
            priority: 0,
            queue: types::DEFAULT_QUEUE.to_owned(),
            restart: RestartPolicy { max_restarts: 0, backoff: Millis(1_000) },
            constraints: Constraints::default(),
            preemptible: true,
            estimate: None,
            keep_telemetry: None,
            secrets: BTreeMap::new(),
            secret_files: BTreeSet::new(),
            workspace: None,
        }
    }
}

impl Reader<'_> {
    pub(super) fn gang(&mut self, root: &Fields<'_>) -> (GangSpec, Extras) {
        let instances = self.instances(root);
        let (distribution, ranks_per_instance) = self.distribution(root, instances);
        let mut gang = GangSpec {
            instances,
            instances_min: None,
            ranks_per_instance,
            per_rank: RankResources { cpus: 1, memory_bytes: 0, gpus: 0 },
            distribution,
            spread: None,
        };
        if gang.world_size() > Limits::RANKS_MAX {
            let field = ["distribution", "resources"].iter().find_map(|name| root.get_nullable(name));
            let mark = field.as_ref().map_or(root.mark, Self::place);
            let path = field.map_or(String::new(), |field| field.path);
            let (world, most) = (gang.world_size(), Limits::RANKS_MAX);
            self.report.fault(mark, &path, format!("the job has {world} ranks, more than {most}"));
        }
        let extras = self.extras(root, &mut gang);
        (gang, extras)
    }

    fn instances(&mut self, root: &Fields<'_>) -> u32 {
        let Some(field) = root.get(&mut self.report, "resources") else { return 1 };
        let Some(fields) = field.fields(&mut self.report) else { return 1 };
        fields.only(&mut self.report, &RESOURCES);
        for name in ["instance_type", "max_instance_count", "locations", "properties"] {
            self.unused(fields.get_nullable(name), "not used: see x-muster for what a rank needs");
        }
        for name in ["shm_size", "docker_args"] {
            self.unused(fields.get_nullable(name), "not used: ranks run without a container");
        }
        self.count(&fields, "instance_count").unwrap_or(1)
    }

    fn distribution(&mut self, root: &Fields<'_>, instances: u32) -> (Distribution, u32) {
        let none = (Distribution::None, 1);
        let Some(field) = root.get(&mut self.report, "distribution") else { return none };
        let Some(fields) = field.fields(&mut self.report) else { return none };
        let Some(kind) = fields.required(&mut self.report, "type") else { return none };
        if kind.node.scalar().is_some_and(|scalar| scalar.text.eq_ignore_ascii_case("ray")) {
            kind.fault(&mut self.report, "ray is not supported: use pytorch, mpi or tensorflow");
            return none;
        }
        match kind.choice(&mut self.report, &["pytorch", "mpi", "tensorflow"]) {
            Some("tensorflow") => self.tensorflow(&field, &fields, instances),
            Some(word) => {
                fields.only(&mut self.report, &["type", "process_count_per_instance"]);
                let ranks = self.count(&fields, "process_count_per_instance").unwrap_or(1);
                (if word == "mpi" { Distribution::Mpi } else { Distribution::PyTorch }, ranks)
            }
            None => none,
        }
    }

    /// Azure ML spreads workers and parameter servers over the instances; here each instance must get equally many.
    fn tensorflow(&mut self, field: &Field<'_>, fields: &Fields<'_>, instances: u32) -> (Distribution, u32) {
        fields.only(&mut self.report, &["type", "worker_count", "parameter_server_count"]);
        let worker_count = self.count(fields, "worker_count").unwrap_or(instances);
        let servers = fields.get(&mut self.report, "parameter_server_count");
        let servers = servers.and_then(|f| f.integer(&mut self.report, 0..=i64::from(Limits::RANKS_MAX)));
        let parameter_server_count = servers.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        let total = worker_count.saturating_add(parameter_server_count);
        if !total.is_multiple_of(instances) {
            let message = format!(
                "{worker_count} workers and {parameter_server_count} parameter servers cannot be shared out evenly over \
                 {instances} instances: make resources.instance_count a divisor of {total}"
            );
            self.report.fault(field.key_mark, &field.path, message);
        }
        (Distribution::TensorFlow { worker_count, parameter_server_count }, (total / instances).max(1))
    }

    fn count(&mut self, fields: &Fields<'_>, name: &str) -> Option<u32> {
        let field = fields.get(&mut self.report, name)?;
        let count = field.integer(&mut self.report, 1..=i64::from(Limits::RANKS_MAX))?;
        u32::try_from(count).ok()
    }

    fn extras(&mut self, root: &Fields<'_>, gang: &mut GangSpec) -> Extras {
        let mut extras = Extras::default();
        let Some(field) = root.get(&mut self.report, "x-muster") else { return extras };
        let Some(fields) = field.fields(&mut self.report) else { return extras };
        fields.only(&mut self.report, &EXTRAS);
        self.rank_resources(&fields, &mut gang.per_rank);
        gang.spread = self.spread(&fields);
        if let Some(priority) = self.small(&fields, "priority", -PRIORITY_MAX..=PRIORITY_MAX) {
            extras.priority = priority;
        }
        if let Some(restarts) = self.small(&fields, "max_restarts", 0..=RESTARTS_MAX) {
            extras.restart.max_restarts = restarts.unsigned_abs();
        }
        if let Some(grace) = fields.get(&mut self.report, "grace") {
            extras.grace = grace.milliseconds(&mut self.report, WAIT_MS).map_or(extras.grace, Millis);
        }
        if let Some(backoff) = fields.get(&mut self.report, "restart_backoff") {
            let milliseconds = backoff.milliseconds(&mut self.report, WAIT_MS);
            extras.restart.backoff = milliseconds.map_or(extras.restart.backoff, Millis);
        }
        if let Some(queue) = fields.get(&mut self.report, "queue") {
            extras.queue = self.queue(&queue).unwrap_or(extras.queue);
        }
        if let Some(workspace) = fields.get(&mut self.report, "workspace") {
            extras.workspace = self.workspace(&workspace);
        }
        self.fewest(&fields, gang);
        self.checkpoint(&fields);
        extras.constraints = self.constraints(&fields);
        (extras.secrets, extras.secret_files) = self.secrets(&fields);
        if let Some(preemptible) = fields.get(&mut self.report, "preemptible") {
            extras.preemptible = preemptible.boolean(&mut self.report).unwrap_or(true);
        }
        if let Some(estimate) = fields.get(&mut self.report, "estimate") {
            extras.estimate = estimate.milliseconds(&mut self.report, 1..=Limits::TIMEOUT_MS_MAX).map(Millis);
        }
        if let Some(kept) = fields.get(&mut self.report, "keep_telemetry_for") {
            extras.keep_telemetry = kept.milliseconds(&mut self.report, 1..=Limits::TIMEOUT_MS_MAX).map(Millis);
        }
        extras
    }

    /// `min_instances`: makes the gang elastic.
    fn fewest(&mut self, fields: &Fields<'_>, gang: &mut GangSpec) {
        let Some(field) = fields.get(&mut self.report, "min_instances") else { return };
        let most = gang.instances;
        gang.instances_min = field.integer(&mut self.report, 1..=most.into()).and_then(|few| u32::try_from(few).ok());
        if gang.is_elastic() && matches!(gang.distribution, Distribution::TensorFlow { .. }) {
            field
                .fault(&mut self.report, "the roles of a tensorflow job are for one number of instances: leave it out");
        }
    }

    fn rank_resources(&mut self, fields: &Fields<'_>, per_rank: &mut RankResources) {
        if let Some(gpus) = self.small(fields, "gpus_per_rank", 0..=GPUS_MAX) {
            per_rank.gpus = gpus.unsigned_abs();
        }
        if let Some(cpus) = self.small(fields, "cpus_per_rank", 1..=CPUS_MAX) {
            per_rank.cpus = cpus.unsigned_abs();
        }
        let Some(memory) = fields.get(&mut self.report, "memory_per_rank") else { return };
        match memory.bytes(&mut self.report) {
            Some(bytes) if bytes == 0 || (MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&bytes) => {
                per_rank.memory_bytes = bytes;
            }
            Some(_) => memory
                .fault(&mut self.report, format!("{} must be from 1MiB to 1024TiB, or 0 for no limit", memory.shown())),
            None => {}
        }
    }

    fn small(&mut self, fields: &Fields<'_>, name: &str, range: std::ops::RangeInclusive<i64>) -> Option<i32> {
        let number = fields.get(&mut self.report, name)?.integer(&mut self.report, range)?;
        i32::try_from(number).ok()
    }

    fn queue(&mut self, field: &Field<'_>) -> Option<String> {
        let name = field.text(&mut self.report)?;
        if types::is_queue_name(name) {
            return Some(name.to_owned());
        }
        let rule = format!("{} is no name of a queue: {}", shorten(name), types::QUEUE_NAME_RULE);
        field.fault(&mut self.report, rule);
        None
    }

    fn workspace(&mut self, field: &Field<'_>) -> Option<Workspace> {
        let name = field.text(&mut self.report)?;
        let workspace = Workspace::new(name);
        workspace.map_err(|error| field.fault(&mut self.report, error.to_string())).ok()
    }

    /// `checkpoint: true` or `{resume: true}` says what always holds: a restart goes on from the last checkpoint saved.
    fn checkpoint(&mut self, fields: &Fields<'_>) {
        let Some(field) = fields.get(&mut self.report, "checkpoint") else { return };
        let switch = if let Value::Mapping(_) = &field.node.value {
            let Some(inner) = field.fields(&mut self.report) else { return };
            inner.only(&mut self.report, &["resume"]);
            inner.get(&mut self.report, "resume")
        } else {
            Some(field)
        };
        if let Some(switch) = switch
            && switch.boolean(&mut self.report) == Some(false)
        {
            let message = "cannot be switched off: a restart goes on from the last checkpoint if the job saved one";
            switch.fault(&mut self.report, message);
        }
    }
}
