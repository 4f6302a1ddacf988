//! What every process of Muster shares: the clock, the environment, randomness, shutdown, logging and careful file writes.
//!
//! These are the only places that read the wall clock and the environment; everything else is handed values.

pub mod clock;
pub mod environment;
pub mod files;
pub mod logging;
pub mod random;
pub mod shutdown;

pub use shutdown::Shutdown;
