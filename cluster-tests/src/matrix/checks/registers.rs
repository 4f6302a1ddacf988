//! I9: what several clients wrote and read, each through any coordinator, is what one register could have answered.

use super::super::history::Told;
use crate::sim::linearizable::is_linearizable;
use std::time::Duration;

/// A history that is not decided by then is told as such: nothing was shown by it.
const DECIDES_WITHIN: Duration = Duration::from_secs(30);

/// Registers whose history no order explains.
pub(super) async fn linearizable(told: &Told) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, operations) in &told.registers {
        let (of, count) = (operations.clone(), operations.len());
        let decided = tokio::task::spawn_blocking(move || is_linearizable(&of));
        match tokio::time::timeout(DECIDES_WITHIN, decided).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => faults.push(format!("I9: no order explains the {count} reads and writes of {name}")),
            Ok(Err(error)) => faults.push(format!("I9: the check of {name} failed: {error}")),
            Err(_) => {
                faults.push(format!("I9: not decided within {DECIDES_WITHIN:?} for the {count} operations of {name}"));
            }
        }
    }
    faults
}
