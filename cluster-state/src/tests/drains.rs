//! Workers that are emptied, now or at a deadline.

use super::*;

const DRAIN_NOW: Availability = Availability::Draining { deadline: Timestamp(0) };

#[test]
fn a_drain_with_a_deadline_stops_nothing_before_it_and_lets_nothing_in_after_it() {
    let mut log = Log::with_workers(2);
    let (running, late) = (log.submit(&spec(1, 1, 0, 0)), log.submit(&spec(1, 1, 0, 0)));
    log.place(running, &[0], 0);
    let deadline = Timestamp(log.now + 1_000);
    let availability = Availability::Draining { deadline };
    assert_eq!(log.apply(Command::SetAvailability { worker: worker_id(0), availability }), Outcome::Done);
    assert_eq!(log.phase(running), JobPhase::Running);
    assert_eq!(log.state.worker(&worker_id(0)).unwrap().drained_by(), Some(deadline));
    let short = log.submit(&spec(1, 1, 0, 0));
    assert!(matches!(log.place(short, &[0], 0), Outcome::PlanTaken(_)), "before the deadline");
    log.now = deadline.0;
    assert!(matches!(log.place(late, &[0], 0), Outcome::Refused(Refusal::PlanOutOfDate(_))), "after it");
    log.apply(Command::SetAvailability { worker: worker_id(0), availability });
    assert!(log.state.wishes(&worker_id(0)).iter().all(|wish| wish.goal == Goal::Stop), "it is due");
}

#[test]
fn a_drained_worker_lets_go_of_its_gangs() {
    let mut log = Log::with_workers(2);
    let job = log.submit(&spec(1, 1, 0, 0));
    log.place(job, &[0], 0);
    log.apply(Command::SetAvailability { worker: worker_id(0), availability: DRAIN_NOW });
    assert_eq!(log.state.wishes(&worker_id(0))[0].goal, Goal::Stop);
    log.end(job, 0, ended(RankExit::Stopped));
    assert_eq!(log.phase(job), JobPhase::Queued);
    assert!(matches!(log.place(job, &[1], 0), Outcome::PlanTaken(_)));
}
