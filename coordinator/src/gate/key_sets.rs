//! The keys of identity providers: as they were given, or fetched over HTTPS and kept for an hour.
//!
//! A key that is not known makes them be fetched again, at most every 10 s; a provider that cannot be reached leaves those of before in force.

use cluster_state::{KeySource, Provider};
use identity::KeySet;
use identity::https::get;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use types::LogIndex;

/// How long fetched keys count without another look.
const FRESH: Duration = Duration::from_hours(1);
/// Least time between two looks.
const PAUSE: Duration = Duration::from_secs(10);

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
