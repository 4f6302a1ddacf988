//! Reports become due when there is news of their job, and are not lost where there is none.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::Tables;

/// A job that runs alone, and a report of its checkpoint at this step.
fn running() -> (Tables, MemberKey, Token) {
    let mut tables = Tables::default();
    tables.worker("a", 1, &[]);
    let job = tables.submit(|_| ());
    assert_eq!(tables.plan(), [job]);
    let attempt = tables.state.job(job).unwrap().live_attempt().unwrap().clone();
    (tables, attempt.key(job, 0), attempt.token)
}

fn checkpoint(step: u64) -> CheckpointRef {
    CheckpointRef { step, tree: types::ContentHash([0; 32]) }
}

fn steps(due: &[(Fact, Command)]) -> Vec<u64> {
    let step = |(_, command): &(Fact, Command)| match command {
        Command::RecordCheckpoint { checkpoint, .. } => Some(checkpoint.step),
        _ => None,
    };
    due.iter().filter_map(step).collect()
}

#[test]
fn what_is_said_while_the_last_word_is_on_its_way_is_due_when_that_comes_back() {
    let (mut tables, key, token) = running();
    let (mut reports, mut in_flight) = (Reports::default(), InFlight::default());
    let nothing = || Some(BTreeSet::new());
    reports.take_checkpoint(key, token, checkpoint(5));
    let due = reports.due(&tables.state, &in_flight, nothing());
    assert_eq!(steps(&due), [5]);
    let (fact, command) = &due[0];
    assert!(in_flight.begin(fact));
    reports.take_checkpoint(key, token, checkpoint(10));
    assert_eq!(steps(&reports.due(&tables.state, &in_flight, nothing())), [0_u64; 0], "one at a time");

    tables.apply(command);
    let changed = || Some(BTreeSet::from([key.job]));
    assert_eq!(steps(&reports.due(&tables.state, &in_flight, changed())), [0_u64; 0], "its answer is not here yet");
    reports.look_again(fact.job().unwrap());
    in_flight.settle(fact.clone(), true);
    assert_eq!(steps(&reports.due(&tables.state, &in_flight, nothing())), [10]);
}

#[test]
fn what_came_back_without_being_in_the_log_is_found_by_looking_at_all() {
    let (tables, key, token) = running();
    let (mut reports, mut in_flight) = (Reports::default(), InFlight::default());
    reports.take_checkpoint(key, token, checkpoint(5));
    let due = reports.due(&tables.state, &in_flight, Some(BTreeSet::new()));
    assert!(in_flight.begin(&due[0].0));
    in_flight.settle(due[0].0.clone(), false);
    in_flight.tick();
    assert_eq!(steps(&reports.due(&tables.state, &in_flight, Some(BTreeSet::new()))), [0_u64; 0], "there is no news");
    assert_eq!(steps(&reports.due(&tables.state, &in_flight, None)), [5]);
}
