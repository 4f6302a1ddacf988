//! One call: a deadline on each try, the next coordinator after a failure, back-off after each round, an end to it all.
//!
//! Every call of the API is safe to repeat: reads change nothing, a submit or cancel carries its request id, and the rest
//! sets a state. So a try whose answer was lost is simply made again. Reads, submits and cancels may also be made at two
//! coordinators at once, when the first does not answer soon; what sets a state may not, or the slower of the two could
//! undo what its caller did next.

use crate::error::{Error, Failure, Tried, judge};
use crate::pool::{Channel, Client};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

/// How long a client goes on trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// One try at one coordinator.
    pub one_try: Duration,
    /// All tries together, as long as some coordinator answers (there may be an election).
    pub in_all: Duration,
    /// All tries together while no coordinator can be reached at all.
    pub unreachable: Duration,
    /// One coordinator's silence before another one is asked as well, where the call is safe to make twice at once;
    /// nothing: only after the other's deadline.
    pub hedge_after: Option<Duration>,
}

impl Default for Patience {
    /// 5 s a try, 30 s in all, 2 s when nobody is there; 500 ms before another coordinator is asked as well.
    fn default() -> Self {
        Patience {
            one_try: Duration::from_secs(5),
            in_all: Duration::from_secs(30),
            unreachable: Duration::from_secs(2),
            hedge_after: Some(Duration::from_millis(500)),
        }
    }
}

impl Patience {
    /// The same, for a call that is made at one coordinator at a time.
    #[must_use]
    pub(crate) fn one_by_one(self) -> Self {
        Self { hedge_after: None, ..self }
    }
}

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Spans between rounds of tries: doubled each time, a quarter of it left to chance so that clients do not beat in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Backoff { next: BACKOFF_FIRST }
    }

    pub(crate) fn span(&mut self) -> Duration {
        let span = self.next;
        self.next = (span * 2).min(BACKOFF_MAX);
        let chance = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        span.mul_f64(0.75 + 0.25 * chance)
    }

    pub(crate) async fn wait(&mut self) {
        let span = self.span();
        tokio::time::sleep(span).await;
    }
}

/// A request with our version on it.
pub(crate) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("muster-client-version", MetadataValue::from_static(crate::VERSION));
    request
}

/// Like `request`, and the coordinator knows when nobody waits for the answer any more.
pub(crate) fn timed<T>(message: T, span: Duration) -> Request<T> {
    let mut request = request(message);
    request.set_timeout(span);
    request
}

/// Who was tried in the course of one call.
struct Tries {
    begun: Instant,
    reasons: Vec<Option<String>>,
    reached: bool,
    /// Of the present round: each coordinator is asked once in it.
    asked: Vec<bool>,
}

