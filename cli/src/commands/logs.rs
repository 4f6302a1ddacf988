//! `muster logs`: what a job's ranks wrote, byte-exact; with `-f` live, over lost coordinators, until the job ends.

use super::jobs::{parse_job, present};
use super::{Session, follow};
use crate::failure::Exit;
use crate::output::text;
use clap::{Args, ValueEnum};
use client::{Client, LogQuery, Pattern};
use types::JobId;

/// `muster logs`
#[derive(Args, Debug)]
#[command(
    after_help = "One rank is printed byte for byte, its stderr on stderr. Several ranks are printed in whole lines, each with its
rank in front. With -f the exit code is the job's: 0 completed, 10 failed, 11 cancelled.

Examples:
  muster logs 7                            everything so far
  muster logs 7 -f                         and what comes, until the job ends
  muster logs 7 --rank 0 --stream stdout > out.txt
  muster logs 7 --tail 4K --attempt 2
  muster logs 7 --lines 20                 the last 20 lines of each stream
  muster logs 7 --since 10m                what came in the last 10 minutes
  muster logs 7 --since 2026-03-01T14:00:00Z --until 2026-03-01T14:05:00Z
  muster logs 7 --grep 'loss=nan' -i       only lines that match"
)]
pub struct LogsArgs {
    /// The job's number
    #[arg(value_parser = parse_job)]
    job: JobId,
    /// Go on until the job has ended
    #[arg(long, short)]
    follow: bool,
    /// Only this rank; may be given several times
    #[arg(long, short, value_name = "N")]
    rank: Vec<u32>,
    /// Only this stream
    #[arg(long, value_enum, value_name = "STREAM")]
    stream: Option<Stream>,
    /// Only the last so many bytes of each stream (4096, 4K, 1M)
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, conflicts_with = "lines")]
    tail: Option<u64>,
    /// Only the last so many lines of each stream (at most its last 16 MiB)
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    lines: Option<u64>,
    /// Only what was written since then: a span before now (90s, 10m, 2h, 1d) or a time in UTC (2026-03-01T14:05:09Z), to within 5 s
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    since: Option<u64>,
    /// Only what was written until then; the same forms
    #[arg(long, value_name = "WHEN", value_parser = parse_when, conflicts_with = "follow")]
    until: Option<u64>,
    /// Only lines that match this regular expression; with --tail or --lines, of these last ones
    #[arg(long, short, value_name = "REGEX")]
    grep: Option<String>,
    /// Upper and lower case are the same to --grep
    #[arg(long, short, requires = "grep")]
    ignore_case: bool,
    /// Only this attempt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stream {
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
}

/// A byte count with an optional binary unit.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not an amount of bytes: write 4096, 64K, 2M, 8G or 8GiB");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(bad)
}

/// So long ago, or then; in milliseconds since 1970.
fn parse_when(given: &str) -> Result<u64, String> {
    let ago = text::parse_span(given).map(|span| daemon::clock::now().0.saturating_sub(span));
    ago.or_else(|_| text::parse_instant(given)).map_err(|_| {
        format!("{given:?} is neither a span before now such as 10m nor a time in UTC such as 2026-03-01T14:05:09Z")
    })
}

/// Prints.
pub async fn run(args: LogsArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let streams = match args.stream {
        None => Vec::new(),
        Some(Stream::Stdout) => vec!["stdout".to_owned()],
        Some(Stream::Stderr) => vec!["stderr".to_owned()],
    };
    let query = LogQuery {
        ranks: args.rank,
        streams,
        follow: args.follow,
        attempt: args.attempt,
        tail_bytes: args.tail,
        tail_lines: args.lines,
        since_ms: args.since,
        until_ms: args.until,
        pattern: args.grep.map(|regex| Pattern { regex, ignore_case: args.ignore_case }),
        ..Default::default()
    };
    if args.follow {
        return follow::follow(client, args.job, query, false, session).await;
    }
    let summary = present(client.get(args.job).await?.summary, "the job")?;
    let mut printer = follow::printer(&session.output, &summary, &query);
    let mut logs = client.logs(args.job, query);
    while let Some(chunk) = logs.next().await? {
        follow::write(&printer.chunk(&chunk))?;
    }
    follow::write(&printer.finish())?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_take_binary_units() {
        for (text, bytes) in [("1", 1), ("4K", 4_096), ("2MiB", 2 << 20), ("8gb", 8 << 30), ("1 k", 1_024)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "K", "-1", "1.5M", "99999999999T", "4X", "0"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
