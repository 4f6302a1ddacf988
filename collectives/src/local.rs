//! The communicator of a world of one: every operation is the identity, but arguments are checked and abort still
//! poisons.

use std::sync::OnceLock;

use crate::buffer::{Buf, BufMut, Op};
use crate::communicator::{self, arguments};
use crate::error::Error;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Communicator {
    aborted: OnceLock<(Option<u32>, String)>,
}

impl Communicator {
    pub(crate) fn new() -> Self {
        Communicator::default()
    }

    fn alive(&self) -> Result<(), Error> {
        match self.aborted.get() {
            None => Ok(()),
            Some((culprit, cause)) => Err(Error::Aborted {
                culprit: *culprit,
                cause: cause.clone(),
                operation: "abort".to_owned(),
                sequence: 0,
            }),
        }
    }

    fn copy(&self, src: &Buf<'_>, dst: BufMut<'_>) -> Result<(), Error> {
        self.alive()?;
        dst.into_bytes().copy_from_slice(src.as_bytes());
        Ok(())
    }
}

impl communicator::Communicator for Communicator {
    fn rank(&self) -> u32 {
        0
    }
    fn world_size(&self) -> u32 {
        1
    }
    fn backend(&self) -> &'static str {
        "local"
    }
    fn all_reduce(&self, _: BufMut<'_>, _: Op) -> Result<(), Error> {
        self.alive()
    }
    fn reduce_scatter(&self, src: Buf<'_>, dst: BufMut<'_>, _: Op) -> Result<(), Error> {
        arguments::reduce_scatter(1, &src, &dst)?;
        self.copy(&src, dst)
    }
    fn all_gather(&self, src: Buf<'_>, dst: BufMut<'_>) -> Result<(), Error> {
        arguments::all_gather(1, &src, &dst)?;
        self.copy(&src, dst)
    }
    fn broadcast(&self, _: BufMut<'_>, root: u32) -> Result<(), Error> {
        arguments::root(1, root)?;
        self.alive()
    }
    fn barrier(&self) -> Result<(), Error> {
        self.alive()
    }
    fn check(&self) -> Result<(), Error> {
        self.alive()
    }
    fn abort(&self, cause: &str) {
        self.abort_blaming(Some(0), cause);
    }
    fn abort_blaming(&self, culprit: Option<u32>, cause: &str) {
        let _ = self.aborted.set((culprit, cause.to_owned()));
    }
}
