//! The thread that sums buckets while the backward pass goes on: it runs what was sent, in the order in which it was sent.
//!
//! Whoever sends must receive everything back before using the communicator again, since all ranks make the same calls in
//! the same order.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use collectives::{Buf, BufMut, CommBuf, Communicator, Op};

use crate::error::Error;

/// One bucket on its way.
pub(crate) struct Parcel {
    pub(crate) bucket: usize,
    /// Values to be summed, at the beginning of the buffer.
    pub(crate) length: usize,
    pub(crate) buffer: CommBuf,
    /// Where this rank's part of the sums goes; empty where every rank gets all of them, in place.
    pub(crate) own: Vec<f32>,
}

/// Owner of the thread. Dropping it waits for what was sent, which the end of the communicator makes short.
pub(crate) struct Lane {
    queue: Option<SyncSender<Parcel>>,
    done: Receiver<Result<Parcel, collectives::Error>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    /// For at most `most` buckets under way.
    pub(crate) fn new(communicator: Arc<dyn Communicator>, most: usize) -> Result<Self, Error> {
        let (queue, work) = sync_channel::<Parcel>(most);
        let (answer, done) = sync_channel(most);
        let run = move || {
            while let Ok(parcel) = work.recv() {
                // Nobody receives after an error; the next operation fails at once anyway.
                let _ = answer.send(sum(&*communicator, parcel));
            }
        };
        let thread = std::thread::Builder::new().name("gradients".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::Internal(format!("no thread for the gradients: {error}")))?;
        Ok(Lane { queue: Some(queue), done, thread: Some(thread) })
    }

    /// Queues a bucket; never waits, since no more are sent than have a place.
    pub(crate) fn send(&self, parcel: Parcel) {
        if let Some(queue) = &self.queue {
            // Fails only after the thread has ended, which `receive` reports.
            let _ = queue.send(parcel);
        }
    }

    /// Waits for the bucket that was sent first.
    pub(crate) fn receive(&self) -> Result<Parcel, Error> {
        let answer = self.done.recv().map_err(|_| Error::Internal("the thread of the gradients ended".to_owned()))?;
        Ok(answer?)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn sum(communicator: &dyn Communicator, mut parcel: Parcel) -> Result<Parcel, collectives::Error> {
    let Parcel { length, buffer, own, .. } = &mut parcel;
    let values = buffer.elements_mut::<f32>().get_mut(..*length).unwrap_or_default();
    if own.is_empty() {
        communicator.all_reduce(BufMut::from(values), Op::Sum)?;
    } else {
        communicator.reduce_scatter(Buf::from(&*values), BufMut::from(own), Op::Sum)?;
    }
    Ok(parcel)
}
