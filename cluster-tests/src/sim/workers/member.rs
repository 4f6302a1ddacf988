//! A member on a simulated worker: prepared, started and ended by timers; the witness sees its ranks live and end.

use super::{Place, RankKey, Worker};
use crate::sim::Break;
use crate::sim::invariants::{gangs, one_attempt};
use std::collections::BTreeSet;
use types::{Endpoint, MemberEnd, MemberKey, MemberState, RankEnd, RankExit, RankPlacement, Token, Wish};
use worker::decide::Stage;

/// Something that happens to a member by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) key: MemberKey,
    pub(super) token: Token,
    pub(super) step: Step,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Its code and data are there.
    Prepared,
    /// Its ranks have ended by themselves, or were ended.
    End(RankExit),
}

pub(super) struct Member {
    pub(super) token: Token,
    pub(super) stage: Stage,
    pub(super) state: MemberState,
    pub(super) devices: BTreeSet<u32>,
    ranks: Vec<RankPlacement>,
    /// Members of its gang.
    gang: usize,
    live: bool,
}

impl Member {
    pub(super) fn new(wish: &Wish, devices: BTreeSet<u32>) -> Self {
        Self {
            token: wish.token,
            stage: Stage::Waiting,
            state: MemberState::Preparing,
            devices,
            ranks: wish.member().map(|member| member.ranks.clone()).unwrap_or_default(),
            gang: wish.placement.members.len(),
            live: false,
        }
    }

    /// Something of it is left that a lease keeps.
    pub(super) fn is_alive(&self) -> bool {
        self.stage < Stage::Ended
    }
}

impl Worker {
    /// True when its status changed.
    pub(super) fn happen(&mut self, due: Due) -> bool {
        let Some(stage) = self.members.get(&due.key).map(|member| member.stage) else { return false };
        match due.step {
            Step::Prepared if stage == Stage::Waiting => self.prepared(due.key),
            Step::Prepared => return false,
            Step::End(_) if stage >= Stage::Ended => return false,
            Step::End(exit) => self.ended(due.key, exit),
        }
        true
    }

    fn prepared(&mut self, key: MemberKey) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let endpoint = |rank: &RankPlacement| Endpoint {
            rank: rank.rank,
            data: format!("sim:{}", rank.rank),
            framework: format!("sim:{}", 1_000 + rank.rank.0),
        };
        member.state = MemberState::Prepared(member.ranks.iter().map(endpoint).collect());
        let (token, hasty) = (member.token, self.world.is_broken(Break::HalfAGang));
        self.witnessed(|witness| {
            witness.prepared.entry((key.job, token)).or_default().insert(key.node_rank);
            Vec::new()
        });
        // Only now can a start that came before take effect.
        let started = self.members.get(&key).is_some_and(|member| member.stage == Stage::Started);
        if hasty || started {
            self.start_soon(key);
        }
    }

    /// Told to start: its ranks live as soon as it is prepared.
    pub(super) fn start_soon(&mut self, key: MemberKey) {
        let Some(member) = self.members.get_mut(&key) else { return };
        if !matches!(member.state, MemberState::Prepared(_)) {
            // Decided again with the next wishes, or when it is prepared.
            return;
        }
        member.stage = Stage::Started;
        member.state = MemberState::Running;
        member.live = true;
        let (token, ranks, gang, worker) = (member.token, member.ranks.clone(), member.gang, self.name.clone());
        self.world.note(&format!("{worker} starts {} ranks of job {} with token {token}", ranks.len(), key.job));
        self.world.count(|counts| counts.ranks += ranks.len() as u64);
        self.witnessed(|witness| {
            let mut faults = Vec::new();
            for rank in ranks {
                let rank_key = RankKey { job: key.job, token, rank: rank.rank };
                faults.extend(gangs::fault_of_start(witness, rank_key, gang));
                faults.extend(one_attempt::fault_of_start(witness, rank_key, &worker, &rank.devices));
                witness.living.insert(rank_key, Place { worker: worker.clone(), devices: rank.devices });
            }
            faults
        });
        let exit = if self.chance.thousandths(120) { RankExit::Code(1) } else { RankExit::Code(0) };
        let ms = if self.chance.thousandths(100) { (4_000, 12_000) } else { (100, 2_500) };
        self.later(ms, key, token, Step::End(exit));
    }

    fn ended(&mut self, key: MemberKey, exit: RankExit) {
        let all_well = self.world.is_broken(Break::WrongExit);
        let Some(member) = self.members.get_mut(&key) else { return };
        let was_live = std::mem::replace(&mut member.live, false);
        let (token, exit) = (member.token, if was_live { exit } else { RankExit::NotStarted });
        let told = if all_well { RankExit::Code(0) } else { exit };
        let end = |rank: &RankPlacement| RankEnd {
            rank: rank.rank,
            exit: told,
            out_of_memory: false,
            ended: daemon::clock::now(),
            stderr_tail: String::new(),
            streams: Vec::new(),
            final_metrics: Vec::new(),
            blames: None,
            rendezvous: None,
        };
        member.state = MemberState::Ended(MemberEnd::Exited {
            ranks: member.ranks.iter().map(end).collect(),
            outputs: Vec::new(),
        });
        member.stage = Stage::Ended;
        let ranks = member.ranks.clone();
        self.world.note(&format!("{} ended {} ranks of job {} as {exit:?}", self.name, ranks.len(), key.job));
        self.witnessed(|witness| {
            for rank in ranks {
                let rank_key = RankKey { job: key.job, token, rank: rank.rank };
                witness.living.remove(&rank_key);
                witness.exits.insert(rank_key, exit);
            }
            Vec::new()
        });
    }
}
