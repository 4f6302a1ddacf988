//! Where the tests of other frameworks find them: on this machine, in the tests' own cache, or fresh from a registry.
//!
//! Nothing is installed unless `MUSTER_TEST_INSTALL` says so: `debian` for packages of the system, where this is root and
//! has `apt-get`; `all` for what pip brings too, into one virtual environment a framework below `MUSTER_TEST_CACHE`, or
//! else below cargo's `target`. That takes minutes and gigabytes; what is there already is used without being asked.

use crate::isolation_users::as_stranger;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// One at a time: `apt-get` has a lock, and a machine only so many cores.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Bytes that must be free before pip brings a framework.
const FREE_MIN: u64 = 5 << 30;
/// Seconds for one command of a package manager.
const INSTALL_SECONDS_MAX: &str = "1200";

/// What a test needs.
#[derive(Debug)]
pub struct Framework {
    pub name: &'static str,
    /// Python's module of it.
    pub module: &'static str,
    /// A program that must be there too.
    pub program: Option<&'static str>,
    /// Packages of Debian that bring it.
    pub debian: &'static [&'static str],
    /// What pip is told, when Debian has it not.
    pub pip: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Nothing,
    Debian,
    All,
}

impl Framework {
    /// A Python that has it, or why there is none.
    pub fn python(&self) -> Result<String, String> {
        let _one = INSTALLING.lock().unwrap();
        if let Some(python) = self.find() {
            return Ok(python);
        }
        self.install().map_err(|why| format!("{}: {why}", self.name))?;
        self.find().ok_or_else(|| format!("{}: it was installed, but is not found", self.name))
    }

    /// That of the `PATH`, the system's, which a version manager may hide, and the cache's.
    fn find(&self) -> Option<String> {
        if !self.program.is_none_or(|program| succeeds(Command::new(program).arg("--version"))) {
            return None;
        }
        let import = format!("import {}", self.module);
        let cached = self.environment().join("bin/python3").display().to_string();
        let pythons = ["python3".to_owned(), "/usr/bin/python3".to_owned(), cached];
        pythons.into_iter().find(|python| succeeds(Command::new(python).args(["-c", &import])))
    }

    /// Its virtual environment in the cache.
    fn environment(&self) -> PathBuf {
        let cache = daemon::environment::text("MUSTER_TEST_CACHE").map(PathBuf::from);
        cache.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("frameworks")).join(self.module)
    }

    fn install(&self) -> Result<(), String> {
        let allowed = match daemon::environment::text("MUSTER_TEST_INSTALL").as_deref() {
            Some("all") => Allowed::All,
            Some("debian") => Allowed::Debian,
            _ => Allowed::Nothing,
        };
        if self.debian.is_empty() {
            if allowed != Allowed::All {
                return Err("not here, and only MUSTER_TEST_INSTALL=all brings it (pip, minutes)".into());
            }
            return self.install_by_pip();
        }
        if allowed == Allowed::Nothing {
            return Err(format!("not here ({}); MUSTER_TEST_INSTALL=debian brings it", self.debian.join(" ")));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(format!("not here, and only root may install {}", self.debian.join(" ")));
        }
        run("apt-get", &["-qq", "update"])?;
        let words = ["-qq", "install", "-y", "--no-install-recommends"];
        run("apt-get", &[&words[..], self.debian].concat())
    }

    fn install_by_pip(&self) -> Result<(), String> {
        let environment = self.environment();
        std::fs::create_dir_all(&environment).map_err(|error| format!("{}: {error}", environment.display()))?;
        let disk = rustix::fs::statvfs(&environment).map_err(|error| error.to_string())?;
        let free = disk.f_bavail * disk.f_frsize;
        if free < FREE_MIN {
            return Err(format!("{} MiB are free below {}, 5 GiB are needed", free >> 20, environment.display()));
        }
        let folder = environment.display().to_string();
        run("/usr/bin/python3", &["-m", "venv", &folder])?;
        let pip = format!("{folder}/bin/pip");
        run(&pip, &[&["install", "--quiet", "--disable-pip-version-check"], self.pip].concat())
    }
}

/// Ends well, whatever it prints.
pub fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Runs a command of a package manager within a time; an error is its last line.
fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let said = format!("{program} {}", words.join(" "));
    println!("installing: {said}");
    let output = Command::new("timeout")
        .args(["--kill-after=10", INSTALL_SECONDS_MAX, program])
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{said}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(format!("{said}: {}: {last}", output.status))
}

/// Can a user of no account import it with this Python?
pub fn others_run(python: &str, framework: &Framework) -> bool {
    let import = format!("import {}", framework.module);
    succeeds(Command::new("setpriv").args(as_stranger()).arg(python).args(["-c", &import]))
}
