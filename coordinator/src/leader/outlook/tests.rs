//! The cache of looks ahead, on real tables whose future can be told by hand.

use super::*;
use crate::testing::Tables;
use std::sync::atomic::{AtomicU32, Ordering};
use types::{JobSpec, MemberEnd, Millis};

const MINUTE: u64 = 60_000;
const SLOW: Duration = Duration::from_millis(50);

/// One slot; a job of an hour runs, and one of ten minutes, one of twenty wait for it.
struct Asked {
    tables: Tables,
    outlook: Outlook,
    copies: AtomicU32,
    jobs: [JobId; 3],
}

impl Asked {
    fn new() -> Self {
        let mut tables = Tables::default();
        tables.worker("w", 1, &[]);
        let mut submit = |minutes| {
            let job = tables.submit(lasts(minutes));
            tables.plan();
            job
        };
        let jobs = [submit(60), submit(10), submit(20)];
        Self { tables, outlook: Outlook::new(), copies: AtomicU32::new(0), jobs }
    }

    fn submit(&mut self, minutes: u64) -> JobId {
        let job = self.tables.submit(lasts(minutes));
        self.tables.plan();
        job
    }

    /// As the loop would be asked, at the tables' time.
    async fn ask(&mut self, job: JobId) -> Expected {
        let now = self.tables.now;
        let mut schedule = self.tables.take_schedule();
        schedule.follow(&self.tables.state, now).unwrap();
        let copy = async {
            self.copies.fetch_add(1, Ordering::Relaxed);
            Some(schedule.copy(now))
        };
        let expected = self.outlook.expected(job, (schedule.version(), now), copy).await;
        self.tables.put_schedule(schedule);
        expected
    }

    fn copies(&self) -> u32 {
        self.copies.load(Ordering::Relaxed)
    }
}

fn lasts(minutes: u64) -> impl FnOnce(&mut JobSpec) {
    // Nobody stops for another's order.
    move |spec| (spec.estimate, spec.preemptible) = (Some(Millis(minutes * MINUTE)), false)
}

fn at(minutes: u64) -> Expected {
    Expected::At(Timestamp(minutes * MINUTE))
}

/// Until the next look may be made.
async fn rest(asked: &Asked) {
    tokio::time::sleep_until(asked.outlook.kept().unwrap().rests_until()).await;
}

#[tokio::test]
async fn all_who_ask_of_one_state_share_one_look() {
    let mut asked = Asked::new();
    let [_, short, long] = asked.jobs;
    for _ in 0..3 {
        assert_eq!((asked.ask(short).await, asked.ask(long).await), (at(60), at(70)));
        rest(&asked).await;
    }
    assert_eq!(asked.copies(), 1);
}

#[tokio::test]
async fn an_end_before_its_time_moves_what_is_expected() {
    let mut asked = Asked::new();
    let [running, short, long] = asked.jobs;
    assert_eq!(asked.ask(long).await, at(70));
    asked.tables.now = Timestamp(20 * MINUTE);
    asked.tables.end(running, &MemberEnd::Exited { ranks: vec![], outputs: vec![] });
    rest(&asked).await;
    assert_eq!(asked.ask(long).await, at(30));
    assert_eq!((asked.ask(short).await, asked.copies()), (at(20), 2));
}

#[tokio::test]
async fn a_look_is_made_anew_when_what_it_foresaw_did_not_come() {
    let mut asked = Asked::new();
    let short = asked.jobs[1];
    asked.tables.now = Timestamp(60 * MINUTE - 1);
    assert_eq!(asked.ask(short).await, at(60));
    // Nobody said that the first has ended: it overruns, and goes on for a tenth of its time.
    asked.tables.now = Timestamp(60 * MINUTE);
    rest(&asked).await;
    assert_eq!((asked.ask(short).await, asked.copies()), (at(66), 2));
}

#[tokio::test]
async fn while_looks_rest_the_last_one_answers_for_those_that_it_knows() {
    let mut asked = Asked::new();
    let [_, short, long] = asked.jobs;
    assert_eq!(asked.ask(long).await, at(70));
    // As if it had taken long.
    let kept = asked.outlook.kept().unwrap();
    let made = Instant::now();
    let slow = Look { cost: SLOW, made, future: kept.future.clone(), ..*kept };
    *asked.outlook.kept.lock().unwrap() = Some(Arc::new(slow));
    let first = asked.submit(5);
    assert_eq!((asked.ask(short).await, asked.copies()), (at(60), 1), "the newest state has it five minutes later");
    assert_eq!(asked.ask(first).await, at(60));
    assert!(made.elapsed() >= SLOW * REST_TIMES, "the rest was kept: {:?}", made.elapsed());
    assert_eq!((asked.ask(short).await, asked.copies()), (at(65), 2));
}

#[tokio::test]
async fn who_is_asked_for_too_long_is_told_so() {
    let mut asked = Asked::new();
    asked.outlook.patience = Duration::from_millis(1);
    let version = Version { built: LogIndex(0), changes: 0 };
    let expected = asked.outlook.expected(asked.jobs[1], (version, Timestamp(0)), std::future::pending()).await;
    assert!(matches!(&expected, Expected::Unknown(why) if why.contains("none was made within 1ms")), "{expected:?}");
    let expected = asked.outlook.expected(asked.jobs[1], (version, Timestamp(0)), async { None }).await;
    assert_eq!(expected, Expected::Unknown("the leader is changing".to_owned()));
}

#[tokio::test]
async fn what_is_not_known_says_why() {
    let mut asked = Asked::new();
    let mut schedule = asked.tables.take_schedule();
    let copied = Copied { core: Err("too many wait".to_owned()), ..schedule.copy(Timestamp(0)) };
    assert_eq!(Look::make(copied).expected(asked.jobs[1]), Expected::Unknown("too many wait".to_owned()));

    // Nobody may use the only worker any more.
    asked.tables.cordon("w");
    schedule.follow(&asked.tables.state, Timestamp(0)).unwrap();
    let Expected::Unknown(why) = Look::make(schedule.copy(Timestamp(0))).expected(asked.jobs[1]) else {
        panic!("a start was foreseen on a cordoned worker");
    };
    assert!(why.starts_with("nothing that is foreseen starts it"), "{why}");

    let left = asked.jobs[..1].iter().copied().collect();
    let future = Future { left, is_cut: true, until: Timestamp(30 * MINUTE), ..Future::default() };
    let look = Look {
        version: schedule.version(),
        from: Timestamp(0),
        future: Ok(future),
        made: Instant::now(),
        cost: BUDGET,
    };
    let Expected::Unknown(why) = look.expected(asked.jobs[0]) else { panic!("a start beyond the look") };
    assert!(why.contains("saw the next 30 min"), "{why}");
}
