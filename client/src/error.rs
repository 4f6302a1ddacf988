//! What can go wrong between a program and the cluster, in words that say what to do next.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, Status};
use types::ContentHash;

/// One coordinator that was tried, and why it did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Its address.
    pub address: String,
    /// The last reason.
    pub reason: String,
}

/// Is it worth calling again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call fails the same way.
    Never,
    /// After about this long. The client itself retried up to its deadline already.
    Later(Duration),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// None of the addresses answered at all.
    #[error("no coordinator can be reached:{}", listed(.tried))]
    NoCoordinator {
        /// Every address and its reason.
        tried: Vec<Tried>,
    },
    /// Coordinators answer, but none could serve the call in time: usually no leader.
    #[error("no coordinator could serve the call within {:.1} s:{}", .waited.as_secs_f64(), listed(.tried))]
    NotServed {
        /// How long the client went on trying.
        waited: Duration,
        /// Every address and its last reason.
        tried: Vec<Tried>,
    },
    /// Nothing proves who calls.
    #[error(
        "there is no token for the cluster at {}: `muster login` stores one, MUSTER_ACCESS_TOKEN or MUSTER_CREDENTIALS names one; \
         `muster demo --keep` starts a cluster here",
        .coordinators.join(",")
    )]
    NoToken {
        /// Whom it would have called.
        coordinators: Vec<String>,
    },
    /// Client and cluster do not understand each other.
    #[error("this client has version {client}, and {address} does not take it: {message}")]
    Version {
        /// Our version.
        client: &'static str,
        /// Who refused.
        address: String,
        /// What it said.
        message: String,
    },
    /// No such job, worker, member or blob.
    #[error("{0}")]
    NotFound(String),
    /// The request is at fault; every fault is listed.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
    /// Well formed, but the cluster's state does not allow it.
    #[error("{0}")]
    Refused(String),
    /// Not allowed to this caller.
    #[error("{0}")]
    Denied(String),
    /// Any other answer of a coordinator.
    #[error("{address} answered {code}: {message}")]
    Coordinator {
        /// Who answered.
        address: String,
        /// gRPC code.
        code: Code,
        /// What it said.
        message: String,
    },
    /// A coordinator went on from a later log byte than was asked for: bytes are missing there.
    #[error(
        "bytes {expected} to {got} of {stream} of rank {rank}, attempt {attempt}, cannot be had from any coordinator"
    )]
    LogGap {
        /// Attempt number.
        attempt: u32,
        /// Rank.
        rank: u32,
        /// Stream name.
        stream: String,
        /// First missing byte.
        expected: u64,
        /// First byte that was offered instead.
        got: u64,
    },
    /// A file is not what it was when its hash was taken.
    #[error("{} changed while it was being uploaded: submit again", .path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// A local file or folder cannot be read or written.
    #[error("cannot use {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes that came do not have the hash that was asked for.
    #[error("blob {} came damaged from {address}: {reason}", .hash.short())]
    Damaged {
        /// Which blob.
        hash: ContentHash,
        /// From where.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// A tree blob is not a tree, or names paths that a snapshot may not hold.
    #[error("{} is not a folder that may be written here: {reason}", .hash.short())]
    Tree {
        /// Which tree.
        hash: ContentHash,
        /// What is wrong.
        reason: String,
    },
    /// The operating system gave no randomness for a request id.
    #[error("no randomness for a request id: {0}")]
    Randomness(String),
}

impl Error {
    /// What a caller may do about it.
    pub fn retry(&self) -> Retry {
        match self {
            Error::NoCoordinator { .. } | Error::NotServed { .. } => Retry::Later(Duration::from_secs(1)),
            Error::LogGap { .. } | Error::Damaged { .. } => Retry::Later(Duration::from_secs(2)),
            Error::Coordinator { code: Code::ResourceExhausted | Code::Aborted, .. } => {
                Retry::Later(Duration::from_secs(1))
            }
            _ => Retry::Never,
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::File { path: path.into(), source }
    }
}

fn listed(tried: &[Tried]) -> String {
    tried.iter().fold(String::new(), |mut text, one| {
        let _ = write!(text, "\n  {}: {}", one.address, one.reason);
        text
    })
}

/// One try at one coordinator went wrong.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The next coordinator, or this one later, may serve it. `reached` = a coordinator answered.
    Again { reason: String, reached: bool },
    /// No use.
    Final(Error),
}

