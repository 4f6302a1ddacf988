//! Threads of Raft's own: heartbeats, votes and entries must not wait behind whatever else this process does. A thousand workers
//! that come back at the same moment, each with a handshake, would else hold up the heartbeats until the next election.

use super::Error;
use std::future::Future;
use tokio::runtime::{Builder, Handle, Runtime};

/// They wait most of the time; two, so that an entry that is encoded holds up no heartbeat.
const THREADS: usize = 2;

/// A runtime beside the one of everything else; its tasks end with this.
pub(super) struct Threads(Option<Runtime>, Handle);

impl Threads {
    /// Starts them.
    pub(super) fn start() -> Result<Self, Error> {
        let built = Builder::new_multi_thread().worker_threads(THREADS).thread_name("raft").enable_all().build();
        let runtime = built.map_err(|source| Error::Io { what: "start threads for Raft".into(), source })?;
        let handle = runtime.handle().clone();
        Ok(Self(Some(runtime), handle))
    }

    /// For what is to run there.
    pub(super) fn handle(&self) -> &Handle {
        &self.1
    }

    /// Does something there, where the tasks that it starts then live.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        self.1.spawn(work).await.map_err(|error| Error::Failed(error.to_string()))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Not waited for: this may be dropped where nothing may block.
            runtime.shutdown_background();
        }
    }
}
