//! Who may write into a folder of checkpoints: the attempt with the highest token, and with several ranks in the same folder
//! all of them together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::write::remove;
use crate::error::Error;
use crate::files;

const NAME: &str = ".attempt.json";
const BYTES_MAX: u64 = 4096;

/// What stands in the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    token: u64,
    /// Different in every folder and at every start, so that ranks can tell whether theirs is the same folder.
    nonce: u64,
}

/// One attempt's right to write.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    folder: PathBuf,
    token: u64,
}

impl Fence {
    /// Takes the folder for this attempt and removes what killed processes left half-written in it. Only rank 0 does.
    ///
    /// # Errors
    /// [`Error::Io`], also where a later attempt has the folder.
    pub(crate) fn take(folder: &Path, token: u64, nonce: u64) -> Result<Self, Error> {
        let fence = Fence { folder: folder.to_owned(), token };
        daemon::files::create_private_folder(folder).map_err(Error::io("make", folder))?;
        fence.check()?;
        let json = serde_json::to_vec(&Mark { token, nonce }).map_err(|error| Error::Internal(error.to_string()))?;
        let path = folder.join(NAME);
        daemon::files::write_atomically(&path, &json).map_err(Error::io("write", &path))?;
        for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
            let path = entry.map_err(Error::io("list", folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(".step-") && name.ends_with(".tmp") {
                remove(&path)?;
            }
        }
        Ok(fence)
    }

    /// Whether `folder` is the one that rank 0 has taken with this nonce.
    pub(crate) fn is_shared(folder: &Path, nonce: u64) -> bool {
        read(folder).ok().flatten().is_some_and(|mark| mark.nonce == nonce)
    }

    /// As another rank of the attempt that has taken the folder.
    pub(crate) fn joined(folder: &Path, token: u64) -> Self {
        Fence { folder: folder.to_owned(), token }
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// Whether no later attempt has taken the folder.
    ///
    /// # Errors
    /// [`Error::Io`] where one has.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match read(&self.folder)? {
            Some(mark) if mark.token > self.token => {
                let reason = format!("attempt with token {} has it, this one has {}", mark.token, self.token);
                Err(Error::io("write into", &self.folder)(io::Error::other(reason)))
            }
            _ => Ok(()),
        }
    }
}

fn read(folder: &Path) -> Result<Option<Mark>, Error> {
    let path = folder.join(NAME);
    match files::read_bounded(&path, BYTES_MAX) {
        // One that is damaged fences nobody: a power cut must not lock a job out of its own folder.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
