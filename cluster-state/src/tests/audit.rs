//! The audit trail: what is recorded, and that nothing of it can be changed unseen.

use super::access::{set_user, token};
use super::*;
use crate::{AUDIT_KEPT, AuditRecord, Denial, SetUser, verify_chain};
use proptest::prelude::*;
use std::sync::Arc;
use types::{Caller, Principal, Role};

pub(super) fn caller(name: &str) -> Caller {
    Caller { principal: Principal::User { name: name.to_owned(), token: "t1".into() }, from: "10.0.0.7".into() }
}

fn named(command: Command) -> Command {
    Command::As { caller: Arc::new(caller("ana")), command: Box::new(command) }
}

fn denial(n: u64) -> Denial {
    let object = format!("job {n}");
    Denial { caller: caller("bo"), action: "jobs/cancel".into(), object, why: "no right".into(), times: 3 }
}

fn last(log: &Log) -> (String, String, String) {
    let record = log.state.audit().last().unwrap();
    (record.action.clone(), record.object.clone(), record.result.clone())
}

fn texts(action: &str, object: &str, result: &str) -> (String, String, String) {
    (action.to_owned(), object.to_owned(), result.to_owned())
}

#[test]
fn each_command_in_a_name_is_one_record_with_its_result() {
    let mut log = Log::with_workers(1);
    assert_eq!((log.state.audit().count(), log.state.audit_head()), (0, (0, [0; 32])), "nobody asked for these");
    log.apply(set_user("ana", &[Role::Owner], SetUser::Create));
    let request = RequestId([5; 16]);
    let submit = named(Command::SubmitJob { request, spec: spec(1, 1, 0, 0) });
    assert_eq!(log.apply(submit.clone()), Outcome::Submitted { job: JobId(1), repeated: false });
    assert_eq!(last(&log), texts("jobs/submit", "1", "ok"));
    let record = log.state.audit().last().unwrap().clone();
    assert_eq!((record.number, record.time, record.times), (1, Timestamp(log.now), 1));
    assert_eq!(record.caller, Arc::new(caller("ana")));
    assert_eq!(log.apply(submit), Outcome::Submitted { job: JobId(1), repeated: true });
    assert_eq!(log.state.audit_head().0, 1, "a retry is no new deed");
    assert_eq!(log.apply(named(Command::CancelJob { job: JobId(1) })), Outcome::Canceled(JobPhase::Canceled));
    assert_eq!(last(&log), texts("jobs/cancel", "1", "ok"));
    log.apply(named(Command::CancelJob { job: JobId(9) }));
    assert_eq!(last(&log), texts("jobs/cancel", "9", "refused: there is no job 9"));
    log.apply(named(Command::SetAvailability { worker: worker_id(0), availability: Availability::Cordoned }));
    assert_eq!(last(&log), texts("workers/availability", "w0", "ok"));
    log.apply(named(set_user("bo", &[Role::Reader], SetUser::Create)));
    assert_eq!(last(&log), texts("users/set", "bo", "ok"));
    assert_eq!(log.state.audit_after(3).map(|record| record.number).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(log.state.audit_after(5).count() + log.state.audit_after(u64::MAX).count(), 0);
}

#[test]
fn whoever_has_the_bodies_can_verify_the_chain_without_us() {
    use sha2::{Digest, Sha256};
    let mut previous = [0; 32];
    for record in trail(5) {
        let hash: [u8; 32] = Sha256::digest([&previous[..], &record.body()].concat()).into();
        assert_eq!(hash, record.hash);
        let whole = [record.body(), record.hash.to_vec()].concat();
        assert_eq!(postcard::from_bytes::<AuditRecord>(&whole).unwrap(), record, "the body holds all that it says");
        previous = hash;
    }
}

#[test]
fn a_command_within_a_command_is_in_one_name() {
    let mut log = Log::default();
    let mut before = log.state.clone();
    let outcome = log.apply(named(named(Command::CancelJob { job: JobId(1) })));
    assert!(matches!(outcome, Outcome::Refused(Refusal::Invalid(_))));
    before.applied = log.state.applied;
    assert_eq!(before, log.state);
}

#[test]
fn no_record_holds_a_secret_or_its_digest() {
    let mut log = Log::default();
    log.apply(named(set_user("ana", &[Role::Owner], SetUser::Create)));
    let mut made = token(&log, "ana", "t1");
    made.digest = [0xab; 32];
    log.apply(named(Command::CreateToken { token: made.clone() }));
    assert_eq!(last(&log), texts("tokens/create", "ana/t1", "ok"));
    assert!(!format!("{made:?}").contains("171"), "a token that is printed shows no digest either");
    // A hasty operator gives the secret where the id belongs.
    let secret = "muster_pat_0123456789abcdef0123456789abcdef";
    log.apply(named(Command::RevokeToken { id: secret.to_owned() }));
    made.id = secret.to_owned();
    log.apply(named(Command::CreateToken { token: made.clone() }));
    log.apply(named(Command::RevokeToken { id: "t1".to_owned() }));
    assert_eq!(last(&log), texts("tokens/revoke", "ana/t1", "ok"));
    let told = format!("{:?}", log.state.audit().map(|record| (&record.object, &record.result)).collect::<Vec<_>>());
    for hidden in [secret, "abababab", "[171, 171"] {
        assert!(!told.contains(hidden), "{told}");
    }
    assert_eq!(log.state.audit_head().0, 5);
}

#[test]
fn denials_are_recorded_cut_to_size_and_on_one_line() {
    let mut log = Log::default();
    let mut long = denial(1);
    (long.object, long.why) = ("ä".repeat(500), format!("a\nb{}", "x".repeat(500)));
    long.caller.from = "f".repeat(500);
    assert_eq!(log.apply(Command::NoteDenials { denials: vec![denial(0), long] }), Outcome::Done);
    let records: Vec<AuditRecord> = log.state.audit().map(|record| (**record).clone()).collect();
    assert_eq!((records[0].result.as_str(), records[0].times), ("denied: no right", 3));
    assert_eq!(records[1].object, "ä".repeat(100));
    assert!(records[1].result.starts_with("denied: a bx") && records[1].result.len() == 200);
    assert_eq!(records[1].caller.from.len(), 200);
    assert_eq!(verify_chain([0; 32], &records), Ok(()));
    let mut before = log.state.clone();
    let outcome = log.apply(Command::NoteDenials { denials: (0..257).map(denial).collect() });
    assert!(matches!(outcome, Outcome::Refused(Refusal::Invalid(_))));
    before.applied = log.state.applied;
    assert_eq!(before, log.state);
}

#[test]
fn old_records_are_forgotten_and_the_rest_still_follows_from_them() {
    let mut log = Log::default();
    let mut exported: Vec<AuditRecord> = Vec::new();
    while exported.len() <= AUDIT_KEPT + 300 {
        log.apply(Command::NoteDenials { denials: (0..256).map(denial).collect() });
        let number = exported.last().map_or(0, |record| record.number);
        exported.extend(log.state.audit_after(number).map(|record| (**record).clone()));
    }
    let (base, head) = (log.state.audit_base(), log.state.audit_head());
    assert_eq!(log.state.audit().count(), AUDIT_KEPT);
    assert_eq!((head.0, base.0), (exported.len() as u64, exported.len() as u64 - AUDIT_KEPT as u64));
    assert_eq!(log.state.audit().next().unwrap().number, base.0 + 1);
    assert_eq!(verify_chain(base.1, log.state.audit()), Ok(()));
    assert_eq!(verify_chain([0; 32], &exported), Ok(()), "what was exported on the way is whole");
    assert_eq!(exported[base.0 as usize - 1].hash, base.1);
    assert_eq!(exported.last().map(|record| (record.number, record.hash)), Some(head));
    assert_eq!(verify_chain([0; 32], log.state.audit()), Err(base.0 + 1), "it does not follow from nothing");
}

fn trail(count: u64) -> Vec<AuditRecord> {
    let mut log = Log::default();
    for n in 0..count {
        let command = if n % 2 == 0 { named(Command::CancelJob { job: JobId(n) }) } else { note(n) };
        log.apply(command);
    }
    log.state.audit().map(|record| (**record).clone()).collect()
}

fn note(n: u64) -> Command {
    Command::NoteDenials { denials: vec![denial(n)] }
}

proptest! {
    /// AUDIT-1
    #[test]
    fn a_flipped_byte_of_any_record_is_found(count in 1..12_u64, at in any::<prop::sample::Index>(), bit in 0..8) {
        let records = trail(count);
        let sizes: Vec<usize> = records.iter().map(|record| postcard::to_allocvec(record).unwrap().len()).collect();
        let (mut place, mut index) = (at.index(sizes.iter().sum()), 0);
        while place >= sizes[index] {
            place -= sizes[index];
            index += 1;
        }
        let mut bytes = postcard::to_allocvec(&records[index]).unwrap();
        bytes[place] ^= 1_u8 << bit;
        // What cannot be read any more is found already.
        if let Ok(changed) = postcard::from_bytes::<AuditRecord>(&bytes) {
            prop_assert_ne!(&changed, &records[index]);
            let mut damaged = records;
            damaged[index] = changed;
            let found = verify_chain([0; 32], &damaged).unwrap_err();
            // The number of the very first may be what was flipped.
            prop_assert!(index == 0 || found == index as u64 + 1, "{} at {}", found, index);
        }
    }

    /// AUDIT-1
    #[test]
    fn removed_exchanged_and_repeated_records_are_found(count in 2..12_u64, one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>()) {
        let records = trail(count);
        prop_assert_eq!(verify_chain([0; 32], &records), Ok(()));
        let (one, other) = (one.index(records.len()), other.index(records.len()));
        let mut removed = records.clone();
        removed.remove(one);
        let is_end = one + 1 == records.len();
        // Without its end the chain is whole, but has another head.
        prop_assert_eq!(verify_chain([0; 32], &removed).is_ok(), is_end);
        prop_assert!(!is_end || removed.last().map(|last| last.hash) != records.last().map(|last| last.hash));
        let mut repeated = records.clone();
        repeated.insert(one, records[other].clone());
        prop_assert!(verify_chain([0; 32], &repeated).is_err());
        if one != other {
            let mut exchanged = records;
            exchanged.swap(one, other);
            prop_assert!(verify_chain([0; 32], &exchanged).is_err());
        }
    }
}

#[test]
fn a_signed_head_is_kept_where_the_trail_has_its_record_and_no_older_one_after_it() {
    let mut log = Log::default();
    for name in ["a", "b", "c"] {
        log.apply(named(set_user(name, &[Role::Owner], SetUser::Create)));
    }
    let records: Vec<_> = log.state.audit().cloned().collect();
    let head = |number: u64, hash: [u8; 32]| crate::SignedHead {
        number,
        hash,
        time: Timestamp(9),
        authority: vec![1; 400],
        signature: vec![2; 72],
    };
    let keep = |head| Command::KeepAuditHead(Box::new(head));
    let kept = |log: &Log| log.state.audit_heads().map(|head| head.number).collect::<Vec<_>>();
    assert_eq!(log.apply(keep(head(2, records[1].hash))), Outcome::Done);
    for (bad, why) in [
        (head(3, records[1].hash), "another hash"),
        (head(4, records[2].hash), "no such record"),
        (head(1, records[0].hash), "an older one"),
        (head(2, records[1].hash), "the same again"),
        (crate::SignedHead { signature: vec![0; 5_000], ..head(3, records[2].hash) }, "no signature"),
    ] {
        assert!(matches!(log.apply(keep(bad)), Outcome::Refused(Refusal::Invalid(_))), "{why}");
    }
    assert_eq!(log.apply(keep(head(3, records[2].hash))), Outcome::Done);
    assert_eq!((kept(&log), log.state.audit_head().0), (vec![2, 3], 3), "a signature is no record");
    for n in 0..crate::AUDIT_HEADS_KEPT as u64 {
        log.apply(named(Command::CancelJob { job: JobId(n) }));
        let (number, hash) = log.state.audit_head();
        assert_eq!(log.apply(keep(head(number, hash))), Outcome::Done);
    }
    assert_eq!((kept(&log).len(), kept(&log)[0]), (crate::AUDIT_HEADS_KEPT, 4), "the newest are kept");
}
