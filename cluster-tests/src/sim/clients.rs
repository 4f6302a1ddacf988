//! Clients: they submit, cancel, write and read through any coordinator, over calls that may be lost, and repeat what they must.

use super::chance::Chance;
use super::linearizable::{Action, Operation};
use super::{Break, World, locked};
use cluster_state::{Command, Outcome, SetQueue};
use coordinator::raft::{Node, ProposeError};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use types::{JobId, JobSpec, Millis, Queue, QueueQuota, RequestId};

const CLIENTS: u64 = 4;
/// And so many more that only write and read, faster and with less patience: an old leader is asked before it learns of the new.
const READERS: u64 = 3;
/// Their numbers in the network begin after this.
const FIRST: u64 = 200;
/// Queues whose ceiling for devices that nobody has is a register.
const REGISTERS: u64 = 2;
const CLASS: &str = "no such device";
/// A client's wait for an answer, in milliseconds.
const PATIENCE_MS: (u64, u64) = (300, 3_000);

/// Starts them; the future ends when all have.
pub fn start(world: &Arc<World>) -> impl Future<Output = ()> + use<> {
    let mut tasks = JoinSet::new();
    for number in 1..=CLIENTS + READERS {
        let chance = world.chance(&format!("client {number}"));
        let client = Client { world: world.clone(), number, chance, asked: 0 };
        tasks.spawn(client.run());
    }
    async move { while tasks.join_next().await.is_some() {} }
}

struct Client {
    world: Arc<World>,
    number: u64,
    chance: Chance,
    asked: u64,
}

impl Client {
    async fn run(mut self) {
        if self.number == 1 {
            self.make_registers().await;
        }
        while !self.world.ending.started() {
            let is_reader = self.number > CLIENTS;
            match self.chance.between(if is_reader { 30 } else { 0 }, 100) {
                0..22 => self.submit().await,
                22..30 => self.cancel().await,
                30..60 => self.write().await,
                _ => self.read().await,
            }
            let pause = self.chance.between(20, if is_reader { 150 } else { 400 });
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.world.now().as_micros()).unwrap_or(u64::MAX)
    }

