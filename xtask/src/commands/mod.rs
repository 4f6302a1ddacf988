//! One file for each subcommand.

pub mod bench;
pub mod dashboards;
pub mod fix;
pub mod fuzz;
pub mod release;
pub mod sbom;
pub mod tidy;
pub mod verify;
