//! What a rank learns from, step by step; prepared by a thread of its own some steps ahead.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use super::Part;
use crate::checkpoint::Position;
use crate::error::Error;
use crate::model::Batch;
use crate::shards;

/// A rank's share of one step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lot {
    pub(crate) position: Position,
    /// Samples of the step over all ranks.
    pub(crate) samples: usize,
    /// This rank's, in portions that go through the model one after another; none where there are fewer samples than ranks.
    pub(crate) batches: Vec<Batch>,
}

/// Makes the lots, one after another.
pub(crate) struct Source {
    pub(crate) part: Arc<Part>,
    pub(crate) seed: u64,
    /// Over all ranks.
    pub(crate) batch_size: usize,
    /// Most samples of a portion.
    pub(crate) micro_batch: usize,
    pub(crate) rank: u32,
    pub(crate) world: u32,
    /// Of the next lot.
    pub(crate) position: Position,
    /// Of the epoch at hand.
    pub(crate) order: Option<(u64, Vec<u32>)>,
}

impl Source {
    fn next(&mut self) -> Lot {
        let (position, samples) = (self.position, self.part.len());
        let order = match self.order.take() {
            Some((epoch, order)) if epoch == position.epoch => order,
            _ => shards::order(self.seed, position.epoch, samples),
        };
        let offset = shards::offset(self.seed, position.epoch, self.part.slack());
        let whole = shards::batch(samples, self.batch_size, position.batch);
        let mine = &order[shards::share(&whole, self.rank, self.world)];
        let gather = |portion: &[u32]| self.part.gather_moved(portion.iter().map(|at| *at as usize), offset);
        let batches = mine.chunks(self.micro_batch.max(1)).map(gather).collect();
        self.order = Some((position.epoch, order));
        self.position = match position.batch + 1 {
            batch if batch == shards::batches(samples, self.batch_size) => {
                Position { epoch: position.epoch + 1, batch: 0 }
            }
            batch => Position { batch, ..position },
        };
        Lot { position, samples: whole.len(), batches }
    }
}

/// Where the lots come from.
pub(crate) enum Feed {
    /// Made when they are asked for.
    Direct(Box<Source>),
    /// Made ahead.
    Ahead(Receiver<Lot>),
}

impl Feed {
    /// With `ahead` lots in store; with 0 there is no thread.
    pub(crate) fn new(mut source: Source, ahead: usize) -> Result<Self, Error> {
        if ahead == 0 {
            return Ok(Feed::Direct(Box::new(source)));
        }
        let (store, lots) = sync_channel(ahead);
        // It ends with the first lot that nobody takes any more.
        let run = move || while store.send(source.next()).is_ok() {};
        std::thread::Builder::new()
            .name("samples".to_owned())
            .spawn(run)
            .map_err(|error| Error::Internal(format!("no thread for the samples: {error}")))?;
        Ok(Feed::Ahead(lots))
    }

    /// The next lot; it never ends.
    pub(crate) fn next(&mut self) -> Result<Lot, Error> {
        match self {
            Feed::Direct(source) => Ok(source.next()),
            Feed::Ahead(lots) => lots.recv().map_err(|_| Error::Internal("the thread of the samples ended".to_owned())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn source(micro_batch: usize, position: Position) -> Source {
        let part = Part {
            features: (0..23).map(|at| at as f32).collect(),
            width: 1,
            labels: vec![0; 23],
            positions: 1,
            slack: 0,
        };
        Source { part: Arc::new(part), seed: 4, batch_size: 5, micro_batch, rank: 1, world: 2, position, order: None }
    }

    #[test]
    fn lots_made_ahead_are_the_same() {
        let mut feeds = [0, 1, 3].map(|ahead| Feed::new(source(2, Position::default()), ahead).unwrap());
        for number in 0..13 {
            let lots: Vec<Lot> = feeds.iter_mut().map(|feed| feed.next().unwrap()).collect();
            assert!(lots.iter().all(|lot| *lot == lots[0]));
            assert_eq!(lots[0].position, Position { epoch: number / 5, batch: number % 5 });
            assert_eq!(lots[0].samples, if number % 5 == 4 { 3 } else { 5 });
            assert!(lots[0].batches.iter().all(|batch| (1..=2).contains(&batch.count)));
        }
    }

    #[test]
    fn a_feed_that_begins_in_the_middle_gives_what_follows_there() {
        let mut whole = Feed::new(source(9, Position::default()), 0).unwrap();
        (0..7).for_each(|_| drop(whole.next()));
        let mut later = Feed::new(source(9, Position { epoch: 1, batch: 2 }), 2).unwrap();
        for _ in 0..6 {
            assert_eq!(whole.next().unwrap(), later.next().unwrap());
        }
    }
}