/// Sorts a status: from the transport or from a coordinator, worth another try or not.
pub(crate) fn judge(address: &str, status: &Status) -> Failure {
    if let Some(source) = std::error::Error::source(status) {
        return Failure::Again { reason: deepest(source), reached: false };
    }
    let message = status.message().to_owned();
    let is_final = status.metadata().get(proto::PUSHBACK).is_some_and(|span| span == proto::PUSHBACK_NEVER);
    match status.code() {
        Code::ResourceExhausted if is_final => Failure::Final(Error::Refused(message)),
        Code::Unavailable | Code::Aborted | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => {
            Failure::Again { reason: or_code(&message, status.code()), reached: true }
        }
        Code::NotFound => Failure::Final(Error::NotFound(message)),
        Code::InvalidArgument | Code::OutOfRange => {
            Failure::Final(Error::Invalid(message.lines().map(str::to_owned).collect()))
        }
        // The API promises the word "version" in this refusal only.
        Code::FailedPrecondition if message.contains("version") => Failure::Final(version(address, message)),
        Code::Unimplemented => Failure::Final(version(address, or_code(&message, status.code()))),
        Code::FailedPrecondition | Code::AlreadyExists => Failure::Final(Error::Refused(message)),
        Code::PermissionDenied | Code::Unauthenticated => Failure::Final(Error::Denied(message)),
        code => Failure::Final(Error::Coordinator { address: address.to_owned(), code, message }),
    }
}

/// Of a stream that is not taken up again elsewhere.
pub(crate) fn broke_off(address: &str, status: &Status) -> Error {
    match judge(address, status) {
        Failure::Final(error) => error,
        Failure::Again { reason, .. } => {
            Error::Coordinator { address: address.to_owned(), code: status.code(), message: reason }
        }
    }
}

fn version(address: &str, message: String) -> Error {
    Error::Version { client: crate::VERSION, address: address.to_owned(), message }
}

fn or_code(message: &str, code: Code) -> String {
    if message.is_empty() { code.description().to_owned() } else { message.to_owned() }
}

/// The innermost cause says most: "connection refused" rather than "transport error".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    let text = last.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unreachable_address_is_listed_with_its_reason() {
        let tried = vec![
            Tried { address: "a:1".into(), reason: "connection refused".into() },
            Tried { address: "b:2".into(), reason: "no answer within 5 s".into() },
        ];
        let text = Error::NoCoordinator { tried }.to_string();
        assert!(text.contains("a:1: connection refused") && text.contains("b:2: no answer within 5 s"), "{text}");
    }

    #[test]
    fn statuses_are_sorted() {
        let judged = |code, message: &str| judge("a:1", &Status::new(code, message));
        assert!(matches!(judged(Code::Unavailable, "no leader"), Failure::Again { reached: true, .. }));
        assert!(matches!(judged(Code::NotFound, "no job 7"), Failure::Final(Error::NotFound(_))));
        assert!(matches!(judged(Code::InvalidArgument, "one\ntwo"), Failure::Final(Error::Invalid(f)) if f.len() == 2));
        let wrong = judged(Code::FailedPrecondition, "client version 9 is not taken; this cluster is 0.1.0");
        assert!(matches!(wrong, Failure::Final(Error::Version { .. })));
        assert!(matches!(judged(Code::FailedPrecondition, "job 3 has ended"), Failure::Final(Error::Refused(_))));
    }

    #[test]
    fn only_passing_troubles_are_worth_a_retry() {
        assert_eq!(Error::NotFound(String::new()).retry(), Retry::Never);
        assert!(matches!(Error::NoCoordinator { tried: vec![] }.retry(), Retry::Later(_)));
    }
}
