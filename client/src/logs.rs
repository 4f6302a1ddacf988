//! Follows ranks' streams over lost coordinators: each byte exactly once and in order (`LOG-1`), or an error.

use crate::call::{Backoff, request};
use crate::error::{Error, Failure, judge};
use crate::pool::Client;
use crate::v1;
use crate::watch::BREAKS_MAX;
use proto::v1::jobs_client::JobsClient;
use std::collections::BTreeMap;
use tonic::Streaming;
use types::{JobId, JobPhase};

/// Which bytes to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Empty = all ranks.
    pub ranks: Vec<u32>,
    /// `stdout`, `stderr`, `metrics`; empty = stdout and stderr.
    pub streams: Vec<String>,
    /// Goes on until the job has ended and all was sent.
    pub follow: bool,
    /// Nothing = all attempts, in order.
    pub attempt: Option<u32>,
    /// Nothing = from the start; else at most so many bytes of each stream's end.
    pub tail_bytes: Option<u64>,
    /// The same in lines; one of the two.
    pub tail_lines: Option<u64>,
    /// Only what was written from then on, in milliseconds since 1970: to within 5 s, by the clocks of the workers, in whole lines.
    pub since_ms: Option<u64>,
    /// Only what was written until then; excludes `follow`.
    pub until_ms: Option<u64>,
    /// Only lines that match; chunks hold whole lines then, and those between are left out.
    pub pattern: Option<Pattern>,
    /// Where to go on from: (attempt, rank, stream) and the offset of the first byte wanted.
    pub from: BTreeMap<(u32, u32, String), u64>,
}

/// What lines are searched for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// A regular expression as the crate `regex` reads it, at most 1,024 bytes.
    pub regex: String,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
}

impl Client {
    /// Reads the logs of a job.
    pub fn logs(&self, job: JobId, query: LogQuery) -> Logs {
        let positions = query.from.clone();
        Logs {
            client: self.clone(),
            job,
            query,
            positions,
            connection: None,
            backoff: Backoff::new(),
            breaks: 0,
            ended: false,
        }
    }
}

/// Chunks of ranks' streams, each stream in order and without a gap. `next` may be dropped and called again without loss.
#[derive(Debug)]
pub struct Logs {
    client: Client,
    job: JobId,
    query: LogQuery,
    positions: BTreeMap<(u32, u32, String), u64>,
    connection: Option<(usize, Streaming<v1::LogChunk>)>,
    backoff: Backoff,
    breaks: u32,
    ended: bool,
}

