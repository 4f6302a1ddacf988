//! One file for each subcommand.

pub mod bench;
pub mod fix;
pub mod tidy;
pub mod verify;
