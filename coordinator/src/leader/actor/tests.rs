//! The loop of the one coordinator of a real group, a message and a turn at a time.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::super::leases::LOST_MARGIN;
use super::*;
use crate::raft::tests::Group;
use crate::raft::{Addresses, Config, Timers};
use crate::testing::{Tables, registration};
use proto::internal::ToWorker;
use tokio::sync::oneshot;
use types::{ClusterId, CoordinatorId, JobId, Token};

const LEASE: Duration = Duration::from_secs(2);
/// Longest wait for a state: far above what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

struct Turns {
    leader: Leader,
    leadership: Leadership,
    _folder: tempfile::TempDir,
}

impl Turns {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let id = CoordinatorId(1);
        let node = Node::open(Config::new(id, folder.path(), crate::raft::tests::dialer(id))).await.unwrap();
        let at = Addresses { grpc: "127.0.0.1:1".into(), http: "127.0.0.1:2".into() };
        node.bootstrap([(id, at)].into(), ClusterId([7; 16])).await.unwrap();
        let mut leadership = node.leadership();
        let leadership = *within(leadership.wait_for(|now| now.leading)).await.unwrap();
        let (handle, mailbox) = Handle::new(Policy::default());
        let config = LeaderConfig { lease: LEASE, policy: Policy::default() };
        let mut leader = Leader::new(node, config, Arc::new(Observed::new()), handle, mailbox);
        leader.follow_role(leadership);
        Self { leader, leadership, _folder: folder }
    }

    async fn log(&self, command: Command) -> State {
        let committed = within(self.leader.node.propose(vec![command])).await.unwrap();
        within(self.leader.node.at_least(committed.index)).await.unwrap()
    }

    async fn register(&self) -> State {
        self.log(Command::RegisterWorker { registration: Box::new(registration("w", 1, &[])) }).await
    }

    async fn lose(&self) -> State {
        let registered_by = self.leader.node.state().worker(&w()).unwrap().registered_by;
        self.log(Command::LoseWorker { worker: w(), registered_by }).await
    }

    /// None when the session was not opened.
    fn open(&mut self) -> Option<(SessionId, mpsc::Receiver<ToWorker>)> {
        self.open_by(1)
    }

    fn open_by(&mut self, start: u64) -> Option<(SessionId, mpsc::Receiver<ToWorker>)> {
        let instance = registration("w", 1, &[]).instance;
        let (outbox, inbox) = mpsc::channel(16);
        let (reply, mut number) = oneshot::channel();
        self.leader.take(Message::Opened {
            worker: w(),
            process: Process { instance, start },
            statuses: vec![],
            outbox,
            reply,
        });
        Some((number.try_recv().ok()?, inbox))
    }

    fn tick(&mut self) {
        let state = self.leader.node.state();
        self.leader.act(&state, true);
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

fn w() -> WorkerId {
    WorkerId::new("w").unwrap()
}

/// All messages that came so far, and whether the stream has ended behind them.
fn read(inbox: &mut mpsc::Receiver<ToWorker>) -> (Vec<to_worker::Message>, bool) {
    let mut messages = Vec::new();
    loop {
        match inbox.try_recv() {
            Ok(message) => messages.extend(message.message),
            Err(error) => return (messages, error == mpsc::error::TryRecvError::Disconnected),
        }
    }
}

fn acks(messages: &[to_worker::Message]) -> usize {
    messages.iter().filter(|message| matches!(message, to_worker::Message::Ack(_))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_the_tables_call_lost_has_no_session_until_it_registers_again() {
    let mut turns = Turns::begin().await;
    assert!(turns.open().is_none(), "not registered");
    turns.register().await;
    let (_, mut inbox) = turns.open().unwrap();
    turns.tick();
    assert!(!read(&mut inbox).1, "it goes on");
    turns.lose().await;
    turns.tick();
    assert!(read(&mut inbox).1, "it has ended");
    assert!(turns.open().is_none());
    turns.register().await;
    assert!(turns.open().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_loss_is_on_its_way_no_session_opens_and_no_lease_is_renewed() {
    let mut turns = Turns::begin().await;
    turns.register().await;
    let (session, mut inbox) = turns.open().unwrap();
    let fact = Fact::Lost(w());
    assert!(turns.leader.in_flight.begin(&fact));
    turns.leader.take(Message::Heartbeat { session, sequence: 1 });
    assert_eq!(acks(&read(&mut inbox).0), 0);
    assert!(turns.open().is_none());
    turns.leader.take(Message::Proposed { fact, recorded: true });
    turns.leader.take(Message::Heartbeat { session, sequence: 2 });
    assert_eq!(acks(&read(&mut inbox).0), 1);
    assert!(turns.open().is_some());
}

/// Two daemons, one with a copy of the other's data folder.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_worker_is_heard_no_other_process_of_it_has_its_session() {
    let mut turns = Turns::begin().await;
    turns.register().await;
    let greet = |turns: &mut Turns, start| {
        let (reply, mut answer) = oneshot::channel();
        let process = Process { instance: registration("w", 1, &[]).instance, start };
        turns.leader.take(Message::Greeted { worker: w(), process, reply });
        answer.try_recv().unwrap()
    };
    assert_eq!(greet(&mut turns, 2), None, "nobody has it");
    let (_, mut inbox) = turns.open_by(1).unwrap();
    let words = greet(&mut turns, 2).unwrap();
    assert!(words.contains("copy of its data folder"), "{words}");
    assert!(turns.open_by(2).is_none());
    assert!(!read(&mut inbox).1, "the first goes on");
    assert_eq!(greet(&mut turns, 1), None, "the same process dials again");
    let (session, _inbox) = turns.open_by(1).unwrap();
    turns.leader.take(Message::Closed { session });
    assert!(greet(&mut turns, 2).is_some(), "the first may be dialling again");
    turns.open_by(1).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_that_went_and_came_back_between_two_turns_begins_anew() {
    let mut turns = Turns::begin().await;
    turns.register().await;
    let (_, mut inbox) = turns.open().unwrap();
    let since = turns.leader.leading_since;
    turns.leader.follow_role(turns.leadership);
    assert_eq!(turns.leader.leading_since, since, "the same leadership");
    let again = Leadership { term: turns.leadership.term + 2, ..turns.leadership };
    turns.leader.follow_role(again);
    assert!(turns.leader.leading_since > since);
    let (messages, ended) = read(&mut inbox);
    assert!(ended && matches!(messages.as_slice(), [to_worker::Message::Redirect(_)]), "{messages:?}");
    assert_eq!(turns.leader.sessions.last_seen(&w()), None);
    turns.leader.follow_role(Leadership { leading: false, ..again });
    assert_eq!(turns.leader.leading_since, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_plan_of_an_ended_leadership_does_not_keep_the_loop_awake() {
    let mut turns = Turns::begin().await;
    let (term, refused) = (turns.leadership.term, vec![JobId(9)]);
    turns.leader.follow_role(Leadership { leading: false, ..turns.leadership });
    turns.leader.take(Message::Planned { term, refused: refused.clone() });
    assert_eq!(turns.leader.planning.held_until(), None, "nobody here would ever serve it");
    turns.leader.follow_role(Leadership { term: term + 2, ..turns.leadership });
    turns.leader.take(Message::Planned { term, refused: refused.clone() });
    assert_eq!(turns.leader.planning.held_until(), None, "not its plan");
    turns.leader.take(Message::Planned { term: term + 2, refused });
    assert!(turns.leader.planning.held_until().is_some(), "its own is tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_refuses_is_proposed_again_on_the_tick_only() {
    let mut turns = Turns::begin().await;
    let fact = Fact::Start(JobId(9));
    let command = Command::StartAttempt { job: JobId(9), token: Token(1), endpoints: vec![] };
    turns.leader.propose(fact.clone(), command);
    let answer = within(turns.leader.mailbox.recv()).await.unwrap();
    assert!(matches!(&answer, Message::Proposed { fact: about, recorded: false } if *about == fact), "{answer:?}");
    turns.leader.take(answer);
    turns.leader.act(&turns.leader.node.state(), false);
    assert!(turns.leader.in_flight.contains(&fact), "it rests");
    turns.tick();
    assert!(!turns.leader.in_flight.contains(&fact));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_carried_through_by_the_leader_and_by_nobody_else() {
    // A proposal ends long before this leader would see that it is alone.
    let quick = |config: &mut Config| {
        config.timers = Timers { heartbeat_ms: 100, election_ms_min: 2_000, election_ms_max: 4_000 };
        config.propose_timeout = Duration::from_millis(500);
    };
    let mut group = Group::formed(3, 3, quick).await;
    let leader = group.leader().await;
    let node = group.members[leader].node().clone();
    let register = Command::RegisterWorker { registration: Box::new(registration("w", 1, &[])) };
    let registered_by = within(async {
        loop {
            // Its time is short here, and two cores may be busy.
            if let Ok(committed) = node.propose(vec![register.clone()]).await {
                return committed.index;
            }
        }
    })
    .await;
    let lose = Command::LoseWorker { worker: w(), registered_by };
    let followers: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    let fact = Fact::Lost(w());
    let term = node.leadership().borrow().term;
    // As a leader would that has just been replaced.
    let follower = group.members[followers[0]].node().clone();
    assert!(!within(record(&follower, term, &fact, lose.clone())).await);
    assert!(!within(record(&node, term - 1, &fact, lose.clone())).await);
    drop(follower);
    for at in &followers {
        group.members[*at].kill().await;
    }
    let mut recorded = Box::pin(record(&node, term, &fact, lose));
    // Several proposals end meanwhile without an answer.
    assert!(tokio::time::timeout(Duration::from_secs(3), &mut recorded).await.is_err(), "given up");
    assert!(!node.state().worker(&w()).unwrap().lost);
    for at in &followers {
        group.members[*at].start().await;
    }
    // Whoever leads now: this one carried it through, or it knows that it is not the leader's word any more.
    let recorded = within(recorded).await;
    assert!(!recorded || within(node.linearizable()).await.unwrap().worker(&w()).unwrap().lost);
}

#[test]
fn a_registration_is_a_sign_of_life_before_its_session_opens() {
    let mut tables = Tables::default();
    tables.worker("w", 1, &[]);
    let mut sessions = Sessions::default();
    let begin = Instant::now();
    let after = LEASE + LOST_MARGIN + Duration::from_millis(1);
    let mut lost = |tables: &Tables, at: Duration| {
        let facts = leases::lost(&tables.state, &mut sessions, begin, LEASE, begin + at);
        facts.into_iter().map(|(fact, _)| fact).collect::<Vec<_>>()
    };
    // This leader leads for long when the worker comes.
    assert_eq!(lost(&tables, 10 * after), []);
    assert_eq!(lost(&tables, 11 * after), [Fact::Lost(w())]);
    tables.lose("w");
    assert_eq!(lost(&tables, 12 * after), [], "once");
    tables.worker("w", 1, &[]);
    assert_eq!(lost(&tables, 13 * after), []);
    assert_eq!(lost(&tables, 14 * after), [Fact::Lost(w())]);
}
