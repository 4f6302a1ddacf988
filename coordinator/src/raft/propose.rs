//! The one door to the log: gathers what is proposed at the same time into one entry, here or at the leader.
//!
//! ```text
//!  propose ──> bounded mailbox ──> waiting ──> batch (one entry) ──> at most 2 in flight (1 to the leader) ──> outcomes to each caller
//!                                     ^                                  │
//!                                     └── refused before it was appended ┘
//! ```
//!
//! While entries are in flight the next batch grows, so a flush is shared by all that wait for it; and where many callers
//! take turns, one that has just been answered is waited for a moment (`gather`). What was certainly not
//! appended is tried again until its deadline; what may have been is not: its caller is told that the outcome is unknown.
//! A full mailbox holds callers back until their deadline.

use super::error::ProposeError;
use super::gather::Gather;
use super::network::Peers;
use super::node::Raft;
use super::sender::{Failure, Sender, Sent};
use super::status::Route;
use cluster_state::{Command, Outcome};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use types::{CoordinatorId, Limits, LogIndex};

/// Encoded bytes of commands in one entry, unless one call alone has more.
const ENTRY_BYTES: usize = 64 << 10;
/// Encoded bytes of one call.
const CALL_BYTES_MAX: usize = Limits::MESSAGE_BYTES_MAX;
/// Entries in flight at the leader: one on the disks while the next, if it is large, is on its way. More would make each
/// of them smaller, and an entry costs the same whatever is in it.
const IN_FLIGHT_MAX: usize = 2;
/// Batches in flight to the leader: it puts them together with its own and the others', so more gain nothing.
const FORWARDED_MAX: usize = 1;
/// Calls that wait in the actor, and as many again in its mailbox.
const WAITING_MAX: usize = 2_048;
/// Pause before what was refused is tried again, unless the leader changes first.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// After the deadline, for the actor's own and more exact answer.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// What became of proposed commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The entry that holds them; other calls may share it.
    pub index: LogIndex,
    /// One for each command, in order.
    pub outcomes: Vec<Outcome>,
}

type Answer = Result<Committed, ProposeError>;

/// One caller's part of a batch.
pub(super) struct Share {
    count: usize,
    bytes: usize,
    /// Came from another coordinator: never sent on.
    here_only: bool,
    pub(super) deadline: Instant,
    reply: oneshot::Sender<Answer>,
}

impl Share {
    fn answer(self, answer: Answer) {
        let _ = self.reply.send(answer);
    }
}

struct Proposal {
    commands: Vec<Command>,
    share: Share,
}

/// Proposes commands. Clones share one actor.
#[derive(Clone, Debug)]
pub(crate) struct Proposals {
    mailbox: mpsc::Sender<Proposal>,
    timeout: Duration,
}

impl Proposals {
    /// Starts the actor; it ends when every handle is gone.
    pub(crate) fn start(raft: Raft, peers: Peers, route: watch::Receiver<Route>, timeout: Duration) -> Self {
        let (mailbox, received) = mpsc::channel(WAITING_MAX);
        let actor = Actor {
            sender: Sender { raft, peers, route: route.clone() },
            route,
            mailbox: Some(received),
            waiting: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            retry_at: None,
            unreachable: None,
            gather: Gather::default(),
        };
        tokio::spawn(actor.run());
        Self { mailbox, timeout }
    }

    /// Applies the commands in order, in one entry, wherever the leader is.
    pub(crate) async fn propose(&self, commands: Vec<Command>) -> Answer {
        self.send(commands, false).await
    }

    /// As `propose`, but only if this coordinator leads.
    pub(crate) async fn propose_here(&self, commands: Vec<Command>) -> Answer {
        self.send(commands, true).await
    }

    async fn send(&self, commands: Vec<Command>, here_only: bool) -> Answer {
        let bytes = postcard::experimental::serialized_size(&commands)
            .map_err(|error| ProposeError::Unknown(format!("the commands cannot be encoded: {error}")))?;
        if bytes > CALL_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, bytes_max: CALL_BYTES_MAX });
        }
        let deadline = Instant::now() + self.timeout;
        let (reply, answer) = oneshot::channel();
        let share = Share { count: commands.len(), bytes, here_only, deadline, reply };
        let stopped = || ProposeError::Stopped("its proposals have ended".to_owned());
        match tokio::time::timeout_at(deadline, self.mailbox.send(Proposal { commands, share })).await {
            Err(_) => return Err(ProposeError::Busy),
            Ok(sent) => sent.map_err(|_| stopped())?,
        }
        match tokio::time::timeout_at(deadline + ANSWER_GRACE, answer).await {
            Err(_) => Err(ProposeError::Unknown(format!("not committed within {:?}", self.timeout))),
            Ok(answer) => answer.map_err(|_| ProposeError::Unknown("this coordinator is stopping".to_owned()))?,
        }
    }
}

enum Event {
    Sent(Sent),
    Proposed(Proposal),
    Closed,
    Woken,
}

struct Actor {
    sender: Sender,
    route: watch::Receiver<Route>,
    /// None once every handle is gone.
    mailbox: Option<mpsc::Receiver<Proposal>>,
    waiting: VecDeque<Proposal>,
    in_flight: FuturesUnordered<BoxFuture<'static, Sent>>,
    retry_at: Option<Instant>,
    /// The leader that the last attempt could not reach.
    unreachable: Option<CoordinatorId>,
    gather: Gather,
}

