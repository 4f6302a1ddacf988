//! Ours beside Open MPI and gloo, in turns on the same machine: medians over the rounds, as rows of a Markdown table.
//!
//! ```sh
//! cargo xtask bench collectives
//! ```
//!
//! The machine's neighbours come and go, so systems take turns and the ratio to the best peer of the same transport is
//! what counts. Each table says how far apart the processors were, before and after. A peer that is not installed
//! is named and left out.

mod distance;
mod systems;

use std::collections::BTreeMap;
use std::process::ExitCode;

use systems::{Setting, System};

const USAGE: &str = "usage: compare [--rounds N] [--ranks N,N..] [--bytes N,N..] [--seconds S]";

/// Medians in microseconds, one of each round, by bytes and system.
type Times = BTreeMap<(usize, &'static str), Vec<f64>>;

struct Settings {
    rounds: usize,
    ranks: Vec<usize>,
    setting: Setting,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let settings = match parse(&arguments) {
        Ok(settings) => settings,
        Err(reason) => {
            eprintln!("{reason}");
            return ExitCode::FAILURE;
        }
    };
    let systems = System::present();
    for ranks in &settings.ranks {
        compare(&settings, *ranks, &systems);
    }
    ExitCode::SUCCESS
}

fn parse(arguments: &[String]) -> Result<Settings, String> {
    let bytes = vec![4, 1 << 10, 64 << 10, 1 << 20, 16 << 20, 128 << 20];
    let mut settings = Settings { rounds: 5, ranks: vec![2, 4, 8], setting: Setting { bytes, seconds: 0.3 } };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return Err(USAGE.to_owned()) };
        let numbers = || value.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>().map_err(|_| USAGE);
        match name.as_str() {
            "--rounds" => settings.rounds = value.parse().map_err(|_| USAGE)?,
            "--ranks" => settings.ranks = numbers()?,
            "--bytes" => settings.setting.bytes = numbers()?,
            "--seconds" => settings.setting.seconds = value.parse().map_err(|_| USAGE)?,
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(settings)
}

fn compare(settings: &Settings, ranks: usize, systems: &[System]) {
    let mut times = Times::new();
    let before = distance::nanoseconds();
    for round in 0..settings.rounds {
        for turn in 0..systems.len() {
            // Another one begins each round: whoever comes first may find the caches cold or a neighbour busy.
            let system = &systems[(turn + round) % systems.len()];
            match system.measure(ranks, &settings.setting) {
                Ok(rows) => {
                    for (bytes, median) in rows {
                        times.entry((bytes, system.name)).or_default().push(median);
                    }
                }
                Err(reason) => eprintln!("{} with {ranks} ranks: {reason}", system.name),
            }
        }
    }
    println!(
        "\n{ranks} ranks, {} rounds; processors {before} ns apart before, {} ns after\n",
        settings.rounds,
        distance::nanoseconds()
    );
    let names: Vec<&str> = systems.iter().map(|system| system.name).collect();
    println!("| bytes | {} | staged | in place | tcp |", names.join(" | "));
    println!("|---|{}---|---|---|", "---|".repeat(names.len()));
    for bytes in &settings.setting.bytes {
        let cell = |name: &&str| median(&times, *bytes, name).map_or("-".to_owned(), |time| format!("{time:.1}"));
        let cells: Vec<String> = names.iter().map(cell).collect();
        let best = |shared: bool| {
            let peers = systems.iter().filter(|system| !system.ours && (shared || !system.shared));
            peers.filter_map(|system| median(&times, *bytes, system.name)).min_by(f64::total_cmp)
        };
        let ratio = |name: &str, shared: bool| match (best(shared), median(&times, *bytes, name)) {
            (Some(best), Some(ours)) => format!("{:.2}", best / ours),
            _ => "-".to_owned(),
        };
        let ratios = [ratio("muster shm", true), ratio("muster alloc", true), ratio("muster tcp", false)];
        println!("| {bytes} | {} | {} |", cells.join(" | "), ratios.join(" | "));
    }
}

fn median(times: &Times, bytes: usize, name: &str) -> Option<f64> {
    let (_, found) = times.iter().find(|((of, by), _)| *of == bytes && *by == name)?;
    let mut sorted = found.clone();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
