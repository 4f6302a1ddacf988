//! Identity providers: which there are, and by which terms their users are let in.

use super::super::Context;
use super::users::{grantable, grants, texts};
use cluster_state::{Command, KeySource, Provider, State};
use identity::KeySet;
use identity::https::address_fault;
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tonic::Status;
use types::{Caller, Grant, LogIndex};

/// Where OpenID Connect has a provider describe itself, below its issuer.
const DESCRIPTION: &str = "/.well-known/openid-configuration";

fn wire(state: &State, provider: &Provider) -> v1::Provider {
    let group =
        |(group, roles): (&String, &BTreeSet<Grant>)| v1::GroupRoles { group: group.clone(), roles: texts(roles) };
    v1::Provider {
        name: provider.name.clone(),
        issuer: provider.issuer.clone(),
        audiences: provider.audiences.iter().cloned().collect(),
        user_claim: provider.user_claim.clone(),
        groups_claim: provider.groups_claim.clone(),
        groups: provider.groups.iter().map(group).collect(),
        keys: Some(match &provider.keys {
            KeySource::Given(keys) => v1::provider::Keys::KeySet(keys.clone()),
            KeySource::From(address) => v1::provider::Keys::KeysFrom(address.clone()),
        }),
        users: state.users_of_provider(&provider.name) as u64,
    }
}

pub(super) fn list(state: &State) -> v1::ListProvidersResponse {
    v1::ListProvidersResponse { providers: state.providers().map(|provider| wire(state, provider)).collect() }
}

/// All faults at once.
fn read(state: &State, wire: v1::Provider) -> Result<Provider, Status> {
    let mut faults = Vec::new();
    let mut groups: BTreeMap<String, BTreeSet<Grant>> = BTreeMap::new();
    for given in wire.groups {
        let roles = groups.entry(given.group).or_default();
        match grants(state, &given.roles) {
            Ok(given) => roles.extend(given),
            Err(status) => faults.push(status.message().to_owned()),
        }
    }
    let keys = match wire.keys {
        Some(v1::provider::Keys::KeySet(text)) => {
            faults.extend(KeySet::parse(&text).err().map(|why| format!("the key set: {why}")));
            KeySource::Given(text)
        }
        Some(v1::provider::Keys::KeysFrom(address)) => KeySource::From(address),
        None => KeySource::From(format!("{}{DESCRIPTION}", wire.issuer.trim_end_matches('/'))),
    };
    if let KeySource::From(address) = &keys {
        faults.extend(address_fault(address));
    }
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let provider = Provider {
        name: wire.name,
        issuer: wire.issuer,
        audiences: wire.audiences.into_iter().collect(),
        user_claim: or(wire.user_claim, "sub"),
        groups_claim: or(wire.groups_claim, "groups"),
        groups,
        keys,
        since: LogIndex(0),
    };
    faults.extend(provider.faults());
    if faults.is_empty() { Ok(provider) } else { Err(Status::invalid_argument(faults.join("\n"))) }
}

pub(super) async fn set(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::SetProviderRequest,
) -> Result<v1::Provider, Status> {
    let wanted = request.provider.ok_or_else(|| Status::invalid_argument("no provider is named"))?;
    let state = context.read(false).await?;
    let provider = read(&state, wanted)?;
    let before = state.provider(&provider.name).into_iter().flat_map(|known| known.groups.values());
    let concerned: BTreeSet<Grant> = provider.groups.values().chain(before).flatten().cloned().collect();
    grantable(&state, &caller, &concerned)?;
    let name = provider.name.clone();
    let (_, state) = context.write_as(caller, Command::SetProvider { provider: Box::new(provider) }).await?;
    let known = state.provider(&name).ok_or_else(|| Status::aborted("the provider was removed meanwhile"))?;
    Ok(wire(&state, known))
}

/// Nobody takes from its users what they lack.
pub(super) async fn remove(
    context: &Context,
    caller: Arc<Caller>,
    name: String,
) -> Result<v1::RemoveProviderResponse, Status> {
    let state = context.read(false).await?;
    if let Some(known) = state.provider(&name) {
        grantable(&state, &caller, &known.groups.values().flatten().cloned().collect())?;
    }
    context.write_as(caller, Command::RemoveProvider { name }).await.map(|_| v1::RemoveProviderResponse {})
}
