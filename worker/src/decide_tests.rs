//! Properties of `decide`, checked on generated wishes and members, and named examples.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::wish;
use proptest::prelude::*;

type Wishes = BTreeMap<MemberKey, Wish>;
type Members = BTreeMap<MemberKey, Running>;

fn key(job: u64, attempt: u32, node_rank: u32) -> MemberKey {
    MemberKey { job: JobId(job), attempt: types::AttemptNumber(attempt), node_rank }
}

fn running(token: u64, stage: Stage, devices: &[u32]) -> Running {
    Running { token: Token(token), stage, devices: devices.iter().copied().collect() }
}

/// What the actions do once they have taken effect, without the passing of time.
fn apply(actions: &[Action], wishes: &Wishes, members: &mut Members) {
    for action in actions {
        match action {
            Action::Begin(key) => {
                let wish = &wishes[key];
                let member = Running { token: wish.token, stage: Stage::Waiting, devices: wish_devices(wish) };
                assert!(members.insert(*key, member).is_none(), "began on top of another");
            }
            Action::Start(key, _) => members.get_mut(key).unwrap().stage = Stage::Started,
            Action::Stop(key) => members.get_mut(key).unwrap().stage = Stage::Stopping,
            Action::Kill(key) => members.get_mut(key).unwrap().stage = Stage::Killing,
            Action::Forget(key) => members.get_mut(key).unwrap().stage = Stage::Leaving,
            Action::SayUnknown(..) | Action::Refuse(..) => {}
        }
    }
}

/// All that is dying is dead, all that leaves is gone.
fn pass_time(members: &mut Members) {
    members.retain(|_, member| member.stage != Stage::Leaving);
    for member in members.values_mut() {
        if matches!(member.stage, Stage::Stopping | Stage::Killing) {
            member.stage = Stage::Ended;
        }
    }
}

fn is_lasting(action: &Action) -> bool {
    !matches!(action, Action::SayUnknown(..) | Action::Refuse(..))
}

prop_compose! {
    fn any_wishes()(list in prop::collection::vec((1..4_u64, 1..4_u32, 0..2_u32, 0..4_u8, 0..3_u32, any::<bool>()), 0..8)) -> Wishes {
        list.into_iter().map(|(job, attempt, node, goal, device, gpu)| {
            let goal = [Goal::Prepare, Goal::Run, Goal::Stop, Goal::Kill][goal as usize];
            let key = key(job, attempt, node);
            // Tokens rise with attempts, as the log makes them.
            let devices = if gpu { vec![device] } else { vec![] };
            (key, wish(key, Token(u64::from(attempt) * 10 + job), goal, devices))
        }).collect()
    }
}

prop_compose! {
    fn any_members()(list in prop::collection::vec((1..4_u64, 1..4_u32, 0..2_u32, 0..6_u8, 0..3_u32, any::<bool>()), 0..8)) -> Members {
        list.into_iter().map(|(job, attempt, node, stage, device, gpu)| {
            let stage = [Stage::Waiting, Stage::Started, Stage::Stopping, Stage::Killing, Stage::Ended, Stage::Leaving][stage as usize];
            let devices: &[u32] = if gpu { &[device] } else { &[] };
            (key(job, attempt, node), running(u64::from(attempt) * 10 + job, stage, devices))
        }).collect()
    }
}

