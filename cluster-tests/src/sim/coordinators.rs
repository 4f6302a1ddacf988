//! The coordinators: founded together, crashed and started again, each from what its disk kept.

use super::chance::Chance;
use super::disk::Disk;
use super::network::{Network, SimulatedLinks};
use super::{Break, World, locked};
use coordinator::raft::{self, Addresses, Node, Timers, tuned_server};
use coordinator::simulated::LeaderLoop;
use coordinator::store::{Pace, Store};
use daemon::Shutdown;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use types::{ClusterId, CoordinatorId};

/// Of a worker, and of the margin in which a leader that was cut off still renews it.
pub const LEASE: Duration = Duration::from_secs(3);
/// Entries between two snapshots, and entries that stay: small, so that both are always at work.
const SNAPSHOT_EVERY: u64 = 60;
const LOG_KEPT: u64 = 20;

/// By how much the clock of whoever leads is wrong.
pub static SKEW_MS: AtomicI64 = AtomicI64::new(0);

const CLUSTER: ClusterId = ClusterId([5; 16]);

/// One coordinator, alive or not.
pub struct Host {
    folder: PathBuf,
    /// Its log.
    pub disk: Arc<Disk>,
    lives: u64,
    skew_ms: i64,
    slow: Arc<AtomicBool>,
    /// How far its log was flushed when it was made: not at all.
    first_mark: Vec<u8>,
    /// While it lives.
    pub running: Option<Running>,
}

/// One life of a coordinator.
#[derive(Clone)]
pub struct Running {
    /// The product's.
    pub node: Node,
    /// The product's, too.
    pub leader: LeaderLoop,
    /// Ends with it.
    pub life: Shutdown,
}

/// All of them, by number.
#[derive(Default)]
pub struct Coordinators {
    /// From 1.
    pub hosts: BTreeMap<u64, Host>,
    /// Numbers that were given; none is given twice.
    made: u64,
    /// Where they keep their files.
    folder: PathBuf,
}

impl World {
    /// A coordinator that lives.
    pub(super) fn running(&self, id: u64) -> Option<Running> {
        locked(&self.coordinators).hosts.get(&id)?.running.clone()
    }

    /// Numbers of all that were not removed.
    pub(super) fn hosts(&self) -> Vec<u64> {
        locked(&self.coordinators).hosts.keys().copied().collect()
    }

    /// Numbers of those that live.
    pub(super) fn alive(&self) -> Vec<u64> {
        let all = locked(&self.coordinators);
        all.hosts.iter().filter(|(_, host)| host.running.is_some()).map(|(id, _)| *id).collect()
    }

    /// Who believes to lead, the newest term first.
    pub(super) fn leaders(&self) -> Vec<u64> {
        let all = locked(&self.coordinators);
        let lives = all.hosts.iter().filter_map(|(id, host)| Some((host.running.as_ref()?.node.clone(), *id)));
        let mut leaders: Vec<(u64, u64)> = lives
            .filter_map(|(node, id)| {
                let now = *node.leadership().borrow();
                now.leading.then_some((now.term, id))
            })
            .collect();
        leaders.sort_unstable_by(|a, b| b.cmp(a));
        leaders.into_iter().map(|(_, id)| id).collect()
    }
}

/// Makes all coordinators and forms the cluster of them.
pub async fn found(world: &Arc<World>, folder: &Path) -> Result<(), String> {
    folder.clone_into(&mut locked(&world.coordinators).folder);
    for _ in 0..world.plan.nodes {
        let id = make(world);
        start(world, id).await?;
    }
    let members = (1..=world.plan.nodes)
        .map(|id| (CoordinatorId(id), Addresses { grpc: Network::address(id), http: String::new() }));
    let first = world.running(1).ok_or("the first coordinator did not start")?;
    first.node.bootstrap(members.collect(), CLUSTER).await.map_err(|error| format!("not formed: {error}"))?;
    world.note("formed");
    Ok(())
}

/// One more, with an empty disk and a clock of its own.
pub fn make(world: &World) -> u64 {
    let mut all = locked(&world.coordinators);
    all.made += 1;
    let id = all.made;
    let skew_ms = clock_error(&mut world.chance(&format!("clock {id}")));
    let (folder, disk) = (all.folder.join(id.to_string()), Arc::new(Disk::empty(Break::lies(world.plan.broken))));
    let host = Host { folder, disk, lives: 0, skew_ms, slow: Arc::default(), first_mark: Vec::new(), running: None };
    all.hosts.insert(id, host);
    id
}

/// Most are wrong by seconds, some by up to an hour.
fn clock_error(chance: &mut Chance) -> i64 {
    let most = if chance.thousandths(250) { 3_600_000 } else { 3_000 };
    chance.between(0, 2 * most) as i64 - most as i64
}

fn pace(world: &World, id: u64, life: u64, slow: Arc<AtomicBool>) -> Pace {
    let chance = Mutex::new(world.chance(&format!("pace {id} {life}")));
    Arc::new(move || {
        let mut chance = locked(&chance);
        let most = if slow.load(Ordering::Relaxed) { 400_000 } else { 1_500 };
        let scale = if chance.thousandths(10) { 20 } else { 1 };
        Duration::from_micros(chance.between(50, most).saturating_mul(scale).min(2_000_000))
    })
}

