//! The call with which a rank joins: on a thread of its own, since a library that does not come back from it would take the rank,
//! and with it all others, past every time limit.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Instant;

use cudarc::driver::CudaContext;

use super::communicator::cuda;
use super::handle::Raw;
use super::library::library;
use super::watch::LOOK_EVERY;
use super::{Start, sound};
use crate::error::Error;

const JOINING: &str = "joining the group";

/// Begins to join; on an error the guard is ended. A call that never comes back is left behind with its thread.
pub(super) fn begin(start: &Start, context: &Arc<CudaContext>) -> Result<Raw, Error> {
    let begun = on_a_thread(start, Arc::clone(context));
    begun.inspect_err(|error| {
        if let Some(guard) = &start.guard {
            // Of a time limit nobody is known to be the cause.
            let culprit = (!matches!(error, Error::Timeout { .. })).then_some(start.rank);
            guard.abort_blaming(culprit, &error.to_string());
        }
    })
}

fn on_a_thread(start: &Start, context: Arc<CudaContext>) -> Result<Raw, Error> {
    let (rank, world, id) = (start.rank, start.world_size, start.unique_id);
    let (sender, receiver) = sync_channel(1);
    let join = move || {
        let begun = sound(JOINING, || {
            context.bind_to_thread().map_err(|error| cuda("cuCtxSetCurrent", error))?;
            Raw::begin(library()?, rank, world, &id)
        });
        // Nobody waits any more after the time limit; the handle is then ended here.
        let _ = sender.send(begun.flatten());
    };
    let spawned = std::thread::Builder::new().name("nccl-join".to_owned()).spawn(join);
    spawned.map_err(|error| Error::Invalid { reason: format!("no thread to join with: {error}") })?;
    let deadline = Instant::now() + start.limits.timeout;
    loop {
        match receiver.recv_timeout(LOOK_EVERY) {
            Ok(begun) => return begun,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Invalid { reason: "the thread to join with ended".to_owned() });
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                return Err(Error::Timeout { waiting_for: Vec::new(), operation: JOINING.to_owned(), sequence: 0 });
            }
            Err(RecvTimeoutError::Timeout) => start.guard.as_ref().map_or(Ok(()), |guard| guard.check())?,
        }
    }
}
