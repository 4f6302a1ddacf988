//! Starts the supervisors of a member's ranks.

use super::prepare::{Prepared, Sockets, make_folders};
use super::{Context, Fault, supervised};
use crate::cgroup;
use crate::environment::{self, Shared};
use crate::layout::MemberLayout;
use crate::network;
use crate::owner;
use crate::processors::Want;
use crate::secrets::Secrets;
use crate::shim::namespace::Namespace;
use crate::shim::nursery::Nursery;
use crate::shim::places::Places;
use crate::shim::record;
use crate::shim::silence::SilenceLimits;
use crate::shim::spec::{Credentials, EventFiles, OtlpOffer, ShimSpec};
use crate::users::User;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use types::{Distribution, Endpoint, MemberKey, RankIndex, RankPlacement, Wish};

/// A rank that has said nothing for so long may hang, where its job does not say otherwise: as in the built-in training.
const LOOK_AFTER_S: u64 = 30;

/// A supervisor that was started, or was found running.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) rank: RankIndex,
    pub(super) folder: PathBuf,
    /// Exactly this process.
    pub(super) process: OwnedFd,
}

/// Starts all, or those before the first fault; the caller kills what was started.
pub(super) fn launch(
    context: &Context,
    wish: &Wish,
    layout: &MemberLayout,
    prepared: Prepared,
    endpoints: &[Endpoint],
    started: &mut Vec<Supervised>,
) -> Result<(), Fault> {
    if !prepared.has_folders {
        make_folders(&wish.spec, layout, &context.spares)?;
    }
    let (endpoints, sockets, network) = network(context, wish, layout, endpoints, prepared.sockets)?;
    let endpoints = endpoints.as_slice();
    // Their network encrypts already.
    write_down(wish, layout, endpoints, context.encryption.asked() && network.is_none())?;
    let (user, places) = user_and_places(context, wish, layout)?;
    let namespace = namespace(context, wish, layout)?;
    let shared = Shared {
        base: &context.base,
        wish,
        names: &prepared.names,
        layout,
        endpoints,
        devices: &context.devices,
        interface: match network {
            Some(_) => Some(network::DEVICE),
            None => context.data_address.is_loopback().then_some("lo"),
        },
        user: user.as_ref(),
        cluster: context.cluster,
    };
    let processors = context.processors.take(wish.key, &wanted_processors(context, wish));
    for ((placed, sockets), processors) in supervised(wish).iter().zip(sockets).zip(processors) {
        let environment = environment::of_rank(&shared, placed).map_err(|error| Fault::job(error.to_string()))?;
        let folder = layout.rank(placed.rank);
        let spec = ShimSpec {
            rank: placed.rank,
            command: command(context, wish, &prepared.command),
            direct: direct(wish, &prepared.command),
            environment,
            folder: layout.code(),
            rank_folder: folder.clone(),
            lease: context.layout.lease(),
            grace_ms: wish.spec.grace.0,
            secret_files: wish.spec.secret_files.iter().cloned().collect(),
            spool_bytes_max: context.spool_bytes_max,
            groups: groups(context, wish, placed.rank, &processors),
            processors,
            listens: true,
            silence: silence(wish),
            user: user.as_ref().map(|user| user.credentials.clone()),
            places: places.clone(),
            namespace: namespace.clone(),
            network: network.clone(),
            all_calls: context.all_calls,
            limits: context.limits,
            events: event_files(wish, layout, placed.rank)?,
            otlp: if context.rank_otlp { otlp(wish) } else { OtlpOffer::Nothing },
        };
        // Free for the framework from now on.
        drop(sockets.framework);
        let process = start(&context.nursery, &spec, &sockets.listener, &prepared.secrets)
            .map_err(|error| Fault::machine(format!("cannot start the supervisor of rank {}: {error}", placed.rank)))?;
        started.push(Supervised { rank: placed.rank, folder, process });
    }
    Ok(())
}

/// For its ranks, and for the daemon's next life.
fn write_down(wish: &Wish, layout: &MemberLayout, endpoints: &[Endpoint], encrypts: bool) -> Result<(), Fault> {
    write_private(&layout.manifest(), environment::manifest(wish, endpoints, encrypts).to_string().as_bytes())
        .and_then(|()| write_private(&layout.wish(), &postcard::to_stdvec(wish).map_err(io::Error::other)?))
        .map_err(|error| Fault::machine(format!("cannot write its manifest: {error}")))
}

