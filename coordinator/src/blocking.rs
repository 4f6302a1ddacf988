//! Work that blocks on the disk: off the runtime's own threads, or in its place on a runtime of one thread.
//!
//! A simulation has one thread and must do the same in the same order each time; work on another thread ends when it likes.

use std::io;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs it to its end. An error when it panicked, or the runtime is ending.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
