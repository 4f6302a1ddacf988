//! `muster workers admit|revoke`, `muster cluster admit`: join tokens, and the end of a node's certificates.

use super::Session;
use crate::failure::Exit;
use crate::output::note;
use crate::output::text::{instant, parse_span};
use clap::Args;
use client::{Client, v1};

/// `muster workers admit`
#[derive(Args, Debug)]
#[command(
    after_help = "The token is for one worker and one use; it holds the fingerprint of the cluster's authority, so that the worker knows whom
it joins.

Example:
  muster workers admit gpu-7 > token
  muster worker --name gpu-7 --data /var/lib/muster --coordinators 10.0.0.1:7070 --join-token-file token   on its machine"
)]
pub struct AdmitWorkerArgs {
    /// Only under this name
    name: Option<String>,
    /// How long the token counts, at most 24h
    #[arg(long = "for", value_name = "SPAN", default_value = "1h", value_parser = parse_span)]
    life_ms: u64,
}

/// `muster cluster admit`
#[derive(Args, Debug)]
#[command(after_help = "Example:
  muster cluster admit > token
  muster coordinator --id 2 --data /var/lib/muster --listen 10.0.0.2:7070 --http 10.0.0.2:7071 \\
    --join 10.0.0.1:7070 --join-token-file token   on its machine")]
pub struct AdmitCoordinatorArgs {
    /// How long the token counts, at most 24h
    #[arg(long = "for", value_name = "SPAN", default_value = "1h", value_parser = parse_span)]
    life_ms: u64,
}

/// Makes a token for a worker.
pub async fn worker(args: AdmitWorkerArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let worker = args.name.unwrap_or_default();
    admit(v1::CreateJoinTokenRequest { coordinator: false, worker, life_ms: args.life_ms }, client, session).await
}

/// Makes a token for a coordinator.
pub async fn coordinator(args: AdmitCoordinatorArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let wanted = v1::CreateJoinTokenRequest { coordinator: true, worker: String::new(), life_ms: args.life_ms };
    admit(wanted, client, session).await
}

async fn admit(wanted: v1::CreateJoinTokenRequest, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let made = client.create_join_token(wanted).await?;
    let expires = instant(made.expires_ms);
    note(&format!("join token {}, for one use until {expires}; it is shown this once", made.id));
    let value = serde_json::json!({ "id": made.id, "token": made.token, "expires": expires });
    session.output.print(&value, |_| format!("{}\n", made.token))?;
    Ok(Exit::Success)
}
