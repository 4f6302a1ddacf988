//! W1: jobs that are submitted under a request id until they are acknowledged, some of them twice, and cancelled at times.

use super::Hand;
use crate::sim::Chance;
use client::{Client, Error, Retry};
use std::time::Duration;
use tokio::time::Instant;
use types::{JobId, JobSpec, RequestId};

/// Between two submits of one client: each job is real processes, on a machine that runs the whole cluster.
const PACE: Duration = Duration::from_millis(250);
/// How long one call is repeated.
const GIVES_UP: Duration = Duration::from_mins(2);

/// One client.
pub(super) async fn submit(client: Client, hand: Hand, mut chance: Chance, number: u64) -> anyhow::Result<()> {
    let mut pace = tokio::time::interval(PACE);
    let mut count: u64 = 0;
    while hand.goes_on() {
        pace.tick().await;
        count += 1;
        let name = format!("load-{number}-{count}");
        let code = if chance.thousandths(300) { chance.between(1, 100) } else { 0 };
        let spec = JobSpec { display_name: name.clone(), ..crate::spec(&format!("exit {code}")) };
        let request = RequestId(((u128::from(number) << 64) | u128::from(count)).to_be_bytes());
        hand.history.submits(&name, i32::try_from(code)?);
        let job = until_answered(|| client.submit_as(request, &spec)).await?;
        hand.history.submitted(&name, job.0);
        if chance.thousandths(125) {
            let again = until_answered(|| client.submit_as(request, &spec)).await?;
            hand.history.submitted(&name, again.0);
        }
        if chance.thousandths(250) {
            cancel(&client, &hand, job).await?;
        }
    }
    Ok(())
}

async fn cancel(client: &Client, hand: &Hand, job: JobId) -> anyhow::Result<()> {
    hand.history.cancels(job.0);
    until_answered(|| client.cancel(job)).await?;
    hand.history.cancelled(job.0);
    Ok(())
}

/// A client that goes on asking as long as its error says that this may help.
async fn until_answered<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => match error.retry() {
                Retry::Later(_) if begun.elapsed() < GIVES_UP => {}
                _ => return Err(error.into()),
            },
        }
    }
}