/// What is handed to one rank.
struct RankSockets {
    listener: OwnedFd,
    /// Held until it starts.
    framework: Option<OwnedFd>,
}

type Met = (Vec<Endpoint>, Vec<RankSockets>, Option<network::Place>);

/// The network of the gang, where it has one of its own: then the endpoints and sockets are those in it.
fn network(
    context: &Context,
    wish: &Wish,
    layout: &MemberLayout,
    endpoints: &[Endpoint],
    sockets: Vec<Sockets>,
) -> Result<Met, Fault> {
    context.networks.check(wish, endpoints).map_err(Fault::machine)?;
    if !context.networks.includes(wish) {
        let sockets = sockets.into_iter();
        let handed = sockets.map(|own| RankSockets { listener: own.data.into(), framework: Some(own.framework) });
        return Ok((endpoints.to_vec(), handed.collect(), None));
    }
    let log = context.nursery.open_log().map_err(|error| Fault::machine(format!("cannot open a log: {error}")))?;
    let listeners: Vec<_> = sockets.into_iter().map(|own| own.data).collect();
    let made = network::start(&context.program, log, (wish, layout), endpoints, &listeners).map_err(Fault::machine)?;
    let handed = made.listeners.into_iter().map(|listener| RankSockets { listener, framework: None });
    Ok((made.endpoints, handed.collect(), Some(made.place)))
}

impl Context {
    /// Of a member that was launched.
    pub(super) fn places(&self, member: MemberKey, layout: &MemberLayout) -> Option<Places> {
        let apart = || self.apart.as_ref().and_then(|apart| apart.places(member, layout));
        self.users.places_of(member, layout).or_else(apart)
    }
}

/// Whom its ranks become, where that is another than the daemon, with what is theirs; and what is theirs of everybody's places.
fn user_and_places(
    context: &Context,
    wish: &Wish,
    layout: &MemberLayout,
) -> Result<(Option<User>, Option<Places>), Fault> {
    let user = context.users.of(wish.key).map_err(|error| Fault::machine(error.to_string()))?;
    let Some(own) = &user else { return Ok((None, None)) };
    let places = context.users.places(wish.key, &own.credentials, &layout.tmp());
    let places = places.map(|places| places.shutting(shut_devices(context, wish), layout.blank()));
    give(layout, &own.credentials, places.as_ref())?;
    Ok((user, places))
}

/// What its ranks see, where they are the daemon's own user and are to see no more than is theirs.
fn namespace(context: &Context, wish: &Wish, layout: &MemberLayout) -> Result<Option<Namespace>, Fault> {
    let Some(apart) = &context.apart else { return Ok(None) };
    let shut = shut_devices(context, wish);
    apart
        .make_places(wish.key, layout, shut.clone())
        .map_err(|error| Fault::machine(format!("cannot make its /dev/shm: {error}")))?;
    Ok(Some(apart.of_member(wish.key, layout, shut)))
}

/// The GPUs of this machine that are not the member's: which of its own each rank uses is the gang's affair.
fn shut_devices(context: &Context, wish: &Wish) -> Vec<PathBuf> {
    let ranks = wish.member().map(|member| member.ranks.as_slice()).unwrap_or_default();
    let is_own = |index: &u32| ranks.iter().any(|rank| rank.devices.contains(index));
    context.device_files.iter().filter(|(index, _)| !is_own(index)).map(|(_, file)| file.clone()).collect()
}

/// What its ranks write in, and the manifest.
fn give(layout: &MemberLayout, user: &Credentials, places: Option<&Places>) -> Result<(), Fault> {
    owner::give(layout, user)
        .and_then(|()| owner::give_one(&layout.manifest(), user))
        .and_then(|()| places.map_or(Ok(()), |places| places.make(user)))
        .map_err(|error| Fault::machine(format!("cannot give its folders to user {}: {error}", user.uid)))
}

fn command(context: &Context, wish: &Wish, command: &str) -> Vec<String> {
    let program = context.program.display().to_string();
    match (wish.spec.gang.distribution, wish.key.node_rank) {
        (Distribution::Mpi, 0) => vec![program, "mpi-run".into(), command.to_owned()],
        (Distribution::Mpi, _) => vec![program, "mpi-node".into()],
        _ => vec!["/bin/sh".into(), "-c".into(), command.to_owned()],
    }
}

