//! `muster bench all-reduce`: starts ranks of this program on this machine and times their sums, the usual table.

mod rank;

use super::Session;
use super::collective::sizes;
use crate::failure::{Exit, bad_input};
use crate::output::{Cell, Column, Output, Table, note, style};
use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use rank::{RankArgs, Row};
use serde_json::json;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Ranks of one machine.
const WORLD_MAX: u32 = 64;
/// Bytes of the sizes that are measured when none are named.
const SIZES: [u64; 6] = [4, 1 << 10, 64 << 10, 1 << 20, 16 << 20, 128 << 20];
/// Of the buffers of all ranks together.
const BYTES_TOGETHER_MAX: u64 = 64 << 30;
/// Of one size.
const SECONDS_MAX: f64 = 600.0;

/// `muster bench`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time all-reduce between ranks on this machine
    AllReduce(AllReduceArgs),
    /// One rank of it
    #[command(hide = true)]
    Rank(RankArgs),
}

/// `muster bench all-reduce`
#[derive(Args, Debug)]
#[command(
    after_help = "Time is the median over operations, each counted at its slowest rank. algbw is bytes over time; busbw is
that times 2(n-1)/n, comparable between numbers of ranks. From 64 KiB on each rank rewrites its buffer before each
sum, as training does. wrong counts elements of a sum of known numbers that did not come out exactly.

Examples:
  muster bench all-reduce --world 4
  muster bench all-reduce --world 2 --transport tcp --bytes 64KiB,16MiB --dtype bf16 -o json"
)]
pub struct AllReduceArgs {
    /// Ranks, each a process of this machine
    #[arg(long, value_name = "N", default_value_t = 2)]
    world: u32,
    /// What carries the bytes
    #[arg(long, value_enum, value_name = "TRANSPORT", default_value_t = Way::Shm)]
    transport: Way,
    /// Type of the elements
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = Type::F32)]
    dtype: Type,
    /// Bytes of the buffer, as 4,64KiB,16MiB [default: 4 to 128MiB]
    #[arg(long, value_name = "BYTES,..", value_delimiter = ',')]
    bytes: Vec<String>,
    /// Longest time for one size
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    seconds: f64,
    /// Encrypt what goes over sockets, as between machines where workers ask for it
    #[arg(long)]
    encrypt: bool,
    /// Sum in memory that the communicator gives out, which ranks of one host need not copy
    #[arg(long)]
    alloc: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Memory that all ranks map
    Shm,
    /// Sockets on loopback
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Type {
    F32,
    F64,
    F16,
    Bf16,
    I32,
    I64,
}

/// Runs it.
pub fn run(command: &BenchCommand, session: &Session) -> anyhow::Result<Exit> {
    match command {
        BenchCommand::Rank(args) => rank::run(args),
        BenchCommand::AllReduce(args) => all_reduce(args, session),
    }
}

fn all_reduce(args: &AllReduceArgs, session: &Session) -> anyhow::Result<Exit> {
    let sizes = check(args)?;
    let mut ranks = Ranks::start(args, &sizes)?;
    let backend = ranks.backend()?;
    if args.world > 1 && args.transport == Way::Shm && backend != "shm" {
        note("memory cannot be shared here: these sums went over tcp");
    }
    let rows = sizes.iter().map(|_| ranks.row()).collect::<anyhow::Result<Vec<Row>>>()?;
    ranks.end()?;
    let dtype = name(args.dtype);
    let value = json!({
        "world": args.world,
        "transport": backend,
        "dtype": dtype,
        "encrypt": args.encrypt,
        "alloc": args.alloc,
        "sizes": rows,
    });
    let how = [(args.encrypt, ", encrypted"), (args.alloc, ", alloc")];
    let how: String = how.into_iter().filter(|(is_so, _)| *is_so).map(|(_, words)| words).collect();
    let head = format!("{} ranks over {backend}, {dtype}{how}", args.world);
    session.output.print(&value, |output| format!("{head}\n{}", table(&rows, output)))?;
    let wrong = rows.iter().any(|row| row.wrong > 0);
    Ok(if wrong { Exit::Error } else { Exit::Success })
}

