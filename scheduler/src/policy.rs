//! Policies by name: how gangs are ordered, who may pass a gang that waits, and what may be taken back from whom.
//!
//! All of them use the same placement, so that a comparison is of policies and of nothing else.

use crate::place::Preference;
use types::{Millis, Timestamp};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// A policy; `Policy::named` makes the known ones, and every part can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Which gang of a queue is first.
    pub order: Order,
    /// True takes queues in turn by dominant share; false takes all gangs as one line.
    pub is_fair: bool,
    /// What happens behind a gang that does not fit.
    pub passing: Passing,
    /// Which of the places that would do.
    pub preference: Preference,
    /// Whom a gang may displace; nothing = nobody.
    pub preempt: Option<PreemptRules>,
    /// True lets elastic gangs grow into what nobody else can use, and shrinks them before others are stopped.
    pub is_elastic: bool,
    /// From one change of an elastic gang's size to the next where it grows: a change costs a checkpoint and a restart.
    pub resize_every: Millis,
    /// A gang goes first when it has waited for so many times as long as all that wait would take on the whole cluster, and
    /// for `age_floor`; 0 = never. So nobody waits much longer than the line is long, and under overload, when all wait
    /// long, the order stays as it is.
    pub age_factor: u32,
    /// The least wait after which a gang goes first.
    pub age_floor: Millis,
    /// For a gang of which nothing is known.
    pub default_estimate: Millis,
    /// When a worker is set aside.
    pub strikes: StrikeRules,
}

/// Which gang of a queue is first, among those of the same priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Submitted first.
    Submitted,
    /// Least estimated remaining service: run time × devices.
    Service,
    /// Oracle: least true remaining run time; all gangs are sorted anew at every event, and those that run give way.
    RemainingTime,
    /// Oracle: least true remaining run time × devices; as above.
    RemainingService,
    /// Least attained service in levels (Tiresias, NSDI'19), in milliseconds × devices; within a level submitted first. Sorted
    /// anew at every event.
    Attained {
        /// Bounds between the levels, rising.
        limits: Vec<u64>,
    },
}

/// What happens behind a gang that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Nobody passes it.
    Nobody,
    /// Everybody passes it who fits, for ever.
    Anybody,
    /// The oldest get workers reserved; others pass if they will be gone by then or stay off those workers.
    Reserved(ReserveRules),
    /// Every waiting gang has a planned start, and nobody may delay any of them (conservative backfilling).
    Planned,
}

/// When workers are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReserveRules {
    /// Gangs with a reservation at a time.
    pub count_max: u32,
    /// A gang waits so long before it gets one.
    pub wait_min: Millis,
    /// Part of the workers that may be reserved, in thousandths; the first reservation is exempt.
    pub part_permille_max: u32,
    /// Plans are made anew not more often than this, unless one was broken.
    pub replan_min: Millis,
    /// True gives gangs that need one device or none reservations too.
    pub is_for_small: bool,
}

/// Who may be displaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreemptRules {
    /// A gang runs so long before it may be stopped.
    pub run_min: Millis,
    /// Stops of one gang within 24 hours.
    pub per_day_max: u32,
    /// Waits for the next checkpoint if it is due within this time.
    pub checkpoint_wait_max: Millis,
    /// Victims of one decision.
    pub victims_max: u32,
    /// A gang of the same queue and priority gives way when the work it has left is at least so many thousandths of that of
    /// the one that waits; 0 = never. Above 1,000, so that two cannot take turns.
    pub order_permille: u32,
}

/// When a worker that fails jobs is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrikeRules {
    /// Different jobs; 0 = never.
    pub jobs: u32,
    /// Within this time.
    pub window: Millis,
    /// For this time.
    pub aside: Millis,
}

/// The names that `Policy::named` knows.
pub const POLICIES: [&str; 9] =
    ["fair-share", "fifo", "fifo-skip", "easy", "conservative", "drf", "las", "srtf", "srsf"];

impl Policy {
    /// A policy by its name.
    pub fn named(name: &str) -> Option<Policy> {
        let base = Policy { name: name.to_owned(), ..Policy::default() };
        let plain = Policy {
            order: Order::Submitted,
            is_fair: false,
            passing: Passing::Anybody,
            preempt: None,
            is_elastic: false,
            age_factor: 0,
            ..base.clone()
        };
        Some(match name {
            "fair-share" => base,
            "fifo" => Policy { passing: Passing::Nobody, ..plain },
            "fifo-skip" => plain,
            "easy" => Policy { passing: Passing::Reserved(ReserveRules::EASY), ..plain },
            "conservative" => Policy { passing: Passing::Planned, ..plain },
            "drf" => Policy { is_fair: true, ..plain },
            "las" => {
                Policy { order: Order::Attained { limits: vec![HOUR, 10 * HOUR, 100 * HOUR, 1_000 * HOUR] }, ..plain }
            }
            "srtf" => Policy { order: Order::RemainingTime, ..plain },
            "srsf" => Policy { order: Order::RemainingService, ..plain },
            _ => return None,
        })
    }

    /// True when a gang with much work left may be stopped for one of its queue with less.
    pub fn stops_for_order(&self) -> bool {
        self.order == Order::Service && self.preempt.is_some_and(|rules| rules.order_permille > 0)
    }

    /// True when all gangs, running ones too, are sorted anew at every event.
    pub fn sorts_anew(&self) -> bool {
        matches!(self.order, Order::RemainingTime | Order::RemainingService | Order::Attained { .. })
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            name: "fair-share".to_owned(),
            order: Order::Service,
            is_fair: true,
            passing: Passing::Reserved(ReserveRules::default()),
            preference: Preference::BestFit,
            preempt: Some(PreemptRules::default()),
            is_elastic: true,
            resize_every: Millis(10 * MINUTE),
            age_factor: 2,
            age_floor: Millis(HOUR),
            default_estimate: Millis(HOUR),
            strikes: StrikeRules::default(),
        }
    }
}

impl ReserveRules {
    /// One reservation, for the head of the line, made anew at every event (Lifka, JSSPP'95).
    pub const EASY: ReserveRules = ReserveRules {
        count_max: 1,
        wait_min: Millis(0),
        part_permille_max: 1_000,
        replan_min: Millis(0),
        is_for_small: true,
    };
}

impl Default for ReserveRules {
    fn default() -> Self {
        Self {
            count_max: 8,
            wait_min: Millis(10 * MINUTE),
            part_permille_max: 300,
            replan_min: Millis(10_000),
            is_for_small: false,
        }
    }
}

impl PreemptRules {
    /// When a gang that started at a time may be stopped: never in the cycle that started it, or the two could take turns in
    /// one instant.
    pub fn ripe_at(&self, started: Timestamp) -> Timestamp {
        started.plus(self.run_min.max(Millis(1)))
    }
}

impl Default for PreemptRules {
    fn default() -> Self {
        Self {
            run_min: Millis(5 * MINUTE),
            per_day_max: 4,
            checkpoint_wait_max: Millis(5 * MINUTE),
            victims_max: 64,
            order_permille: 2_000,
        }
    }
}

impl Default for StrikeRules {
    fn default() -> Self {
        Self { jobs: 3, window: Millis(HOUR), aside: Millis(HOUR) }
    }
}
