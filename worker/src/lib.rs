//! The daemon on each machine: keeps a session with the leader, and runs the ranks that it wishes for.
//!
//! ```text
//!  run ─┬─ session        (a thread) dials the leader; heartbeats and lease, wishes in, statuses out
//!       ├─ reconciler     decide(wishes, running); owns the members
//!       │    └─ member*   prepares, starts, watches, saves ──> supervisor of each rank (a process: `shim`)
//!       ├─ shipper        (a thread) spools ──> every coordinator; a link for each
//!       ├─ watcher        inotify: says which folder changed
//!       ├─ device monitor looks at the GPUs; a change is registered anew
//!       └─ figures        (a thread) load of the machine and its GPUs, for the session
//! ```
//!
//! A member that fails is started again from what is on disk, as a restarted daemon does it. The others end the daemon
//! when they end: it starts again and adopts what runs. Ranks live on below their own supervisors meanwhile.
//!
//! Promises: `LEASE-1`, `FENCE-2`, `GANG-2` and `SLOT-1` on this machine; output bytes are kept until a majority of
//! coordinators has them (`LOG-1`).

mod admit;
mod apart;
mod blobs;
mod cgroup;
mod config;
pub mod decide;
mod dial;
mod encryption;
mod environment;
mod error;
mod expand;
mod fence;
mod figures;
pub mod fuzzed;
mod held;
mod inventory;
mod islands;
mod layout;
mod lease;
mod life;
mod member;
mod monitor;
pub mod mpi;
pub mod network;
mod owner;
mod process;
mod processors;
mod reconciler;
mod secrets;
mod session;
pub mod shim;
mod ship;
mod spares;
#[cfg(test)]
mod testing;
mod users;
mod watch;

pub use config::{CgroupMode, Config, ConfigError, OnStop};
pub use error::Error;

use config::Checked;
use layout::Layout;
use lease::Lease;
use member::Context;
use std::sync::Arc;
use std::time::Duration;
use stores::blobs::BlobStore;
use tokio::sync::{oneshot, watch as channel};
use types::{ClusterId, WorkerRegistration};

/// For the ranks to be killed and the leader to hear of it, in an orderly stop that ends them.
const KILL_MAX: Duration = Duration::from_secs(5);
/// For the last news to leave.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs the daemon until `shutdown`, or until the cluster refuses it. What runs here goes on when it returns, unless the
/// configuration says otherwise.
pub async fn run(config: Config, shutdown: daemon::Shutdown) -> Result<(), Error> {
    let checked = config.checked()?;
    let layout = Layout::new(&checked.config.data_dir);
    let _lock = daemon::files::lock_folder(layout.root())?;
    if let Some(supervisor) = member::supervised_elsewhere(&layout) {
        return Err(Error::Copied { path: layout.root().display().to_string(), supervisor });
    }
    let (node, folder) = tokio::select! {
        identified = admit::identify(&checked) => identified?,
        () = shutdown.requested() => return Ok(()),
    };
    let own = node.material().subject.cluster();
    let dialer = identity::Dialer::node(node.clone());
    let registration = register(&checked, &layout)?;
    let cluster = life::cluster(&layout)?;
    let restarted = life::machine_restarted(&layout)?;
    let lease = Lease::open(&layout.lease()).map_err(Error::io("open the lease file"))?;
    link_program(&checked, &layout).map_err(Error::io("link the program for the ranks"))?;
    let cache = BlobStore::open(&layout.cache());
    let cache = cache.map_err(|error| Error::io("open the cache")(std::io::Error::other(error)))?;

    let (coordinators, known) = channel::channel(checked.config.coordinators.clone());
    let (watcher, watching) = watch::start();
    let watching = tokio::spawn(watching);
    let (shipper, shipping) =
        ship::start(known.clone(), watcher.clone(), dialer.clone()).map_err(Error::io("start the shipper's thread"))?;
    let spares = spares::Spares::open(layout.spares()).map_err(Error::io("open the folder of spare folders"))?;
    let blobs = blobs::Blobs::new(cache, known.clone(), dialer.clone());
    let secrets = secrets::Source::new(known.clone(), dialer.clone());
    let renewing = tokio::spawn(admit::keep(node, folder, known));
    let sources = (blobs, secrets, own);
    let context = context(&checked, &layout, &registration, sources, shipper, watcher, spares);
    let found = member::find(&layout).map_err(Error::io("look for members of a former life"))?;
    for (wish, _) in found.iter().filter(|(_, found)| *found == member::Found::Live) {
        context.processors.keep(wish.key, &layout.member(wish.key));
    }
    let context = Arc::new(context);
    prepare_rank_user(&checked, &layout, (&context.users, context.apart.as_ref()), &found)?;
    let fence = fence(&checked);
    let (handle, reconciling) = reconciler::start(context.clone(), found, restarted);
    let reconciling = tokio::spawn(reconciling);
    let (registration, watched) = channel::channel(registration);
    let monitoring = tokio::spawn(monitor::run(checked.config.clone(), registration));
    let figures = figures::start(&layout).map_err(Error::io("start the thread of the figures"))?;
    let session = session::Session {
        layout,
        figures,
        registration: watched,
        seeds: checked.config.coordinators.clone(),
        coordinators,
        cluster,
        dialer,
        lease,
        start: daemon::random::seed().map_err(Error::io("number this start"))?,
        reconciler: handle.clone(),
    };
    let mut session = on_own_thread("session", session.run())?;
    tokio::select! {
        ended = &mut session => return Err(ended.unwrap_or(Error::ActorDied("session"))),
        _ = reconciling => return Err(Error::ActorDied("reconciler")),
        _ = watching => return Err(Error::ActorDied("watcher")),
        _ = shipping => return Err(Error::ActorDied("shipper")),
        _ = renewing => return Err(Error::ActorDied("renewal of the certificate")),
        _ = monitoring => return Err(Error::ActorDied("device monitor")),
        () = shutdown.requested() => {}
    }
    leave(&checked.config, &handle, fence).await;
    context.driver.leave();
    Ok(())
}

