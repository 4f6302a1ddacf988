//! Checks on public traces, against results that others published. The traces are not part of the project: their folder
//! is given by `MUSTER_TRACES`; without it these tests say that they were skipped.
#![allow(clippy::unwrap_used, clippy::panic)]

mod batsim;
mod muri;
mod openb;
mod restart_all;
mod support;
