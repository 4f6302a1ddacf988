//! Log bytes onto the terminal: raw for one rank, whole lines with a prefix for several; and a job followed to its end.

use super::Session;
use super::jobs::present;
use crate::failure::Exit;
use crate::output::table::clean;
use crate::output::{Format, Output, note, style};
use client::{Client, LogQuery, v1};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use tokio::sync::mpsc;
use types::JobId;

/// A line is broken here at the latest: a rank that never ends one must not fill memory.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Turns chunks into what is written; knows nothing of where.
#[derive(Debug)]
pub struct LogPrinter {
    style: Style,
    partial: BTreeMap<(u32, u32, String), Vec<u8>>,
    attempt: u32,
    color: bool,
    rank_width: usize,
}

/// How log bytes look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The very bytes.
    Raw,
    /// Whole lines, each with its rank.
    Prefixed,
    /// One JSON object a line.
    Json,
    /// One YAML document a line.
    Yaml,
}

impl Style {
    /// For programs: every line says its stream itself, so all go to stdout.
    fn names_streams(self) -> bool {
        matches!(self, Style::Json | Style::Yaml)
    }
}

/// Bytes and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Stderr of ours.
    pub to_stderr: bool,
    /// What to write.
    pub bytes: Vec<u8>,
}

impl LogPrinter {
    /// For a job of `world_size` ranks.
    pub fn new(style: Style, world_size: u32, color: bool) -> Self {
        let rank_width = world_size.saturating_sub(1).to_string().len();
        LogPrinter { style, partial: BTreeMap::new(), attempt: 0, color, rank_width }
    }

    /// What to write now that this chunk is there.
    pub fn chunk(&mut self, chunk: &v1::LogChunk) -> Vec<Piece> {
        let to_stderr = chunk.stream == "stderr" && !self.style.names_streams();
        if self.style == Style::Raw {
            return vec![Piece { to_stderr, bytes: chunk.data.to_vec() }];
        }
        let mut pieces = Vec::new();
        if chunk.attempt > self.attempt {
            if self.attempt > 0 && self.style == Style::Prefixed {
                pieces.extend(self.finish());
                let text = format!("--- attempt {} ---\n", chunk.attempt);
                pieces.push(Piece { to_stderr: true, bytes: text.into_bytes() });
            }
            self.attempt = chunk.attempt;
        }
        let key = (chunk.attempt, chunk.rank, chunk.stream.clone());
        let mut pending = self.partial.remove(&key).unwrap_or_default();
        let mut bytes = Vec::new();
        for part in chunk.data.split_inclusive(|byte| *byte == b'\n') {
            for part in part.chunks(LINE_BYTES_MAX) {
                if pending.len() + part.len() > LINE_BYTES_MAX {
                    self.line(&mut bytes, &key, &pending);
                    pending.clear();
                }
                pending.extend_from_slice(part);
            }
            if pending.ends_with(b"\n") {
                self.line(&mut bytes, &key, &pending);
                pending.clear();
            }
        }
        if !pending.is_empty() {
            self.partial.insert(key, pending);
        }
        if !bytes.is_empty() {
            pieces.push(Piece { to_stderr, bytes });
        }
        pieces
    }

    /// The lines that never ended.
    pub fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.partial);
        rest.into_iter()
            .map(|(key, pending)| {
                let mut bytes = Vec::new();
                self.line(&mut bytes, &key, &pending);
                Piece { to_stderr: key.2 == "stderr" && !self.style.names_streams(), bytes }
            })
            .collect()
    }

    fn line(&self, out: &mut Vec<u8>, key: &(u32, u32, String), line: &[u8]) {
        let (attempt, rank, stream) = key;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if self.style.names_streams() {
            let text = String::from_utf8_lossy(line);
            let value = json!({ "attempt": attempt, "rank": rank, "stream": stream, "line": text });
            let yaml = || format!("---\n{}", crate::output::yaml::render(&value));
            let item = if self.style == Style::Yaml { yaml() } else { format!("{value}\n") };
            out.extend_from_slice(item.as_bytes());
            return;
        }
        let width = self.rank_width;
        let prefix = format!("rank {rank:>width$} |");
        if self.color {
            let style = style::series(*rank as usize);
            out.extend_from_slice(format!("{style}{prefix}{style:#} ").as_bytes());
        } else {
            out.extend_from_slice(format!("{prefix} ").as_bytes());
        }
        out.extend_from_slice(line);
        out.push(b'\n');
    }
}

