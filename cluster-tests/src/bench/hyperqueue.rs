//! HyperQueue with a journal, one server and four workers of four slots.

use super::peer::{self, Peers, find};
use crate::wait::{PATIENCE, until};
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// PyPI's HyperQueue has no `hq`, but a server, workers and a client inside a Python process.
const PYPI: &str = include_str!("pypi_hyperqueue.py");
/// Its client now and then waits for ever for jobs that have ended.
const PYPI_MAX: Duration = Duration::from_mins(3);

/// How long `jobs` separate jobs took through PyPI's HyperQueue; nothing where the python named by
/// `MUSTER_BENCH_PYTHON` (default `python3`) has none.
pub(crate) async fn pypi(folder: &Path, jobs: usize) -> anyhow::Result<Option<Duration>> {
    let python = daemon::environment::text("MUSTER_BENCH_PYTHON").unwrap_or_else(|| "python3".to_owned());
    let python = Path::new(&python);
    if peer::run(python, &["-c", "import hyperqueue"], &[]).await.is_err() {
        return Ok(None);
    }
    let home = folder.join("pypi-hyperqueue");
    std::fs::create_dir_all(&home)?;
    let script = home.join("measure.py");
    std::fs::write(&script, PYPI)?;
    let server = home.join("server").display().to_string();
    let arguments = [script.display().to_string(), server, "jobs".to_owned(), jobs.to_string()];
    let said = tokio::time::timeout(PYPI_MAX, peer::run(python, &arguments, &[])).await;
    let said = said.context("PyPI's HyperQueue did not end in time")??;
    let seconds: Vec<f64> = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    Ok(seconds.first().map(|seconds| Duration::from_secs_f64(*seconds)))
}

/// It, running.
pub(crate) struct HyperQueue {
    program: PathBuf,
    server: String,
    pub(crate) peers: Peers,
}

impl HyperQueue {
    /// Starts it; nothing where it is not installed.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(program) = find("hq") else { return Ok(None) };
        let mut peers = Peers::new(folder, "hyperqueue")?;
        let server = peers.folder.join("server").display().to_string();
        let journal = peers.folder.join("journal").display().to_string();
        peers.start("server", &program, &["server", "start", "--server-dir", &server, "--journal", &journal])?;
        let mut started = Self { program, server, peers };
        until("HyperQueue's server", PATIENCE, async || started.call(&["server", "info"]).await.ok()).await?;
        for index in 1..=4 {
            let arguments =
                ["worker", "start", "--server-dir", &started.server, "--cpus", "4", "--no-detect-resources"];
            started.peers.start(&format!("worker-{index}"), &started.program.clone(), &arguments)?;
        }
        let four = async || {
            let list = started.call(&["worker", "list", "--output-mode", "json"]).await.ok()?;
            let workers: serde_json::Value = serde_json::from_str(&list).ok()?;
            (workers.as_array()?.len() == 4).then_some(())
        };
        until("HyperQueue's workers", PATIENCE, four).await.map_err(|error| error.context(started.peers.said()))?;
        Ok(Some(started))
    }

    async fn call(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let all = [arguments, &["--server-dir", &self.server]].concat();
        peer::run(&self.program, &all, &[]).await
    }

    /// The arguments that submit `/bin/true`, with these before the command.
    pub(crate) fn submit(&self, more: &[&str]) -> (PathBuf, Vec<String>) {
        let fixed = ["submit", "--server-dir", &self.server, "--stdout", "none", "--stderr", "none"];
        let all = fixed.iter().chain(more).chain(&["--", "/bin/true"]).map(|&part| part.to_owned()).collect();
        (self.program.clone(), all)
    }

    /// A task over four workers; HyperQueue reserves all four and starts the process on the first.
    pub(crate) async fn gang(&self) -> anyhow::Result<()> {
        let (program, arguments) = self.submit(&["--nodes", "4", "--wait"]);
        peer::run(&program, &arguments, &[]).await.map(drop)
    }

    /// Waits until all jobs have ended.
    pub(crate) async fn drain(&self) -> anyhow::Result<()> {
        self.call(&["job", "wait", "all"]).await.map(drop)
    }
}
