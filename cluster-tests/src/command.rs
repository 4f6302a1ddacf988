//! The command `muster` as a person runs it, and what it answered.

use anyhow::Context as _;
use serde_json::Value;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output, byte for byte.
    pub bytes: Vec<u8>,
    /// Standard output as text.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// Runs it to its end.
    pub(crate) async fn of(mut command: Command) -> anyhow::Result<Self> {
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot run muster")?;
        Ok(Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
        })
    }

    /// Itself, if the command succeeded.
    pub fn good(self) -> anyhow::Result<Self> {
        anyhow::ensure!(self.code == 0, "exit code {}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Its JSON, if the command succeeded.
    pub fn json(self) -> anyhow::Result<Value> {
        let good = self.good()?;
        serde_json::from_str(&good.stdout).with_context(|| format!("not JSON: {}", good.stdout))
    }
}

/// A command that runs, read line by line.
#[derive(Debug)]
pub struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    /// Starts it. It dies with this handle.
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot run muster")?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Self { child, lines })
    }

    /// The next line of its output; nothing at its end.
    pub async fn line(&mut self) -> anyhow::Result<Option<String>> {
        let line = tokio::time::timeout(crate::PATIENCE, self.lines.next_line()).await;
        Ok(line.context("no line came")??)
    }

    /// How it ended.
    pub async fn end(mut self) -> anyhow::Result<ExitStatus> {
        Ok(tokio::time::timeout(crate::PATIENCE, self.child.wait()).await.context("the command does not end")??)
    }

    /// SIGINT, as from the keyboard.
    pub fn interrupt(&self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        let pid = pid.context("the command has ended")?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::INT)?)
    }
}
