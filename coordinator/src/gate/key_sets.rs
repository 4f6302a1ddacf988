//! The keys of identity providers: as they were given, or fetched over HTTPS and kept for an hour.
//!
//! A key that is not known makes them be fetched again, at most every 10 s; a provider that cannot be reached leaves those of before in force.

use cluster_state::{KeySource, Provider};
use http::Uri;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use identity::KeySet;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use types::LogIndex;

/// How long fetched keys count without another look.
const FRESH: Duration = Duration::from_hours(1);
/// Least time between two looks.
const PAUSE: Duration = Duration::from_secs(10);
/// For one answer of a provider.
const ANSWER: Duration = Duration::from_secs(5);
/// Bytes of one answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;

struct Kept {
    /// The terms of the provider that they belong to.
    since: LogIndex,
    keys: Option<Arc<KeySet>>,
    /// When they were fetched, or that was tried.
    tried: Instant,
}

/// Keys by provider.
#[derive(Default)]
pub(super) struct KeySets(Mutex<BTreeMap<String, Kept>>);

impl KeySets {
    /// The keys of a provider; with `again` though they are known, for there may be new ones.
    pub(super) async fn of(&self, provider: &Provider, again: bool) -> Result<Arc<KeySet>, String> {
        let address = match &provider.keys {
            KeySource::Given(text) => return KeySet::parse(text).map(Arc::new),
            KeySource::From(address) => address,
        };
        let known = self.known(provider);
        if let Some((keys, age)) = &known
            && *age < if again { PAUSE } else { FRESH }
        {
            return keys.clone().ok_or_else(|| unreachable(provider, "tried a moment ago"));
        }
        if known.is_some() {
            // Others go on with those of before meanwhile.
            self.keep(provider, None);
        }
        match fetch(provider, address).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.keep(provider, Some(keys.clone()));
                Ok(keys)
            }
            Err(why) => {
                self.keep(provider, None);
                tracing::warn!(provider = provider.name, why, "cannot fetch the keys of an identity provider");
                known.and_then(|(keys, _)| keys).ok_or_else(|| unreachable(provider, &why))
            }
        }
    }

    /// Those that are kept, and when they were looked for; nothing by other terms, or when the look failed long ago.
    fn known(&self, provider: &Provider) -> Option<(Option<Arc<KeySet>>, Duration)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get(&provider.name).filter(|kept| kept.since == provider.since)?;
        let age = kept.tried.elapsed();
        (kept.keys.is_some() || age < PAUSE).then(|| (kept.keys.clone(), age))
    }

    /// Notes that they are looked for, or what was found.
    fn keep(&self, provider: &Provider, found: Option<Arc<KeySet>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_before = kept.remove(&provider.name).filter(|kept| kept.since == provider.since);
        let keys = found.or_else(|| of_before.and_then(|kept| kept.keys));
        kept.insert(provider.name.clone(), Kept { since: provider.since, keys, tried: Instant::now() });
    }
}

fn unreachable(provider: &Provider, why: &str) -> String {
    format!("the keys of identity provider {:?} cannot be had: {why}", provider.name)
}

/// What is wrong with an address that keys are to come from: only what cannot be changed on its way may say who is let in.
pub(crate) fn address_fault(address: &str) -> Option<String> {
    let fault = || Some(format!("{address:?} is no https:// address (http:// on this machine alone)"));
    let Ok(uri) = address.parse::<Uri>() else { return fault() };
    let host = uri.host().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = ip.map_or(host == "localhost", |ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => None,
        Some("http") if is_here => None,
        _ => fault(),
    }
}

/// What a provider says of itself.
#[derive(Deserialize)]
struct Description {
    issuer: String,
    jwks_uri: String,
}

/// The key set at this address, or that which the description there names.
async fn fetch(provider: &Provider, address: &str) -> Result<KeySet, String> {
    let text = get(address).await?;
    let Ok(description) = serde_json::from_str::<Description>(&text) else { return KeySet::parse(&text) };
    if description.issuer != provider.issuer {
        return Err(format!("{address} describes issuer {:?}", description.issuer));
    }
    KeySet::parse(&get(&description.jwks_uri).await?)
}

async fn get(address: &str) -> Result<String, String> {
    if let Some(fault) = address_fault(address) {
        return Err(fault);
    }
    let uri: Uri = address.parse().map_err(|error| format!("{address:?} is no address: {error}"))?;
    let answer = tokio::time::timeout(ANSWER, ask(uri)).await;
    answer
        .map_err(|_| format!("{address} did not answer within {ANSWER:?}"))?
        .map_err(|why| format!("{address}: {why}"))
}

/// No redirects: an address that leads elsewhere is to be written as it is.
async fn ask(uri: Uri) -> Result<String, String> {
    // The machine's certificates are read from its disk.
    let roots = || {
        let provider = rustls::crypto::ring::default_provider();
        HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(|error| error.to_string())
    };
    let roots = crate::blocking::run(roots).await.map_err(|error| error.to_string())??;
    let connector = roots.https_or_http().enable_http1().build();
    let client: Client<_, Empty<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let answer = client.get(uri).await.map_err(|error| deepest(&error))?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| "its answer is no text".to_owned())
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for good in ["https://idp.example/keys", "http://127.0.0.1:8/x", "http://[::1]/x", "http://localhost:1/"] {
            assert_eq!(address_fault(good), None, "{good}");
        }
        for bad in
            ["http://idp.example/keys", "http://10.0.0.1/", "file:///etc/passwd", "", "https://", "ftp://x/", "keys"]
        {
            assert!(address_fault(bad).is_some(), "{bad}");
        }
    }
}
