//! The columns of our own format, as CSV and as JSON, and the bounds of their values.

use super::csv::SECONDS_MAX;

/// Longest run time and walltime in seconds.
pub const RUN_MAX_SECONDS: u64 = SECONDS_MAX;

/// Most devices and CPU slots of one job.
pub(crate) const DEVICES_MAX: u64 = 1_000_000;
/// Priorities to both sides of 0.
pub(crate) const PRIORITY_MAX: i64 = 1_000_000;

/// Name, meaning; the first three are required.
pub const COLUMNS: [(&str, &str); 11] = [
    ("submit_s", "seconds from any begin"),
    ("run_s", "seconds on its GPUs, undisturbed"),
    ("gpus", "all GPUs of the job"),
    ("name", "for people"),
    ("queue", "the queue"),
    ("user", "whose job it is"),
    ("walltime_s", "what the user says that it runs at most"),
    ("gpus_per_machine", "the job wants its GPUs in groups of so many on a machine"),
    ("gpus_min", "an elastic job runs with so many too"),
    ("cpus", "CPU slots for each GPU, or of the job when it has none"),
    ("priority", "higher goes first"),
];

/// Names become numbers, in the order in which they first come.
#[derive(Default)]
pub(crate) struct Names {
    index: std::collections::BTreeMap<String, u32>,
    names: Vec<String>,
}

impl Names {
    /// The number of a name.
    pub(crate) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.index.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.index.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }

    /// The names by number.
    pub(crate) fn into_names(self) -> Vec<String> {
        self.names
    }
}