/// The orderly stop. What keeps ranks from places stays as long as there are any.
async fn leave(config: &Config, handle: &reconciler::Handle, fence: Option<fence::Fence>) {
    let mut is_empty = member::find(&Layout::new(&config.data_dir)).is_ok_and(|found| found.is_empty());
    if config.on_stop == OnStop::KillRanks {
        is_empty = tokio::time::timeout(KILL_MAX, handle.kill_all()).await.is_ok();
        if !is_empty {
            tracing::warn!("some ranks did not end in time; they end with their lease");
        }
        tokio::time::sleep(LAST_WORDS).await;
    }
    if let Some(fence) = fence.filter(|_| is_empty) {
        fence.take_down();
    }
}

/// Runs an actor on a thread and a runtime of its own: nothing else of the daemon can hold it up. It ends with the process,
/// or when the receiver is dropped.
fn on_own_thread<T: Send + 'static>(
    name: &str,
    actor: impl Future<Output = T> + Send + 'static,
) -> Result<oneshot::Receiver<T>, Error> {
    let (mut ended, end) = oneshot::channel();
    let failed = |error| Error::io(format!("start the {name}'s thread"))(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                result = actor => drop(ended.send(result)),
                () = ended.closed() => {}
            }
        });
    });
    thread.map(|_| end).map_err(failed)
}

/// Jobs say `muster train` whatever the daemon's own file is called, and go on saying it when that is replaced.
fn link_program(checked: &Checked, layout: &Layout) -> std::io::Result<()> {
    daemon::files::create_private_folder(&layout.programs())?;
    let (link, beside) = (layout.programs().join("muster"), layout.programs().join("muster.new"));
    let _ = std::fs::remove_file(&beside);
    std::os::unix::fs::symlink(&checked.config.program, &beside)?;
    std::fs::rename(&beside, &link)
}

