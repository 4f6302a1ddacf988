//! `muster contexts`: names for clusters in `~/.config/muster/config.json`.

use super::Session;
use crate::context::{Cluster, Contexts, config_path, load, update};
use crate::failure::{Exit, bad_input, not_found};
use crate::output::{Column, Table};
use clap::{Args, Subcommand};

/// `muster contexts ...`
#[derive(Debug, Subcommand)]
pub enum ContextsCommand {
    /// List the known clusters; the current one has a star
    List,
    /// Mean this cluster when nothing else is said
    Use(UseArgs),
    /// Name the cluster behind --coordinators
    Set(UseArgs),
    /// Forget a name
    Remove(UseArgs),
}

/// One context.
#[derive(Args, Debug)]
pub struct UseArgs {
    /// The name
    name: String,
}

/// Runs it.
pub fn run(command: &ContextsCommand, session: &Session) -> anyhow::Result<Exit> {
    let path = config_path()?;
    match command {
        ContextsCommand::List => list(&load(&path)?, session)?,
        ContextsCommand::Use(args) => {
            known(&load(&path)?, &args.name)?;
            update(&path, |contexts| contexts.current = Some(args.name.clone()))?;
        }
        ContextsCommand::Set(args) => {
            let coordinators = session.global.coordinators.clone();
            if coordinators.is_empty() {
                return Err(bad_input("say which cluster: muster contexts set NAME --coordinators HOST:PORT,.."));
            }
            update(&path, |contexts| {
                let token = contexts.contexts.get(&args.name).and_then(|known| known.token.clone());
                contexts.contexts.insert(args.name.clone(), Cluster { coordinators, token });
            })?;
        }
        ContextsCommand::Remove(args) => {
            known(&load(&path)?, &args.name)?;
            update(&path, |contexts| {
                contexts.contexts.remove(&args.name);
                contexts.current = contexts.current.take().filter(|current| *current != args.name);
            })?;
        }
    }
    Ok(Exit::Success)
}

fn known(contexts: &Contexts, name: &str) -> anyhow::Result<()> {
    if contexts.contexts.contains_key(name) {
        return Ok(());
    }
    let names: Vec<&str> = contexts.contexts.keys().map(String::as_str).collect();
    Err(not_found(format!(
        "no context {name:?}; known: {}",
        if names.is_empty() { "none".into() } else { names.join(", ") }
    )))
}

fn list(contexts: &Contexts, session: &Session) -> anyhow::Result<()> {
    // Without the tokens.
    let shown = contexts.contexts.iter().map(|(name, cluster)| {
        let cluster = serde_json::json!({ "coordinators": cluster.coordinators, "token": cluster.token.is_some() });
        (name.clone(), cluster)
    });
    let shown: serde_json::Map<String, serde_json::Value> = shown.collect();
    let value = serde_json::json!({ "current": contexts.current, "contexts": shown });
    session.output.print(&value, |output| {
        let mut table = Table::new(vec![
            Column::whole(""),
            Column::whole("NAME"),
            Column::text("COORDINATORS"),
            Column::whole("TOKEN"),
        ]);
        for (name, cluster) in &contexts.contexts {
            let star = if contexts.current.as_ref() == Some(name) { "*" } else { "" };
            table.row(vec![
                star.into(),
                name.as_str().into(),
                cluster.coordinators.join(",").into(),
                if cluster.token.is_some() { "yes" } else { "" }.into(),
            ]);
        }
        table.render(output, "no contexts")
    })
}
