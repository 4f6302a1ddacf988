//! `muster login`: a token for a cluster, checked there and kept as a context.

mod browser;
mod device;
mod landing;
mod provider;

use super::{Session, small_runtime};
use crate::context::{config_path, remember, update};
use crate::failure::{Exit, bad_input};
use crate::output::note;
use anyhow::Context as _;
use clap::Args;
use client::{Client, Secret};
use identity::{Fingerprint, SecretKind};
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

/// `muster login`
#[derive(Args, Debug)]
#[command(
    after_help = "The token is read from a file or from standard input, never from the command line, where others could see it. It holds the
fingerprint of its cluster's authority: it is sent to no other cluster.

Examples:
  muster login 10.0.0.1:7070,10.0.0.2:7070 --name lab < token
  muster login 10.0.0.1:7070 --token-file token
  muster login 10.0.0.1:7070 --token-file id-token.jwt --authority 3f0c..
  muster login 10.0.0.1:7070 --issuer https://login.corp.example --client-id muster --authority 3f0c..
  muster login 10.0.0.1:7070 --issuer https://login.corp.example --client-id muster --authority 3f0c.. --browser"
)]
pub struct LoginArgs {
    /// The cluster's coordinators
    #[arg(required = true, value_name = "HOST:PORT,..", value_delimiter = ',')]
    addresses: Vec<String>,
    /// Name of the context
    #[arg(long, default_value = "default")]
    name: String,
    /// File with the token [default: standard input]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The cluster's authority, for a token of an identity provider: the 64 digits that `muster cluster authority list` shows
    #[arg(long, value_name = "FINGERPRINT")]
    authority: Option<Fingerprint>,
    /// By a browser.
    #[command(flatten)]
    provider: provider::ProviderArgs,
}

/// Runs it.
pub fn run(args: &LoginArgs, session: &Session) -> anyhow::Result<Exit> {
    let by_browser = small_runtime()?.block_on(args.provider.token())?;
    let text = if let Some(token) = by_browser {
        token
    } else if let Some(path) = &args.token_file {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
    } else {
        if std::io::stdin().is_terminal() {
            note("paste the token, then end with Ctrl-D:");
        }
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).context("cannot read the token")?;
        text
    };
    let token = match args.authority {
        Some(authority) => Secret::of_provider(text.trim(), authority),
        None => Secret::parse(&text),
    };
    let token = token.map_err(|error| bad_input(error.to_string()))?;
    if token.kind() != SecretKind::Access {
        return Err(bad_input("this is a join token, for a node: give it to `muster worker` or `muster coordinator`"));
    }
    let client = Client::connect(args.addresses.clone(), &token);
    let who = small_runtime()?.block_on(client.who_am_i())?;
    let path = config_path()?;
    remember(&path, &args.name, args.addresses.clone(), Some(&token))?;
    update(&path, |contexts| contexts.current = Some(args.name.clone()))?;
    let value = serde_json::json!({ "context": args.name, "principal": who.principal, "roles": who.roles });
    session
        .output
        .print(&value, |_| format!("{} ({}), kept as context {}\n", who.principal, who.roles.join(", "), args.name))?;
    Ok(Exit::Success)
}
