//! The leader's loop: compares what should be with what is and acts on the difference; every coordinator runs it, one acts.
//!
//! ```text
//!  sessions ──statuses, heartbeats──> mailbox ─┐
//!  tables   ──watch────────────────────────────┼─> act ──> wishes to sessions          (dispatch)
//!  Raft     ──leading or not───────────────────┤      ├──> facts to the log            (facts: ends, starts, checkpoints)
//!  clock    ──tick─────────────────────────────┘      ├──> a plan to the log           (schedule)
//!                                                     └──> lost workers, time limits   (leases)
//! ```
//!
//! Level-triggered: all it remembers (sessions, reports, what is on its way to the log) can be lost and comes again, so a new
//! leader needs no hand-over. The mailbox is bounded; a full one holds up the session that fills it.

mod actor;
mod ends;
mod facts;
mod in_flight;
mod leases;
mod outlook;
mod planning;
mod schedule;
mod sessions;
mod survey;
mod trim;

pub(crate) use actor::{Leader, LeaderConfig};
pub(crate) use leases::surely_leads;
pub use schedule::POLICIES;
#[cfg(test)]
pub(crate) use schedule::Schedule;
pub(crate) use schedule::{Counts, forecast, settled};
pub(crate) use sessions::{Process, SessionId};

use outlook::{Copied, Expected, Outlook, Version};
use proto::internal::ToWorker;
use proto::v1;
use schedule::ASSUMPTION;
use scheduler::policy::Policy;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};
use types::{CheckpointRef, JobId, MemberKey, MemberStatus, Timestamp, Token, WorkerId};

/// Messages waiting for the loop; past this, sessions wait.
const MAILBOX_MAX: usize = 4_096;

/// What reaches the loop.
#[derive(Debug)]
pub(crate) enum Message {
    /// A worker greets: is another process of its data folder heard? Says so in words; none when it may go on. Dropped when this
    /// coordinator's loop has ended.
    Greeted { worker: WorkerId, process: Process, reply: oneshot::Sender<Option<String>> },
    /// A registered worker's session is open; answered with its number, or dropped when this coordinator does not lead or
    /// the worker is lost, or about to be, or another process of it is heard.
    Opened {
        worker: WorkerId,
        process: Process,
        statuses: Vec<MemberStatus>,
        outbox: mpsc::Sender<ToWorker>,
        reply: oneshot::Sender<SessionId>,
    },
    /// The worker is alive and asks for its lease.
    Heartbeat { session: SessionId, sequence: u64 },
    /// Members that changed.
    Statuses { session: SessionId, statuses: Vec<MemberStatus> },
    /// A checkpoint is in the blob store.
    Checkpoint { session: SessionId, key: MemberKey, token: Token, checkpoint: CheckpointRef },
    /// The stream is over.
    Closed { session: SessionId },
    /// A proposal of this loop came back; false when the log did not take it.
    Proposed { fact: facts::Fact, recorded: bool },
    /// The plans that this loop made as the leader of `term` came back; the tables did not take these starts.
    Planned { term: u64, refused: Vec<JobId> },
    /// Why does it wait? Dropped when this coordinator does not lead, or there is no such job.
    Explain { job: JobId, reply: oneshot::Sender<Explained> },
    /// The scheduler, to look ahead. Dropped when this coordinator does not lead.
    Copy { reply: oneshot::Sender<Copied> },
    /// Which workers are set aside for failing jobs, and until when? Dropped when this coordinator does not lead.
    SetAside { reply: oneshot::Sender<Vec<(WorkerId, Timestamp)>> },
}

/// What the loop says of a job.
#[derive(Debug)]
pub(crate) struct Explained {
    pub(crate) explanation: v1::Explanation,
    /// By what, and when. None of a job that does not wait.
    pub(crate) by: Option<(Version, Timestamp)>,
}

/// Reaches the loop; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    mailbox: mpsc::Sender<Message>,
    policy: Arc<Policy>,
    /// Looks ahead take a processor for seconds: one at a time.
    foresights: Arc<Semaphore>,
    outlook: Outlook,
}

impl Handle {
    /// Why this process of a worker may not open its session now; none when it may.
    pub(crate) async fn held_off(&self, worker: &WorkerId, process: Process) -> Option<String> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Greeted { worker: worker.clone(), process, reply }).await;
        answer.await.ok().flatten()
    }

    /// This policy's, if this coordinator leads.
    pub(crate) fn new(policy: Policy) -> (Self, mpsc::Receiver<Message>) {
        let (mailbox, receiver) = mpsc::channel(MAILBOX_MAX);
        let foresights = Arc::new(Semaphore::new(1));
        (Self { mailbox, policy: Arc::new(policy), foresights, outlook: Outlook::new() }, receiver)
    }

    /// The policy of this coordinator.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.clone()
    }

    /// The turn to look ahead.
    pub(crate) fn foresights(&self) -> Arc<Semaphore> {
        self.foresights.clone()
    }

    /// Completes what the loop said of a waiting job with its expected start, or why that is not known.
    pub(crate) async fn complete(&self, job: JobId, explained: Explained) -> v1::Explanation {
        let Explained { mut explanation, by } = explained;
        let Some(by) =
            by.filter(|_| explanation.expected_start_ms == 0 && explanation.expected_start_unknown.is_empty())
        else {
            return explanation;
        };
        let copy = async {
            let (reply, answer) = oneshot::channel();
            self.send(Message::Copy { reply }).await;
            answer.await.ok()
        };
        match self.outlook.expected(job, by, copy).await {
            Expected::At(at) => {
                explanation.expected_start_ms = at.max(by.1).0;
                explanation.expected_start_assumption = ASSUMPTION.into();
            }
            Expected::Unknown(why) => explanation.expected_start_unknown = why,
        }
        explanation
    }

    /// False when the loop is gone: this process ends.
    pub(crate) async fn send(&self, message: Message) -> bool {
        self.mailbox.send(message).await.is_ok()
    }
}
