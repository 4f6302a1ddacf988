//! `muster secrets`: values that jobs need and nobody is to see.

use super::Session;
use crate::failure::{Exit, bad_input};
use crate::output::text::{age, hex, instant};
use crate::output::{Column, Table, note};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use client::{Client, v1};
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use types::Limits;

/// `muster secrets ...`
#[derive(Debug, Subcommand)]
pub enum SecretsCommand {
    /// Make a secret, or give one another value; the value comes from stdin or a file
    Set(SetArgs),
    /// List the secrets that one's jobs may have; never a value
    List,
    /// Let other users give it to their jobs, or no longer
    Share(ShareArgs),
    /// Forget a secret; jobs that name it do not start any more
    Remove(SecretArgs),
    /// Exchange the key under which all values are sealed, while everything runs; run again, it goes on with what was cut short
    Rekey,
}

/// `muster secrets set`
#[derive(Args, Debug)]
#[command(after_help = "A job names the secret under x-muster, by the variable that its ranks get:
  x-muster:
    secrets:
      HF_TOKEN: hf-token               # the value itself
      DB_PASSWORD: {file: db-password} # the path of a file that has it

A secret NAME@WORKSPACE is for every job in that workspace; contributors and owners there set it.

Examples:
  muster secrets set hf-token < token.txt
  muster secrets set db-password --value-file password.txt --note 'reporting database'
  muster secrets set hf-token@vision < token.txt")]
pub struct SetArgs {
    /// The name
    name: String,
    /// Read the value from a file instead of stdin; one line end at its end is no part of it
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
    /// What it is for
    #[arg(long)]
    note: Option<String>,
}

/// `muster secrets share`
#[derive(Args, Debug)]
#[command(after_help = "Whoever may give a secret to a job can learn it: a program can do with it what it likes.

Examples:
  muster secrets share hf-token --with ana --with bo
  muster secrets share hf-token --with '*'        # everybody
  muster secrets share hf-token --not ana")]
pub struct ShareArgs {
    /// The name
    name: String,
    /// A user; may be given several times; * = everybody
    #[arg(long, value_name = "USER")]
    with: Vec<String>,
    /// A user who may no longer; may be given several times
    #[arg(long, value_name = "USER")]
    not: Vec<String>,
}

/// A secret.
#[derive(Args, Debug)]
pub struct SecretArgs {
    /// The name
    name: String,
}

/// Runs `muster secrets`.
pub async fn run(command: SecretsCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        SecretsCommand::Set(args) => {
            let value = value(&args)?;
            let wanted = v1::SetSecretRequest { name: args.name, value: value.into(), note: args.note };
            let secret = client.set_secret(wanted).await?;
            note(&format!("secret {} is kept, version {}", secret.name, secret.version));
            print(&[secret], session)?;
        }
        SecretsCommand::List => print(&client.secrets().await?, session)?,
        SecretsCommand::Share(args) => {
            if args.with.is_empty() && args.not.is_empty() {
                return Err(bad_input("nothing to change: say --with USER or --not USER"));
            }
            let wanted = v1::ShareSecretRequest { name: args.name, add: args.with, remove: args.not };
            print(&[client.share_secret(wanted).await?], session)?;
        }
        SecretsCommand::Remove(args) => client.remove_secret(&args.name).await?,
        SecretsCommand::Rekey => {
            let done = client.rekey_secrets().await?;
            let key = hex(&done.key);
            let value = json!({ "key": key, "resealed": done.secrets });
            session
                .output
                .print(&value, |_| format!("{} values are sealed under the new key {key}\n", done.secrets))?;
        }
    }
    Ok(Exit::Success)
}

/// Never from the command line: everybody on the machine could read it there.
fn value(args: &SetArgs) -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    // One more than the longest, and a line end: what is too long is told as such.
    let limit = Limits::SECRET_BYTES_MAX as u64 + 2;
    if let Some(path) = &args.value_file {
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()));
        let file = file.map_err(|error| bad_input(format!("{error:#}")))?;
        file.take(limit).read_to_end(&mut value).with_context(|| format!("cannot read {}", path.display()))?;
    } else {
        if std::io::stdin().is_terminal() {
            note("the value, then Ctrl-D:");
        }
        std::io::stdin().lock().take(limit).read_to_end(&mut value).context("cannot read the value")?;
    }
    if value.ends_with(b"\n") {
        value.pop();
    }
    Ok(value)
}

fn one(secret: &v1::SecretInfo) -> Value {
    json!({
        "name": secret.name,
        "owner": secret.owner,
        "users": secret.users,
        "note": secret.note,
        "version": secret.version,
        "created": instant(secret.created_ms),
        "changed": instant(secret.changed_ms),
    })
}

fn shared_with(secret: &v1::SecretInfo) -> String {
    match secret.name.split_once('@') {
        Some((_, workspace)) => format!("jobs in {workspace}"),
        None => secret.users.join(", "),
    }
}

fn print(secrets: &[v1::SecretInfo], session: &Session) -> anyhow::Result<()> {
    let value = json!({ "secrets": secrets.iter().map(one).collect::<Vec<_>>() });
    let now = daemon::clock::now();
    session.output.print(&value, |output| {
        let mut table = Table::new(vec![
            Column::whole("NAME"),
            Column::whole("OWNER"),
            Column::whole("VERSION"),
            Column::whole("CHANGED"),
            Column::text("SHARED WITH"),
            Column::text("NOTE"),
        ]);
        for secret in secrets {
            table.row(vec![
                secret.name.as_str().into(),
                secret.owner.as_str().into(),
                secret.version.to_string().into(),
                age(secret.changed_ms, now).into(),
                shared_with(secret).into(),
                secret.note.as_str().into(),
            ]);
        }
        table.render(output, "no secrets")
    })
}
