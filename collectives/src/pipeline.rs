//! Reductions in the background: a thread that runs what was submitted, in submission order, while the caller computes.
//!
//! Submission order is execution order, so all ranks must submit alike. Nobody else may use the communicator meanwhile.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::buffer::{BufMut, Op};
use crate::communicator::Communicator;
use crate::error::Error;

/// Submissions that may wait; a caller that is further ahead than this waits in `submit`.
const IN_FLIGHT_MAX: usize = 1024;

type Answer = Result<Vec<f32>, Error>;

struct Submission {
    buffer: Vec<f32>,
    op: Op,
    reply: SyncSender<Answer>,
}

/// Owner of the progress thread. Dropping it waits for what was submitted; call `abort` on the communicator to be
/// quick.
pub struct Pipeline {
    queue: Option<SyncSender<Submission>>,
    thread: Option<JoinHandle<()>>,
}

/// One reduction under way.
#[must_use = "the sum is lost unless waited for"]
pub struct Handle {
    answer: Receiver<Answer>,
}

impl Pipeline {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the system has no thread left.
    pub fn new(communicator: Arc<dyn Communicator>) -> Result<Self, Error> {
        let (queue, work) = sync_channel(IN_FLIGHT_MAX);
        let thread = std::thread::Builder::new()
            .name("collectives".to_owned())
            .spawn(move || run(&*communicator, &work))
            .map_err(|error| Error::Invalid { reason: format!("no thread for the pipeline: {error}") })?;
        Ok(Pipeline { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues an all-reduce of `buffer`, which comes back through the handle. Waits only when 1024 are under way.
    pub fn submit(&self, buffer: Vec<f32>, op: Op) -> Handle {
        // One place: the thread never waits for a caller that dropped or forgot its handle.
        let (reply, answer) = sync_channel(1);
        if let Some(queue) = &self.queue {
            // A send fails only after the thread has ended; the handle then reports that.
            let _ = queue.send(Submission { buffer, op, reply });
        }
        Handle { answer }
    }
}

impl Handle {
    /// Waits for the reduced buffer. The communicator's operation timeout bounds the wait.
    pub fn wait(self) -> Result<Vec<f32>, Error> {
        self.answer.recv().unwrap_or_else(|_| {
            Err(Error::Aborted {
                culprit: None,
                cause: "the pipeline thread ended".to_owned(),
                operation: "all_reduce".to_owned(),
                sequence: 0,
            })
        })
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(communicator: &dyn Communicator, work: &Receiver<Submission>) {
    while let Ok(Submission { mut buffer, op, reply }) = work.recv() {
        let result = communicator.all_reduce(BufMut::from(&mut buffer), op);
        // A caller that no longer wants the sum is no fault: the other ranks need this rank's share all the same.
        let _ = reply.send(result.map(|()| buffer));
    }
}