impl Logs {
    /// The next bytes of some stream; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<v1::LogChunk>, Error> {
        while !self.ended {
            let message = match self.connection.as_mut() {
                None => {
                    self.open().await?;
                    continue;
                }
                Some((_, stream)) => stream.message().await,
            };
            match message {
                Ok(Some(chunk)) => match self.take(chunk) {
                    Ok(Some(chunk)) => return Ok(Some(chunk)),
                    Ok(None) => {}
                    Err(gap) => self.broke(&gap.to_string(), Some(gap)).await?,
                },
                Ok(None) => self.finish().await?,
                Err(status) => {
                    let index = self.connection.as_ref().map_or(0, |(index, _)| *index);
                    match judge(self.client.address(index), &status) {
                        Failure::Final(error) => return Err(error),
                        Failure::Again { reason, .. } => self.broke(&reason, None).await?,
                    }
                }
            }
        }
        Ok(None)
    }

    /// Where each stream stands: pass it as `LogQuery::from` to go on later.
    pub fn positions(&self) -> &BTreeMap<(u32, u32, String), u64> {
        &self.positions
    }

    /// Cuts off what was delivered before; a jump ahead is a gap, but in a search what lies between did not match.
    fn take(&mut self, mut chunk: v1::LogChunk) -> Result<Option<v1::LogChunk>, Error> {
        let key = (chunk.attempt, chunk.rank, chunk.stream.clone());
        let whole = self.query.tail_bytes.is_none() && self.query.tail_lines.is_none() && self.query.since_ms.is_none();
        // With a tail or a time the coordinator chooses where an unseen stream begins.
        let mut expected = self.positions.get(&key).copied().unwrap_or(if whole { 0 } else { chunk.offset });
        if self.query.pattern.is_some() {
            expected = expected.max(chunk.offset);
        } else if chunk.offset > expected {
            return Err(Error::LogGap {
                attempt: chunk.attempt,
                rank: chunk.rank,
                stream: chunk.stream,
                expected,
                got: chunk.offset,
            });
        }
        let known = usize::try_from(expected - chunk.offset).unwrap_or(usize::MAX).min(chunk.data.len());
        let fresh = chunk.data.split_off(known);
        self.positions.insert(key, expected + fresh.len() as u64);
        if !fresh.is_empty() || known == 0 {
            // Bytes, or word of a search that goes on.
            self.breaks = 0;
            self.backoff = Backoff::new();
        }
        if fresh.is_empty() {
            return Ok(None);
        }
        chunk.data = fresh;
        chunk.offset = expected;
        Ok(Some(chunk))
    }

    /// An orderly end counts only when the job has ended too: a coordinator may have shut down.
    async fn finish(&mut self) -> Result<(), Error> {
        let over = if self.query.follow {
            let job = self.client.get(self.job).await?;
            let phase = job.summary.map(|summary| summary.phase).unwrap_or_default();
            JobPhase::from_name(&phase).is_some_and(JobPhase::is_final)
        } else {
            true
        };
        if over {
            self.ended = true;
            return Ok(());
        }
        self.broke("the stream ended before the job", None).await
    }

    async fn open(&mut self) -> Result<(), Error> {
        let from = self
            .positions
            .iter()
            .map(|((attempt, rank, stream), offset)| v1::LogPosition {
                attempt: *attempt,
                rank: *rank,
                stream: stream.clone(),
                offset: *offset,
            })
            .collect();
        let wire = v1::LogsRequest {
            job_id: self.job.0,
            ranks: self.query.ranks.clone(),
            streams: self.query.streams.clone(),
            follow: self.query.follow,
            attempt: self.query.attempt.unwrap_or(0),
            tail_bytes: self.query.tail_bytes.unwrap_or(0),
            from,
            local: false,
            tail_lines: self.query.tail_lines.unwrap_or(0),
            pattern: self.query.pattern.as_ref().map_or_else(String::new, |pattern| pattern.regex.clone()),
            ignore_case: self.query.pattern.as_ref().is_some_and(|pattern| pattern.ignore_case),
            since_ms: self.query.since_ms.unwrap_or(0),
            until_ms: self.query.until_ms.unwrap_or(0),
        };
        let opened = self
            .client
            .attempt_until(self.client.patience, |index, channel| {
                let request = request(wire.clone());
                async move { Ok((index, JobsClient::new(channel).logs(request).await?.into_inner())) }
            })
            .await?;
        self.connection = Some(opened);
        Ok(())
    }

    async fn broke(&mut self, reason: &str, gap: Option<Error>) -> Result<(), Error> {
        let Some((index, _)) = self.connection.take() else { return Ok(()) };
        self.client.move_on(index);
        self.breaks += 1;
        if self.breaks > BREAKS_MAX {
            return Err(gap.unwrap_or_else(|| Error::Coordinator {
                address: self.client.address(index).to_owned(),
                code: tonic::Code::Unavailable,
                message: format!("the logs broke {BREAKS_MAX} times in a row: {reason}"),
            }));
        }
        self.backoff.wait().await;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chunk(offset: u64, data: &str) -> v1::LogChunk {
        v1::LogChunk { attempt: 1, rank: 0, stream: "stdout".into(), offset, data: data.to_owned().into() }
    }

    fn logs(tail_bytes: Option<u64>) -> Logs {
        Client::connect(vec![], &crate::testing::token()).logs(JobId(1), LogQuery { tail_bytes, ..Default::default() })
    }

    #[test]
    fn bytes_that_come_again_are_cut_off() {
        let mut logs = logs(None);
        assert_eq!(&logs.take(chunk(0, "hello")).unwrap().unwrap().data[..], b"hello");
        let rest = logs.take(chunk(2, "llo world")).unwrap().unwrap();
        assert_eq!((rest.offset, &rest.data[..]), (5, &b" world"[..]));
        assert!(logs.take(chunk(0, "hello")).unwrap().is_none());
        assert_eq!(logs.positions().values().copied().collect::<Vec<_>>(), [11]);
    }

    #[test]
    fn a_gap_is_an_error_never_skipped() {
        let mut logs = logs(None);
        logs.take(chunk(0, "ab")).unwrap();
        assert!(matches!(logs.take(chunk(3, "x")), Err(Error::LogGap { expected: 2, got: 3, .. })));
        assert!(matches!(self::logs(None).take(chunk(1, "x")), Err(Error::LogGap { .. })));
    }

    #[test]
    fn a_search_leaves_out_what_lies_between_and_goes_on_behind_what_it_saw() {
        let query = LogQuery { pattern: Some(Pattern { regex: "x".into(), ignore_case: false }), ..Default::default() };
        let mut logs = Client::connect(vec![], &crate::testing::token()).logs(JobId(1), query);
        assert_eq!(logs.take(chunk(10, "x\n")).unwrap().unwrap().offset, 10);
        assert!(logs.take(chunk(90, "")).unwrap().is_none(), "only word of how far it is");
        assert_eq!(logs.positions().values().copied().collect::<Vec<_>>(), [90]);
        assert!(logs.take(chunk(10, "x\n")).unwrap().is_none(), "seen before");
        assert_eq!(logs.positions().values().copied().collect::<Vec<_>>(), [90]);
    }

    #[test]
    fn a_tail_begins_where_the_coordinator_says() {
        let mut logs = logs(Some(2));
        assert_eq!(logs.take(chunk(40, "yz")).unwrap().unwrap().offset, 40);
        assert!(logs.take(chunk(43, "!")).is_err());
    }
}
