//! `muster users`, `muster tokens`, `muster whoami`: who may do what, and by which tokens.

use super::Session;
use crate::failure::Exit;
use crate::output::text::{age, instant, parse_span};
use crate::output::{Column, Table, note};
use clap::{Args, Subcommand};
use client::{Client, v1};
use serde_json::{Value, json};

/// `muster users ...`
#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// List all users and their roles
    List,
    /// Make a user
    Create(UserArgs),
    /// Give a user other roles, at once and everywhere
    Update(UserArgs),
    /// Give a user more roles, everywhere or in a workspace
    Grant(RolesArgs),
    /// Take roles back, at once and everywhere
    Withdraw(RolesArgs),
    /// Remove a user with all tokens
    Remove(UserNameArgs),
}

/// Roles of a user.
#[derive(Args, Debug)]
#[command(after_help = "Who is an owner of a workspace may give and take back roles there.

Examples:
  muster users grant ana data-scientist@vision
  muster users withdraw ana data-scientist@vision reader@text")]
pub struct RolesArgs {
    /// The user
    name: String,
    /// ROLE or ROLE@WORKSPACE
    #[arg(value_name = "ROLE", required = true)]
    roles: Vec<String>,
}

/// A user and their roles.
#[derive(Args, Debug)]
#[command(
    after_help = "Roles: owner, contributor, data-scientist, compute-operator, reader, auditor: see docs/security.md.
ROLE@WORKSPACE is a role in one workspace: its jobs there, and a look at workers and queues.
Nobody can give a role that may do more than they may themselves.

Examples:
  muster users create ana --role data-scientist
  muster users create ben --role data-scientist@vision --role reader@text
  muster users update ana --role reader --role auditor
  muster users update ana --max-waiting 500"
)]
pub struct UserArgs {
    /// The name
    name: String,
    /// A role, or ROLE@WORKSPACE; may be given several times; an update without one leaves the roles as they are
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Jobs of this user that may wait at once; 0 = as many as anybody's [default: as before, 200000 at first]
    #[arg(long, value_name = "COUNT")]
    max_waiting: Option<u32>,
}

/// A user.
#[derive(Args, Debug)]
pub struct UserNameArgs {
    /// The name
    name: String,
}

/// `muster tokens ...`
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Make a token and show it, this once
    Create(CreateArgs),
    /// List tokens: one's own, or with access/read everybody's
    List,
    /// A token counts no more, at once and everywhere
    Revoke(TokenArgs),
}

/// `muster tokens create`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  muster tokens create --note laptop
  muster tokens create --user ana --for 7d > ana.token
  muster tokens create --note dashboard --role reader@vision")]
pub struct CreateArgs {
    /// Whose it is [default: whose command this is]
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// The token gives no more than this of what its user may, as ROLE or ROLE@WORKSPACE; may be given several times [default: all]
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// How long it counts, at most 366d
    #[arg(long = "for", value_name = "SPAN", default_value = "30d", value_parser = parse_span)]
    life_ms: u64,
}

/// A token.
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// Its id, as `muster tokens list` shows it
    id: String,
}

/// Runs `muster users`.
pub async fn users(command: UsersCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let set = |args: UserArgs, create| v1::SetUserRequest {
        name: args.name,
        roles: args.roles,
        create,
        waiting_max: args.max_waiting,
    };
    match command {
        UsersCommand::List => print_users(&client.users().await?, session)?,
        UsersCommand::Create(args) => print_users(&[client.set_user(set(args, true)).await?], session)?,
        UsersCommand::Update(args) => print_users(&[client.set_user(set(args, false)).await?], session)?,
        UsersCommand::Grant(args) => {
            print_users(&[client.change_roles(&args.name, args.roles, Vec::new()).await?], session)?;
        }
        UsersCommand::Withdraw(args) => {
            print_users(&[client.change_roles(&args.name, Vec::new(), args.roles).await?], session)?;
        }
        UsersCommand::Remove(args) => client.remove_user(&args.name).await?,
    }
    Ok(Exit::Success)
}

