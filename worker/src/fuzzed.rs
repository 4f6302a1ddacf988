//! What fuzzers call of a worker: the readers of what programs write that it runs, over any bytes. They panic only when what comes of
//! them is not what it should be.

pub use crate::shim::fuzzed::{event_file, event_files, metric_texts, metrics};
