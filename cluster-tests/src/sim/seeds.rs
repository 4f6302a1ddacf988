//! Seeds by the thousand: a process each, some at a time; what fails is told with the command that shows it again.

use super::{Break, Counts, Plan, Report};
use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Every such seed runs twice, and both runs must be alike.
const TWICE: u64 = 20;

/// What is to be simulated.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many seeds, one after the other
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// Virtual seconds of faults; the end follows
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Coordinators
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=5))]
    pub nodes: u64,
    /// A deliberate fault that must be found
    #[arg(long = "break", value_enum)]
    pub broken: Option<Break>,
    /// Processes at a time
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
    /// Seconds of wall time after which a seed is given up, with its last events
    #[arg(long, default_value_t = 900)]
    pub wall: u64,
    /// Stops at the first seed that fails as is to be expected
    #[arg(long)]
    pub until_found: bool,
    /// Prints every event
    #[arg(long)]
    pub print: bool,
    /// Says nothing of single seeds
    #[arg(skip)]
    pub quiet: bool,
}

impl Options {
    /// Of its first seed.
    pub fn plan(&self) -> Plan {
        Plan { seed: self.seed, seconds: self.seconds, nodes: self.nodes, broken: self.broken, print: self.print }
    }

    /// After which a seed is given up.
    pub fn wall(&self) -> Duration {
        Duration::from_secs(self.wall)
    }

    fn arguments(&self, seed: u64) -> Vec<String> {
        let mut arguments =
            vec![format!("--seed={seed}"), format!("--seconds={}", self.seconds), format!("--nodes={}", self.nodes)];
        arguments.push(format!("--wall={}", self.wall));
        arguments.extend(self.broken.map(|broken| format!("--break={}", name(broken))));
        arguments
    }
}

pub(super) fn name(broken: Break) -> String {
    use clap::ValueEnum;
    broken.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that ran to their end.
    pub seeds: u64,
    /// Runs that were repeated and alike.
    pub repeated: u64,
    /// Seeds that failed, with what did.
    pub failed: Vec<(u64, String)>,
    /// Virtual time of all runs, also of those that were repeated, in milliseconds.
    pub virtual_ms: u64,
    /// Sums over all seeds; the most of terms.
    pub counts: Counts,
}

/// Runs all seeds in processes of `program`, and prints what fails.
pub fn run_all(program: &std::path::Path, options: &Options) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let mut queue = (options.seed..options.seed + options.seeds).peekable();
    let mut under_way = std::collections::VecDeque::new();
    loop {
        let stops = options.until_found && summary.found(options.broken).is_some();
        while under_way.len() < options.jobs.max(1)
            && !stops
            && let Some(seed) = queue.next()
        {
            let first = begin(program, options, seed)?;
            let again = seed.is_multiple_of(TWICE).then(|| begin(program, options, seed)).transpose()?;
            under_way.push_back((seed, first, again));
        }
        let Some((seed, first, again)) = under_way.pop_front() else { break };
        let report = finish(first)?;
        let mut faults = report.violations.clone();
        if let Some(again) = again {
            let other = finish(again)?;
            summary.virtual_ms += other.virtual_ms;
            if (other.hash, other.events) == (report.hash, report.events) {
                summary.repeated += 1;
            } else {
                faults.push(format!("two runs differ: {} and {} events", report.events, other.events));
            }
        }
        summary.seeds += 1;
        summary.virtual_ms += report.virtual_ms;
        add(&mut summary.counts, report.counts);
        if !faults.is_empty() {
            if !options.quiet {
                tell(options, seed, &report, &faults);
            }
            summary.failed.push((seed, faults.join("; ")));
        }
    }
    Ok(summary)
}

fn begin(program: &std::path::Path, options: &Options, seed: u64) -> anyhow::Result<Child> {
    let arguments = options.arguments(seed);
    Ok(Command::new(program).args(arguments).arg("--json").stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?)
}

/// The report is the last line that the process prints.
fn finish(mut child: Child) -> anyhow::Result<Report> {
    let Some(output) = child.stdout.take() else { anyhow::bail!("a process without an output") };
    let mut last = String::new();
    for line in std::io::BufReader::new(output).lines() {
        last = line?;
    }
    let status = child.wait()?;
    match serde_json::from_str(&last) {
        Ok(report) if status.success() => Ok(report),
        _ => Ok(Report { violations: vec![format!("the process ended with {status}: {last}")], ..Report::default() }),
    }
}

fn add(sum: &mut Counts, one: Counts) {
    sum.entries += one.entries;
    sum.acknowledged += one.acknowledged;
    sum.operations += one.operations;
    sum.crashes += one.crashes;
    sum.cuts += one.cuts;
    sum.snapshots += one.snapshots;
    sum.changes += one.changes;
    sum.events += one.events;
    sum.ranks += one.ranks;
    sum.ended += one.ended;
    sum.terms = sum.terms.max(one.terms);
}

fn tell(options: &Options, seed: u64, report: &Report, faults: &[String]) {
    println!("seed {seed} fails:");
    for fault in faults.iter().take(10) {
        println!("  {fault}");
    }
    if options.broken.is_none() {
        println!("  its last events:");
        for event in &report.last {
            println!("    {event}");
        }
    }
    let arguments = options.arguments(seed).join(" ");
    println!("  again: cargo run -p cluster-tests --bin sim -- {arguments} --print");
}

impl Summary {
    /// The first seed that failed as is to be expected, and how.
    pub fn found(&self, broken: Option<Break>) -> Option<&(u64, String)> {
        self.failed.iter().find(|(_, what)| broken.is_none_or(|broken| broken.is_shown_by(what)))
    }

    /// In a few lines.
    pub fn print(&self, options: &Options, began: Instant) {
        let Counts {
            entries,
            acknowledged,
            operations,
            crashes,
            cuts,
            snapshots,
            changes,
            events,
            ranks,
            ended,
            terms,
        } = self.counts;
        let (wall, virtual_seconds) = (began.elapsed().as_secs_f64(), self.virtual_ms as f64 / 1_000.0);
        println!(
            "{} seeds x {} virtual s of faults, {} coordinators: {} failed, {} repeated alike",
            self.seeds,
            options.seconds,
            options.nodes,
            self.failed.len(),
            self.repeated
        );
        println!("  {virtual_seconds:.0} virtual s in {wall:.1} s: {:.2} a second", virtual_seconds / wall.max(0.001));
        println!(
            "  {crashes} crashes, {cuts} cuts, {snapshots} restarts with snapshots, {changes} changes of members, up to {terms} terms"
        );
        println!(
            "  {entries} entries, {acknowledged} acknowledged, {operations} reads and writes checked, {events} events heard, {ranks} ranks started, {ended} jobs ended"
        );
    }
}