/// Starts one that is down.
pub async fn start(world: &Arc<World>, id: u64) -> Result<(), String> {
    let (folder, disk, life_number, slow) = {
        let mut all = locked(&world.coordinators);
        let host = all.hosts.get_mut(&id).ok_or("no such coordinator")?;
        host.lives += 1;
        (host.folder.join(host.lives.to_string()), host.disk.clone(), host.lives, host.slow.clone())
    };
    let pace = pace(world, id, life_number, slow);
    let store = Store::over(&folder.join("raft"), id, disk, pace);
    let store = store.map_err(|error| format!("coordinator {id} does not start: {error}"))?;
    if life_number == 1
        && let Some(host) = locked(&world.coordinators).hosts.get_mut(&id)
    {
        host.first_mark = std::fs::read(mark(&folder)).map_err(|error| format!("a new store has no mark: {error}"))?;
    }
    let life = Shutdown::new();
    let config = raft::Config {
        id: CoordinatorId(id),
        data_dir: folder,
        timers: Timers::default(),
        snapshot_every: SNAPSHOT_EVERY,
        log_kept: LOG_KEPT,
        links: Arc::new(SimulatedLinks { world: world.clone(), from: id, life: life.clone() }),
        propose_timeout: Duration::from_secs(5),
    };
    let node = Node::over(config, store).await.map_err(|error| format!("coordinator {id} does not start: {error}"))?;
    let accepted = UnboundedReceiverStream::new(world.network.listen(id, life.clone()));
    let server = tuned_server().add_service(node.service());
    tokio::spawn(server.serve_with_incoming(accepted.map(Ok::<_, std::io::Error>)));
    let leader = LeaderLoop::start(node.clone(), LEASE, life.clone());
    watch(world, id, &node, &life);
    if let Some(host) = locked(&world.coordinators).hosts.get_mut(&id) {
        host.running = Some(Running { node, leader, life });
    }
    world.note(&format!("coordinator {id} starts, life {life_number}"));
    Ok(())
}

/// Follows what it applies, who it says leads, and whether it stops by itself.
fn watch(world: &Arc<World>, id: u64, node: &Node, life: &Shutdown) {
    let (world, node, life) = (world.clone(), node.clone(), life.clone());
    tokio::spawn(async move {
        let (mut applied, mut leadership) = (node.applied(), node.leadership());
        loop {
            tokio::select! {
                biased;
                () = life.requested() => return,
                why = node.failed() => {
                    world.violated(format!("coordinator {id} stopped by itself: {why}"));
                    return;
                }
                changed = applied.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    super::reference::follow(&world, id, &node);
                }
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = *leadership.borrow_and_update();
                    if now.leading {
                        if let Some(host) = locked(&world.coordinators).hosts.get(&id) {
                            SKEW_MS.store(host.skew_ms, Ordering::Relaxed);
                        }
                        world.note(&format!("coordinator {id} leads in term {}", now.term));
                        world.count(|counts| counts.terms = counts.terms.max(now.term));
                    }
                }
            }
        }
    });
}

/// Ends a life at once: connections break, and the disk keeps what it had flushed, with a part of the rest.
pub fn crash(world: &Arc<World>, id: u64, chance: &mut Chance) {
    let running = {
        let mut all = locked(&world.coordinators);
        let Some(host) = all.hosts.get_mut(&id) else { return };
        let Some(running) = host.running.take() else { return };
        host.disk = Arc::new(host.disk.after_crash(chance));
        let (old, new) = (host.folder.join(host.lives.to_string()), host.folder.join((host.lives + 1).to_string()));
        let broken = world.is_broken(Break::LyingDisk) || world.is_broken(Break::ForgottenVote);
        let copied = copy_folder(&old, &new).and_then(|()| {
            // What a lying disk forgot is no less forgotten by the mark beside it, which would tell of the lie.
            if broken { std::fs::write(mark(&new), &host.first_mark) } else { Ok(()) }
        });
        if let Err(error) = copied {
            world.violated(format!("the simulation cannot copy a folder: {error}"));
        }
        running
    };
    world.network.deafen(id);
    running.life.start();
    world.note(&format!("coordinator {id} crashes"));
    world.count(|counts| counts.crashes += 1);
    let node = running.node;
    tokio::spawn(async move { node.abandon().await });
}

/// It was removed: its process ends and its disk is thrown away.
pub fn retire(world: &Arc<World>, id: u64) {
    let Some(host) = locked(&world.coordinators).hosts.remove(&id) else { return };
    world.network.deafen(id);
    let Some(running) = host.running else { return };
    running.life.start();
    tokio::spawn(async move { running.node.abandon().await });
}

/// Its next writes are slow, or fast again.
pub fn set_slow(world: &World, id: u64, slow: bool) {
    if let Some(host) = locked(&world.coordinators).hosts.get(&id) {
        host.slow.store(slow, Ordering::Relaxed);
    }
}

fn mark(folder: &Path) -> PathBuf {
    folder.join("raft").join("mark")
}

/// Snapshots, the header and the mark as they are now: the old life may go on writing for a moment.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
