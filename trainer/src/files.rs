//! Careful reading: only plain files, never more than was agreed, and errors that name the file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::Error;

/// Opens a plain file and gives its size in bytes; a pipe or device could block or never end.
pub(crate) fn open_plain(path: &Path) -> Result<(File, u64), Error> {
    // The look before the opening is for pipes: to open one is already to wait for a writer.
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() {
        return Err(Error::io("read", path)(io::Error::other("it is not a plain file")));
    }
    let file = File::open(path).map_err(Error::io("read", path))?;
    Ok((file, metadata.len()))
}

/// The whole file, which must not be larger than `bytes_max`.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Error> {
    let (file, _) = open_plain(path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > bytes_max {
        let reason = io::Error::other(format!("it is larger than {bytes_max} bytes"));
        return Err(Error::io("read", path)(reason));
    }
    Ok(bytes)
}
