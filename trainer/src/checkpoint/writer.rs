//! The thread that writes checkpoints while the training goes on, in the order in which they were ordered.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use super::{Place, Shard, State, Written};
use crate::error::Error;

/// Orders that may wait. The training has at most one checkpoint unwritten and one without a name.
const ORDERS_MAX: usize = 4;

/// What the thread can be told.
pub(crate) enum Order {
    /// To write a rank's part.
    Shard {
        /// Where.
        place: Place,
        /// Whose.
        rank: u32,
        /// What.
        shard: Shard,
    },
    /// To give the whole its name, once all have written their parts.
    Publish {
        /// Where.
        place: Place,
        /// Goes beside the parts.
        state: Box<State>,
        /// How many there are.
        parts: u32,
        /// How many checkpoints are kept.
        keep: u64,
    },
    /// To remove what was written of it.
    Discard {
        /// Where.
        place: Place,
    },
}

/// What the thread tells.
#[derive(Debug)]
pub(crate) enum Done {
    /// A part is written, or not.
    Shard(Result<(), Error>),
    /// A checkpoint is there, or not.
    Published {
        /// Its step.
        step: u64,
        /// Which, or why not.
        result: Result<Written, Error>,
    },
}

/// Owner of the thread. Dropping it waits for what was ordered.
pub(crate) struct Writer {
    orders: Option<SyncSender<Order>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn new() -> Result<Self, Error> {
        let (orders, work) = sync_channel::<Order>(ORDERS_MAX);
        let (answer, done) = sync_channel(ORDERS_MAX);
        let run = move || {
            while let Ok(order) = work.recv() {
                if let Some(done) = carry_out(order) {
                    // Nobody hears of it where the training has ended by an error.
                    let _ = answer.send(done);
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpoints".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::Internal(format!("no thread for checkpoints: {error}")))?;
        Ok(Writer { orders: Some(orders), done, thread: Some(thread) })
    }

    /// Queues an order; waits where too many are queued.
    pub(crate) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // Fails only after the thread has ended, which `wait` reports.
            let _ = orders.send(order);
        }
    }

    /// What was done meanwhile, if anything.
    pub(crate) fn poll(&self) -> Result<Option<Done>, Error> {
        match self.done.try_recv() {
            Ok(done) => Ok(Some(done)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }

    /// The next thing that is done.
    pub(crate) fn wait(&self) -> Result<Done, Error> {
        self.done.recv().map_err(|_| ended())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // What is done is no longer looked at, and must not hold the thread up.
            while self.done.recv().is_ok() {}
            let _ = thread.join();
        }
    }
}

fn ended() -> Error {
    Error::Internal("the thread of the checkpoints ended".to_owned())
}

fn carry_out(order: Order) -> Option<Done> {
    match order {
        Order::Shard { place, rank, shard } => Some(Done::Shard(place.write_shard(rank, &shard))),
        Order::Publish { place, state, parts, keep } => {
            let result = place.publish(&state, parts, keep);
            if result.is_err() {
                place.discard();
            }
            Some(Done::Published { step: place.step(), result })
        }
        Order::Discard { place } => {
            place.discard();
            None
        }
    }
}
