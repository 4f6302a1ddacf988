//! Owner of the members on this worker: makes what runs here be what the leader wishes, by the pure [`decide`].
//!
//! ```text
//!  session ──wishes──> reconciler ──orders──> members          members found on disk are adopted at start
//!  session <─statuses─     │     <──reports──    │
//!                          └── decide(wishes, running)         after every turn, and idempotent
//! ```
//!
//! A new session gets every status again, so that nothing depends on what an older one delivered. A member's end is told
//! after its last checkpoint was confirmed: the leader must not start the next attempt from an older one. A member
//! whose task panics is adopted again from disk, as by a restarted daemon.

mod handle;

pub(crate) use handle::{Handle, News, Subscription};

use crate::decide::{self, Action, Running, Stage};
use crate::member::{Context, Event, Found, Member, Orders, Origin, Report};
use handle::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use types::{CheckpointRef, JobId, MemberEnd, MemberKey, MemberState, MemberStatus, Token, Wish};

/// Messages and reports that wait; past it the sender does.
const MAILBOX: usize = 256;
/// What waits for a session; one that lets it fill up is cut off and begins anew.
const OUTBOX: usize = 256;
/// Messages and reports taken in one turn.
const TURN_MAX: usize = 64;
/// Jobs whose newest token is remembered after their last member has gone.
const TOKENS_MAX: usize = 10_000;

struct Entry {
    wish: Wish,
    running: Running,
    state: MemberState,
    orders: watch::Sender<Orders>,
    /// Saved and not confirmed by the leader.
    checkpoint: Option<CheckpointRef>,
    /// The leader has not been told of the present state.
    untold: bool,
}

impl Entry {
    /// The end waits until the last checkpoint is confirmed.
    fn can_be_told(&self) -> bool {
        !(matches!(self.state, MemberState::Ended(_)) && self.checkpoint.is_some())
    }

    fn status(&self) -> MemberStatus {
        MemberStatus { key: self.wish.key, token: self.wish.token, state: self.state.clone() }
    }
}

/// See the head of this file.
pub(crate) struct Reconciler {
    context: Arc<Context>,
    /// None until a leader has spoken: what was adopted runs on until then.
    wishes: Option<BTreeMap<MemberKey, Wish>>,
    members: BTreeMap<MemberKey, Entry>,
    newest: BTreeMap<JobId, Token>,
    tasks: JoinSet<()>,
    task_of: BTreeMap<Id, MemberKey>,
    reports: mpsc::Sender<Report>,
    reported: mpsc::Receiver<Report>,
    news: Option<mpsc::Sender<News>>,
    killing: Option<oneshot::Sender<()>>,
    /// The machine was started anew: what its leader wished before is not begun here again (see `disown`).
    restarted: bool,
    disowned: BTreeMap<MemberKey, Token>,
    /// Everything was killed for good: nothing begins any more.
    closing: bool,
}

/// Makes the reconciler with the members that were found on disk; `restarted` when the machine was. Its future runs until every handle is gone.
pub(crate) fn start(
    context: Arc<Context>,
    found: Vec<(Wish, Found)>,
    restarted: bool,
) -> (Handle, impl Future<Output = ()> + Send) {
    let (mailbox, messages) = mpsc::channel(MAILBOX);
    let (reports, reported) = mpsc::channel(MAILBOX);
    let mut reconciler = Reconciler {
        context,
        wishes: None,
        members: BTreeMap::new(),
        newest: BTreeMap::new(),
        tasks: JoinSet::new(),
        task_of: BTreeMap::new(),
        reports,
        reported,
        news: None,
        killing: None,
        restarted,
        disowned: BTreeMap::new(),
        closing: false,
    };
    let run = async move {
        for (wish, found) in found {
            reconciler.adopt(wish, found);
        }
        reconciler.run(messages).await;
    };
    (Handle { mailbox }, run)
}

