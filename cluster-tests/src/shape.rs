//! What kind of cluster is wanted.

use std::ffi::OsString;

/// A cluster to start.
#[derive(Clone, Debug)]
pub struct Shape {
    /// 1, 3 or 5.
    pub coordinators: u64,
    /// Workers, named `worker-1` and so on.
    pub workers: usize,
    /// What each worker is told.
    pub worker: WorkerShape,
    /// Further arguments of each coordinator.
    pub coordinator_arguments: Vec<OsString>,
}

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct WorkerShape {
    /// CPU slots.
    pub cpus: u32,
    /// Further arguments.
    pub arguments: Vec<OsString>,
    /// A program that ends by running what follows it (`unshare -m ..`); empty = none.
    pub wrapper: Vec<OsString>,
}

impl Shape {
    /// A cluster of so many coordinators and workers, with four CPU slots a worker.
    pub fn new(coordinators: u64, workers: usize) -> Self {
        Self { coordinators, workers, worker: WorkerShape::default(), coordinator_arguments: Vec::new() }
    }

    /// The same with so many CPU slots a worker.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.worker.cpus = cpus;
        self
    }
}

impl Default for WorkerShape {
    fn default() -> Self {
        Self { cpus: 4, arguments: Vec::new(), wrapper: Vec::new() }
    }
}