/// The sizes, or all that is wrong.
fn check(args: &AllReduceArgs) -> anyhow::Result<Vec<u64>> {
    let (sizes, mut faults) = sizes(&args.bytes, &SIZES);
    if !(1..=WORLD_MAX).contains(&args.world) {
        faults.push(format!("--world {}: from 1 to {WORLD_MAX}", args.world));
    }
    if !(args.seconds > 0.0 && args.seconds <= SECONDS_MAX) {
        faults.push(format!("--seconds {}: above 0, up to {SECONDS_MAX}", args.seconds));
    }
    if args.encrypt && args.transport == Way::Shm {
        faults.push("--encrypt: is for --transport tcp; nothing of shared memory leaves the machine".to_owned());
    }
    let together = |bytes: &&u64| bytes.saturating_mul(u64::from(args.world)) > BYTES_TOGETHER_MAX;
    if let Some(bytes) = sizes.iter().find(together) {
        faults.push(format!("--bytes {bytes}: {} ranks have no more than 64GiB together", args.world));
    }
    if faults.is_empty() { Ok(sizes) } else { Err(bad_input(faults.join("\n"))) }
}

fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn table(rows: &[Row], output: &Output) -> String {
    let titles = ["BYTES", "MEDIAN US", "P10", "P90", "ALGBW GB/S", "BUSBW GB/S", "WRONG"];
    let mut table = Table::new(titles.map(Column::number).to_vec());
    for row in rows {
        let times = [row.median_us, row.p10_us, row.p90_us].map(|time| Cell::from(format!("{time:.2}")));
        let rates = [row.algbw_gbps, row.busbw_gbps].map(|rate| Cell::from(format!("{rate:.3}")));
        let wrong = if row.wrong > 0 { Cell::styled(row.wrong.to_string(), style::BAD) } else { Cell::from("0") };
        let mut cells = vec![Cell::from(row.bytes.to_string())];
        cells.extend(times.into_iter().chain(rates).chain([wrong]));
        table.row(cells);
    }
    table.render(output, "no sizes")
}

/// The processes; none outlives this one's interest in it.
struct Ranks {
    children: Vec<Child>,
    /// What rank 0 says.
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Ranks {
    fn drop(&mut self) {
        end_all(&mut self.children);
    }
}

fn end_all(children: &mut [Child]) {
    for child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Ranks {
    /// Starts them and tells each where the others listen.
    fn start(args: &AllReduceArgs, sizes: &[u64]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
        let mut started = Started(Vec::new());
        for rank in 0..args.world {
            let mut command = Command::new(&program);
            command.args(["bench", "rank", "--rank", &rank.to_string(), "--world", &args.world.to_string()]);
            command.args(["--dtype", &name(args.dtype), "--bytes", &sizes.join(",")]);
            command.args(["--seconds", &args.seconds.to_string()]);
            if args.transport == Way::Tcp {
                command.arg("--tcp");
            }
            let flags = [(args.encrypt, "--encrypt"), (args.alloc, "--alloc")];
            command.args(flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag));
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            started.0.push(child.with_context(|| format!("cannot start rank {rank}"))?);
        }
        let mut outputs = Vec::new();
        let mut addresses = Vec::new();
        for (rank, child) in started.0.iter_mut().enumerate() {
            let mut lines = BufReader::new(child.stdout.take().context("a rank without output")?).lines();
            addresses.push(lines.next().ok_or_else(|| anyhow!("rank {rank} ended before it listened"))??);
            outputs.push(lines);
        }
        for child in &mut started.0 {
            let input = child.stdin.as_mut().context("a rank without input")?;
            writeln!(input, "{}", addresses.join(" ")).context("a rank ended before it knew the others")?;
        }
        let lines = outputs.into_iter().next().context("no ranks")?;
        Ok(Ranks { children: std::mem::take(&mut started.0), lines })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        self.lines.next().ok_or_else(|| anyhow!("the ranks ended early; their errors are above"))?.map_err(Into::into)
    }

    fn backend(&mut self) -> anyhow::Result<String> {
        self.line()
    }

    fn row(&mut self) -> anyhow::Result<Row> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("rank 0 said {line:?}"))
    }

    fn end(&mut self) -> anyhow::Result<()> {
        for (rank, child) in self.children.iter_mut().enumerate() {
            let status = child.wait()?;
            anyhow::ensure!(status.success(), "rank {rank} ended with {status}");
        }
        Ok(())
    }
}

/// Children of a start that may fail half way.
struct Started(Vec<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        end_all(&mut self.0);
    }
}
