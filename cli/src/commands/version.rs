//! `muster version`: what this build speaks and reads, so that an operator knows what fits what.

use super::Session;
use crate::failure::Exit;
use serde_json::json;

/// Prints it; needs no cluster.
pub fn run(session: &Session) -> anyhow::Result<Exit> {
    let coordinator::Formats { store, snapshot, backup } = coordinator::FORMATS;
    let (version, protocol) = (env!("CARGO_PKG_VERSION"), proto::PROTOCOL);
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let value = json!({
        "version": version, "protocol": protocol, "store_format": store, "snapshot_format": snapshot,
        "backup_format": backup, "os": os, "arch": arch,
    });
    session.output.print(&value, |_| {
        format!(
            "muster {version} ({os}, {arch})\nprotocol {protocol}, stores of format {store}, snapshots of format {snapshot}, backups of \
             format {backup}\n"
        )
    })?;
    Ok(Exit::Success)
}
