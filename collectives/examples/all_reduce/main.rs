//! Times all-reduce between processes of this machine, the usual table: bytes, time, algbw, busbw.
//!
//! ```sh
//! cargo run --release -p collectives --features measure --example all_reduce -- --ranks 2 --way shm
//! ```
//!
//! Each rank is a process, pinned to a processor where there are enough. `--way`: `shm` for any buffer, `alloc` for
//! buffers of the communicator, `tcp`, or `bf16`: TCP with 16 bits on the wire. `--streams` says how many data sockets a pair has. `--csv`
//! prints one line a size, for `cargo xtask bench collectives`.
//!
//! `--per-host N` sets groups of N ranks apart as if each were on a host of its own. Ranks in network namespaces: `--through "ip netns exec node%"` and `--address 10.77.0.1%`, with the rank's number for each `%`.

mod rank;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};

const USAGE: &str = "usage: all_reduce [--ranks N] [--way shm|alloc|tcp|bf16|sealed] [--streams N] [--per-host N] [--bytes N,N..] [--seconds S] \
                     [--through COMMAND] [--address A] [--csv]";

/// What was asked for.
#[derive(Clone, Debug)]
struct Settings {
    ranks: usize,
    way: String,
    bytes: Vec<usize>,
    /// Longest measurement of one size.
    seconds: f64,
    csv: bool,
    streams: u8,
    per_host: u64,
    /// Words that start a rank's program.
    through: Vec<String>,
    address: String,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == "rank" => rank::main(rest),
        _ => parse(&arguments).and_then(|settings| measure(&settings)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Settings, String> {
    let sizes = vec![4, 1 << 10, 64 << 10, 1 << 20, 16 << 20, 128 << 20];
    let (way, address, through) = ("shm".to_owned(), "127.0.0.1".to_owned(), Vec::new());
    let mut settings =
        Settings { ranks: 2, way, bytes: sizes, seconds: 0.7, csv: false, streams: 1, per_host: 0, through, address };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        if name == "--csv" {
            settings.csv = true;
            continue;
        }
        let value = rest.next().ok_or(USAGE)?;
        let wrong = |_| format!("{name} {value}: not a number\n{USAGE}");
        match name.as_str() {
            "--ranks" => settings.ranks = value.parse().map_err(wrong)?,
            "--bytes" => {
                settings.bytes = value.split(',').map(str::parse).collect::<Result<_, _>>().map_err(wrong)?;
            }
            "--seconds" => settings.seconds = value.parse().map_err(|_| USAGE.to_owned())?,
            "--streams" => settings.streams = value.parse().map_err(wrong)?,
            "--per-host" => settings.per_host = value.parse().map_err(wrong)?,
            "--through" => settings.through = value.split_whitespace().map(str::to_owned).collect(),
            "--address" => settings.address.clone_from(value),
            "--way" if ["shm", "alloc", "tcp", "bf16", "sealed"].contains(&value.as_str()) => {
                settings.way.clone_from(value);
            }
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(settings)
}

/// Starts the ranks, tells each where the others listen, and prints what rank 0 says.
fn measure(settings: &Settings) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let bytes: Vec<String> = settings.bytes.iter().map(usize::to_string).collect();
    let mut ranks = Ranks(Vec::new());
    for rank in 0..settings.ranks {
        let number = rank.to_string();
        let mut words = settings.through.iter().map(|word| word.replace('%', &number));
        let mut command = match words.next() {
            Some(first) => Command::new(first),
            None => Command::new(&program),
        };
        if !settings.through.is_empty() {
            command.args(words).arg(&program);
        }
        command.args(["rank", &number, &settings.way, &bytes.join(","), &settings.seconds.to_string()]);
        let label = (rank as u64).checked_div(settings.per_host).map_or(0, |host| host + 1);
        command.args([settings.streams.to_string(), label.to_string(), settings.address.replace('%', &number)]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        ranks.0.push(child);
    }
    let mut outputs = Vec::new();
    let mut addresses = Vec::new();
    for child in &mut ranks.0 {
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        output.read_line(&mut line).map_err(|error| error.to_string())?;
        addresses.push(line.trim().to_owned());
        outputs.push(output);
    }
    for child in &mut ranks.0 {
        let input = child.stdin.as_mut().ok_or("no input")?;
        writeln!(input, "{}", addresses.join(" ")).map_err(|error| error.to_string())?;
    }
    if !settings.csv {
        println!("{:>10} {:>12} {:>12} {:>12} {:>8} {:>8}", "bytes", "median us", "p10", "p90", "algbw", "busbw");
    }
    for line in outputs.remove(0).lines().map_while(Result::ok) {
        let fields: Vec<&str> = line.split(',').collect();
        match fields.as_slice() {
            [bytes, median, p10, p90, algbw, busbw] if !settings.csv => {
                println!("{bytes:>10} {median:>12} {p10:>12} {p90:>12} {algbw:>8} {busbw:>8}");
            }
            _ => println!("muster,{},{},{line}", settings.way, settings.ranks),
        }
    }
    for child in &mut ranks.0 {
        let status = child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("a rank ended with {status}"));
        }
    }
    Ok(())
}

/// None outlives the program.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