/// Opens the way to the ranks' folders for who they run as, and tries it; what still runs keeps its user.
fn prepare_rank_user(
    checked: &Checked,
    layout: &Layout,
    (users, apart): (&users::Users, Option<&apart::Apart>),
    found: &[(types::Wish, member::Found)],
) -> Result<(), Error> {
    if let Some(apart) = apart {
        apart.try_out(&checked.config.program).map_err(Error::RankNamespace)?;
        if !checked.config.allow_all_system_calls {
            shim::calls::try_out().map_err(Error::RankNamespace)?;
        }
    }
    let Some(user) = &checked.rank_user else { return Ok(()) };
    owner::open_the_way(layout).map_err(Error::io("shut the data folder"))?;
    if !checked.config.allow_all_system_calls {
        shim::calls::try_out().map_err(Error::RankUser)?;
    }
    if checked.config.rank_network {
        network::try_out().map_err(Error::RankNetwork)?;
    }
    owner::try_out(user, &checked.config.program, layout).map_err(Error::RankUser)?;
    for (wish, _) in found {
        if let Some(owner) = owner::Owner::of(&layout.member(wish.key)) {
            users.keep(wish.key, owner.uid);
        }
    }
    Ok(())
}

/// Where ranks are other users, they are kept from the machine's credentials, if the machine lets the daemon do that.
fn fence(checked: &Checked) -> Option<fence::Fence> {
    let fence = fence::Fence::of(checked.rank_user.as_ref()?);
    if checked.config.allow_metadata_address {
        fence.take_down();
        return None;
    }
    if let Err(error) = fence.put_up() {
        tracing::warn!(%error, "ranks reach the address at which clouds tell a machine its credentials");
    }
    Some(fence)
}

/// Where ranks are other users, each member has a `/tmp` and a `/dev/shm` of its own, if the machine lets them.
fn has_places(checked: &Checked, layout: &Layout) -> bool {
    if checked.rank_user.is_none() || checked.config.shared_tmp {
        return false;
    }
    let tried = shim::places::try_out(layout.root(), &checked.config.program);
    if let Err(why) = &tried {
        tracing::warn!(why, "ranks share /tmp and /dev/shm with this machine, and see its processes");
    }
    tried.is_ok()
}

fn register(checked: &Checked, layout: &Layout) -> Result<WorkerRegistration, Error> {
    Ok(WorkerRegistration {
        worker: checked.worker.clone(),
        instance: life::instance(layout)?,
        inventory: inventory::take(&checked.config),
        labels: checked.config.labels.clone(),
        taints: checked.config.taints.clone(),
        topology: checked.topology.clone(),
        data_address: checked.data_address.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn context(
    checked: &Checked,
    layout: &Layout,
    registration: &WorkerRegistration,
    (blobs, secrets, cluster): (blobs::Blobs, secrets::Source, ClusterId),
    shipper: ship::Handle,
    watcher: watch::Handle,
    spares: spares::Spares,
) -> Context {
    let config = &checked.config;
    let driver = match config.cgroups {
        // Two daemons of one machine must not remove each other's groups.
        CgroupMode::Auto => {
            let name = format!("muster-{}-{}", checked.worker, registration.instance);
            cgroup::Driver::detect(&name, config.pin_cpus)
        }
        CgroupMode::Off => cgroup::Driver::None,
    };
    tracing::info!(
        worker_id = %checked.worker,
        cpus = registration.inventory.cpus,
        memory_bytes = registration.inventory.memory_bytes,
        devices = registration.inventory.devices.len(),
        cgroups = driver.name(),
        "worker starts"
    );
    Context {
        layout: layout.clone(),
        cluster,
        base: environment::Base::take(&layout.programs()),
        devices: registration.inventory.devices.clone(),
        data_address: checked.data_address,
        program: config.program.clone(),
        nursery: shim::nursery::Nursery::new(&config.program, layout),
        spares: Arc::new(spares),
        spool_bytes_max: config.spool_bytes_max,
        hard_cpu_limit: config.hard_cpu_limit,
        pids_max: config.pids_max,
        all_calls: config.allow_all_system_calls,
        device_files: inventory::device_files(),
        rank_otlp: config.rank_otlp,
        encryption: encryption::Encryption::of(config),
        networks: network::Networks(config.rank_network),
        limits: config.rank_limits(),
        job_disk_bytes_max: config.job_disk_bytes_max,
        processors: if config.pin_cpus {
            processors::Processors::of_machine(registration.inventory.cpus)
        } else {
            processors::Processors::shared()
        },
        apart: apart::Apart::of(checked, layout),
        users: users::Users::new(checked.rank_user.clone(), has_places(checked, layout)),
        driver,
        blobs,
        secrets,
        shipper,
        watcher,
    }
}