impl Client {
    /// As `call`, for what may be made at two coordinators at once.
    pub(crate) async fn ask<T, F, Fut>(&self, send: F) -> Result<T, Error>
    where
        F: Fn(Channel, Duration) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_for(self.patience, send).await
    }

    /// Calls until some coordinator answers for good, within the client's patience; one coordinator after the other.
    pub(crate) async fn call<T, F, Fut>(&self, send: F) -> Result<T, Error>
    where
        F: Fn(Channel, Duration) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_for(self.patience.one_by_one(), send).await
    }

    pub(crate) async fn call_for<T, F, Fut>(&self, patience: Patience, send: F) -> Result<T, Error>
    where
        F: Fn(Channel, Duration) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        // On the heap: callers that make several calls would else be large themselves.
        let tried = Box::pin(self.attempt_until(patience, |_, channel| {
            let sent = send(channel, patience.one_try);
            async move { sent.await.map(Response::into_inner) }
        }));
        tried.await
    }

    /// The loop of `call`; the try also learns the coordinator's index.
    pub(crate) async fn attempt_until<T, F, Fut>(&self, patience: Patience, send: F) -> Result<T, Error>
    where
        F: Fn(usize, Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        if !self.has_token() {
            return Err(Error::NoToken { coordinators: self.addresses() });
        }
        let mut tries = Tries::new(self.count());
        let mut backoff = Backoff::new();
        loop {
            if let Some(done) = self.round(patience, &send, &mut tries).await {
                return done;
            }
            if tries.is_over(patience) {
                return Err(tries.error(self));
            }
            backoff.wait().await;
        }
    }

    /// Each coordinator once, the next when one fails or is slow; nothing if none of them had an answer for good.
    async fn round<T, F, Fut>(&self, patience: Patience, send: &F, tries: &mut Tries) -> Option<Result<T, Error>>
    where
        F: Fn(usize, Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        tries.asked.fill(false);
        let mut in_flight = FuturesUnordered::new();
        let mut first = None;
        while let Some(index) = tries.next(self.preferred()) {
            in_flight.push(self.attempt(index, patience, send));
            let first = *first.get_or_insert(index);
            let slow = self.is_slow(index, patience.hedge_after);
            tokio::pin!(slow);
            loop {
                let (index, result) = tokio::select! {
                    Some(ended) = in_flight.next() => ended,
                    () = &mut slow, if tries.can_ask() => break,
                    else => return None,
                };
                match result {
                    Ok(value) => {
                        self.hedges().earn();
                        self.prefer(first, index);
                        return Some(Ok(value));
                    }
                    Err(Failure::Final(error)) => return Some(Err(error)),
                    Err(Failure::Again { reason, reached }) => tries.note(index, reason, reached),
                }
                self.move_on(index);
                if tries.can_ask() {
                    break;
                }
            }
        }
        None
    }

    async fn attempt<T, F, Fut>(&self, index: usize, patience: Patience, send: &F) -> (usize, Result<T, Failure>)
    where
        F: Fn(usize, Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let again = |reason: String| Failure::Again { reason, reached: false };
        let result = match self.channel(index) {
            Err(reason) => Err(again(reason)),
            Ok(channel) => match tokio::time::timeout(patience.one_try, send(index, channel)).await {
                Ok(answer) => answer.map_err(|status| judge(self.address(index), &status)),
                Err(_) => Err(again(format!("no answer within {:.0?}", patience.one_try))),
            },
        };
        (index, result)
    }

    /// Waits until another coordinator than this one, which is asked now, is to be asked as well.
    async fn is_slow(&self, index: usize, after: Option<Duration>) {
        let Some(after) = after else { return std::future::pending().await };
        tokio::time::sleep(after).await;
        if !self.hedges().spend() {
            // Another call found out that this coordinator is not the best: that costs nothing.
            self.await_turned_from(index).await;
        }
    }
}

impl Tries {
    fn new(count: usize) -> Self {
        Tries { begun: Instant::now(), reasons: vec![None; count], reached: false, asked: vec![false; count] }
    }

    fn can_ask(&self) -> bool {
        self.asked.contains(&false)
    }

    /// Whom to ask next in this round: the preferred one, or who comes after it.
    fn next(&mut self, preferred: usize) -> Option<usize> {
        let count = self.asked.len();
        let index =
            (0..count).map(|step| (preferred + step) % count).find(|index| self.asked.get(*index) == Some(&false))?;
        self.asked[index] = true;
        Some(index)
    }

    fn note(&mut self, index: usize, reason: String, reached: bool) {
        self.reached |= reached;
        if let Some(slot) = self.reasons.get_mut(index) {
            *slot = Some(reason);
        }
    }

    fn is_over(&self, patience: Patience) -> bool {
        let spent = self.begun.elapsed();
        spent >= patience.in_all || (!self.reached && spent >= patience.unreachable)
    }

    fn error(self, client: &Client) -> Error {
        let tried = client
            .addresses()
            .into_iter()
            .zip(self.reasons)
            .map(|(address, reason)| Tried { address, reason: reason.unwrap_or_else(|| "not tried".into()) })
            .collect();
        if self.reached {
            Error::NotServed { waited: self.begun.elapsed(), tried }
        } else {
            Error::NoCoordinator { tried }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_and_is_bounded() {
        let mut backoff = Backoff::new();
        let spans: Vec<Duration> = (0..10).map(|_| backoff.span()).collect();
        assert!(spans[0] <= BACKOFF_FIRST && spans[0] >= BACKOFF_FIRST.mul_f64(0.74));
        assert!(spans.iter().all(|span| *span <= BACKOFF_MAX));
        assert!(spans[9] >= BACKOFF_MAX.mul_f64(0.74));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_there_ends_soon_and_names_every_address() {
        let client = Client::connect(vec!["bad".into(), "worse".into()], &crate::testing::token());
        let begun = Instant::now();
        let error = client.get(types::JobId(1)).await.err();
        assert!(matches!(&error, Some(Error::NoCoordinator { tried }) if tried.len() == 2), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn no_address_at_all_is_an_error_not_a_hang() {
        let client = Client::connect(Vec::new(), &crate::testing::token())
            .with_patience(Patience { unreachable: Duration::from_millis(10), ..Patience::default() });
        assert!(matches!(client.get(types::JobId(1)).await, Err(Error::NoCoordinator { .. })));
    }
}
