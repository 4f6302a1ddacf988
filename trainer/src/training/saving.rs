//! Saving while the training goes on: a copy between two steps, written by a thread, with a name once all parts are written.
//!
//! Where all ranks see the same folder (those of one instance) each writes a part. That its part is written a rank says with
//! a later step's gradients, so nobody waits for it; rank 0 then gives the checkpoint its name. Where ranks have folders of
//! their own rank 0 writes everything, for a checkpoint is what one folder holds.
//!
//! A full disk must not end days of training: what cannot be saved is said, and the training goes on.

use std::path::{Path, PathBuf};

use collectives::{Buf, BufMut, Communicator, Op};

use super::Training;
use crate::buckets::Shared;
use crate::checkpoint::{Done, Fence, Order, Place, Shard, State, Writer, Written};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::optimizer::Optimizer;
use crate::progress::Progress;

/// What a rank has to do with checkpoints.
pub(super) struct Saver {
    rank: u32,
    /// Whether rank 0 has a folder for them.
    active: bool,
    /// Ranks that write parts.
    parts: u32,
    keep: u64,
    /// Absent on a rank that writes nothing.
    desk: Option<Desk>,
    /// The checkpoint of which not all parts are known to be written; there on all ranks or on none.
    pending: Option<Pending>,
    /// Checkpoints that wait for their name.
    unnamed: u32,
    /// To be said.
    finished: Vec<(u64, Result<Written, Error>)>,
}

/// Where a rank writes.
struct Desk {
    folder: PathBuf,
    fence: Fence,
    writer: Writer,
}

struct Pending {
    state: Box<State>,
    /// What became of this rank's part, once that is known.
    own: Option<Result<(), Error>>,
}

impl Saver {
    /// All ranks must come here together. Without a folder on rank 0 nothing is ever saved.
    pub(super) fn begin(
        folder: Option<&Path>,
        keep: u64,
        token: u64,
        communicator: &dyn Communicator,
    ) -> Result<Self, Error> {
        let (rank, world) = (communicator.rank(), communicator.world_size());
        let (mut desk, active) = (None, folder.is_some());
        // No secret: only different from start to start.
        let nonce = daemon::clock::boot_time().as_nanos() as i64 ^ i64::from(std::process::id()).rotate_left(40);
        let sit =
            |folder: &Path, fence| Ok::<_, Error>(Desk { folder: folder.to_owned(), fence, writer: Writer::new()? });
        if rank == 0
            && let Some(folder) = folder
        {
            desk = Some(sit(folder, Fence::take(folder, token, nonce as u64)?)?);
        }
        let mut told = [nonce, i64::from(active)];
        communicator.broadcast(BufMut::from(&mut told[..]), 0)?;
        let [nonce, active] = told;
        let mut all_see = [i32::from(folder.is_some_and(|folder| Fence::is_shared(folder, nonce as u64)))];
        communicator.all_reduce(BufMut::from(&mut all_see[..]), Op::Min)?;
        let parts = if all_see == [1] { world } else { 1 };
        if let (Some(folder), 1.., 2..) = (folder, rank, parts) {
            desk = Some(sit(folder, Fence::joined(folder, token))?);
        }
        let (pending, finished) = (None, Vec::new());
        Ok(Saver { rank, active: active == 1, parts, keep, desk, pending, unnamed: 0, finished })
    }

    /// What goes round with the next gradients: whether this rank's part was written, or could not be.
    pub(super) fn flags(&mut self) -> Result<(f32, f32), Error> {
        self.look()?;
        let own = self.pending.as_ref().and_then(|pending| pending.own.as_ref());
        let flag = |yes: Option<bool>| if yes == Some(true) { 1.0 } else { 0.0 };
        Ok((flag(own.map(Result::is_ok)), flag(own.map(Result::is_err))))
    }

    /// What all ranks said together.
    pub(super) fn heard(&mut self, shared: Shared, progress: &mut Progress) {
        let resolved = shared.written + shared.failed >= self.parts as f32;
        let Some(Pending { state, own }) = self.pending.take_if(|_| resolved) else { return };
        let step = state.step;
        if let Some(Err(error)) = &own {
            tracing::warn!(%error, step, "part of a checkpoint not written");
            if self.rank > 0 {
                progress.each(&format!("rank {}: part of checkpoint at step {step} not written: {error}", self.rank));
            }
        }
        let Some(desk) = self.desk.as_ref().filter(|_| self.rank == 0) else { return };
        let place = Place::new(&desk.folder, step, &desk.fence);
        if shared.failed == 0.0 {
            desk.writer.order(Order::Publish { place, state, parts: self.parts, keep: self.keep });
            self.unnamed += 1;
            return;
        }
        desk.writer.order(Order::Discard { place });
        let others = || Error::Internal("another rank could not write its part".to_owned());
        self.finished.push((step, Err(own.and_then(Result::err).unwrap_or_else(others))));
    }