/// Writes to our stdout and stderr; a reader that left is an error of kind broken pipe.
pub fn write(pieces: &[Piece]) -> anyhow::Result<()> {
    for piece in pieces {
        if piece.to_stderr {
            let mut stderr = std::io::stderr().lock();
            stderr.write_all(&piece.bytes)?;
        } else {
            crate::output::write_stdout(&piece.bytes)?;
        }
    }
    Ok(())
}

/// How the logs of this job are shown.
pub fn printer(output: &Output, job: &v1::JobSummary, query: &LogQuery) -> LogPrinter {
    let one_rank = job.world_size <= 1 || query.ranks.len() == 1;
    let style = match (output.format, one_rank) {
        (Format::Json, _) => Style::Json,
        (Format::Yaml, _) => Style::Yaml,
        (Format::Table, true) => Style::Raw,
        (Format::Table, false) => Style::Prefixed,
    };
    LogPrinter::new(style, job.world_size, output.color)
}

enum Seen {
    Logs(Vec<v1::LogChunk>),
    LogsEnded,
    Phase(v1::JobSummary),
}

/// Messages on their way to the terminal; when it is slow the streams wait.
const SEEN_MAX: usize = 16;

/// Prints the logs until the job has ended; the command ends as the job does. `tell_phases` names each change on stderr.
pub async fn follow(
    client: &Client,
    job: JobId,
    query: LogQuery,
    tell_phases: bool,
    session: &Session,
) -> anyhow::Result<Exit> {
    let summary = present(client.get(job).await?.summary, "the job")?;
    let mut printer = printer(&session.output, &summary, &query);
    let (sender, mut seen) = mpsc::channel(SEEN_MAX);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(read_logs(client.clone(), job, query, sender.clone()));
    if tell_phases {
        tasks.spawn(read_phases(client.clone(), job, sender));
    } else {
        drop(sender);
    }
    let mut last_told = String::new();
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                write(&printer.finish())?;
                note(&format!("job {job} goes on; follow it again with: muster logs {job} -f"));
                return Ok(Exit::Interrupted);
            }
            Some(ended) = tasks.join_next() => ended??,
            next = seen.recv() => match next {
                Some(Seen::Logs(chunks)) => {
                    for chunk in chunks {
                        write(&printer.chunk(&chunk))?;
                    }
                }
                Some(Seen::Phase(summary)) => tell(&summary, &mut last_told, &session.output),
                Some(Seen::LogsEnded) | None => break,
            },
        }
    }
    write(&printer.finish())?;
    let ended = client.wait(job).await?;
    if tell_phases {
        tell(&ended, &mut last_told, &session.output);
    }
    Ok(Exit::of_phase(&ended.phase))
}

async fn read_logs(client: Client, job: JobId, query: LogQuery, sender: mpsc::Sender<Seen>) -> anyhow::Result<()> {
    let mut logs = client.logs(job, query);
    while let Some(chunk) = logs.next().await? {
        if sender.send(Seen::Logs(vec![chunk])).await.is_err() {
            return Ok(());
        }
    }
    let _ = sender.send(Seen::LogsEnded).await;
    Ok(())
}

