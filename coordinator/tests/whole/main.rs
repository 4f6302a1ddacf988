//! Tests over whole coordinators, as `coordinator::run` makes them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod logs;
mod matrix;
mod run;
mod secrets;
mod sessions;
mod support;
