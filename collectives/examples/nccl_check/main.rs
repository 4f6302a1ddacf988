//! Checks the NCCL backend on the devices of this machine, each rank a process of its own: that every operation gives
//! the exact result in every type, how long all-reduce takes, and how a group ends when a rank aborts, is killed or
//! stays away.
//!
//! ```sh
//! cargo run --release -p collectives --features measure --example nccl_check                  # a rank for each device
//! cargo run --release -p collectives --features measure --example nccl_check -- --world 2 --one-device
//! ```
//!
//! NCCL admits one rank for each device of a machine. With more ranks than devices its refusal is what is checked; with
//! `--one-device` each rank claims to be on a machine of its own, so that NCCL takes them and goes over sockets: slow,
//! but all of its ways can be tried on one device. Ends with 1 where anything was not as it should be.

#[path = "../../tests/support/exact.rs"]
mod exact;
mod group;
mod rank;

use std::process::ExitCode;
use std::time::Duration;

use collectives::nccl;

use group::{Group, Stage};

const USAGE: &str =
    "usage: nccl_check [--world 1|2|4|8] [--one-device] [--stage NAME].. [--bytes-max N] [--iterations N]
stages: results, times, abort, kill, time-limit (all by default)";

/// COLL-4.
const END_MAX: Duration = Duration::from_secs(1);

/// What was asked for.
#[derive(Clone, Debug)]
struct Settings {
    world: u32,
    one_device: bool,
    stages: Vec<Stage>,
    bytes_max: usize,
    iterations: usize,
}

