//! The folder for the files that a coordinator keeps beside its log: in memory where that can be, and gone with the process,
//! however it ends.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Waits until its stdin ends, which the kernel sees to when the simulation is gone. `$1` is the folder.
const SWEEP: &str = r#"cat >/dev/null; rm -rf "$1""#;

/// A folder of this process.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    sweeper: Child,
}

impl Scratch {
    /// Empty. What survives a power cut is decided by the simulated disk alone, so a file system in memory will do.
    pub fn begin() -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("muster-sim-{}", std::process::id()));
        let mut sweep = Command::new("/bin/sh");
        sweep.args(["-c", SWEEP, "sweeper"]).arg(&folder);
        sweep.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // An interrupt from the keyboard ends the simulation, and the sweeper still has to work.
        let sweeper = sweep.process_group(0).spawn()?;
        std::fs::create_dir(&folder)?;
        Ok(Self { folder, sweeper })
    }

    /// Where.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
    }
}
