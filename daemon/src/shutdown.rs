//! Orderly end: SIGINT or SIGTERM ask every task to finish; a second signal ends the process at once.

use tokio_util::sync::CancellationToken;

/// Asks tasks to end, and lets them see that they were asked. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Not asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part of this one: ends with it, and can be ended alone.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }

    /// Asks for the end.
    pub fn start(&self) {
        self.token.cancel();
    }

    /// Was the end asked for?
    pub fn started(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once the end was asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Watches SIGINT and SIGTERM from now on. The second signal exits with 130.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            for second in [false, true] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if second {
                    exit_now();
                }
                shutdown.start();
            }
        });
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, clippy::exit)]
fn exit_now() {
    std::process::exit(130);
}
