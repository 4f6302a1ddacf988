//! A token of an identity provider by a browser that may be on another machine: the device authorization grant (RFC 8628).
//!
//! The provider describes itself (RFC 8414); it is asked for a code, which the user confirms at an address of the provider's; meanwhile the
//! provider is asked again and again, as slowly as it wishes, until it gives a token or says why not. Nothing of it is kept but the ID token.

use crate::failure::bad_input;
use crate::output::note;
use crate::output::table::clean;
use anyhow::{Context as _, anyhow};
use clap::Args;
use identity::https;
use serde::Deserialize;
use std::path::PathBuf;
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

/// Options of a log-in by the browser.
#[derive(Args, Debug)]
pub struct DeviceArgs {
    /// Log in at this identity provider by a browser, here or elsewhere; the address is that of `muster providers list`
    #[arg(long, value_name = "URL", requires_all = ["client_id", "authority"], conflicts_with = "token_file")]
    issuer: Option<String>,
    /// Under which the provider knows this program; also an audience that the cluster lets in
    #[arg(long, value_name = "ID", requires = "issuer")]
    client_id: Option<String>,
    /// What is asked for; `openid` must be in it
    #[arg(long, value_name = "SCOPES", default_value = "openid profile email", requires = "issuer")]
    scope: String,
    /// File with the client's secret, for providers that want one of programs too
    #[arg(long, value_name = "FILE", requires = "issuer")]
    client_secret_file: Option<PathBuf>,
}

/// The parts of the provider's description that count here.
#[derive(Deserialize)]
struct About {
    issuer: String,
    token_endpoint: String,
    device_authorization_endpoint: Option<String>,
}

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

/// The answer to a question: a token, or why there is none.
#[derive(Deserialize)]
struct Answer {
    id_token: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

impl DeviceArgs {
    /// The token, where a log-in by the browser is asked for.
    pub(super) async fn token(&self) -> anyhow::Result<Option<String>> {
        let (Some(issuer), Some(client)) = (&self.issuer, &self.client_id) else { return Ok(None) };
        if !self.scope.split(' ').any(|scope| scope == "openid") {
            return Err(bad_input(format!("--scope {:?}: without openid there is no ID token", self.scope)));
        }
        let secret = match &self.client_secret_file {
            None => None,
            Some(path) => {
                let text =
                    daemon::files::read_secret(path).with_context(|| format!("cannot read {}", path.display()))?;
                Some(String::from_utf8_lossy(&text).trim().to_owned())
            }
        };
        let about = about(issuer).await?;
        let endpoint = about.device_authorization_endpoint.as_deref().ok_or_else(|| {
            anyhow!("{issuer} knows no log-in for programs without a browser: get a token there and use --token-file")
        })?;
        let mut who = vec![("client_id", client.as_str())];
        who.extend(secret.as_deref().map(|secret| ("client_secret", secret)));
        let asked = [&who[..], &[("scope", self.scope.as_str())]].concat();
        let code: Code = read(issuer, "its code", &post(endpoint, &asked).await?)?;
        tell(&code);
        wait(issuer, &about.token_endpoint, &who, &code).await.map(Some)
    }
}

async fn about(issuer: &str) -> anyhow::Result<About> {
    let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let text = https::get(&address).await.map_err(|why| anyhow!("the provider does not describe itself: {why}"))?;
    let about: About = read(issuer, "its description", &text)?;
    // Another's description would lead the user to another's log-in.
    anyhow::ensure!(
        about.issuer == issuer,
        "{issuer} says that it is {:?}: give exactly that, if it is meant",
        about.issuer
    );
    Ok(about)
}

async fn post(address: &str, form: &[(&str, &str)]) -> anyhow::Result<String> {
    https::post_form(address, form).await.map_err(|why| anyhow!("the identity provider: {why}"))
}

/// Of a refusal its words; of an answer without the wanted fields what is wrong with it.
fn read<T: serde::de::DeserializeOwned>(issuer: &str, what: &str, text: &str) -> anyhow::Result<T> {
    if let Ok(Answer { error: Some(error), error_description, .. }) = serde_json::from_str(text) {
        return Err(refused(issuer, &error, error_description.as_deref()));
    }
    serde_json::from_str(text).map_err(|error| anyhow!("{issuer} does not say {what} as RFC 8628 has it: {error}"))
}

fn refused(issuer: &str, error: &str, description: Option<&str>) -> anyhow::Error {
    let words = description.map(|words| format!(": {}", clean(words))).unwrap_or_default();
    anyhow!("{issuer} refuses: {}{words}", clean(error))
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

async fn wait(issuer: &str, endpoint: &str, who: &[(&str, &str)], code: &Code) -> anyhow::Result<String> {
    let form = [who, &[("grant_type", GRANT), ("device_code", code.device_code.as_str())]].concat();
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
            None => {
                return answer.id_token.ok_or_else(|| anyhow!("{issuer} gives no ID token: is `openid` in --scope?"));
            }
            Some("authorization_pending") => {}
            Some("slow_down") => interval = INTERVAL_MAX.min(interval + SLOWER),
            Some("access_denied") => anyhow::bail!("the log-in was refused at {issuer}"),
            Some("expired_token") => anyhow::bail!("nobody confirmed the code in time: log in again"),
            Some(error) => return Err(refused(issuer, error, answer.error_description.as_deref())),
        }
    }
}
