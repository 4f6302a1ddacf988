//! Whole clusters as real processes of the program `muster`: for the tests in `tests/` and for the benchmarks.
//!
//! ```text
//! Cluster ── Daemon (coordinators, workers; each on a leash: its stdin, which the kernel closes with this process)
//!    ├─ muster(..)   the command, with this cluster as its context
//!    ├─ client()     the SDK
//!    └─ Janitor      a process of its own that ends everything that names the cluster's folder, however this one ends
//! ```
//!
//! Nothing here sleeps for a fixed time: `until` looks again and again for a state, and says which one did not come.

mod cluster;
mod command;
pub mod crowd;
mod daemon_process;
pub mod https;
mod janitor;
mod jobs;
mod network;
mod shape;
mod silence;
mod small_disk;
mod wait;

pub mod bench;
pub mod matrix;
pub mod sim;

pub use cluster::{Cluster, is_alive};
pub use command::{Answer, Following};
pub use daemon_process::Daemon;
pub use jobs::{gang, spec};
pub use network::Network;
pub use shape::{Shape, WorkerShape};
pub use small_disk::SmallDisk;
pub use wait::{PATIENCE, until};
