//! Workers: each keeps a session with the leader, does what the product's `decide` says, and fences itself by its lease. Their
//! ranks are timers. What they do is seen by a witness who knows all workers.

mod member;
mod session;

use super::chance::Chance;
use super::{Break, World, locked};
use member::{Due, Member, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{
    Device, Inventory, JobId, MemberKey, MemberState, MemberStatus, RankExit, RankIndex, Token, Topology, WorkerId,
    WorkerInstance, WorkerRegistration,
};
use worker::decide::{Action, Running, Stage, decide, newest_tokens, wish_devices};

const WORKERS: u64 = 3;
/// Their numbers in the network begin after this.
const FIRST: u64 = 100;
const CPUS: u32 = 6;
const GPUS: u32 = 2;

/// Their numbers in the network.
pub fn numbers() -> impl Iterator<Item = u64> {
    FIRST + 1..=FIRST + WORKERS
}

/// One rank of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RankKey {
    /// Of which job.
    pub job: JobId,
    /// Of which attempt.
    pub token: Token,
    /// Which.
    pub rank: RankIndex,
}

/// Where a rank lives.
#[derive(Clone, Debug)]
pub struct Place {
    /// On which worker.
    pub worker: String,
    /// With which of its devices.
    pub devices: Vec<u32>,
}

/// What was so on all workers together, at once.
#[derive(Debug, Default)]
pub struct Witness {
    /// Ranks that live now.
    pub living: BTreeMap<RankKey, Place>,
    /// Members that were prepared, by attempt.
    pub prepared: BTreeMap<(JobId, Token), BTreeSet<u32>>,
    /// How ranks ended.
    pub exits: BTreeMap<RankKey, RankExit>,
}

/// Starts them; the future ends when all have.
pub fn start(world: &Arc<World>) -> impl Future<Output = ()> + use<> {
    let mut tasks = JoinSet::new();
    for number in numbers() {
        let name = format!("worker-{number}");
        let Ok(id) = WorkerId::new(&name) else { continue };
        let worker = Worker {
            world: world.clone(),
            number,
            name,
            registration: registration(id, number),
            chance: world.chance(&format!("worker {number}")),
            members: BTreeMap::new(),
            newest: BTreeMap::new(),
            wishes: BTreeMap::new(),
            due: BTreeMap::new(),
            timers: 0,
            lease: None,
        };
        tasks.spawn(worker.run());
    }
    async move { while tasks.join_next().await.is_some() {} }
}

fn registration(worker: WorkerId, number: u64) -> WorkerRegistration {
    let devices = (0..GPUS).map(|index| Device {
        index,
        uuid: format!("GPU-{worker}-{index}"),
        name: "gpu".to_owned(),
        memory_bytes: 1,
        healthy: true,
        ..Device::default()
    });
    let inventory = Inventory { cpus: CPUS, memory_bytes: 1 << 30, devices: devices.collect(), ..Inventory::default() };
    WorkerRegistration {
        worker,
        instance: WorkerInstance(number),
        inventory,
        labels: BTreeMap::new(),
        taints: BTreeSet::default(),
        topology: Topology::default(),
        data_address: format!("sim-{number}"),
        version: "0".to_owned(),
    }
}

struct Worker {
    world: Arc<World>,
    number: u64,
    name: String,
    registration: WorkerRegistration,
    chance: Chance,
    members: BTreeMap<MemberKey, Member>,
    newest: BTreeMap<JobId, Token>,
    wishes: BTreeMap<MemberKey, types::Wish>,
    /// What happens by itself, in order.
    due: BTreeMap<(Instant, u64), Due>,
    timers: u64,
    /// Its ranks may live until then.
    lease: Option<Instant>,
}

impl Worker {
    fn later(&mut self, ms: (u64, u64), key: MemberKey, token: Token, step: Step) {
        let wait = std::time::Duration::from_millis(self.chance.between(ms.0, ms.1));
        self.timers += 1;
        self.due.insert((Instant::now() + wait, self.timers), Due { key, token, step });
    }

    fn next_due(&self) -> Option<Instant> {
        let first = self.due.keys().next().map(|(at, _)| *at);
        let fenced = self.lease.filter(|_| !self.goes_on() && self.members.values().any(Member::is_alive));
        [first, fenced].into_iter().flatten().min()
    }

