//! What the daemons' commands share: their log, their runtime, and the leash that ends them with the demo.

use super::Session;
use crate::failure::bad_input;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use daemon::Shutdown;
use daemon::logging::LogFormat;
use identity::{Admission, Secret, SecretKind};
use rustix::process::{Pid, Signal};
use std::io::Read as _;
use std::path::PathBuf;

/// Options of every daemon.
#[derive(Args, Clone, Debug)]
pub struct RoleArgs {
    /// How the daemon writes its own log, to stderr; filtered by MUSTER_LOG (default info)
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: Format,
    /// Dies when this process dies (set by `muster demo`)
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
    /// Dies when stdin ends, unless it said `keep` before (set by `muster demo`)
    #[arg(long, hide = true)]
    leash: bool,
}

/// How a daemon is admitted to a cluster that it belongs to for the first time.
#[derive(Args, Clone, Debug)]
pub struct JoinTokenArgs {
    /// File with a join token (`muster workers admit`, `muster cluster admit`), for the first start only; MUSTER_JOIN_TOKEN may
    /// hold the token itself [default: the token of who starts it]
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
}

impl JoinTokenArgs {
    /// The token that was given, or the user's own right.
    pub fn admission(&self, session: &Session) -> anyhow::Result<Option<Admission>> {
        let given = match &self.join_token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                Some((path.display().to_string(), text))
            }
            None => daemon::environment::text("MUSTER_JOIN_TOKEN").map(|text| ("MUSTER_JOIN_TOKEN".to_owned(), text)),
        };
        let Some((place, text)) = given else { return session.admission() };
        let token = Secret::parse(&text).map_err(|error| bad_input(format!("{place}: {error}")))?;
        if token.kind() != SecretKind::Join {
            return Err(bad_input(format!("{place} holds a user's token: a join token begins with muster_join_")));
        }
        Ok(Some(Admission::Token(token)))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// The byte on the leash that sets a daemon free.
pub const KEEP: u8 = b'k';

impl RoleArgs {
    /// Prepares this process to be a daemon and runs it; `run` is called inside the runtime.
    pub fn run<F>(&self, run: impl FnOnce(Shutdown) -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        // First of all, and on the main thread: the kernel ties the signal to the thread that asked for it.
        self.tie_to_parent()?;
        keep_to_itself()?;
        let format = if self.log_format == Format::Json { LogFormat::Json } else { LogFormat::Text };
        daemon::logging::init(format, daemon::environment::text("MUSTER_LOG").as_deref());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(runtime_threads())
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        runtime.block_on(async {
            let shutdown = Shutdown::new();
            shutdown.on_signals().context("cannot watch signals")?;
            run(shutdown).await
        })
    }

    fn tie_to_parent(&self) -> anyhow::Result<()> {
        if let Some(parent) = self.parent {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie to the parent")?;
            // It may have died before the kernel knew.
            let now = rustix::process::getppid().map(Pid::as_raw_pid);
            anyhow::ensure!(now == Some(parent), "the process that started this one is gone");
        }
        if self.leash {
            // Where Linux shares the processor out by session (`autogroup`), each rank has a share of its own: daemons that
            // lived in their starter's session would have one among them and it, and could not answer within a lease on a
            // machine with more ranks than cores. Its own group besides, so that Ctrl-C reaches the starter alone. Refused only
            // to the leader of a group, who has that already.
            let _ = rustix::process::setsid();
            std::thread::Builder::new().name("leash".into()).spawn(hold_leash).context("cannot hold the leash")?;
        }
        Ok(())
    }
}

/// A daemon's memory holds keys and tokens, and its files may: neither is for other processes, those of its own user (ranks may be
/// such) included.
fn keep_to_itself() -> anyhow::Result<()> {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none).context("cannot forbid core files")?;
    // No `ptrace`, no `/proc/PID/environ` or `mem` but for root.
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(hidden).context("cannot hide the daemon's memory")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    Ok(())
}

/// Half of the cores: the daemons' own threads (log, streams, shipping) and blocking work want the others, and on a small
/// machine tasks that wander between threads cost more than a second thread gives.
fn runtime_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Ends this process at once when its parent let go without a word: there is nobody left to shut it down in order.
fn hold_leash() {
    let mut byte = [0_u8];
    let kept = matches!(std::io::stdin().lock().read(&mut byte), Ok(1)) && byte[0] == KEEP;
    if !kept {
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    }
}
