//! The environment of one rank: a small clean base, the job's own variables, what its framework expects, and Muster's.
//! Later ones win. Nothing else of the daemon's environment reaches a rank: it may hold secrets.

use crate::expand::{ExpandError, Names, expand};
use crate::layout::MemberLayout;
use crate::shim::spec::{LISTEN_FD, METRICS_FD};
use crate::users::User;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use types::{ClusterId, Device, Distribution, Endpoint, MemberKey, RankPlacement, TraceId, Wish};

/// Names the rank's folder in the environment of each of its processes: by it the daemon finds what a dead
/// supervisor left behind.
pub(crate) const MARKER: &str = "MUSTER_RANK_FOLDER";

/// Taken over from the daemon: who it runs as, and where libraries of the machine are.
const INHERITED: [&str; 8] = ["HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SHELL"];
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The part that is the same for each rank that this daemon starts.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    variables: BTreeMap<String, String>,
}

impl Base {
    /// Reads the daemon's environment once; Muster's own executable is found in `programs`.
    pub(crate) fn take(programs: &Path) -> Self {
        let mut variables: BTreeMap<String, String> =
            INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), daemon::environment::text(name)?))).collect();
        variables.entry("HOME".into()).or_insert_with(|| "/".into());
        variables.entry("LANG".into()).or_insert_with(|| "C.UTF-8".into());
        let path = daemon::environment::text("PATH").unwrap_or_else(|| PATH_DEFAULT.into());
        variables.insert("PATH".into(), format!("{}:{path}", programs.display()));
        // Lines of a Python rank show as they are printed.
        variables.insert("PYTHONUNBUFFERED".into(), "1".into());
        // One that hangs says where, when it is asked before it is ended.
        variables.insert("PYTHONFAULTHANDLER".into(), "1".into());
        Self { variables }
    }
}

/// What a member's ranks have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) base: &'a Base,
    pub(crate) wish: &'a Wish,
    pub(crate) names: &'a Names,
    pub(crate) layout: &'a MemberLayout,
    pub(crate) endpoints: &'a [Endpoint],
    pub(crate) devices: &'a [Device],
    /// On which its gang meets, where programs would choose another.
    pub(crate) interface: Option<&'static str>,
    /// None = the daemon's own.
    pub(crate) user: Option<&'a User>,
    pub(crate) cluster: ClusterId,
}

/// Everything that one rank sees.
pub(crate) fn of_rank(shared: &Shared<'_>, rank: &RankPlacement) -> Result<Vec<(String, String)>, ExpandError> {
    let mut all = shared.base.variables.clone();
    let mut set = |name: &str, value: String| drop(all.insert(name.to_owned(), value));
    set("TMPDIR", text(&shared.layout.tmp()));
    if let Some(user) = shared.user {
        // The daemon's own home is shut to it. Without one, what programs keep at home goes with the job.
        set("HOME", text(user.home.as_deref().unwrap_or(&shared.layout.tmp())));
        for name in ["USER", "LOGNAME"] {
            set(name, user.name.clone());
        }
        set("SHELL", "/bin/sh".into());
    }
    if let Some(interface) = shared.interface {
        // Gloo and NCCL else choose the interface of the host's name, where nobody of the gang listens.
        for name in ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"] {
            set(name, interface.into());
        }
    }
    // A job that is part of a trace of its submitter's says so itself.
    let MemberKey { job, attempt, .. } = shared.wish.key;
    let trace = TraceId::of(shared.cluster, job);
    set("TRACEPARENT", trace.parent(trace.span_of_ranks(attempt)));
    for (name, value) in &shared.wish.spec.environment_variables {
        set(name, expand(value, shared.names)?);
    }
    framework(shared, rank, &mut set);
    horovod(shared, rank, &mut set);
    azure(shared, &mut set);
    muster(shared, rank, &mut set);
    set("CUDA_VISIBLE_DEVICES", visible_devices(held(shared.wish, rank), shared.devices));
    Ok(all.into_iter().collect())
}