impl Actor {
    async fn run(mut self) {
        while self.mailbox.is_some() || !self.waiting.is_empty() || !self.in_flight.is_empty() {
            self.expire();
            self.submit();
            match self.next_event().await {
                Event::Sent(sent) => self.settle(sent),
                Event::Proposed(proposal) => self.take(proposal),
                Event::Closed => self.mailbox = None,
                Event::Woken => {}
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let room = self.waiting.len() < WAITING_MAX;
        let wake = self.wake_at();
        let Self { in_flight, mailbox, route, .. } = self;
        let blocked = wake.is_some();
        let received = async {
            match mailbox {
                Some(mailbox) if room => mailbox.recv().await,
                _ => std::future::pending().await,
            }
        };
        let rerouted = async {
            // A closed watch means that Raft has ended; the route says so, and nothing will change any more.
            if !blocked || route.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let woken = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(sent) = in_flight.next(), if !in_flight.is_empty() => Event::Sent(sent),
            proposal = received => proposal.map_or(Event::Closed, Event::Proposed),
            () = rerouted => Event::Woken,
            () = woken => Event::Woken,
        }
    }

    /// When something that waits must be looked at again; nothing while the batches in flight are what it waits for.
    fn wake_at(&self) -> Option<Instant> {
        let deadline = self.waiting.iter().map(|proposal| proposal.share.deadline).min()?;
        [self.retry_at, self.gather.until()].into_iter().flatten().chain([deadline]).min()
    }

    fn take(&mut self, proposal: Proposal) {
        self.waiting.push_back(proposal);
        // All that came at the same time goes into the same batch.
        while let Some(mailbox) = &mut self.mailbox
            && self.waiting.len() < WAITING_MAX
            && let Ok(proposal) = mailbox.try_recv()
        {
            self.waiting.push_back(proposal);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        if self.waiting.iter().all(|proposal| proposal.share.deadline > now) {
            return;
        }
        let error = self.unreachable.map_or(ProposeError::NoLeader, ProposeError::LeaderUnreachable);
        let (late, kept) = self.waiting.drain(..).partition::<Vec<_>, _>(|proposal| proposal.share.deadline <= now);
        self.waiting = kept.into();
        for proposal in late {
            proposal.share.answer(Err(error.clone()));
        }
    }

    fn submit(&mut self) {
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.retry_at = None;
        let route = self.route.borrow_and_update().clone();
        if route != Route::Here {
            self.refuse(|share| share.here_only, &ProposeError::NoLeader);
        }
        if let Route::Stopped(why) = &route {
            self.refuse(|_| true, &ProposeError::Stopped(why.clone()));
        }
        let max = if route == Route::Here { IN_FLIGHT_MAX } else { FORWARDED_MAX };
        while route != Route::Nowhere
            && self.in_flight.len() < max
            && self.gather.is_enough(self.waiting_commands(), self.in_flight.len(), Instant::now())
        {
            let (commands, shares) = self.next_batch();
            self.in_flight.push(self.sender.clone().send(route.clone(), commands, shares).boxed());
        }
    }

    /// What another coordinator brings for its callers counts as many as they are.
    fn waiting_commands(&self) -> usize {
        self.waiting.iter().map(|proposal| proposal.share.count).sum()
    }

    fn refuse(&mut self, which: impl Fn(&Share) -> bool, error: &ProposeError) {
        let (refused, kept) = self.waiting.drain(..).partition::<Vec<_>, _>(|proposal| which(&proposal.share));
        self.waiting = kept.into();
        for proposal in refused {
            proposal.share.answer(Err(error.clone()));
        }
    }

    fn next_batch(&mut self) -> (Vec<Command>, Vec<Share>) {
        let (mut commands, mut shares, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = self.waiting.front() {
            bytes += next.share.bytes;
            if bytes > ENTRY_BYTES && !shares.is_empty() {
                break;
            }
            let Some(proposal) = self.waiting.pop_front() else { break };
            commands.extend(proposal.commands);
            shares.push(proposal.share);
        }
        (commands, shares)
    }

    fn settle(&mut self, sent: Sent) {
        match sent.result {
            Ok(committed) => {
                self.unreachable = None;
                self.gather.answered(sent.commands.len(), self.waiting_commands(), sent.begun, Instant::now());
                hand_out(committed, sent.shares);
            }
            Err(Failure::Final(error)) => refuse(sent.shares, &error),
            Err(Failure::NotAppended { unreachable }) => {
                self.unreachable = unreachable;
                self.retry_at = Some(Instant::now() + RETRY_PAUSE);
                self.put_back(&sent.commands, sent.shares);
            }
        }
    }

    /// Back to the front, in their order.
    fn put_back(&mut self, commands: &[Command], shares: Vec<Share>) {
        let mut end = commands.len();
        for share in shares.into_iter().rev() {
            let start = end - share.count.min(end);
            self.waiting.push_front(Proposal { commands: commands[start..end].to_vec(), share });
            end = start;
        }
    }
}

fn refuse(shares: Vec<Share>, error: &ProposeError) {
    for share in shares {
        share.answer(Err(error.clone()));
    }
}

fn hand_out(committed: Committed, shares: Vec<Share>) {
    let total: usize = shares.iter().map(|share| share.count).sum();
    if committed.outcomes.len() != total {
        let text = format!("{} outcomes came for {total} commands", committed.outcomes.len());
        return refuse(shares, &ProposeError::Unknown(text));
    }
    let mut outcomes = committed.outcomes.into_iter();
    for share in shares {
        let outcomes = outcomes.by_ref().take(share.count).collect();
        share.answer(Ok(Committed { index: committed.index, outcomes }));
    }
}
