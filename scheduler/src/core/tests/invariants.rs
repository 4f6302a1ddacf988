//! The invariants of the scheduler, each over many random histories.

use super::history::{Step, mixed, step};
use super::world::World;
use crate::model::*;
use proptest::prelude::*;
use types::Timestamp;

/// A thousandfold in a release build.
pub(super) fn cases(release: u32) -> ProptestConfig {
    let cases = if cfg!(debug_assertions) { release / 40 + 16 } else { release };
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 600, ..ProptestConfig::default() }
}

pub(super) fn history(length: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((any::<u8>(), any::<u32>()), 1..length)
}

fn play(policy: &str, steps: &[Step]) -> World {
    let mut world = mixed(policy);
    for fact in steps {
        step(&mut world, *fact);
        world.decide();
    }
    world
}

proptest! {
    #![proptest_config(cases(4_000))]

    /// Invariants 1, 2, 3, 4, 7 (never later), 11 and 12 are looked at after every fact by `World::decide`.
    #[test]
    fn fair_share_keeps_its_books_and_bounds(steps in history(120)) {
        play("fair-share", &steps);
    }

    #[test]
    fn other_policies_keep_their_books_and_bounds(steps in history(60), policy in 0..6_usize) {
        play(["fifo", "easy", "conservative", "drf", "srtf", "las"][policy], &steps);
    }

    /// Invariant 10: the same facts give the same decisions, also from a snapshot, also without what is kept to be quick.
    #[test]
    fn same_facts_same_decisions(steps in history(80), cut in 0..80_usize) {
        let whole = play("fair-share", &steps);
        let cut = cut.min(steps.len());
        let mut world = play("fair-share", &steps[..cut]);
        let mut restored = world.clone();
        restored.core.forget_indexes();
        for fact in &steps[cut..] {
            for world in [&mut world, &mut restored] {
                step(world, *fact);
                world.decide();
            }
        }
        prop_assert_eq!(&whole.log, &world.log);
        prop_assert_eq!(&whole.log, &restored.log);
    }

    /// A budget cuts a cycle into pieces and changes nothing else.
    #[test]
    fn a_budget_only_cuts(steps in history(60)) {
        let mut world = mixed("drf");
        for fact in &steps {
            step(&mut world, *fact);
        }
        let mut cut = world.core.clone();
        let now = Timestamp(world.now);
        let whole = world.core.decide(now, Budget::UNLIMITED);
        let mut pieces = Vec::new();
        loop {
            pieces.extend(cut.decide(now, Budget(1)));
            if !cut.is_pending() {
                break;
            }
        }
        prop_assert_eq!(whole, pieces);
    }
}