fn framework(shared: &Shared<'_>, rank: &RankPlacement, set: &mut impl FnMut(&str, String)) {
    match shared.wish.spec.gang.distribution {
        Distribution::None | Distribution::Mpi => {}
        Distribution::PyTorch => {
            set("RANK", rank.rank.to_string());
            set("LOCAL_RANK", rank.local_rank.to_string());
            set("WORLD_SIZE", world_size(shared.wish).to_string());
            set("LOCAL_WORLD_SIZE", local_world_size(shared.wish).to_string());
            set("NODE_RANK", shared.wish.key.node_rank.to_string());
            if let Some(master) = master(shared.endpoints) {
                set("MASTER_ADDR", master.ip().to_string());
                set("MASTER_PORT", master.port().to_string());
            }
        }
        Distribution::TensorFlow { worker_count, parameter_server_count } => {
            let config = tensorflow(shared.endpoints, rank, worker_count, parameter_server_count);
            set("TF_CONFIG", config);
        }
    }
}

/// What Horovod reads of its launcher: who this rank is. Under `mpirun` it asks MPI.
fn horovod(shared: &Shared<'_>, rank: &RankPlacement, set: &mut impl FnMut(&str, String)) {
    if shared.wish.spec.gang.distribution == Distribution::Mpi {
        return;
    }
    let node = shared.wish.key.node_rank;
    set("HOROVOD_RANK", rank.rank.to_string());
    set("HOROVOD_SIZE", world_size(shared.wish).to_string());
    set("HOROVOD_LOCAL_RANK", rank.local_rank.to_string());
    set("HOROVOD_LOCAL_SIZE", local_world_size(shared.wish).to_string());
    set("HOROVOD_CROSS_RANK", node.to_string());
    set("HOROVOD_CROSS_SIZE", shared.wish.placement.members.len().to_string());
    // Ranks of one name are local to each other: two instances on one machine are not.
    set("HOROVOD_HOSTNAME", format!("muster-node-{node}"));
}

/// `TF_CONFIG`: the first ranks are workers, those after them parameter servers.
fn tensorflow(endpoints: &[Endpoint], rank: &RankPlacement, workers: u32, servers: u32) -> String {
    let total = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
    let workers = if workers == 0 { total.saturating_sub(servers) } else { workers.min(total) };
    let addresses: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.framework.as_str()).collect();
    let (first, rest) = addresses.split_at(workers as usize);
    let mut cluster = json!({ "worker": first });
    if !rest.is_empty() {
        cluster["ps"] = json!(rest);
    }
    let index = rank.rank.0;
    let task = if index < workers {
        json!({ "type": "worker", "index": index })
    } else {
        json!({ "type": "ps", "index": index - workers })
    };
    json!({ "cluster": cluster, "task": task, "environment": "cloud" }).to_string()
}

fn azure(shared: &Shared<'_>, set: &mut impl FnMut(&str, String)) {
    let wish = shared.wish;
    set("AZUREML_RUN_ID", format!("job-{}", wish.key.job));
    set("AZUREML_EXPERIMENT_NAME", wish.spec.experiment_name.clone());
    set("AZUREML_NODE_COUNT", wish.placement.members.len().to_string());
    if let Some(master) = master(shared.endpoints) {
        set("AZ_BATCH_MASTER_NODE", master.to_string());
        set("AZ_BATCHAI_MPI_MASTER_NODE", master.ip().to_string());
    }
    for (name, value) in &shared.names.inputs {
        set(&format!("AZURE_ML_INPUT_{name}"), value.clone());
    }
    for (name, value) in &shared.names.outputs {
        set(&format!("AZURE_ML_OUTPUT_{name}"), value.clone());
    }
}