impl Reconciler {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        loop {
            let mut wishes_are_new = false;
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => wishes_are_new |= self.take(message),
                    None => return,
                },
                Some(report) = self.reported.recv() => self.note(report),
                Some(ended) = self.tasks.join_next_with_id() => self.member_gone(ended),
            }
            for _ in 1..TURN_MAX {
                let mut more = false;
                if let Ok(report) = self.reported.try_recv() {
                    self.note(report);
                    more = true;
                }
                if let Ok(message) = messages.try_recv() {
                    wishes_are_new |= self.take(message);
                    more = true;
                }
                if !more {
                    break;
                }
            }
            self.act(wishes_are_new);
            self.tell();
            self.answer_kill();
        }
    }

    /// True when the wishes are new.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Subscribe { reply } => self.subscribe(reply),
            Message::Wishes(wishes) => {
                self.disown(&wishes);
                self.wishes = Some(wishes.into_iter().map(|wish| (wish.key, wish)).collect());
                return true;
            }
            Message::CheckpointTaken { key, step } => {
                if let Some(entry) = self.members.get_mut(&key)
                    && entry.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.step <= step)
                {
                    entry.checkpoint = None;
                }
            }
            Message::KillAll { reply } => {
                self.killing = Some(reply);
                self.closing = true;
                self.members.values().for_each(|entry| order(entry, |orders| orders.kill = true));
            }
        }
        false
    }

    /// A power cut may have taken a member's folder, and what it wrote there is at the coordinators: begun again under the
    /// same token, its output would be mixed with that. What the first wishes after such a start name, and is not here, is
    /// therefore said to be lost; the next attempt has a token of its own.
    fn disown(&mut self, wishes: &[Wish]) {
        if std::mem::take(&mut self.restarted) {
            let absent = wishes.iter().filter(|wish| !self.members.contains_key(&wish.key));
            self.disowned = absent.map(|wish| (wish.key, wish.token)).collect();
        }
        self.disowned.retain(|key, token| wishes.iter().any(|wish| wish.key == *key && wish.token == *token));
        for (key, token) in self.disowned.clone() {
            let state = MemberState::Ended(MemberEnd::Unknown);
            self.send(News::Statuses(vec![MemberStatus { key, token, state }]));
        }
    }

    fn subscribe(&mut self, reply: oneshot::Sender<Subscription>) {
        let (sender, news) = mpsc::channel(OUTBOX);
        for entry in self.members.values_mut() {
            entry.untold = !entry.can_be_told();
            if let Some(checkpoint) = &entry.checkpoint {
                // Room for all: there are fewer members than places.
                let _ = sender.try_send(News::Checkpoint(entry.wish.key, entry.wish.token, checkpoint.clone()));
            }
        }
        let told = self.members.values().filter(|entry| entry.can_be_told());
        let statuses = told.map(Entry::status).collect();
        self.news = Some(sender);
        // A session that is gone already asks again.
        let _ = reply.send(Subscription { statuses, news });
    }

    fn note(&mut self, report: Report) {
        let Some(entry) = self.members.get_mut(&report.key) else { return };
        match report.event {
            Event::State(state) => {
                if matches!(state, MemberState::Ended(_)) && entry.running.stage < Stage::Ended {
                    entry.running.stage = Stage::Ended;
                }
                entry.state = state;
                entry.untold = true;
            }
            Event::Checkpoint(checkpoint) => {
                entry.checkpoint = Some(checkpoint.clone());
                let news = News::Checkpoint(report.key, entry.wish.token, checkpoint);
                self.send(news);
            }
        }
    }

    fn act(&mut self, wishes_are_new: bool) {
        let Some(wishes) = &self.wishes else { return };
        let running = self.members.iter().map(|(key, entry)| (*key, entry.running.clone())).collect();
        let actions = decide::decide(wishes, &running, &self.newest);
        self.newest = decide::newest_tokens(wishes, &running, &self.newest);
        self.forget_old_tokens();
        for action in actions {
            match action {
                Action::Begin(key) => self.begin(key),
                Action::Start(key, endpoints) => {
                    self.order(key, Stage::Started, |orders| orders.start = Some(endpoints));
                }
                Action::Stop(key) => self.order(key, Stage::Stopping, |orders| orders.stop = true),
                Action::Kill(key) => self.order(key, Stage::Killing, |orders| orders.kill = true),
                Action::Forget(key) => self.order(key, Stage::Leaving, |orders| orders.forget = true),
                // Said once for each time that the leader says its wishes.
                Action::SayUnknown(key, token) if wishes_are_new => {
                    let state = MemberState::Ended(MemberEnd::Unknown);
                    self.send(News::Statuses(vec![MemberStatus { key, token, state }]));
                }
                Action::Refuse(key, token) if wishes_are_new => {
                    tracing::warn!(job_id = %key.job, attempt = %key.attempt, %token, "wish with an old token refused");
                }
                Action::SayUnknown(..) | Action::Refuse(..) => {}
            }
        }
    }

    fn forget_old_tokens(&mut self) {
        if self.newest.len() > TOKENS_MAX {
            let live: std::collections::BTreeSet<JobId> = self
                .members
                .keys()
                .chain(self.wishes.iter().flatten().map(|(key, _)| key))
                .map(|key| key.job)
                .collect();
            self.newest.retain(|job, _| live.contains(job));
        }
    }

    fn order(&mut self, key: MemberKey, stage: Stage, change: impl FnOnce(&mut Orders)) {
        if let Some(entry) = self.members.get_mut(&key) {
            entry.running.stage = stage;
            order(entry, change);
        }
    }

    fn begin(&mut self, key: MemberKey) {
        if self.closing || self.disowned.contains_key(&key) {
            return;
        }
        if let Some(wish) = self.wishes.as_ref().and_then(|wishes| wishes.get(&key)).cloned() {
            tracing::info!(job_id = %key.job, attempt = %key.attempt, node_rank = key.node_rank, "member begins");
            self.spawn(wish, Origin::New, Stage::Waiting, MemberState::Preparing);
        }
    }

    fn adopt(&mut self, wish: Wish, found: Found) {
        let key = wish.key;
        let (stage, state) = match &found {
            Found::Ended(end) => (Stage::Ended, MemberState::Ended(end.clone())),
            Found::Live => (Stage::Started, MemberState::Running),
        };
        tracing::info!(job_id = %key.job, attempt = %key.attempt, node_rank = key.node_rank, ?stage, "member adopted");
        self.spawn(wish, Origin::Adopted(found), stage, state);
    }

    fn spawn(&mut self, wish: Wish, origin: Origin, stage: Stage, state: MemberState) {
        let key = wish.key;
        let (orders, ordered) = watch::channel(Orders::default());
        let running = Running { token: wish.token, stage, devices: decide::wish_devices(&wish) };
        let member = Member::new(self.context.clone(), wish.clone(), ordered, self.reports.clone());
        let task = self.tasks.spawn(member.run(origin));
        self.task_of.insert(task.id(), key);
        self.members.insert(key, Entry { wish, running, state, orders, checkpoint: None, untold: true });
    }

    fn member_gone(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, panicked) = match &ended {
            Ok((id, ())) => (*id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let Some(key) = self.task_of.remove(&id) else { return };
        let Some(entry) = self.members.remove(&key) else { return };
        if panicked {
            tracing::error!(job_id = %key.job, attempt = %key.attempt, "a member's task failed; it is adopted again");
            let found = match entry.state {
                MemberState::Ended(end) => Found::Ended(end),
                _ => Found::Live,
            };
            self.adopt(entry.wish, found);
        }
    }

    /// Tells the session what changed. One that does not keep up is cut off; the next begins with everything.
    fn tell(&mut self) {
        let untold = self.members.values_mut().filter(|entry| entry.untold && entry.can_be_told());
        let statuses: Vec<MemberStatus> = untold
            .map(|entry| {
                entry.untold = false;
                entry.status()
            })
            .collect();
        if !statuses.is_empty() {
            self.send(News::Statuses(statuses));
        }
    }

    fn send(&mut self, news: News) {
        if let Some(sender) = &self.news
            && sender.try_send(news).is_err()
        {
            self.news = None;
        }
    }

    fn answer_kill(&mut self) {
        let ended = |entry: &Entry| entry.running.stage >= Stage::Ended;
        if self.killing.is_some() && self.members.values().all(ended) {
            self.killing.take().map(|reply| reply.send(()));
        }
    }
}

fn order(entry: &Entry, change: impl FnOnce(&mut Orders)) {
    entry.orders.send_if_modified(|orders| {
        let before = orders.clone();
        change(orders);
        *orders != before
    });
}

#[cfg(test)]
mod tests;
