//! `muster cluster authority`: the certificate authority that says who the cluster's nodes are, and its replacement.

use super::Session;
use crate::context;
use crate::failure::{Exit, bad_input, not_found};
use crate::output::text::{hex, instant};
use crate::output::{Column, Table, note};
use clap::{Args, Subcommand};
use client::{Client, v1};
use identity::Fingerprint;

/// `muster cluster authority ...`
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// List the authorities that nodes believe; the last one signs
    List(ListArgs),
    /// Make a new authority, which signs from now on; the old one counts until it is retired
    #[command(
        after_help = "Coordinators change at once, workers when they renew their certificates. Users' tokens know the cluster by the old authority until
`muster whoami`, run once by each of them while both count, has written the new one beside the token. Then:
  muster cluster authority retire"
    )]
    Rotate,
    /// End an authority: what it signed counts no more
    Retire(RetireArgs),
}

/// `muster cluster authority list`
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Print the certificates instead, for programs that check them: `curl --cacert`, Prometheus' `ca_file`
    #[arg(long)]
    pem: bool,
}

/// `muster cluster authority retire`
#[derive(Args, Debug)]
pub struct RetireArgs {
    /// Its fingerprint, or the beginning of it; the older one when left out
    fingerprint: Option<String>,
    /// At once: nodes that have not renewed their certificates since are shut out and must join again
    #[arg(long)]
    now: bool,
}

/// Runs it.
pub async fn run(command: AuthorityCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let known = client.authorities().await?;
    let left = match command {
        AuthorityCommand::List(args) if args.pem => {
            let pem: String = known.iter().map(|one| identity::pem_of(&one.certificate)).collect();
            session.output.print(&serde_json::json!({ "pem": pem }), |_| pem.clone())?;
            return Ok(Exit::Success);
        }
        AuthorityCommand::List(_) => known,
        AuthorityCommand::Rotate => {
            let signing = known.last().map(|one| one.fingerprint.to_vec()).unwrap_or_default();
            let now = client.rotate_authority(signing).await?;
            relearn(session, now.last().map(|one| &*one.fingerprint).unwrap_or_default())?;
            now
        }
        AuthorityCommand::Retire(args) => {
            let fingerprint = chosen(&known, args.fingerprint.as_deref())?;
            client.retire_authority(fingerprint, args.now).await?
        }
    };
    print(&left, session)?;
    Ok(Exit::Success)
}

fn chosen(known: &[v1::Authority], prefix: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let Some(prefix) = prefix else {
        return match known {
            [older, _] => Ok(older.fingerprint.to_vec()),
            _ => Err(bad_input(
                "there is no older authority to retire: `muster cluster authority rotate` makes a new one",
            )),
        };
    };
    let mut fitting = known.iter().filter(|one| hex(&one.fingerprint).starts_with(&prefix.to_lowercase()));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.fingerprint.to_vec()),
        (None, _) => Err(not_found(format!("no authority's fingerprint begins with {prefix:?}"))),
        (Some(_), Some(_)) => Err(bad_input(format!("more than one fingerprint begins with {prefix:?}"))),
    }
}

fn print(authorities: &[v1::Authority], session: &Session) -> anyhow::Result<()> {
    let signs = |index: usize| index + 1 == authorities.len();
    let values = authorities.iter().enumerate().map(|(index, one)| {
        serde_json::json!({
            "fingerprint": hex(&one.fingerprint),
            "created": instant(one.created_ms),
            "signs": signs(index),
            "retire_from": (one.retire_ms > 0).then(|| instant(one.retire_ms)),
        })
    });
    let value = serde_json::json!({ "authorities": values.collect::<Vec<_>>() });
    session.output.print(&value, |output| {
        let mut table = Table::new(vec![
            Column::whole("FINGERPRINT"),
            Column::whole("CREATED"),
            Column::whole("SIGNS"),
            Column::whole("RETIRE FROM"),
        ]);
        for (index, one) in authorities.iter().enumerate() {
            table.row(vec![
                hex(&one.fingerprint)[..16].to_owned().into(),
                instant(one.created_ms).into(),
                if signs(index) { "yes" } else { "no" }.into(),
                instant(one.retire_ms).into(),
            ]);
        }
        table.render(output, "no authorities")
    })
}

/// Writes the authority that signs now beside the token of this call, wherever that is stored.
pub fn relearn(session: &Session, authority: &[u8]) -> anyhow::Result<()> {
    let Some(token) = session.target()?.token else { return Ok(()) };
    let Ok(authority) = authority.try_into().map(Fingerprint) else { return Ok(()) };
    if token.authority() == authority {
        return Ok(());
    }
    if !context::relearn(&token, authority)? {
        note(&format!(
            "the cluster has a new authority: in MUSTER_ACCESS_TOKEN, put {authority} behind the point of the token \
             before the old one is retired"
        ));
    }
    Ok(())
}