proptest! {
    #[test]
    fn deciding_again_gives_nothing_new(wishes in any_wishes(), members in any_members()) {
        let mut members = members;
        let actions = decide(&wishes, &members, &BTreeMap::new());
        apply(&actions, &wishes, &mut members);
        let again = decide(&wishes, &members, &BTreeMap::new());
        // A member that has just begun may be told to start; after that nothing is left.
        apply(&again, &wishes, &mut members);
        let third = decide(&wishes, &members, &BTreeMap::new());
        prop_assert!(!third.iter().any(is_lasting), "{third:?}");
    }

    #[test]
    fn an_older_token_changes_nothing(wishes in any_wishes(), members in any_members(), lead in 1..4_u64) {
        // Everything wished is older than what was seen.
        let seen: BTreeMap<JobId, Token> = (1..4).map(|job| (JobId(job), Token(100 + lead))).collect();
        for action in decide(&wishes, &members, &seen) {
            prop_assert!(!matches!(action, Action::Begin(_) | Action::Start(..) | Action::SayUnknown(..)), "{action:?}");
        }
    }

    #[test]
    fn a_member_without_a_wish_is_killed_then_forgotten(members in any_members()) {
        let mut members = members;
        for _ in 0..3 {
            apply(&decide(&Wishes::new(), &members, &BTreeMap::new()), &Wishes::new(), &mut members);
            pass_time(&mut members);
        }
        prop_assert!(members.is_empty(), "{members:?}");
    }

    #[test]
    fn old_ends_before_new_begins(wishes in any_wishes(), members in any_members()) {
        for action in decide(&wishes, &members, &BTreeMap::new()) {
            let Action::Begin(key) = action else { continue };
            let token = wishes[&key].token;
            for (other, member) in &members {
                let live = member.stage < Stage::Ended;
                prop_assert!(!(live && other.job == key.job && member.token < token), "{other:?} still lives");
                prop_assert!(!live || member.devices.is_disjoint(&wish_devices(&wishes[&key])), "device held twice");
            }
        }
    }

    #[test]
    fn everything_wished_comes_about(wishes in any_wishes(), members in any_members()) {
        // One wish a job and no shared devices, as a scheduler gives them; whatever was here before.
        let mut jobs = BTreeSet::new();
        let wishes: Wishes = wishes.into_iter().rev()
            .filter(|(key, wish)| jobs.insert(key.job) && wish_devices(wish).is_empty() && wish.token > Token(30))
            .collect();
        let mut members = members;
        for _ in 0..6 {
            apply(&decide(&wishes, &members, &BTreeMap::new()), &wishes, &mut members);
            pass_time(&mut members);
        }
        for (key, wish) in &wishes {
            match wish.goal {
                Goal::Run => prop_assert!(members[key].stage >= Stage::Started || !can_start(wish)),
                Goal::Prepare => prop_assert!(members.contains_key(key)),
                Goal::Stop | Goal::Kill => prop_assert!(members.get(key).is_none_or(|m| m.stage >= Stage::Killing)),
            }
        }
    }
}

#[test]
fn a_newer_attempt_waits_for_the_end_of_the_older() {
    let (old, new) = (key(1, 1, 0), key(1, 2, 0));
    let wishes: Wishes = [(new, wish(new, Token(20), Goal::Run, vec![]))].into();
    let mut members: Members = [(old, running(10, Stage::Started, &[]))].into();
    assert_eq!(decide(&wishes, &members, &BTreeMap::new()), [Action::Kill(old)]);
    members.get_mut(&old).unwrap().stage = Stage::Killing;
    assert_eq!(decide(&wishes, &members, &BTreeMap::new()), []);
    members.get_mut(&old).unwrap().stage = Stage::Ended;
    assert_eq!(decide(&wishes, &members, &BTreeMap::new()), [Action::Forget(old), Action::Begin(new)]);
}

#[test]
fn two_wishes_for_one_device_begin_one_after_the_other() {
    let (a, b) = (key(1, 1, 0), key(2, 1, 0));
    let wishes: Wishes =
        [(a, wish(a, Token(10), Goal::Prepare, vec![0])), (b, wish(b, Token(11), Goal::Prepare, vec![0]))].into();
    assert_eq!(decide(&wishes, &Members::new(), &BTreeMap::new()), [Action::Begin(a)]);
}

#[test]
fn stopping_what_is_not_here_says_so() {
    let a = key(1, 1, 0);
    let wishes: Wishes = [(a, wish(a, Token(10), Goal::Stop, vec![]))].into();
    assert_eq!(decide(&wishes, &Members::new(), &BTreeMap::new()), [Action::SayUnknown(a, Token(10))]);
}