fn muster(shared: &Shared<'_>, rank: &RankPlacement, set: &mut impl FnMut(&str, String)) {
    let (wish, layout) = (shared.wish, shared.layout);
    let MemberKey { job, attempt, node_rank } = wish.key;
    set("MUSTER_JOB_ID", job.to_string());
    set("MUSTER_ATTEMPT", attempt.to_string());
    set("MUSTER_TOKEN", wish.token.to_string());
    set("MUSTER_RANK", rank.rank.to_string());
    set("MUSTER_LOCAL_RANK", rank.local_rank.to_string());
    set("MUSTER_NODE_RANK", node_rank.to_string());
    set("MUSTER_WORLD_SIZE", world_size(wish).to_string());
    set("MUSTER_LOCAL_WORLD_SIZE", local_world_size(wish).to_string());
    set("MUSTER_WORKER", wish.member().map(|member| member.worker.to_string()).unwrap_or_default());
    set("MUSTER_MANIFEST", text(&layout.manifest()));
    set("MUSTER_LISTEN_FD", LISTEN_FD.to_string());
    set("MUSTER_METRICS_FD", METRICS_FD.to_string());
    set("MUSTER_METRICS", text(&layout.rank(rank.rank).join(crate::layout::rank::METRICS)));
    set("MUSTER_CHECKPOINT_DIR", text(&layout.checkpoints()));
    if wish.checkpoint.is_some() {
        set("MUSTER_RESUME_FROM", text(&layout.resume()));
    }
    for (name, value) in &shared.names.inputs {
        set(&format!("MUSTER_INPUT_{}", name.to_uppercase()), value.clone());
    }
    for (name, value) in &shared.names.outputs {
        set(&format!("MUSTER_OUTPUT_{}", name.to_uppercase()), value.clone());
    }
    set(MARKER, text(&layout.rank(rank.rank)));
}

/// The devices of what stands below one supervisor: a rank's own, or for MPI those of all ranks of the member.
fn held<'a>(wish: &'a Wish, rank: &'a RankPlacement) -> Box<dyn Iterator<Item = &'a u32> + 'a> {
    match (wish.spec.gang.distribution, wish.member()) {
        (Distribution::Mpi, Some(member)) => Box::new(member.ranks.iter().flat_map(|rank| &rank.devices)),
        _ => Box::new(rank.devices.iter()),
    }
}

/// By UUID: it means the same device whatever order a program enumerates in. Empty hides every device.
fn visible_devices<'a>(held: impl Iterator<Item = &'a u32>, devices: &[Device]) -> String {
    let name = |index: &u32| {
        let known = devices.iter().find(|device| device.index == *index && !device.uuid.is_empty());
        known.map_or_else(|| index.to_string(), |device| device.uuid.clone())
    };
    held.map(name).collect::<Vec<_>>().join(",")
}

/// The manifest: what the ranks of a gang know of each other.
pub(crate) fn manifest(wish: &Wish, endpoints: &[Endpoint], encrypt: bool) -> serde_json::Value {
    let workers: BTreeMap<u32, &str> = wish
        .placement
        .members
        .iter()
        .flat_map(|member| member.ranks.iter().map(|rank| (rank.rank.0, member.worker.as_str())))
        .collect();
    let peers: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "rank": endpoint.rank.0,
                "worker": workers.get(&endpoint.rank.0).copied().unwrap_or_default(),
                "data": endpoint.data,
                "framework": endpoint.framework,
            })
        })
        .collect();
    let mut secret = String::with_capacity(2 * wish.secret.0.len());
    for byte in wish.secret.0 {
        let _ = write!(secret, "{byte:02x}");
    }
    json!({
        "job": wish.key.job.0,
        "attempt": wish.key.attempt.0,
        "token": wish.token.0,
        "world_size": world_size(wish),
        "secret": secret,
        "peers": peers,
        "encrypt": encrypt,
        "backend": if wish.spec.gang.per_rank.gpus > 0 { "nccl" } else { "cpu" },
    })
}

fn world_size(wish: &Wish) -> usize {
    wish.placement.members.iter().map(|member| member.ranks.len()).sum()
}

fn local_world_size(wish: &Wish) -> usize {
    wish.member().map_or(0, |member| member.ranks.len())
}

