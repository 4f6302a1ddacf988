//! A log-in by a browser that may be on another machine: the device authorization grant (RFC 8628).
//!
//! The provider is asked for a code, which the user confirms at an address of the provider's; meanwhile it is asked again and again, as
//! slowly as it wishes, until it gives a token or says why not.

use super::provider::{Answer, Provider};
use crate::output::note;
use crate::output::table::clean;
use anyhow::anyhow;
use identity::https;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// Between two questions, where the provider does not say.
const INTERVAL: Duration = Duration::from_secs(5);
/// And by how much longer where it says that they come too fast.
const SLOWER: Duration = Duration::from_secs(5);
const INTERVAL_MAX: Duration = Duration::from_mins(1);
/// For the user, whatever the provider says.
const CONFIRMED_MAX: Duration = Duration::from_mins(30);
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// What the user is to do.
#[derive(Deserialize)]
struct Code {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

/// Tells the user what to do, and waits until it is done: the ID token.
pub(super) async fn log_in(provider: &Provider<'_>) -> anyhow::Result<String> {
    let endpoint = provider.about.device_authorization_endpoint.as_deref().ok_or_else(|| {
        anyhow!(
            "{} knows no log-in for programs without a browser: use --browser, or get a token there and use --token-file",
            provider.issuer
        )
    })?;
    let asked = [&provider.who()[..], &[("scope", provider.scope)]].concat();
    let code: Code = provider.read("its code", "RFC 8628", &provider.post(endpoint, &asked).await?)?;
    tell(&code);
    wait(provider, &code).await
}

fn tell(code: &Code) {
    let minutes = expires(code).as_secs().div_ceil(60);
    note(&format!(
        "open {} in a browser and confirm the code {} within {minutes} min",
        clean(&code.verification_uri),
        clean(&code.user_code)
    ));
    if let Some(whole) = &code.verification_uri_complete {
        note(&format!("or open {}", clean(whole)));
    }
}

fn expires(code: &Code) -> Duration {
    Duration::from_secs(code.expires_in).min(CONFIRMED_MAX)
}

async fn wait(provider: &Provider<'_>, code: &Code) -> anyhow::Result<String> {
    let (issuer, endpoint) = (provider.issuer, &provider.about.token_endpoint);
    let form = [&provider.who()[..], &[("grant_type", GRANT), ("device_code", code.device_code.as_str())]].concat();
    let deadline = Instant::now() + expires(code);
    let mut interval = code.interval.map_or(INTERVAL, Duration::from_secs).clamp(Duration::from_secs(1), INTERVAL_MAX);
    loop {
        tokio::time::sleep(interval).await;
        anyhow::ensure!(Instant::now() < deadline, "nobody confirmed the code in time: log in again");
        // A provider that is not reached now may be reached next time.
        let Ok(text) = https::post_form(endpoint, &form).await else {
            interval = INTERVAL_MAX.min(interval * 2);
            continue;
        };
        let answer: Answer = serde_json::from_str(&text)
            .map_err(|error| anyhow!("{issuer} does not answer as RFC 8628 has it: {error}"))?;
        match answer.error.as_deref() {
            None => return provider.id_token(answer),
            Some("authorization_pending") => {}
            Some("slow_down") => interval = INTERVAL_MAX.min(interval + SLOWER),
            Some("access_denied") => anyhow::bail!("the log-in was refused at {issuer}"),
            Some("expired_token") => anyhow::bail!("nobody confirmed the code in time: log in again"),
            Some(error) => return Err(provider.refused(error, answer.error_description.as_deref())),
        }
    }
}