    /// One call to a coordinator of its choice; none when it or its answer was lost, or came too late.
    async fn call<T, F>(&mut self, ask: impl FnOnce(Node) -> F) -> Option<T>
    where
        F: Future<Output = T>,
    {
        let (world, from) = (self.world.clone(), FIRST + self.number);
        let most = if self.number > CLIENTS { 2 * PATIENCE_MS.0 } else { PATIENCE_MS.1 };
        let patience = Duration::from_millis(self.chance.between(PATIENCE_MS.0, most));
        let Some(to) = self.chance.pick(&world.alive()) else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            return None;
        };
        let called = async {
            if !world.network.hop(from, to).await {
                return None;
            }
            let running = world.running(to)?;
            let answer = tokio::select! {
                biased;
                () = running.life.requested() => return None,
                answer = ask(running.node.clone()) => answer,
            };
            world.network.hop(to, from).await.then_some(answer)
        };
        tokio::time::timeout(patience, called).await.ok().flatten()
    }

    async fn propose(&mut self, command: Command) -> Option<Result<Outcome, ProposeError>> {
        let committed = self.call(|node| async move { node.propose(vec![command]).await }).await?;
        Some(committed.and_then(|committed| {
            let first = committed.outcomes.into_iter().next();
            first.ok_or_else(|| ProposeError::Unknown("no outcome".to_owned()))
        }))
    }

    /// Repeats a command until it has an outcome, or the simulation ends.
    async fn persist(&mut self, mut command: impl FnMut(u64) -> Command) -> Option<Outcome> {
        for times in 0.. {
            if self.world.ending.started() {
                break;
            }
            if let Some(Ok(outcome)) = self.propose(command(times)).await {
                return Some(outcome);
            }
            let pause = self.chance.between(10, 300);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        None
    }

    async fn submit(&mut self) {
        if locked(&self.world.history).closed {
            return;
        }
        self.asked += 1;
        let name = format!("client {} job {}", self.number, self.asked);
        let spec = Arc::new(spec(&name, &mut self.chance));
        let (number, asked) = (self.number, self.asked);
        let doubled = self.world.is_broken(Break::DoubledRequest);
        let command = |times: u64| {
            let mut request = [0; 16];
            request[0] = number as u8;
            request[1] = if doubled { times as u8 } else { 0 };
            request[8..].copy_from_slice(&asked.to_le_bytes());
            Command::SubmitJob { request: RequestId(request), spec: spec.clone() }
        };
        if self.world.is_broken(Break::EarlyAcknowledgement) {
            let sent = tokio::time::timeout(Duration::from_millis(4), self.propose(command(0))).await;
            self.acknowledged(name, sent.ok().flatten().and_then(Result::ok).as_ref());
            return;
        }
        if let Some(outcome) = self.persist(command).await {
            self.acknowledged(name, Some(&outcome));
        }
    }

    fn acknowledged(&self, name: String, outcome: Option<&Outcome>) {
        let job = match outcome {
            Some(Outcome::Submitted { job, .. }) => Some(*job),
            Some(other) => {
                self.world.violated(format!("I1: the submit of {name} was answered by {other:?}"));
                return;
            }
            None => None,
        };
        self.world.note(&format!("{name} is acknowledged as {job:?}"));
        self.world.count(|counts| counts.acknowledged += 1);
        locked(&self.world.history).submitted.insert(name, job);
        self.world.acknowledged.notify_waiters();
    }

    async fn cancel(&mut self) {
        let known: Vec<JobId> = locked(&self.world.history).submitted.values().flatten().copied().collect();
        let recent = known.len().saturating_sub(20);
        let Some(job) = self.chance.pick(&known[recent..]) else { return };
        if let Some(outcome) = self.persist(|_| Command::CancelJob { job }).await {
            self.world.note(&format!("the cancel of job {job} is acknowledged: {outcome:?}"));
            self.world.count(|counts| counts.acknowledged += 1);
            locked(&self.world.history).cancelled.insert(job);
        }
    }

    async fn make_registers(&mut self) {
        for register in 0..REGISTERS {
            let queue = Queue::named(queue(register));
            self.persist(|_| Command::SetQueue { queue: queue.clone(), how: SetQueue::Create }).await;
        }
    }

    async fn write(&mut self) {
        let register = self.chance.between(0, REGISTERS);
        self.asked += 1;
        let value = self.number * 1_000_000 + self.asked;
        let quota = QueueQuota { guaranteed: 0, ceiling: Some(value), lend: None };
        let changed = Queue { quotas: BTreeMap::from([(CLASS.to_owned(), quota)]), ..Queue::named(queue(register)) };
        let called = self.micros();
        let answer = self.propose(Command::SetQueue { queue: changed, how: SetQueue::Update }).await;
        let returned = match answer {
            Some(Ok(Outcome::Done)) => Some(self.micros()),
            // Not made yet, or certainly not applied.
            Some(Ok(_) | Err(ProposeError::NoLeader | ProposeError::Busy | ProposeError::TooLarge { .. })) => return,
            Some(Err(_)) | None => None,
        };
        self.did(register, Operation { action: Action::Write(value), called, returned });
    }

    async fn read(&mut self) {
        let register = self.chance.between(0, REGISTERS);
        let called = self.micros();
        let stale = self.world.is_broken(Break::StaleReads);
        let state = self.call(|node| async move {
            if stale && node.leadership().borrow().leading { Ok(node.state()) } else { node.linearizable().await }
        });
        let Some(Ok(state)) = state.await else { return };
        let quota = state.queue(&queue(register)).and_then(|queue| queue.quotas.get(CLASS).copied());
        let action = Action::Read(quota.and_then(|quota| quota.ceiling));
        self.did(register, Operation { action, called, returned: Some(self.micros()) });
    }

    fn did(&self, register: u64, operation: Operation) {
        self.world.note(&format!("client {} on register {register}: {operation:?}", self.number));
        locked(&self.world.history).operations.entry(register).or_default().push(operation);
    }
}

fn queue(register: u64) -> String {
    format!("register-{register}")
}

fn spec(name: &str, chance: &mut Chance) -> JobSpec {
    let gpus = u32::from(chance.thousandths(300));
    let mut spec = crate::spec("true");
    name.clone_into(&mut spec.display_name);
    spec.gang.instances = chance.between(1, 4) as u32;
    spec.gang.ranks_per_instance = chance.between(1, 3) as u32;
    spec.gang.per_rank.gpus = gpus;
    spec.grace = Millis(200);
    spec.priority = chance.between(0, 3) as i32;
    spec.restart.max_restarts = 2;
    spec
}
