//! The simulator: the same core as in the live cluster, driven by a trace in virtual time. Pure: texts and a seed in,
//! a report out.

pub mod random;
pub mod trace;