/// A command that is a program's path and plain words needs no shell, which would only replace itself by the program. Anything that a shell might read otherwise is left to the shell.
fn direct(wish: &Wish, command: &str) -> Vec<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    let mut words: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).collect();
    if words.first() == Some(&"exec") {
        words.remove(0);
    }
    let is_path = words.first().is_some_and(|program| program.contains('/') && !program.contains('='));
    if wish.spec.gang.distribution == Distribution::Mpi
        || !is_path
        || !words.iter().all(|word| word.chars().all(is_plain))
    {
        return Vec::new();
    }
    words.into_iter().map(str::to_owned).collect()
}

/// By the job's own variables. Whether a rank by itself hangs nobody but its job can know; a rank of a gang is looked at.
fn silence(wish: &Wish) -> SilenceLimits {
    let variables = &wish.spec.environment_variables;
    let seconds = |name| variables.get(name).and_then(|text: &String| text.trim().parse::<u64>().ok());
    let look = seconds("MUSTER_STALL_AFTER_S").map_or(LOOK_AFTER_S, |seconds| seconds.max(1));
    let is_gang = wish.spec.gang.ranks_per_instance > 1 || wish.placement.members.len() > 1;
    SilenceLimits {
        look_ms: if is_gang { look.saturating_mul(1_000) } else { 0 },
        end_ms: seconds("MUSTER_HANG_AFTER_S").unwrap_or(0).saturating_mul(1_000),
    }
}

/// Programs write them into outputs: of a job without any there are none.
fn event_files(wish: &Wish, layout: &MemberLayout, rank: RankIndex) -> Result<Option<EventFiles>, Fault> {
    let ranks = supervised(wish);
    if wish.spec.outputs.is_empty() {
        return Ok(None);
    }
    let claims = (ranks.len() > 1).then(|| layout.event_claims());
    if let Some(folder) = &claims {
        daemon::files::create_private_folder(folder)
            .map_err(|error| Fault::machine(format!("cannot make {}: {error}", folder.display())))?;
    }
    let is_first = ranks.first().is_some_and(|first| first.rank == rank);
    Ok(Some(EventFiles { outputs: layout.outputs(), claims, is_first }))
}

/// A job that says itself where such data goes, or by what header, has it go there; and the secret of its ranks does not go with
/// it. Spans are nobody's here: a job that says where these go still has its metrics and logs taken.
fn otlp(wish: &Wish) -> OtlpOffer {
    let names = wish.spec.environment_variables.keys().chain(wish.spec.secrets.keys());
    let mut places = names.filter(|name| {
        name.starts_with("OTEL_EXPORTER_OTLP_") && (name.ends_with("ENDPOINT") || name.ends_with("HEADERS"))
    });
    match (places.next(), places.next()) {
        (None, _) => OtlpOffer::All,
        (Some(first), more) => {
            let of_spans = |name: &String| name.contains("_TRACES_");
            let all = of_spans(first) && more.is_none_or(of_spans) && places.all(of_spans);
            if all { OtlpOffer::BySignal } else { OtlpOffer::Nothing }
        }
    }
}

fn groups(context: &Context, wish: &Wish, rank: RankIndex, processors: &[u32]) -> cgroup::Groups {
    let (groups, lacking) = context.driver.plan(wish.key, rank, limits(context, wish), processors);
    if !lacking.is_empty() {
        tracing::warn!(job_id = %wish.key.job, rank = %rank, ?lacking, "limits are not enforced here");
    }
    groups
}

/// Ranks that stand below one supervisor.
fn ranks_of_one(wish: &Wish) -> u64 {
    let is_mpi = wish.spec.gang.distribution == Distribution::Mpi;
    u64::from(if is_mpi { wish.spec.gang.ranks_per_instance } else { 1 })
}

/// Of each supervisor, near the first GPU of its rank.
fn wanted_processors(context: &Context, wish: &Wish) -> Vec<Want> {
    let count = u64::from(wish.spec.gang.per_rank.cpus).saturating_mul(ranks_of_one(wish));
    let node_of = |index: &u32| context.devices.iter().find(|device| device.index == *index)?.numa_node;
    let want = |placed: &RankPlacement| Want {
        count: usize::try_from(count).unwrap_or(usize::MAX),
        node: placed.devices.first().and_then(node_of),
    };
    supervised(wish).iter().map(want).collect()
}

