//! How this daemon reaches a coordinator: one way for session, telemetry and blobs.

use identity::Dialer;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A half-open connection is found out within the sum of these.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(5);
/// Flow-control windows: one chunk in flight must not wait for a window update.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Connects to `host:port`.
pub(crate) async fn connect(dialer: &Dialer, address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    dialer.connect(&endpoint).await
}
