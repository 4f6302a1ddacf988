//! What the scheduler looks at: values only, in a fixed order; no clock but the one in the view.

use types::{GangSpec, JobId, Timestamp, WorkerId};

/// The cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View<'a> {
    /// Now, as the caller sees it.
    pub now: Timestamp,
    /// By name.
    pub workers: Vec<WorkerView<'a>>,
    /// In the order in which they may start.
    pub waiting: Vec<WaitingGang<'a>>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView<'a> {
    /// Its name.
    pub id: &'a WorkerId,
    /// Takes new gangs: neither lost nor cordoned nor draining.
    pub open: bool,
    /// CPU slots in all.
    pub cpus_total: u32,
    /// CPU slots free.
    pub cpus_free: u32,
    /// Bytes in all.
    pub memory_bytes_total: u64,
    /// Bytes free.
    pub memory_bytes_free: u64,
    /// Healthy GPUs in all.
    pub devices_total: u32,
    /// Free healthy GPUs by index, rising.
    pub devices_free: Vec<u32>,
}

/// One gang that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingGang<'a> {
    /// Its job.
    pub job: JobId,
    /// Its shape.
    pub gang: &'a GangSpec,
    /// Not before this time.
    pub ready_at: Timestamp,
    /// Workers that failed to prepare it, the latest first: used only where no other will do, the latest last.
    pub avoid: Vec<&'a WorkerId>,
}