fn print_users(users: &[v1::User], session: &Session) -> anyhow::Result<()> {
    let one = |user: &v1::User| {
        json!({
            "name": user.name, "roles": user.roles, "created": instant(user.created_ms),
            "waiting": user.waiting, "waiting_max": user.waiting_max,
        })
    };
    let value = json!({ "users": users.iter().map(one).collect::<Vec<_>>() });
    let now = daemon::clock::now();
    session.output.print(&value, |output| {
        let mut table = Table::new(vec![
            Column::whole("USER"),
            Column::text("ROLES"),
            Column::number("WAITING"),
            Column::number("OF"),
            Column::whole("AGE"),
        ]);
        for user in users {
            table.row(vec![
                user.name.as_str().into(),
                user.roles.join(", ").into(),
                user.waiting.to_string().into(),
                user.waiting_max.to_string().into(),
                age(user.created_ms, now).into(),
            ]);
        }
        table.render(output, "no users")
    })
}

fn token_value(token: &v1::Token) -> Value {
    json!({
        "id": token.id,
        "user": token.user,
        "note": token.note,
        "created": instant(token.created_ms),
        "expires": instant(token.expires_ms),
        "last_used": last_used(token),
        "roles": token.roles,
    })
}

/// To within some minutes; none = never.
fn last_used(token: &v1::Token) -> Option<String> {
    (token.used_ms > 0).then(|| instant(token.used_ms))
}

/// Runs `muster tokens`.
pub async fn tokens(command: TokensCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        TokensCommand::Create(args) => {
            let wanted =
                v1::CreateTokenRequest { user: args.user, note: args.note, life_ms: args.life_ms, roles: args.roles };
            let made = client.create_token(wanted).await?;
            let token = made.token.unwrap_or_default();
            let mut value = token_value(&token);
            value["secret"] = made.secret.clone().into();
            note(&format!(
                "token {} of {}, until {}; it is shown this once",
                token.id,
                token.user,
                instant(token.expires_ms)
            ));
            session.output.print(&value, |_| format!("{}\n", made.secret))?;
        }
        TokensCommand::List => {
            let tokens = client.tokens("").await?;
            let value = json!({ "tokens": tokens.iter().map(token_value).collect::<Vec<_>>() });
            session.output.print(&value, |output| {
                let columns = ["ID", "USER", "EXPIRES", "LAST USED"].map(Column::whole);
                let texts = ["ROLES", "NOTE"].map(Column::text);
                let mut table = Table::new(columns.into_iter().chain(texts).collect());
                for token in &tokens {
                    let expires = instant(token.expires_ms);
                    table.row(vec![
                        token.id.as_str().into(),
                        token.user.as_str().into(),
                        expires.into(),
                        last_used(token).unwrap_or_else(|| "never".to_owned()).into(),
                        if token.roles.is_empty() { "its user's".to_owned() } else { token.roles.join(", ") }.into(),
                        token.note.as_str().into(),
                    ]);
                }
                table.render(output, "no tokens")
            })?;
        }
        TokensCommand::Revoke(args) => client.revoke_token(&args.id).await?,
    }
    Ok(Exit::Success)
}

/// Runs `muster whoami`.
pub async fn who_am_i(client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let who = client.who_am_i().await?;
    super::authority::relearn(session, &who.authority)?;
    let value = json!({
        "principal": who.principal,
        "roles": who.roles,
        "permissions": who.permissions,
        "token": { "id": who.token_id, "expires": instant(who.token_expires_ms) },
    });
    session.output.print(&value, |_| {
        format!(
            "{}\nroles        {}\nmay          {}\ntoken        {}, until {}\n",
            who.principal,
            who.roles.join(", "),
            who.permissions.join(", "),
            who.token_id,
            instant(who.token_expires_ms)
        )
    })?;
    Ok(Exit::Success)
}
