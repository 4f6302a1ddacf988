//! How many jobs of one user may wait.

use super::audit::caller;
use super::*;
use crate::{JOBS_WAITING_MAX, SetUser};
use types::Role;

fn submit(log: &mut Log, user: &str) -> Outcome {
    let mut request = [7; 16];
    request[..8].copy_from_slice(&log.index.to_le_bytes());
    let command = Command::SubmitJob { request: RequestId(request), spec: spec(1, 1, 0, 0) };
    log.apply(Command::As { caller: Arc::new(caller(user)), command: Box::new(command) })
}

fn limited(log: &mut Log, waiting_max: Option<u32>, how: SetUser) -> Outcome {
    let roles = super::access::grants(&[Role::DataScientist]);
    log.apply(Command::SetUser { name: "sam".into(), roles, how, waiting_max })
}

#[test]
fn a_user_has_as_many_waiting_jobs_as_they_may_and_others_have_their_own() {
    let mut log = Log::with_workers(1);
    limited(&mut log, Some(2), SetUser::Create);
    log.apply(super::access::set_user("ana", &[Role::DataScientist], SetUser::Create));
    let first = submit(&mut log, "sam");
    assert!(matches!(first, Outcome::Submitted { .. }));
    assert!(matches!(submit(&mut log, "sam"), Outcome::Submitted { .. }));
    let refused = submit(&mut log, "sam");
    assert_eq!(refused, Outcome::Refused(Refusal::TooManyWait { user: "sam".into(), max: 2 }));
    assert!(matches!(submit(&mut log, "ana"), Outcome::Submitted { .. }), "another user");
    assert_eq!((log.state.waiting_of("sam"), log.state.waiting_of("ana")), (2, 1));
    // One that has been placed waits no longer; one that starts again waits again, whatever the bound says.
    let Outcome::Submitted { job, .. } = first else { return };
    log.place(job, &[0], 0);
    assert!(matches!(submit(&mut log, "sam"), Outcome::Submitted { .. }));
    log.lose(0);
    assert_eq!((log.phase(job), log.state.waiting_of("sam")), (JobPhase::Queued, 3));
    log.apply(Command::CancelJob { job });
    assert_eq!(log.state.waiting_of("sam"), 2);
    // Left out, the bound stays; 0 is everybody's.
    limited(&mut log, None, SetUser::Update);
    assert_eq!(log.state.user("sam").unwrap().waiting_max, Some(2));
    limited(&mut log, Some(0), SetUser::Update);
    assert_eq!(log.state.user("sam").unwrap().waiting_max, None);
    assert!(matches!(submit(&mut log, "sam"), Outcome::Submitted { .. }), "up to {JOBS_WAITING_MAX}");
}