    /// Takes in what the thread has done, without waiting.
    fn look(&mut self) -> Result<(), Error> {
        while let Some(done) = self.desk.as_ref().map_or(Ok(None), |desk| desk.writer.poll())? {
            self.take(done);
        }
        Ok(())
    }

    /// Waits for one thing that the thread does.
    fn wait(&mut self) -> Result<(), Error> {
        if let Some(desk) = &self.desk {
            let done = desk.writer.wait()?;
            self.take(done);
        }
        Ok(())
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Shard(result) => {
                if let Some(pending) = &mut self.pending {
                    pending.own = Some(result);
                }
            }
            Done::Published { step, result } => {
                self.unnamed = self.unnamed.saturating_sub(1);
                self.finished.push((step, result));
            }
        }
    }

    /// Waits until all parts of the last checkpoint are written or not; all ranks must come here together.
    fn settle(&mut self, communicator: &dyn Communicator, progress: &mut Progress) -> Result<(), Error> {
        while self.desk.is_some() && self.pending.as_ref().is_some_and(|pending| pending.own.is_none()) {
            self.wait()?;
        }
        if self.pending.is_some() {
            let (written, failed) = self.flags()?;
            let mut flags = [written, failed];
            communicator.all_reduce(BufMut::from(&mut flags[..]), Op::Sum)?;
            self.heard(Shared { written: flags[0], failed: flags[1], ..Shared::default() }, progress);
        }
        Ok(())
    }

    /// Waits until the last checkpoint has its name; all ranks must come here together.
    pub(super) fn end(&mut self, communicator: &dyn Communicator, progress: &mut Progress) -> Result<(), Error> {
        self.settle(communicator, progress)?;
        while self.unnamed > 0 {
            self.wait()?;
        }
        Ok(())
    }

    /// Tells of checkpoints that are there, or are not.
    pub(super) fn announce(&mut self, metrics: &mut Metrics, progress: &mut Progress) -> Result<(), Error> {
        self.look()?;
        for (step, result) in self.finished.drain(..) {
            match result {
                Ok(Written { name, step }) => {
                    let told = metrics.saved(&name, step);
                    let note = if told { "" } else { " (the worker was not told: it does not read)" };
                    progress.line(&format!("checkpoint {name} saved{note}"));
                }
                Err(error) => {
                    tracing::warn!(%error, step, "checkpoint not saved");
                    progress.line(&format!("checkpoint at step {step} not saved: {error}"));
                }
            }
        }
        Ok(())
    }
}

impl Training<'_> {
    /// Begins a checkpoint of the step just done. All ranks must come here together; what they wait for is the copy, and the
    /// checkpoint before this one where it is not written yet.
    pub(super) fn save(&mut self) -> Result<(), Error> {
        if !self.saver.active {
            return Ok(());
        }
        let started = daemon::clock::boot_time();
        self.saver.settle(&*self.communicator, &mut self.progress)?;
        let (rank, parts) = (self.rank(), self.saver.parts);
        let gathered = if self.layout.is_sharded() && parts == 1 { Some(self.whole_memory()?) } else { None };
        if let Some(desk) = &self.saver.desk {
            let optimizer = gathered.as_ref().unwrap_or(&self.optimizer);
            let ranges = self.layout.parts(rank as usize, parts as usize);
            let shard = Shard::take((rank, parts), &self.parameters, &self.model.values, optimizer, &ranges);
            let place = Place::new(&desk.folder, self.state.step, &desk.fence);
            desk.writer.order(Order::Shard { place, rank, shard });
        }
        self.saver.pending = Some(Pending { state: Box::new(self.state.clone()), own: None });
        if rank == 0 {
            let stall = daemon::clock::boot_time().saturating_sub(started);
            self.metrics.point("checkpoint_stall", stall.as_secs_f64(), self.state.step);
        }
        Ok(())
    }

    /// The optimizer's memory of all values, from the ranks that hold its parts.
    fn whole_memory(&self) -> Result<Optimizer, Error> {
        let mut whole = self.optimizer.for_all(&self.layout.parts(0, 1));
        for (slot, all) in self.optimizer.slots.iter().zip(&mut whole.slots) {
            let mut start = 0;
            for (own, place) in self.optimizer.owned().iter().zip(self.layout.parts(0, 1)) {
                let part = Buf::from(&slot.values[start..start + own.len()]);
                self.communicator.all_gather(part, BufMut::from(&mut all.values[place]))?;
                start += own.len();
            }
        }
        Ok(whole)
    }
}