    /// All statuses that the leader should have.
    fn statuses(&self) -> Vec<MemberStatus> {
        let known = self.members.iter().filter(|(_, member)| member.stage != Stage::Leaving);
        known
            .map(|(key, member)| MemberStatus { key: *key, token: member.token, state: member.state.clone() })
            .collect()
    }

    /// What is due now, and the end of the lease; members whose status changed.
    fn turn(&mut self) -> Vec<MemberStatus> {
        let now = Instant::now();
        let mut changed = BTreeSet::new();
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let due = entry.remove();
            if self.members.get(&due.key).is_some_and(|member| member.token == due.token) && self.happen(due) {
                changed.insert(due.key);
            }
        }
        if self.lease.is_some_and(|lease| lease <= now) && !self.goes_on() {
            self.lease = None;
            self.fence();
        }
        let all = self.statuses();
        all.into_iter().filter(|status| changed.contains(&status.key)).collect()
    }

    /// The end of its lease is nothing to it.
    fn goes_on(&self) -> bool {
        self.world.is_broken(Break::FencedWorkerGoesOn)
    }

    /// The supervisors kill their ranks, within what the leader allows for it.
    fn fence(&mut self) {
        let alive: Vec<(MemberKey, Token)> = self
            .members
            .iter()
            .filter(|(_, member)| member.is_alive())
            .map(|(key, member)| (*key, member.token))
            .collect();
        self.world.note(&format!("the lease of {} is over: {} members end", self.name, alive.len()));
        for (key, token) in alive {
            self.later((1, 200), key, token, Step::End(RankExit::LeaseOver));
        }
    }

    /// What the wishes ask for.
    fn reconcile(&mut self) -> Vec<MemberStatus> {
        let mut news = Vec::new();
        let running: BTreeMap<MemberKey, Running> =
            self.members.iter().map(|(key, member)| (*key, self.shown(member))).collect();
        let actions = decide(&self.wishes, &running, &self.newest);
        self.newest = newest_tokens(&self.wishes, &running, &self.newest);
        for action in actions {
            self.act(action, &mut news);
        }
        news
    }

    fn shown(&self, member: &Member) -> Running {
        // Who shares devices does not see that they are held, and says too early that they are not.
        let shares = self.world.is_broken(Break::SharedDevice);
        let devices = if shares { BTreeSet::new() } else { member.devices.clone() };
        Running { token: member.token, stage: member.stage, devices }
    }

    fn act(&mut self, action: Action, news: &mut Vec<MemberStatus>) {
        match action {
            Action::Begin(key) => {
                let Some(wish) = self.wishes.get(&key).cloned() else { return };
                self.newest.insert(key.job, wish.token);
                let member = Member::new(&wish, wish_devices(&wish));
                self.members.insert(key, member);
                self.later((20, 250), key, wish.token, Step::Prepared);
            }
            Action::Start(key, _) => self.start_soon(key),
            Action::Stop(key) => news.extend(self.end_soon(key, Stage::Stopping, (5, 200))),
            Action::Kill(key) => news.extend(self.end_soon(key, Stage::Killing, (1, 60))),
            Action::Forget(key) => drop(self.members.remove(&key)),
            Action::SayUnknown(key, token) => {
                let state = MemberState::Ended(types::MemberEnd::Unknown);
                news.push(MemberStatus { key, token, state });
            }
            Action::Refuse(key, token) => {
                self.world.note(&format!("{} refuses token {token} of job {}", self.name, key.job));
            }
        }
    }

    /// What is told of it now, which is nothing as long as its ranks live.
    fn end_soon(&mut self, key: MemberKey, stage: Stage, ms: (u64, u64)) -> Option<MemberStatus> {
        let member = self.members.get_mut(&key)?;
        member.stage = stage;
        let (token, shares) = (member.token, self.world.is_broken(Break::SharedDevice));
        // Long enough for others to be prepared and started meanwhile.
        let ms = if shares { (500, 2_000) } else { ms };
        self.later(ms, key, token, Step::End(RankExit::Stopped));
        let state = MemberState::Ended(types::MemberEnd::Unknown);
        shares.then_some(MemberStatus { key, token, state })
    }

    fn witnessed(&self, see: impl FnOnce(&mut super::Witness) -> Vec<String>) {
        let faults = see(&mut locked(&self.world.witness));
        for fault in faults {
            self.world.violated(fault);
        }
    }
}
