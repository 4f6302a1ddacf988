//! The stand-in for the driver and NCCL, built from its source, in folders as loaders search them.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Folders to look for libraries in.
pub struct Libraries {
    /// Driver and NCCL.
    pub both: PathBuf,
    pub driver_only: PathBuf,
    /// The driver, and a library of NCCL's name with other functions.
    pub broken: PathBuf,
    /// The driver, and NCCL without one of its functions.
    pub lacking: PathBuf,
}

/// Builds the stand-in once per process.
pub fn libraries() -> &'static Libraries {
    static LIBRARIES: OnceLock<(tempfile::TempDir, Libraries)> = OnceLock::new();
    let build = || {
        let root = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/lib.rs");
        let built = |name: &str, more: &[&str]| {
            let library = root.path().join(name);
            let mut rustc = Command::new("rustc");
            rustc.args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "standin"]).args(more);
            assert!(rustc.arg("-o").arg(&library).arg(&source).status().unwrap().success());
            library
        };
        let library = built("libstandin.so", &[]);
        let lacking = built("liblacking.so", &["--cfg", "lacks_finalize"]);
        let folder = |name: &str, links: &[(&Path, &str)]| {
            let folder = root.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            for (target, link) in links {
                symlink(target, folder.join(link)).unwrap();
            }
            folder
        };
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.split_whitespace().find(|word| word.contains("/libc.so")).unwrap();
        let (cuda, nccl) = ("libcuda.so.1", "libnccl.so.2");
        let libraries = Libraries {
            both: folder("both", &[(&library, cuda), (&library, nccl)]),
            driver_only: folder("driver", &[(&library, cuda)]),
            lacking: folder("lacking", &[(&library, cuda), (&lacking, nccl)]),
            broken: folder("broken", &[(&library, cuda), (Path::new(libc), nccl)]),
        };
        (root, libraries)
    };
    &LIBRARIES.get_or_init(build).1
}
