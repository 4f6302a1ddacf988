//! A token of an identity provider: how it describes itself, how it is asked, and what its refusals say.
//!
//! By a browser on whatever machine (`device`), or with `--browser` by one on this machine (`browser`). Nothing is kept of what the provider
//! gives but the ID token.

use super::{browser, device};
use crate::failure::bad_input;
use crate::output::table::clean;
use crate::output::text::parse_span;
use anyhow::{Context as _, anyhow};
use clap::Args;
use identity::https;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Options of a log-in at an identity provider.
#[derive(Args, Debug)]
pub struct ProviderArgs {
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
    /// The browser is on this machine: no code is to be typed, and the answer comes to a port of 127.0.0.1
    #[arg(long, requires = "issuer")]
    browser: bool,
    /// That port, for providers that take one alone [default: any that is free]
    #[arg(long, value_name = "PORT", requires = "browser")]
    browser_port: Option<u16>,
    /// How long the browser's answer is waited for
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = parse_span, requires = "browser")]
    browser_wait: u64,
}

/// The parts of a provider's description that count here (RFC 8414).
#[derive(Deserialize)]
pub(super) struct About {
    issuer: String,
    pub(super) token_endpoint: String,
    pub(super) device_authorization_endpoint: Option<String>,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) code_challenge_methods_supported: Option<Vec<String>>,
}

/// The answer to a request for a token: one, or why there is none.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub(super) id_token: Option<String>,
    pub(super) error: Option<String>,
    pub(super) error_description: Option<String>,
}

/// A log-in at one provider.
pub(super) struct Provider<'a> {
    pub(super) issuer: &'a str,
    pub(super) client: &'a str,
    pub(super) scope: &'a str,
    pub(super) about: About,
    secret: Option<String>,
}

impl ProviderArgs {
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
        let provider = Provider { issuer, client, scope: &self.scope, about, secret };
        let token = if self.browser {
            let wait = Duration::from_millis(self.browser_wait);
            browser::log_in(&provider, self.browser_port.unwrap_or(0), wait).await?
        } else {
            device::log_in(&provider).await?
        };
        Ok(Some(token))
    }
}

async fn about(issuer: &str) -> anyhow::Result<About> {
    let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let text = https::get(&address).await.map_err(|why| anyhow!("the provider does not describe itself: {why}"))?;
    let about: About = read(issuer, "its description", "RFC 8414", &text)?;
    // Another's description would lead the user to another's log-in.
    anyhow::ensure!(
        about.issuer == issuer,
        "{issuer} says that it is {:?}: give exactly that, if it is meant",
        about.issuer
    );
    Ok(about)
}

impl Provider<'_> {
    /// The fields that tell the provider who asks.
    pub(super) fn who(&self) -> Vec<(&str, &str)> {
        let mut who = vec![("client_id", self.client)];
        who.extend(self.secret.as_deref().map(|secret| ("client_secret", secret)));
        who
    }

    pub(super) async fn post(&self, address: &str, form: &[(&str, &str)]) -> anyhow::Result<String> {
        https::post_form(address, form).await.map_err(|why| anyhow!("the identity provider: {why}"))
    }

    /// Of a refusal its words; of an answer without the wanted fields what is wrong with it.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self, what: &str, by: &str, text: &str) -> anyhow::Result<T> {
        read(self.issuer, what, by, text)
    }

    pub(super) fn refused(&self, error: &str, description: Option<&str>) -> anyhow::Error {
        refused(self.issuer, error, description)
    }

    /// The ID token of an answer that is no refusal.
    pub(super) fn id_token(&self, answer: Answer) -> anyhow::Result<String> {
        answer.id_token.ok_or_else(|| anyhow!("{} gives no ID token: is `openid` in --scope?", self.issuer))
    }
}

fn read<T: serde::de::DeserializeOwned>(issuer: &str, what: &str, by: &str, text: &str) -> anyhow::Result<T> {
    if let Ok(Answer { error: Some(error), error_description, .. }) = serde_json::from_str(text) {
        return Err(refused(issuer, &error, error_description.as_deref()));
    }
    serde_json::from_str(text).map_err(|error| anyhow!("{issuer} does not say {what} as {by} has it: {error}"))
}

fn refused(issuer: &str, error: &str, description: Option<&str>) -> anyhow::Error {
    let words = description.map(|words| format!(": {}", clean(words))).unwrap_or_default();
    anyhow!("{issuer} refuses: {}{words}", clean(error))
}
