//! The reconciler's pure core: what to do, given what the leader wishes and what is here. No clock, no files, no order
//! but the arguments' own.
//!
//! Promises: `FENCE-2` a wish with an older token than one seen for the same job changes nothing; an older member is
//! ended before a newer attempt of its job, or another holder of its devices, begins (`GANG-2`, `SLOT-1`); a member
//! without a wish is killed; when every action has taken effect, deciding again gives none.

use std::collections::{BTreeMap, BTreeSet};
use types::{Endpoint, Goal, JobId, MemberKey, Token, Wish};

/// How far a member on this worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Prepares, or is prepared and waits.
    Waiting,
    /// Was told to start, or runs.
    Started,
    /// Was told to stop; its grace runs.
    Stopping,
    /// Was told to die at once.
    Killing,
    /// No process of it is left.
    Ended,
    /// Ended and told to go; its folder may still be there for its logs.
    Leaving,
}

/// One member on this worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Of the wish that made it.
    pub token: Token,
    /// How far it is.
    pub stage: Stage,
    /// Devices that it holds until it has ended.
    pub devices: BTreeSet<u32>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the member and prepare it.
    Begin(MemberKey),
    /// Start its ranks with these endpoints.
    Start(MemberKey, Vec<Endpoint>),
    /// SIGTERM, grace, SIGKILL.
    Stop(MemberKey),
    /// SIGKILL.
    Kill(MemberKey),
    /// The leader knows its end: it may go.
    Forget(MemberKey),
    /// Tell the leader that there is nothing to stop.
    SayUnknown(MemberKey, Token),
    /// An older token: ignored, and logged.
    Refuse(MemberKey, Token),
}

/// Compares wishes with what runs. `newest` is the highest token seen for each job, these wishes not included.
pub fn decide(
    wishes: &BTreeMap<MemberKey, Wish>,
    running: &BTreeMap<MemberKey, Running>,
    newest: &BTreeMap<JobId, Token>,
) -> Vec<Action> {
    let newest = newest_tokens(wishes, running, newest);
    let mut actions = end_what_may_not_be(wishes, running, &newest);
    let mut held = held_devices(running);
    for (key, wish) in wishes {
        if Some(&wish.token) < newest.get(&key.job) {
            actions.push(Action::Refuse(*key, wish.token));
            continue;
        }
        match running.get(key) {
            Some(member) if member.token == wish.token => actions.extend(advance(*key, wish, member.stage)),
            // The older life of this very member: it was killed above, and the new one begins when it is gone.
            Some(_) => {}
            None => actions.extend(begin(*key, wish, running, &mut held)),
        }
    }
    actions
}

/// The highest token of each job in what was seen, what is wished and what is here.
pub fn newest_tokens(
    wishes: &BTreeMap<MemberKey, Wish>,
    running: &BTreeMap<MemberKey, Running>,
    seen: &BTreeMap<JobId, Token>,
) -> BTreeMap<JobId, Token> {
    let wished = wishes.iter().map(|(key, wish)| (key.job, wish.token));
    let here = running.iter().map(|(key, member)| (key.job, member.token));
    let mut newest = seen.clone();
    for (job, token) in wished.chain(here) {
        let standing = newest.entry(job).or_insert(token);
        *standing = (*standing).max(token);
    }
    newest
}

fn end_what_may_not_be(
    wishes: &BTreeMap<MemberKey, Wish>,
    running: &BTreeMap<MemberKey, Running>,
    newest: &BTreeMap<JobId, Token>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for (key, member) in running {
        let stale = Some(&member.token) < newest.get(&key.job);
        let wished = wishes.get(key).is_some_and(|wish| wish.token == member.token);
        if wished && !stale {
            continue;
        }
        match member.stage {
            Stage::Leaving | Stage::Killing => {}
            Stage::Ended => actions.push(Action::Forget(*key)),
            // The leader holds its resources for free already: no grace.
            Stage::Waiting | Stage::Started | Stage::Stopping => actions.push(Action::Kill(*key)),
        }
    }
    actions
}

fn held_devices(running: &BTreeMap<MemberKey, Running>) -> BTreeSet<u32> {
    let live = running.values().filter(|member| member.stage < Stage::Ended);
    live.flat_map(|member| member.devices.iter().copied()).collect()
}

fn advance(key: MemberKey, wish: &Wish, stage: Stage) -> Option<Action> {
    match (wish.goal, stage) {
        (Goal::Run, Stage::Waiting) if can_start(wish) => Some(Action::Start(key, wish.endpoints.clone())),
        (Goal::Stop, Stage::Waiting | Stage::Started) => Some(Action::Stop(key)),
        (Goal::Kill, Stage::Waiting | Stage::Started | Stage::Stopping) => Some(Action::Kill(key)),
        _ => None,
    }
}

/// A gang of several members needs every rank's endpoint; one member alone knows its own.
fn can_start(wish: &Wish) -> bool {
    let ranks: usize = wish.placement.members.iter().map(|member| member.ranks.len()).sum();
    wish.endpoints.len() == ranks || (wish.endpoints.is_empty() && wish.placement.members.len() == 1)
}

fn begin(
    key: MemberKey,
    wish: &Wish,
    running: &BTreeMap<MemberKey, Running>,
    held: &mut BTreeSet<u32>,
) -> Option<Action> {
    if matches!(wish.goal, Goal::Stop | Goal::Kill) {
        return Some(Action::SayUnknown(key, wish.token));
    }
    let older_lives = running
        .iter()
        .any(|(other, member)| other.job == key.job && member.token < wish.token && member.stage < Stage::Ended);
    let devices = wish_devices(wish);
    if older_lives || !held.is_disjoint(&devices) {
        return None;
    }
    held.extend(devices);
    Some(Action::Begin(key))
}

/// The devices that a wish gives to its member.
pub fn wish_devices(wish: &Wish) -> BTreeSet<u32> {
    let ranks = wish.member().map(|member| member.ranks.as_slice()).unwrap_or_default();
    ranks.iter().flat_map(|rank| rank.devices.iter().copied()).collect()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
