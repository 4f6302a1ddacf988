//! Why a command changed nothing; names and order are a wire format, as those of commands.

use serde::{Deserialize, Serialize};
use types::{ClusterId, JobId, RequestId, Token, WorkerId, Workspace};

/// Why nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The log belongs to a cluster already.
    #[error("the cluster {0} is formed already")]
    FormedAlready(ClusterId),
    /// No such job.
    #[error("there is no job {0}")]
    UnknownJob(JobId),
    /// No such worker.
    #[error("there is no worker {0}")]
    UnknownWorker(WorkerId),
    /// A live worker has this name.
    #[error(
        "the name {0} is in use by another worker; give this one another --name, or stop the other and wait for its lease to end"
    )]
    NameInUse(WorkerId),
    /// The request id came with another job before.
    #[error("request id {0} was used for another job ({1})")]
    RequestReused(RequestId, JobId),
    /// The report or wish belongs to an earlier attempt (`FENCE-2`).
    #[error("token {given} of job {job} is out of date")]
    StaleToken {
        /// Which job.
        job: JobId,
        /// What came.
        given: Token,
    },
    /// The tables have changed since the plan was made.
    #[error("the plan does not fit the present state: {0}")]
    PlanOutOfDate(String),
    /// No such queue, or one that jobs cannot wait in.
    #[error("there is no queue {name:?}; jobs can wait in {}", .known.join(", "))]
    UnknownQueue {
        /// As given.
        name: String,
        /// Some that are there.
        known: Vec<String>,
    },
    /// A queue of this name is there, and is another.
    #[error("queue {0:?} exists already; `update` changes it")]
    QueueExists(String),
    /// Jobs or queues are below it.
    #[error("queue {name:?} {why}")]
    QueueInUse {
        /// Which.
        name: String,
        /// What keeps it.
        why: String,
    },
    /// It has ended.
    #[error("job {0} has ended")]
    JobEnded(JobId),
    /// What is asked cannot be, whatever the tables hold of jobs; the text says why.
    #[error("{0}")]
    Invalid(String),
    /// No such user.
    #[error("there is no user {0:?}")]
    UnknownUser(String),
    /// A user of this name is there, with other roles.
    #[error("user {0:?} exists already; `update` changes it")]
    UserExists(String),
    /// Nobody would be left who can give roles.
    #[error("{0:?} is the last owner: make another user an owner first")]
    LastOwner(String),
    /// No such token of a user.
    #[error("there is no token {0:?}")]
    UnknownToken(String),
    /// No such certificate authority.
    #[error("the cluster trusts no such authority")]
    UnknownAuthority,
    /// No such secret, or none that the caller may know of.
    #[error("there is no secret {0:?}")]
    UnknownSecret(String),
    /// It is another user's; the text says what.
    #[error("{0}")]
    NotYours(String),
    /// Its value was changed by another call at the same time.
    #[error("secret {0:?} was changed meanwhile: look at it and try again")]
    SecretChanged(String),
    /// The submitter may not give these to a job, or they are not there.
    #[error("there is no secret {} for this job: `muster secrets list` shows those that there are for you", .0.join(", "))]
    SecretsDenied(Vec<String>),
    /// A join token that lets this node in, now, is not there; the text says why.
    #[error("the join token {0}")]
    JoinToken(String),
    /// The submitter has as many waiting jobs as they may.
    #[error(
        "{max} jobs of {user} wait already, which is the most: submit again when some have started, or ask who may change it (`muster users update --max-waiting`)"
    )]
    TooManyWait {
        /// Whose.
        user: String,
        /// How many may wait.
        max: u32,
    },
    /// No such identity provider.
    #[error("there is no identity provider {0:?}")]
    UnknownProvider(String),
    /// Its terms are others than those that a token was checked by.
    #[error("identity provider {0:?} was changed meanwhile: try again")]
    ProviderChanged(String),
    /// No group of the user has a role.
    #[error("{0} is in no group that has a role here: ask an owner (`muster providers set --group`)")]
    NoRole(String),
    /// No such workspace, or none that the caller may know of.
    #[error("there is no workspace {0}: `muster workspaces list` shows those that there are for you")]
    UnknownWorkspace(Workspace),
    /// No such role of the cluster's own.
    #[error("there is no role {0}: `muster roles list` shows those that there are")]
    UnknownRole(String),
    /// Somebody has it.
    #[error("role {name} stays: {why}")]
    RoleInUse {
        /// Which.
        name: String,
        /// Who has it.
        why: String,
    },
    /// Jobs are in it, or somebody has a role there.
    #[error("workspace {name} {why}")]
    WorkspaceInUse {
        /// Which.
        name: Workspace,
        /// What keeps it.
        why: String,
    },
    /// There is nothing to keep any more.
    #[error("what the ranks of job {0} wrote was forgotten by retention already")]
    StreamsForgotten(JobId),
}
