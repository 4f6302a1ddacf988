//! `Jobs.Explain`: only the leader's scheduler knows why a job waits, so another coordinator asks it.

use super::wire::Reader;
use super::{Context, gang};
use crate::leader::{self, Message};
use cluster_state::Job;
use proto::v1;
use proto::v1::jobs_client::JobsClient;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::Status;
use types::{AttemptPhase, Caller, JobId, JobPhase};

/// For the leader to answer, here or elsewhere.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn explain(
    context: &Context,
    caller: &Caller,
    request: &v1::ExplainRequest,
) -> Result<v1::Explanation, Status> {
    let state = context.read(false).await?;
    let job = context.job(&state, caller, request.job_id)?;
    let mut explained = why(context, job, request).await?;
    let reader = Reader { state: &state, principal: &caller.principal };
    explained.ahead.retain(|job| reader.sees(JobId(*job)));
    for text in
        [&mut explained.summary, &mut explained.expected_start_assumption, &mut explained.expected_start_unknown]
            .into_iter()
            .chain(&mut explained.details)
            .chain(&mut explained.hints)
    {
        *text = told(text, job, reader);
    }
    Ok(explained)
}

/// What is said of a job, without the numbers of others that are not its reader's to see. Why its own attempts ended, which may be words
/// of its own programs, is left as it is but for what the cluster says there.
fn told(text: &str, job: &Job, reader: Reader<'_>) -> String {
    let plain = |text: &str| match job.phase {
        JobPhase::Queued => without_numbers(text, &|job| reader.sees(JobId(job))),
        _ => text.to_owned(),
    };
    let causes = job.attempts.iter().rev().filter_map(|attempt| match &attempt.phase {
        AttemptPhase::Ended(cause) | AttemptPhase::Stopping(cause) => Some(cause),
        AttemptPhase::Preparing | AttemptPhase::Running => None,
    });
    let own = causes.filter_map(|cause| text.split_once(&cause.to_string()).map(|around| (cause, around)));
    match own.max_by_key(|(cause, _)| cause.to_string().len()) {
        Some((cause, (before, after))) => plain(before) + &reader.cause(cause) + &plain(after),
        None => plain(text),
    }
}

/// The text with `another job` in place of each `job NUMBER` that is not seen.
fn without_numbers(text: &str, is_seen: &dyn Fn(u64) -> bool) -> String {
    const NAME: &str = "job ";
    let (mut told, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(NAME) {
        let (before, after) = rest.split_at(at);
        let digits = &after[NAME.len()..];
        let length = digits.bytes().take_while(u8::is_ascii_digit).count();
        let is_hidden = digits[..length].parse().is_ok_and(|number| !is_seen(number));
        told.push_str(before);
        told.push_str(if is_hidden { "another job" } else { &after[..NAME.len() + length] });
        rest = &digits[length..];
    }
    told + rest
}

async fn why(context: &Context, job: &Job, request: &v1::ExplainRequest) -> Result<v1::Explanation, Status> {
    if job.phase != JobPhase::Queued {
        let mut settled = leader::settled(job);
        if matches!(job.phase, JobPhase::Running | JobPhase::Failed) {
            gang::add(context, job, &mut settled).await;
        }
        return Ok(settled);
    }
    let (reply, answer) = oneshot::channel();
    context.leader.send(Message::Explain { job: JobId(request.job_id), reply }).await;
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(explained)) => return Ok(context.leader.complete(job.id, explained).await),
        Ok(Err(_)) => {} // it does not lead
        Err(_) => return Err(Status::unavailable("the scheduler gives no answer")),
    }
    let leader = context.node.leader_address().filter(|_| !request.local);
    let leader = leader.ok_or_else(|| Status::unavailable("no leader is known at the moment"))?;
    let mut client = JobsClient::new(context.peers.channel(&leader)?);
    let asked = client.explain(v1::ExplainRequest { job_id: request.job_id, local: true });
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
    let answered = answered.map_err(|_| Status::unavailable(format!("the leader at {leader} gives no answer")))?;
    Ok(answered?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_jobs_that_are_not_seen_are_taken_out_of_reasons() {
        let is_seen = |job: u64| job == 7;
        for (text, told) in [
            ("job 12 is ahead of it", "another job is ahead of it"),
            ("(running: job 7, job 12, job 71)", "(running: job 7, another job, another job)"),
            ("no job is ahead; this job 7 waits; job x; job", "no job is ahead; this job 7 waits; job x; job"),
            ("job 99999999999999999999999", "job 99999999999999999999999"),
            ("ein job 8é", "ein another jobé"),
        ] {
            assert_eq!(without_numbers(text, &is_seen), told);
        }
    }
}
