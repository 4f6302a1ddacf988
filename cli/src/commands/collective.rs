//! `muster collective`: which way sums would go and what the model says they take, and whether NCCL can be used; runs none.

use super::Session;
use crate::failure::{Exit, bad_input, not_found};
use crate::output::{Cell, Column, Output, Table};
use clap::{Args, Subcommand};
use collectives::{Choice, Transport, plan_on_hosts};
use serde_json::json;

/// Ranks of a world, at most.
const WORLD_MAX: u32 = 65_536;
/// Bytes of the sizes that are shown when none are named.
const SIZES: [u64; 8] = [4, 1 << 10, 16 << 10, 64 << 10, 1 << 20, 16 << 20, 128 << 20, 1 << 30];
const BYTES_MAX: u64 = 1 << 40;

/// `muster collective`
#[derive(Debug, Subcommand)]
pub enum CollectiveCommand {
    /// Show which way an all-reduce of each size would go, and the model's estimate of its time
    Plan(PlanArgs),
    /// Show whether NCCL can be used here: its version, and the devices that a program would see
    Nccl,
}

/// `muster collective plan`
#[derive(Args, Debug)]
#[command(
    after_help = "The estimates come from one machine's costs and are not fitted to yours: `muster bench all-reduce` measures.

Examples:
  muster collective plan --world 4
  muster collective plan --world 32 --hosts 8 --bytes 64KiB,16MiB -o json"
)]
pub struct PlanArgs {
    /// Ranks that sum
    #[arg(long, value_name = "N", default_value_t = 2)]
    world: u32,
    /// Hosts that they are on, as many ranks on each
    #[arg(long, value_name = "N", default_value_t = 1)]
    hosts: u32,
    /// Bytes of the buffer, as 4,64KiB,16MiB [default: 4 to 1GiB]
    #[arg(long, value_name = "BYTES,..", value_delimiter = ',')]
    bytes: Vec<String>,
}

/// Prints it.
pub fn run(command: &CollectiveCommand, session: &Session) -> anyhow::Result<Exit> {
    match command {
        CollectiveCommand::Plan(args) => show_plan(args, session),
        CollectiveCommand::Nccl => show_nccl(session),
    }
}

fn show_nccl(session: &Session) -> anyhow::Result<Exit> {
    let found = collectives::nccl::available().map_err(|error| match error {
        collectives::Error::Unavailable { .. } => not_found(error.to_string()),
        other => other.into(),
    })?;
    let (major, minor, patch) = found.version;
    let version = format!("{major}.{minor}.{patch}");
    let devices = found.devices.iter().map(|device| json!({ "ordinal": device.ordinal, "name": device.name }));
    let value = json!({ "version": version, "devices": devices.collect::<Vec<_>>() });
    session.output.print(&value, |output| {
        let mut table = Table::new(vec![Column::number("DEVICE"), Column::whole("NAME")]);
        for device in &found.devices {
            table.row(vec![device.ordinal.to_string().into(), device.name.as_str().into()]);
        }
        format!("NCCL {version}\n{}", table.render(output, "no devices"))
    })?;
    Ok(Exit::Success)
}

fn show_plan(args: &PlanArgs, session: &Session) -> anyhow::Result<Exit> {
    let (sizes, mut faults) = sizes(&args.bytes, &SIZES);
    if !(1..=WORLD_MAX).contains(&args.world) {
        faults.push(format!("--world {}: from 1 to {WORLD_MAX}", args.world));
    }
    if args.hosts == 0 || args.hosts > args.world {
        faults.push(format!("--hosts {}: at least 1, and no more than the {} ranks", args.hosts, args.world));
    }
    if !faults.is_empty() {
        return Err(bad_input(faults.join("\n")));
    }
    let rows: Vec<(u64, Transport, Choice)> = sizes
        .iter()
        .map(|bytes| {
            let (transport, choice) = plan_on_hosts(args.world, args.hosts, *bytes);
            (*bytes, transport, choice)
        })
        .collect();
    let value = json!({
        "world": args.world,
        "hosts": args.hosts,
        "sizes": rows.iter().map(|(bytes, transport, choice)| json!({
            "bytes": bytes,
            "transport": transport.to_string(),
            "method": choice.method.to_string(),
            "steps": choice.steps,
            "bytes_moved": choice.bytes,
            "estimate_us": choice.estimate.as_secs_f64() * 1e6,
        })).collect::<Vec<_>>(),
    });
    session.output.print(&value, |output| table(args, &rows, output))?;
    Ok(Exit::Success)
}

fn table(args: &PlanArgs, rows: &[(u64, Transport, Choice)], output: &Output) -> String {
    let columns = ["BYTES", "OVER", "METHOD", "STEPS", "BYTES MOVED", "ESTIMATE US"];
    let is_text = |title| ["OVER", "METHOD"].contains(&title);
    let columns = columns.map(|title| if is_text(title) { Column::whole(title) } else { Column::number(title) });
    let mut table = Table::new(columns.to_vec());
    for (bytes, transport, choice) in rows {
        let estimate = format!("{:.1}", choice.estimate.as_secs_f64() * 1e6);
        let (method, steps) = (choice.method.to_string(), choice.steps.to_string());
        let cells = [bytes.to_string(), transport.to_string(), method, steps, choice.bytes.to_string(), estimate];
        table.row(cells.into_iter().map(Cell::from).collect());
    }
    let (world, hosts) = (args.world, args.hosts);
    format!("{world} ranks on {hosts} host(s)\n{}", table.render(output, "no sizes"))
}

/// The sizes that were named, or else those of `usual`, and what is wrong with any of them.
pub fn sizes(named: &[String], usual: &[u64]) -> (Vec<u64>, Vec<String>) {
    if named.is_empty() {
        return (usual.to_vec(), Vec::new());
    }
    let (mut sizes, mut faults) = (Vec::new(), Vec::new());
    for text in named {
        match size(text) {
            Some(bytes) if (1..=BYTES_MAX).contains(&bytes) => sizes.push(bytes),
            Some(_) => faults.push(format!("--bytes {text}: from 1 to 1TiB")),
            None => faults.push(format!("--bytes {text}: not a size, as 4, 64KiB, 16MiB or 1GiB")),
        }
    }
    (sizes, faults)
}

fn size(text: &str) -> Option<u64> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        let read = ["4", "7B", "64KiB", "64K", "16MiB", "2G", "1TiB"].map(size);
        let expected = [4, 7, 65_536, 65_536, 16 << 20, 2 << 30, 1 << 40];
        assert_eq!(read, expected.map(Some));
        assert!(
            ["", "KiB", "1kb", "-1", "1.5M", "99999999999999999999", "99999999T"]
                .iter()
                .all(|text| size(text).is_none())
        );
    }

    #[test]
    fn every_wrong_size_is_named() {
        let named = ["4", "x", "0", "2T"].map(str::to_owned);
        let (good, faults) = sizes(&named, &[]);
        assert_eq!((good.as_slice(), faults.len()), (&[4][..], 3), "{faults:?}");
    }
}