/// Of one supervisor: for as many ranks as stand below it.
fn limits(context: &Context, wish: &Wish) -> cgroup::Limits {
    let wanted = &wish.spec.gang.per_rank;
    let ranks = ranks_of_one(wish);
    cgroup::Limits {
        memory_bytes: wanted.memory_bytes.saturating_mul(ranks),
        cpu_percent: if context.hard_cpu_limit { u64::from(wanted.cpus) * ranks * 100 } else { 0 },
        cpu_weight: u64::from(wanted.cpus) * ranks * 100,
        pids: u64::from(context.pids_max) * ranks,
    }
}

fn start(nursery: &Nursery, spec: &ShimSpec, listener: &OwnedFd, secrets: &Secrets) -> io::Result<OwnedFd> {
    daemon::files::create_private_folder(&spec.rank_folder)?;
    if let Some(user) = &spec.user {
        // The pipe for metrics stands in it.
        owner::let_group_enter(&spec.rank_folder, user)?;
    }
    nursery.start(&record::create(spec)?, listener, secrets)
}

/// A file that holds a secret.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::sync::Arc;
    use types::{AttemptNumber, Goal, JobId, Token};

    #[test]
    fn only_what_no_shell_reads_otherwise_goes_without_one() {
        let key = MemberKey { job: JobId(1), attempt: AttemptNumber(1), node_rank: 0 };
        let wish = testing::wish(key, Token(1), Goal::Run, vec![]);
        assert_eq!(direct(&wish, "/bin/true"), ["/bin/true"]);
        assert_eq!(direct(&wish, "exec /bin/true"), ["/bin/true"]);
        assert_eq!(direct(&wish, "./train.sh  --rate=0.1 data/a.csv "), ["./train.sh", "--rate=0.1", "data/a.csv"]);
        for shell in [
            "true",
            "exec true",
            "A=/b ./c",
            "/bin/a=b",
            "/bin/true; /bin/false",
            "/bin/echo $HOME",
            "/bin/ls *",
            "",
            "/bin/true\n/bin/false",
            "/bin/echo ~",
            "/bin/echo 'a b'",
            "/bin/true &",
            "/bin/echo {a,b}",
            "/bin/echo #x",
        ] {
            assert!(direct(&wish, shell).is_empty(), "{shell}");
        }
    }

    #[test]
    fn a_job_that_says_where_its_telemetry_goes_is_obeyed() {
        let key = MemberKey { job: JobId(1), attempt: AttemptNumber(1), node_rank: 0 };
        let asked = |variable: &str, secret: &str| {
            let mut wish = testing::wish(key, Token(1), Goal::Run, vec![]);
            let mut spec = (*wish.spec).clone();
            spec.environment_variables = [(variable.to_owned(), "x".to_owned())].into();
            spec.secrets = [(secret.to_owned(), "x".to_owned())].into();
            wish.spec = Arc::new(spec);
            otlp(&wish)
        };
        for ours in ["OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            assert_eq!(asked(ours, "OTHER"), OtlpOffer::All, "{ours}");
        }
        assert_eq!(
            asked("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
            OtlpOffer::BySignal
        );
        assert_eq!(asked("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"), OtlpOffer::Nothing);
        for theirs in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"]
        {
            assert_eq!(
                (asked(theirs, "OTHER"), asked("OTHER", theirs)),
                (OtlpOffer::Nothing, OtlpOffer::Nothing),
                "{theirs}"
            );
        }
    }

    #[test]
    fn a_job_says_by_its_variables_how_long_its_ranks_may_be_silent() {
        let key = MemberKey { job: JobId(1), attempt: AttemptNumber(1), node_rank: 0 };
        let limits = |ranks, variables: &[(&str, &str)]| {
            let mut wish = testing::wish(key, Token(1), Goal::Run, vec![]);
            let mut spec = (*wish.spec).clone();
            spec.gang.ranks_per_instance = ranks;
            spec.environment_variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            wish.spec = Arc::new(spec);
            let limits = silence(&wish);
            (limits.look_ms, limits.end_ms)
        };
        assert_eq!(limits(2, &[]), (30_000, 0));
        assert_eq!(limits(2, &[("MUSTER_STALL_AFTER_S", "0"), ("MUSTER_HANG_AFTER_S", "600")]), (1_000, 600_000));
        assert_eq!(limits(2, &[("MUSTER_STALL_AFTER_S", "${{inputs.n}}")]), (30_000, 0));
    }
}