/// One line of the table.
struct Row {
    stage: String,
    seconds: f64,
    /// What was seen, or what is wrong.
    verdict: Result<String, String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("rank", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return rank::main(rest);
    }
    match parse(&arguments).and_then(|settings| Ok((nccl::available().map_err(|error| error.to_string())?, settings))) {
        Ok((info, settings)) => check(&info, settings),
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<(Option<u32>, Settings), String> {
    let (mut world, mut stages) = (None, Vec::new());
    let mut settings =
        Settings { world: 1, one_device: false, stages: Stage::ALL.to_vec(), bytes_max: 256 << 20, iterations: 20 };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        if name == "--one-device" {
            settings.one_device = true;
            continue;
        }
        let value = rest.next().ok_or(USAGE)?;
        let number = || value.parse::<usize>().map_err(|_| format!("{name} {value}: not a number\n{USAGE}"));
        match name.as_str() {
            "--world" => world = Some(number()? as u32),
            "--bytes-max" => settings.bytes_max = number()?,
            "--iterations" => settings.iterations = number()?,
            "--stage" => stages.push(Stage::named(value).ok_or(USAGE)?),
            _ => return Err(USAGE.to_owned()),
        }
    }
    // Averages over other numbers of ranks are rounded by NCCL.
    if world.is_some_and(|world| ![1, 2, 4, 8].contains(&world)) {
        return Err(USAGE.to_owned());
    }
    if !stages.is_empty() {
        settings.stages = stages;
    }
    Ok((world, settings))
}

/// A rank for each device, as far as averages stay whole.
fn world_of(devices: usize) -> u32 {
    [8, 4, 2].into_iter().find(|world| *world <= devices).unwrap_or(1) as u32
}

fn check(info: &nccl::Info, (world, mut settings): (Option<u32>, Settings)) -> ExitCode {
    let (major, minor, patch) = info.version;
    println!("NCCL {major}.{minor}.{patch}");
    for device in &info.devices {
        let (gibibytes, (major, minor)) = (device.memory_bytes >> 30, device.capability);
        println!("device {}: {}, {gibibytes} GiB, compute capability {major}.{minor}", device.ordinal, device.name);
    }
    settings.world = world.unwrap_or(world_of(info.devices.len()));
    let shared = settings.world as usize > info.devices.len();
    let how = if settings.one_device { ", all on one device as if on machines of their own" } else { "" };
    println!("{} ranks{how}\n\n{:<14}{:>9}  seen", settings.world, "stage", "seconds");
    let rows = if shared && !settings.one_device {
        vec![run("refusal", || refusal(&settings))]
    } else {
        settings.stages.iter().map(|stage| run(stage.name(), || one(*stage, &settings))).collect()
    };
    let failed = rows.iter().filter(|row| row.verdict.is_err()).count();
    println!("\n{}", if failed == 0 { "all as it should be".to_owned() } else { format!("{failed} stages FAILED") });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one stage and prints its row.
fn run(stage: &str, check: impl FnOnce() -> Result<String, String>) -> Row {
    let started = std::time::Instant::now();
    let verdict = check();
    let row = Row { stage: stage.to_owned(), seconds: started.elapsed().as_secs_f64(), verdict };
    let (mark, text) = match &row.verdict {
        Ok(text) => ("", text),
        Err(text) => ("FAILED: ", text),
    };
    let text = text.replace('\n', "\n                         ");
    println!("{:<14}{:>9.2}  {mark}{text}", row.stage, row.seconds);
    row
}

fn one(stage: Stage, settings: &Settings) -> Result<String, String> {
    match stage {
        Stage::Results => results(settings),
        Stage::Times => times(settings),
        Stage::Abort if settings.world == 1 => alone(settings),
        Stage::Kill | Stage::TimeLimit if settings.world == 1 => Ok("nothing to check with one rank".to_owned()),
        Stage::Abort | Stage::Kill | Stage::TimeLimit => ends(stage, settings),
    }
}

/// More ranks than devices: all must hear of it, and none may hang.
fn refusal(settings: &Settings) -> Result<String, String> {
    let group = Group::start(Stage::Results, settings)?;
    let mut seen = Vec::new();
    for rank in 0..settings.world {
        let refused = group.hear(rank, "refused")?;
        let (milliseconds, error) = refused.split_once(' ').unwrap_or((&refused, ""));
        seen.push(format!("rank {rank} after {milliseconds} ms: {error}"));
    }
    group.end()?;
    Ok(seen.join("\n"))
}

fn results(settings: &Settings) -> Result<String, String> {
    let group = Group::start(Stage::Results, settings)?;
    let joined = group.hear_all("joined")?;
    let (mut compared, mut left) = (0, Vec::new());
    for rank in 0..settings.world {
        compared += group.hear(rank, "compared")?.parse::<u64>().map_err(|error| error.to_string())?;
        left.push(group.hear(rank, "left")?);
    }
    group.end()?;
    let (joined, left) = (joined.join(", "), left.join(", "));
    Ok(format!("{compared} elements right; joined after {joined} ms; left within {left} ms"))
}

fn times(settings: &Settings) -> Result<String, String> {
    let group = Group::start(Stage::Times, settings)?;
    group.hear_all("joined")?;
    let mut lines =
        vec![format!("{:>12}{:>12}{:>12}{:>12}{:>9}{:>12}", "bytes", "host us", "p10", "p90", "GB/s", "device us")];
    loop {
        let line = group.hear(0, "time")?;
        let words: Vec<&str> = line.split(' ').collect();
        let [bytes, median, p10, p90, rate, device] = words[..] else { break };
        lines.push(format!("{bytes:>12}{median:>12}{p10:>12}{p90:>12}{rate:>9}{device:>12}"));
    }
    group.end()?;
    Ok(format!("medians of all-reduce, of host slices and of device buffers\n{}", lines.join("\n")))
}

/// A group of one has nobody to tell.
fn alone(settings: &Settings) -> Result<String, String> {
    let group = Group::start(Stage::Abort, settings)?;
    for word in ["joined", "together", "acting"] {
        group.hear(0, word)?;
    }
    let ended = group.hear(0, "ended")?;
    group.end()?;
    if ended.starts_with("aborted Some(0)") { Ok(ended) } else { Err(ended) }
}

/// The last rank goes in the middle of operations, or stays away from them; all others must end with the right cause.
fn ends(stage: Stage, settings: &Settings) -> Result<String, String> {
    let mut group = Group::start(stage, settings)?;
    let last = settings.world - 1;
    let victim = if stage == Stage::TimeLimit { None } else { Some(last) };
    group.hear_all("joined")?;
    group.hear_all("together")?;
    group.tell(last, "go")?;
    group.hear(last, "acting")?;
    if stage == Stage::Kill {
        group.kill(last)?;
    }
    let started = std::time::Instant::now();
    let ends = (0..last).map(|rank| group.hear(rank, "ended")).collect::<Result<Vec<_>, _>>()?;
    let took = started.elapsed();
    group.end()?;
    let leaving = started.elapsed().saturating_sub(took);
    let text = format!(
        "all ended after {} ms, processes gone {} ms later: {}",
        took.as_millis(),
        leaving.as_millis(),
        ends.first().map_or("", String::as_str)
    );
    let limit = if stage == Stage::TimeLimit { END_MAX + rank::TIME_LIMIT } else { END_MAX };
    let blamed = format!(" {victim:?} ");
    if took > limit || !ends.iter().all(|end| end.contains(&blamed)) {
        return Err(format!("{text}\nexpected within {} ms, blaming {victim:?}: {ends:?}", limit.as_millis()));
    }
    Ok(text)
}
