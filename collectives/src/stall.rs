//! Operations that wait for long: who is behind is told once, and again when that changes, while there is still time to
//! look; the time limit comes much later.
//!
//! A rank that hangs, or was stopped, cannot tell anything: those that wait for it do.

use std::fmt;
use std::time::Duration;

use crate::recorder::Entry;

/// A rank that others wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Which rank.
    pub rank: u32,
    /// The operation that it was last heard in: that of those who wait, where it came but does not go on.
    pub sequence: u64,
}

/// One operation that waits longer than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// This rank's operation.
    pub operation: Entry,
    /// For whom it waits, in rank order; empty when it goes on.
    pub behind: Vec<Behind>,
    /// Since when nothing moved.
    pub waited: Duration,
}

/// What is done about it, on the thread that waits: it must not block for long.
pub type Tell = Box<dyn Fn(&Stall) + Send + Sync>;

/// When to tell, and whom.
pub(crate) struct Watch {
    pub(crate) after: Duration,
    pub(crate) tell: Tell,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("after", &self.after).finish_non_exhaustive()
    }
}

/// One wait, as far as it was told of.
pub(crate) struct Wait<'a> {
    watch: Option<&'a Watch>,
    told: Vec<Behind>,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(watch: Option<&'a Watch>) -> Self {
        Wait { watch, told: Vec::new() }
    }

    /// Tells who is behind, if it is time to and not told yet.
    pub(crate) fn look(
        &mut self,
        waited: Duration,
        operation: impl FnOnce() -> Option<Entry>,
        behind: impl FnOnce() -> Vec<Behind>,
    ) {
        let Some(watch) = self.watch.filter(|watch| waited >= watch.after) else { return };
        let behind = behind();
        if behind == self.told {
            return;
        }
        if let Some(operation) = operation() {
            self.told.clone_from(&behind);
            (watch.tell)(&Stall { operation, behind, waited });
        }
    }

    /// Tells that it goes on, where the contrary was told.
    pub(crate) fn over(&mut self, waited: Duration, operation: impl FnOnce() -> Option<Entry>) {
        if self.told.is_empty() {
            return;
        }
        self.told.clear();
        if let (Some(watch), Some(operation)) = (self.watch, operation()) {
            (watch.tell)(&Stall { operation, behind: Vec::new(), waited });
        }
    }
}
