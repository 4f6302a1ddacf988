//! `muster queues`: the tree that jobs wait in, its weights and quotas.

use super::Session;
use crate::failure::{Exit, bad_input, not_found};
use crate::output::{Column, Output, Table, json, style, table::clean};
use clap::{Args, Subcommand};
use client::{Client, v1};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The word for CPU slots, where others are product names of devices.
const CPU: &str = "cpu";

/// `muster queues ...`
#[derive(Debug, Subcommand)]
pub enum QueuesCommand {
    /// List all queues with their quotas and what they use
    List,
    /// Show one queue
    Show(NameArgs),
    /// Make a queue
    Create(SetArgs),
    /// Change a queue's weight or quotas; what is not named stays
    Update(SetArgs),
    /// Delete a queue in which no job is that has not ended
    Delete(NameArgs),
}

/// One queue.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// Its full name, such as research/vision
    queue: String,
}

/// A queue and what it may use.
#[derive(Args, Debug)]
#[command(
    after_help = "CLASS is a device's product name as `muster workers show` tells it, or `cpu` for the CPU slots of jobs without devices.
A queue may use what others leave idle. What it has guaranteed is taken back for it: borrowers are stopped with their
grace, and go on later from their last checkpoint.

Examples:
  muster queues create research --guaranteed \"NVIDIA H100=16\" --weight 2
  muster queues create research/vision --ceiling \"NVIDIA H100=8\"
  muster queues update research --lend \"NVIDIA H100=4\" --ceiling cpu=none"
)]
pub struct SetArgs {
    /// Its full name: research/vision hangs below research, which must be there
    queue: String,
    /// Its part among its siblings [default: 1]
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Its own, in devices; may be given several times
    #[arg(long, value_name = "CLASS=N", value_parser = amount)]
    guaranteed: Vec<(String, Option<u64>)>,
    /// Never more than this, however much lies idle; none = no bound
    #[arg(long, value_name = "CLASS=N", value_parser = amount)]
    ceiling: Vec<(String, Option<u64>)>,
    /// How much of its own that it does not use may be lent; none = all
    #[arg(long, value_name = "CLASS=N", value_parser = amount)]
    lend: Vec<(String, Option<u64>)>,
}

fn amount(text: &str) -> Result<(String, Option<u64>), String> {
    let (class, amount) = text.rsplit_once('=').ok_or_else(|| format!("{text:?} is not CLASS=N, such as cpu=8"))?;
    let class = if class == CPU { "" } else { class };
    if amount == "none" {
        return Ok((class.to_owned(), None));
    }
    let amount = amount.parse().map_err(|_| format!("{amount:?} is neither a whole number nor `none`"))?;
    Ok((class.to_owned(), Some(amount)))
}

/// Runs it.
pub async fn run(command: QueuesCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        QueuesCommand::List => {
            let queues = client.queues().await?;
            let value = serde_json::json!({ "queues": queues.iter().map(json::queue).collect::<Vec<_>>() });
            session.output.print(&value, |output| table(&queues, output))?;
        }
        QueuesCommand::Show(args) => print(&one(client, &args.queue).await?, session)?,
        QueuesCommand::Create(args) => {
            let mut queue = v1::Queue { name: args.queue.clone(), weight: 1, ..Default::default() };
            change(&mut queue, &args)?;
            print(&client.create_queue(&queue).await?, session)?;
        }
        QueuesCommand::Update(args) => {
            let mut queue = one(client, &args.queue).await?.queue.unwrap_or_default();
            change(&mut queue, &args)?;
            print(&client.update_queue(&queue).await?, session)?;
        }
        QueuesCommand::Delete(args) => {
            client.delete_queue(&args.queue).await?;
            let value = serde_json::json!({ "deleted": args.queue });
            session.output.print(&value, |_| format!("queue {} is deleted\n", args.queue))?;
        }
    }
    Ok(Exit::Success)
}

async fn one(client: &Client, name: &str) -> anyhow::Result<v1::QueueStatus> {
    let queues = client.queues().await?;
    let known: Vec<String> = queues.iter().map(|status| name_of(status).to_owned()).collect();
    let found = queues.into_iter().find(|status| name_of(status) == name);
    found.ok_or_else(|| not_found(format!("no queue {name:?}; there are: {}", known.join(", "))))
}

fn name_of(status: &v1::QueueStatus) -> &str {
    status.queue.as_ref().map_or("", |queue| &queue.name)
}

