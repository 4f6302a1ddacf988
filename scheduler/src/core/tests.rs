//! Tests of the core: random histories against books kept apart from it, and one named test for each rule.

mod exhaustive;
mod expected;
mod handover;
mod history;
mod invariants;
mod kept;
mod lending;
mod order;
mod promises;
mod rules;
mod world;