fn master(endpoints: &[Endpoint]) -> Option<SocketAddr> {
    endpoints.iter().find(|endpoint| endpoint.rank.0 == 0)?.framework.parse().ok()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use std::sync::Arc;
    use types::{AttemptNumber, Goal, JobId, RankIndex, Token};

    const KEY: MemberKey = MemberKey { job: JobId(7), attempt: AttemptNumber(2), node_rank: 1 };

    fn endpoints() -> Vec<Endpoint> {
        (0..2)
            .map(|rank| Endpoint {
                rank: RankIndex(rank),
                data: format!("127.0.0.1:{}", 4000 + rank),
                framework: format!("127.0.0.1:{}", 5000 + rank),
            })
            .collect()
    }

    fn environment(distribution: Distribution) -> BTreeMap<String, String> {
        let mut wish = crate::testing::wish(KEY, Token(12), Goal::Run, vec![3]);
        let mut spec = (*wish.spec).clone();
        spec.gang.distribution = distribution;
        spec.environment_variables =
            [("OUT".to_owned(), "${{outputs.model}}/x".to_owned()), ("MUSTER_RANK".to_owned(), "99".to_owned())].into();
        wish.spec = Arc::new(spec);
        let names =
            Names { inputs: [("lr".into(), "0.1".into())].into(), outputs: [("model".into(), "/o".into())].into() };
        let layout = Layout::new(Path::new("/d")).member(KEY);
        let base = Base::take(Path::new("/opt/bin"));
        let shared = Shared {
            base: &base,
            wish: &wish,
            names: &names,
            layout: &layout,
            endpoints: &endpoints(),
            devices: &[],
            interface: Some("lo"),
            user: None,
            cluster: ClusterId([1; 16]),
        };
        of_rank(&shared, &wish.member().unwrap().ranks[0]).unwrap().into_iter().collect()
    }

    #[test]
    fn a_pytorch_rank_finds_its_master() {
        let all = environment(Distribution::PyTorch);
        let trace = TraceId::of(ClusterId([1; 16]), KEY.job);
        let parent = trace.parent(trace.span_of_ranks(KEY.attempt));
        let expected = [
            ("RANK", "1"),
            ("LOCAL_RANK", "0"),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "1"),
            ("NODE_RANK", "1"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", "5000"),
            ("MUSTER_RANK", "1"),
            ("MUSTER_TOKEN", "12"),
            ("MUSTER_OUTPUT_MODEL", "/o"),
            ("MUSTER_INPUT_LR", "0.1"),
            ("OUT", "/o/x"),
            ("CUDA_VISIBLE_DEVICES", "3"),
            ("AZUREML_NODE_COUNT", "2"),
            ("TRACEPARENT", parent.as_str()),
            ("HOROVOD_RANK", "1"),
            ("HOROVOD_SIZE", "2"),
            ("HOROVOD_LOCAL_RANK", "0"),
            ("HOROVOD_LOCAL_SIZE", "1"),
            ("HOROVOD_CROSS_RANK", "1"),
            ("HOROVOD_CROSS_SIZE", "2"),
            ("HOROVOD_HOSTNAME", "muster-node-1"),
        ];
        for (name, value) in expected {
            assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(all["PATH"].starts_with("/opt/bin:"));
        assert!(!all.contains_key("MUSTER_RESUME_FROM"));
        assert!(!all.keys().any(|name| name.starts_with("CARGO")), "the daemon's environment leaked");
    }

    #[test]
    fn tensorflow_ranks_know_their_task() {
        let all = environment(Distribution::TensorFlow { worker_count: 1, parameter_server_count: 1 });
        let config: serde_json::Value = serde_json::from_str(&all["TF_CONFIG"]).unwrap();
        assert_eq!(config["cluster"], json!({"worker": ["127.0.0.1:5000"], "ps": ["127.0.0.1:5001"]}));
        assert_eq!(config["task"], json!({"type": "ps", "index": 0}));
    }

    #[test]
    fn the_manifest_names_every_peer() {
        let wish = crate::testing::wish(KEY, Token(12), Goal::Run, vec![]);
        let manifest = manifest(&wish, &endpoints(), true);
        assert_eq!(manifest["world_size"], 2);
        assert_eq!(manifest["secret"], "07".repeat(32));
        assert_eq!(manifest["backend"], "cpu");
        assert_eq!(manifest["encrypt"], true);
        assert_eq!(
            manifest["peers"][1],
            json!({"rank": 1, "worker": "w", "data": "127.0.0.1:4001", "framework": "127.0.0.1:5001"})
        );
    }
}
