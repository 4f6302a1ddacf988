//! A simulated worker's session: finds the leader, renews its lease by heartbeats, takes wishes and says what became of them.
//!
//! A stream keeps its order and is held up by a cut, as TCP does it; it ends with the coordinator's life, with the leader's word,
//! or when nothing was heard for half a lease.

use super::Worker;
use crate::sim::World;
use crate::sim::coordinators::{LEASE, Running};
use proto::internal::{ToWorker, to_worker};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use types::{MemberKey, MemberStatus, Wish};

/// As many as the product's.
const BEATS_PER_LEASE: u32 = 6;
const OUTBOX: usize = 64;

enum Up {
    Heartbeat(u64),
    Statuses(Vec<MemberStatus>),
}

struct Session {
    up: mpsc::UnboundedSender<Up>,
    down: mpsc::UnboundedReceiver<ToWorker>,
    /// Heartbeats without an answer, and when each was sent.
    beats: VecDeque<(u64, Instant)>,
    sent: u64,
    heard: Instant,
    leased: bool,
    told: bool,
}

impl Worker {
    pub(super) async fn run(mut self) {
        while !self.world.ending.started() {
            let Some(to) = self.candidate() else {
                self.wait(Instant::now() + Duration::from_millis(100), None).await;
                continue;
            };
            let opening = self.open(to);
            if let Ok(Some(session)) = tokio::time::timeout(Duration::from_secs(2), opening).await {
                self.relay(session).await;
            } else {
                let pause = self.chance.between(50, 300);
                self.wait(Instant::now() + Duration::from_millis(pause), None).await;
            }
        }
    }

    /// Mostly the leader, for a redirect would name it.
    fn candidate(&mut self) -> Option<u64> {
        let leaders = self.world.leaders();
        let of = if leaders.is_empty() || self.chance.thousandths(200) { self.world.alive() } else { leaders };
        self.chance.pick(&of)
    }

    async fn open(&mut self, to: u64) -> Option<Session> {
        let world = self.world.clone();
        let running = world.running(to)?;
        if !world.network.hop(self.number, to).await {
            return None;
        }
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let statuses = self.statuses();
        let number = tokio::select! {
            biased;
            () = running.life.requested() => return None,
            number = running.leader.open(&self.registration, self.number, statuses, outbox) => number?,
        };
        world.note(&format!("{} has session {number} with coordinator {to}", self.name));
        let (up, queue) = mpsc::unbounded_channel();
        let (arrived, down) = mpsc::unbounded_channel();
        tokio::spawn(bring(world.clone(), (self.number, to), running.clone(), number, queue));
        tokio::spawn(fetch(world, (to, self.number), running, inbox, arrived));
        let (beats, heard) = (VecDeque::new(), Instant::now());
        self.wishes.clear();
        Some(Session { up, down, beats, sent: 0, heard, leased: false, told: false })
    }

    /// Lets what is due happen until `at`.
    async fn wait(&mut self, at: Instant, session: Option<&Session>) {
        loop {
            let next = self.next_due().filter(|due| *due < at).unwrap_or(at);
            tokio::time::sleep_until(next).await;
            self.advance(session);
            if Instant::now() >= at {
                return;
            }
        }
    }

    /// What is due happens, what follows from it is done and said.
    fn advance(&mut self, session: Option<&Session>) {
        let mut news = self.turn();
        // Without the leader's word of today nothing begins.
        if session.is_some_and(|session| session.leased && session.told) {
            news.extend(self.reconcile());
        }
        if let Some(session) = session
            && !news.is_empty()
        {
            let _ = session.up.send(Up::Statuses(news));
        }
    }

    async fn relay(&mut self, mut session: Session) {
        let mut beat = tokio::time::interval(LEASE / BEATS_PER_LEASE);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.next_due().unwrap_or_else(|| Instant::now() + LEASE);
            tokio::select! {
                biased;
                message = session.down.recv() => match message.and_then(|message| message.message) {
                    Some(message) => if !self.hear(message, &mut session) { return },
                    None => return,
                },
                () = tokio::time::sleep_until(due) => {}
                _ = beat.tick() => {
                    if session.heard.elapsed() > LEASE / 2 || self.world.ending.started() {
                        return;
                    }
                    session.sent += 1;
                    session.beats.push_back((session.sent, Instant::now()));
                    if session.up.send(Up::Heartbeat(session.sent)).is_err() {
                        return;
                    }
                }
            }
            self.advance(Some(&session));
        }
    }

    /// False at the end of the session.
    fn hear(&mut self, message: to_worker::Message, session: &mut Session) -> bool {
        match message {
            to_worker::Message::Ack(ack) => {
                session.heard = Instant::now();
                while let Some((number, sent)) = session.beats.pop_front() {
                    if number == ack.sequence {
                        // From when the confirmed heartbeat was sent: the leader counts from later.
                        self.lease = self.lease.max(Some(sent + LEASE));
                        session.leased = true;
                        break;
                    }
                }
                true
            }
            to_worker::Message::Wishes(wishes) => {
                let changed = postcard::from_bytes::<Vec<Wish>>(&wishes.wishes);
                let gone = postcard::from_bytes::<Vec<MemberKey>>(&wishes.gone);
                let (Ok(changed), Ok(gone)) = (changed, gone) else { return false };
                for key in gone {
                    self.wishes.remove(&key);
                }
                self.wishes.extend(changed.into_iter().map(|wish| (wish.key, wish)));
                session.told = true;
                !session.leased || self.lease.is_some_and(|lease| lease > Instant::now())
            }
            to_worker::Message::Redirect(_)
            | to_worker::Message::Refused(_)
            | to_worker::Message::HeldOff(_)
            | to_worker::Message::Welcome(_) => false,
            to_worker::Message::Checkpoint(_) => true,
        }
    }
}

/// One message after the other to the leader; the end of the queue is the end of the session.
async fn bring(
    world: Arc<World>,
    (from, to): (u64, u64),
    running: Running,
    session: u64,
    mut queue: mpsc::UnboundedReceiver<Up>,
) {
    let told = async {
        while let Some(message) = queue.recv().await {
            world.network.passage(from, to).await;
            let taken = match message {
                Up::Heartbeat(sequence) => running.leader.heartbeat(session, sequence).await,
                Up::Statuses(statuses) => running.leader.statuses(session, statuses).await,
            };
            if !taken {
                return;
            }
        }
        world.network.passage(from, to).await;
        running.leader.closed(session).await;
    };
    tokio::select! {
        biased;
        () = running.life.requested() => {}
        () = told => {}
    }
}

/// What the leader says, in its order; the end of it is the end of the session, as far as the worker can learn of it.
async fn fetch(
    world: Arc<World>,
    (from, to): (u64, u64),
    running: Running,
    mut inbox: mpsc::Receiver<ToWorker>,
    arrived: mpsc::UnboundedSender<ToWorker>,
) {
    loop {
        let message = tokio::select! {
            biased;
            () = running.life.requested() => None,
            message = inbox.recv() => message,
        };
        world.network.passage(from, to).await;
        let Some(message) = message else { return };
        if arrived.send(message).is_err() {
            return;
        }
    }
}