async fn read_phases(client: Client, job: JobId, sender: mpsc::Sender<Seen>) -> anyhow::Result<()> {
    let mut watch = client.watch(Some(job), 0);
    while let Some(event) = watch.next().await? {
        if let Some(summary) = event.job
            && sender.send(Seen::Phase(summary)).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

fn tell(job: &v1::JobSummary, last: &mut String, output: &Output) {
    let mut text = format!("job {}: {}", job.id, job.phase);
    if job.attempts > 1 {
        let _ = write!(text, ", attempt {}", job.attempts);
    }
    if !job.reason.is_empty() {
        let lines: Vec<String> = job.reason.trim_end().lines().map(clean).collect();
        let _ = write!(text, ": {}", lines.join("\n  "));
    }
    if *last != text {
        let shown = if output.stderr_is_terminal && output.color {
            let style = style::state(&job.phase);
            format!("{style}{text}{style:#}")
        } else {
            text.clone()
        };
        note(&shown);
        *last = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(attempt: u32, rank: u32, stream: &str, data: &[u8]) -> v1::LogChunk {
        v1::LogChunk { attempt, rank, stream: stream.into(), offset: 0, data: data.to_vec().into() }
    }

    fn text(pieces: Vec<Piece>) -> String {
        String::from_utf8_lossy(&pieces.into_iter().flat_map(|piece| piece.bytes).collect::<Vec<_>>()).into_owned()
    }

    #[test]
    fn one_rank_is_byte_for_byte() {
        let mut printer = LogPrinter::new(Style::Raw, 1, true);
        let odd = [0xff, 0x00, b'\r', 0x1b];
        let pieces = printer.chunk(&chunk(1, 0, "stderr", &odd));
        assert_eq!(pieces, [Piece { to_stderr: true, bytes: odd.to_vec() }]);
        assert!(printer.finish().is_empty());
    }

    #[test]
    fn lines_of_several_ranks_are_never_mixed() {
        let mut printer = LogPrinter::new(Style::Prefixed, 12, false);
        let mut out = text(printer.chunk(&chunk(1, 3, "stdout", b"one\ntw")));
        out += &text(printer.chunk(&chunk(1, 11, "stdout", b"other\n")));
        out += &text(printer.chunk(&chunk(1, 3, "stdout", b"o\nrest")));
        out += &text(printer.finish());
        assert_eq!(out, "rank  3 | one\nrank 11 | other\nrank  3 | two\nrank  3 | rest\n");
    }

    #[test]
    fn a_line_without_end_is_broken_not_kept_for_ever() {
        let mut printer = LogPrinter::new(Style::Prefixed, 2, false);
        let mut printed = 0;
        for _ in 0..100 {
            printed += text(printer.chunk(&chunk(1, 0, "stdout", &[b'x'; 10_000]))).matches('x').count();
            assert!(printer.partial.values().all(|pending| pending.len() <= LINE_BYTES_MAX));
        }
        printed += text(printer.finish()).matches('x').count();
        assert_eq!(printed, 1_000_000);
    }

    #[test]
    fn a_new_attempt_is_marked() {
        let mut printer = LogPrinter::new(Style::Prefixed, 2, false);
        printer.chunk(&chunk(1, 0, "stdout", b"half"));
        let out = text(printer.chunk(&chunk(2, 0, "stdout", b"again\n")));
        assert_eq!(out, "rank 0 | half\n--- attempt 2 ---\nrank 0 | again\n");
    }

    #[test]
    fn programs_get_one_object_or_document_a_line() {
        let mut printer = LogPrinter::new(Style::Json, 2, false);
        let out = text(printer.chunk(&chunk(1, 0, "stderr", b"a\"b\n")));
        assert_eq!(out, "{\"attempt\":1,\"line\":\"a\\\"b\",\"rank\":0,\"stream\":\"stderr\"}\n");
        let mut printer = LogPrinter::new(Style::Yaml, 2, false);
        let out = text(printer.chunk(&chunk(1, 0, "stderr", b"a\"b\n")));
        assert_eq!(out, "---\nattempt: 1\nline: \"a\\\"b\"\nrank: 0\nstream: stderr\n");
    }
}
