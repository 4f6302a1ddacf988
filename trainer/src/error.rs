//! What can go wrong in a rank, with enough said to mend it: faults of a file are listed all at once, each with its
//! line.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong with a configuration or data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, or `--key` for a value given on the command line.
    pub place: String,
    /// Line in the file, from 1, where there is one.
    pub line: Option<usize>,
    /// Dotted name of the field; empty where the fault has none.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Why a rank did not train to the end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong; every fault is listed.
    #[error("the configuration has {}", list(.faults))]
    Config {
        /// In the order of the file.
        faults: Vec<Fault>,
    },
    /// A data file is wrong; the first faults are listed.
    #[error("the data has {}", list(.faults))]
    Data {
        /// In the order of the file.
        faults: Vec<Fault>,
    },
    /// The environment that a worker sets for a rank does not make sense.
    #[error("the environment of this rank is wrong: {reason}")]
    Environment {
        /// Which variable or file, and why.
        reason: String,
    },
    /// A checkpoint cannot be used.
    #[error("checkpoint file {} is refused: {reason}", .path.display())]
    Checkpoint {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Ranks that must hold the same do not.
    #[error("{what} differ between ranks: ranks {ranks:?} differ from rank 0")]
    Unequal {
        /// What was compared.
        what: &'static str,
        /// Those that differ from rank 0.
        ranks: Vec<u32>,
    },
    /// The loss is no longer a number: the learning rate is too high, or the data is broken.
    #[error("loss is {loss} after step {step}: try a lower learning rate, gradient clipping or scaled data")]
    NotFinite {
        /// The step that gave it.
        step: u64,
        /// Infinity or not a number.
        loss: f32,
    },
    /// Another rank failed, or the network did.
    #[error(transparent)]
    Collective(#[from] collectives::Error),
    /// A part of this program broke its own rule.
    #[error("internal fault: {0}")]
    Internal(String),
}

impl Error {
    /// The process exit code for this error: 2 where what the user wrote is wrong, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config { .. } | Error::Data { .. } => 2,
            _ => 1,
        }
    }

    /// The one rank to blame, where there is one.
    pub fn culprit(&self) -> Option<u32> {
        match self {
            Error::Collective(error) => error.culprit(),
            _ => None,
        }
    }

    /// Whether all ranks come to this error at the same place by themselves, so that none has to be told.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Error::Unequal { .. } | Error::NotFinite { .. })
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }
}

fn list(faults: &[Fault]) -> String {
    let mut text = format!("{} fault{}", faults.len(), if faults.len() == 1 { "" } else { "s" });
    for fault in faults {
        text.push_str("\n  ");
        text.push_str(&fault.to_string());
    }
    text
}
