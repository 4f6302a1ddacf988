//! What fuzzers call: the readers of what other ranks send, over any bytes. They panic only when something was taken that does not
//! come out again as it went in.

pub use crate::tcp::{frame, frames};
