//! The daemon on each machine.

mod cgroup;
mod config;
mod decide;
mod error;
mod expand;
mod layout;
mod lease;
mod process;
pub mod shim;
#[cfg(test)]
mod testing;

pub use config::{CgroupMode, Config, ConfigError, OnStop};
pub use error::Error;

/// Runs the daemon until `shutdown`, or until the cluster refuses it.
pub async fn run(config: Config, shutdown: daemon::Shutdown) -> Result<(), Error> {
    config.validate()?;
    shutdown.requested().await;
    Ok(())
}
