//! Tracing to stderr: text for people, JSON lines for collectors, filtered by `MUSTER_LOG` (default `info`).

use tracing_subscriber::EnvFilter;

/// openraft tells each step of an election at `info`; what an operator needs of it, `raft` and `leader` say themselves.
const DEFAULT: &str = "info,openraft=warn";

/// How a process writes its own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// Installs the subscriber once; a second call changes nothing.
pub fn init(format: LogFormat, filter: Option<&str>) {
    let filter = EnvFilter::try_new(filter.unwrap_or(DEFAULT)).unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber in one process (tests) is not a fault: the first stays.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
