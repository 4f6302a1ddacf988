//! Why a coordinator's store cannot be used, in words that tell the operator what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store under a data directory was not opened, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes on disk are not those that were written. Nothing of this store may be used: an acknowledged entry or vote
    /// could be missing.
    #[error(
        "the Raft store is damaged: {}: {what}; this copy is not used. To recover from the peers: take this coordinator \
         out of the group (`muster cluster remove` with its --id), move {} aside, and start it again with an --id that \
         was never used and with --join and the address of a healthy coordinator: it copies everything from its peers",
        file.display(), folder.display()
    )]
    Corrupt {
        /// The file, and the key in it where there is one.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The folder to move aside.
        folder: PathBuf,
    },
    /// The directory belongs to somebody else.
    #[error(
        "{} belongs to {found}, not to {wanted}: give this coordinator a --data folder of its own, or start it with the identity \
         that the directory has",
        file.display()
    )]
    Foreign {
        /// The header file.
        file: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// Written by a newer or much older program.
    #[error("{} has store format {found}; this program reads format {wanted}", file.display())]
    Format {
        /// The header file.
        file: PathBuf,
        /// In the file.
        found: u32,
        /// Of this program.
        wanted: u32,
    },
    /// Another process has it, or it cannot be locked.
    #[error(transparent)]
    Lock(#[from] daemon::files::LockError),
    /// The operating system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An earlier write or flush failed: what is on disk is no longer known, so nothing more is written.
    #[error("the store has stopped because {0}")]
    Stopped(String),
}

impl StoreError {
    /// Wraps an error of the operating system.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// Names a damaged file under the Raft folder.
    pub(crate) fn corrupt(folder: &Path, file: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.into(), what: what.into(), folder: folder.to_owned() }
    }

    /// With all that caused it, for where only a text can be handed on.
    pub(crate) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// As openraft wants it; the kind tells damage from refusal, the text is kept whole.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Corrupt { .. } => io::ErrorKind::InvalidData,
            Self::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}
