//! `muster providers`: OpenID Connect providers whose users are let in by their tokens.

use super::Session;
use crate::failure::{Exit, bad_input};
use crate::output::{Column, Table, note};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use client::v1::provider::Keys;
use client::{Client, v1};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `muster providers ...`
#[derive(Debug, Subcommand)]
pub enum ProvidersCommand {
    /// List the identity providers and what their groups may do
    List,
    /// Let the users of an OpenID Connect provider in, or change the terms: by its tokens, with what their groups give
    Set(SetArgs),
    /// Let its users in no more, at once; their jobs stay
    Remove(ProviderArgs),
}

/// `muster providers set`
#[derive(Args, Debug)]
#[command(
    after_help = "A user USER of provider NAME is called NAME:USER here, and has the roles of its groups at its last token; there is nothing to set up
for each user. A change of the terms takes effect at once: who came in by others shows a token again.
Without --keys-from and --keys-file each coordinator finds the keys as the issuer describes itself (ISSUER/.well-known/openid-configuration).

Examples:
  muster providers set corp --issuer https://login.corp.example --audience muster --user-claim email \\
      --group ml-team=data-scientist --group ml-admins=owner
  muster providers set hub --issuer https://token.actions.example --audience muster --user-claim repository \\
      --groups-claim repository --group lab/models=data-scientist
  muster providers set corp --issuer https://idp --audience muster --group '*=reader' --keys-file keys.json"
)]
pub struct SetArgs {
    /// Its name here: 1 to 32 of a-z, 0-9 and -
    name: String,
    /// As its tokens say it (`iss`)
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// Whom its tokens must be for (`aud`); may be given several times
    #[arg(long = "audience", value_name = "TEXT", required = true)]
    audiences: Vec<String>,
    /// The claim that tells its users apart
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    user_claim: String,
    /// The claim that lists a user's groups; points lead into objects
    #[arg(long, value_name = "CLAIM", default_value = "groups")]
    groups_claim: String,
    /// What a group may do; may be given several times; the group * is everybody
    #[arg(long = "group", value_name = "GROUP=ROLE", required = true, value_parser = group)]
    groups: Vec<(String, String)>,
    /// Where its key set is, or its description
    #[arg(long, value_name = "URL", conflicts_with = "keys_file")]
    keys_from: Option<String>,
    /// A file with its key set (JWKS); then no coordinator asks the provider for anything
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
}

/// An identity provider.
#[derive(Args, Debug)]
pub struct ProviderArgs {
    /// Its name here
    name: String,
}

fn group(text: &str) -> Result<(String, String), String> {
    // A group's name may hold `=`, a role's does not.
    match text.rsplit_once('=') {
        Some((group, role)) if !group.is_empty() && !role.is_empty() => Ok((group.to_owned(), role.to_owned())),
        _ => Err("write GROUP=ROLE".to_owned()),
    }
}

/// Runs it.
pub async fn run(command: ProvidersCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        ProvidersCommand::List => print(&client.providers().await?, session)?,
        ProvidersCommand::Set(args) => {
            let known = client.set_provider(wanted(args)?).await?;
            note(&format!("users of {} are let in by its tokens", known.issuer));
            print(&[known], session)?;
        }
        ProvidersCommand::Remove(args) => client.remove_provider(&args.name).await?,
    }
    Ok(Exit::Success)
}

fn wanted(args: SetArgs) -> anyhow::Result<v1::Provider> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, role) in args.groups {
        groups.entry(group).or_default().push(role);
    }
    let keys = match (args.keys_from, args.keys_file) {
        (Some(address), _) => Some(Keys::KeysFrom(address)),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()));
            Some(Keys::KeySet(text.map_err(|error| bad_input(format!("{error:#}")))?))
        }
        (None, None) => None,
    };
    Ok(v1::Provider {
        name: args.name,
        issuer: args.issuer,
        audiences: args.audiences,
        user_claim: args.user_claim,
        groups_claim: args.groups_claim,
        groups: groups.into_iter().map(|(group, roles)| v1::GroupRoles { group, roles }).collect(),
        keys,
        users: 0,
    })
}

fn one(provider: &v1::Provider) -> Value {
    let groups: BTreeMap<_, _> = provider.groups.iter().map(|group| (&group.group, &group.roles)).collect();
    json!({
        "name": provider.name,
        "issuer": provider.issuer,
        "audiences": provider.audiences,
        "user_claim": provider.user_claim,
        "groups_claim": provider.groups_claim,
        "groups": groups,
        "keys_from": match &provider.keys {
            Some(Keys::KeysFrom(address)) => Some(address),
            _ => None,
        },
        "users": provider.users,
    })
}

fn print(providers: &[v1::Provider], session: &Session) -> anyhow::Result<()> {
    let value = json!({ "providers": providers.iter().map(one).collect::<Vec<_>>() });
    session.output.print(&value, |output| {
        let mut table = Table::new(vec![
            Column::whole("NAME"),
            Column::whole("USERS"),
            Column::text("ISSUER"),
            Column::text("AUDIENCES"),
            Column::text("GROUPS"),
        ]);
        for provider in providers {
            let group = |group: &v1::GroupRoles| format!("{}={}", group.group, group.roles.join("+"));
            table.row(vec![
                provider.name.as_str().into(),
                provider.users.to_string().into(),
                provider.issuer.as_str().into(),
                provider.audiences.join(", ").into(),
                provider.groups.iter().map(group).collect::<Vec<_>>().join(", ").into(),
            ]);
        }
        table.render(output, "no identity providers")
    })
}
