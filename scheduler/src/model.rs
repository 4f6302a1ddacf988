//! The words of the scheduling core: workers, gangs, queues, the facts that go in and the decisions that come out.
//!
//! Times are whole milliseconds. Names (classes, queues, users, labels) are text here and small numbers inside the core.

mod event;
mod gang;
mod queue;
mod worker;

pub use event::{Budget, Decision, EndedBy, Event, Refused, Scheduler, Stop};
pub use gang::{Checkpoint, ClassChoice, GangRequest, Placed, Range, RunTime, Shape, Spread};
pub use queue::{QueueSpec, Quota, UNLIMITED};
pub use worker::{Level, Place, WorkerIndex, WorkerSpec, WorkerState};