fn change(queue: &mut v1::Queue, args: &SetArgs) -> anyhow::Result<()> {
    queue.weight = args.weight.unwrap_or(queue.weight);
    if queue.weight == 0 {
        return Err(bad_input("--weight must be at least 1"));
    }
    for (class, amount) in &args.guaranteed {
        queue.quotas.entry(class.clone()).or_default().guaranteed = amount.unwrap_or(0);
    }
    for (class, amount) in &args.ceiling {
        queue.quotas.entry(class.clone()).or_default().ceiling = *amount;
    }
    for (class, amount) in &args.lend {
        queue.quotas.entry(class.clone()).or_default().lend = *amount;
    }
    queue.quotas.retain(|_, quota| *quota != v1::QueueQuota::default());
    Ok(())
}

fn print(status: &v1::QueueStatus, session: &Session) -> anyhow::Result<()> {
    session.output.print(&json::queue(status), |output| page(status, output))
}

/// A line for each class that a queue has a quota of or uses.
fn classes(status: &v1::QueueStatus) -> BTreeMap<&str, (v1::QueueQuota, u64)> {
    let mut classes: BTreeMap<&str, (v1::QueueQuota, u64)> = BTreeMap::new();
    for (class, quota) in status.queue.iter().flat_map(|queue| &queue.quotas) {
        classes.entry(class).or_default().0 = *quota;
    }
    for (class, used) in &status.used {
        classes.entry(class).or_default().1 = *used;
    }
    classes
}

fn shown(class: &str) -> String {
    if class.is_empty() { CPU.to_owned() } else { clean(class) }
}

fn bound(bound: Option<u64>) -> String {
    bound.map_or_else(|| "-".to_owned(), |bound| bound.to_string())
}

fn table(queues: &[v1::QueueStatus], output: &Output) -> String {
    let mut table = Table::new(vec![
        Column::whole("QUEUE"),
        Column::number("WEIGHT"),
        Column::number("WAITING"),
        Column::number("RUNNING"),
        Column::text("CLASS"),
        Column::number("USED"),
        Column::number("GUARANTEED"),
        Column::number("CEILING"),
        Column::number("LEND"),
    ]);
    for status in queues {
        let classes = classes(status);
        let none = BTreeMap::from([("-", Default::default())]);
        let mut is_first = true;
        for (class, (quota, used)) in if classes.is_empty() { none } else { classes } {
            let once = |text: String| if is_first { text } else { String::new() };
            table.row(vec![
                once(name_of(status).to_owned()).into(),
                once(status.queue.as_ref().map_or(1, |queue| queue.weight).to_string()).into(),
                once(status.jobs_waiting.to_string()).into(),
                once(status.jobs_running.to_string()).into(),
                shown(class).into(),
                used.to_string().into(),
                quota.guaranteed.to_string().into(),
                bound(quota.ceiling).into(),
                bound(quota.lend).into(),
            ]);
            is_first = false;
        }
    }
    table.render(output, "no queues")
}

fn page(status: &v1::QueueStatus, output: &Output) -> String {
    let mut page = format!("{}\n", output.paint(style::HEAD, name_of(status)));
    let _ = writeln!(page, "  weight   {}", status.queue.as_ref().map_or(1, |queue| queue.weight));
    let kind = if status.leaf { "jobs wait here" } else { "jobs wait in the queues below it" };
    let _ = writeln!(page, "  waiting  {} jobs; {kind}", status.jobs_waiting);
    let _ = writeln!(page, "  running  {} jobs", status.jobs_running);
    for (class, (quota, used)) in classes(status) {
        let _ = write!(page, "  {}: {used} used, {} guaranteed", shown(class), quota.guaranteed);
        let _ = quota.ceiling.map(|ceiling| write!(page, ", never more than {ceiling}"));
        let _ = quota.lend.map(|lend| write!(page, ", lends at most {lend}"));
        page.push('\n');
    }
    page
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn amounts_name_their_class() {
        assert_eq!(amount("cpu=8").unwrap(), (String::new(), Some(8)));
        assert_eq!(amount("NVIDIA H100 80GB=none").unwrap(), ("NVIDIA H100 80GB".into(), None));
        assert!(amount("8").unwrap_err().contains("CLASS=N"));
        assert!(amount("cpu=-1").unwrap_err().contains("whole number"));
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let arguments = |ceiling: Vec<(String, Option<u64>)>| SetArgs {
            queue: "a".into(),
            weight: None,
            guaranteed: vec![],
            ceiling,
            lend: vec![],
        };
        let quota = v1::QueueQuota { guaranteed: 4, ceiling: Some(8), lend: None };
        let mut queue = v1::Queue { name: "a".into(), weight: 3, quotas: [("x".to_owned(), quota)].into() };
        change(&mut queue, &arguments(vec![("y".into(), Some(2))])).unwrap();
        assert_eq!((queue.weight, queue.quotas.len(), queue.quotas["x"].guaranteed), (3, 2, 4));
        change(&mut queue, &arguments(vec![("y".into(), None)])).unwrap();
        assert_eq!(queue.quotas.len(), 1, "what says nothing is no quota");
    }
}
