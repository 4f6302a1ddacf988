//! Why a worker daemon ends or does not start.

use crate::config::ConfigError;
use std::io;
use types::ClusterId;

/// What the operator has to look at; the session's own troubles are retried and never end the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration does not hold.
    #[error("the configuration is not valid:\n{0}")]
    Config(#[from] ConfigError),
    /// The data directory is another process's, or cannot be written.
    #[error("the data directory cannot be taken")]
    DataDir(#[from] daemon::files::LockError),
    /// A file of the data directory is not what this daemon wrote.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine refused something that the daemon cannot do without.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The data folder is a copy of one whose ranks run on this machine.
    #[error(
        "{path} is a copy of another worker's folder: process {supervisor} of this machine supervises one of its ranks, and not from here. \
         Start the worker with the folder that it had, or with an empty one and a --name of its own"
    )]
    Copied {
        /// The folder.
        path: String,
        /// Who supervises.
        supervisor: i32,
    },
    /// Ranks cannot be started as the user that was named.
    #[error("--rank-user: {0}")]
    RankUser(String),
    /// Ranks cannot have a namespace of their own here.
    #[error("ranks cannot have a namespace of their own: {0}")]
    RankNamespace(String),
    /// Ranks cannot have a network of their own here.
    #[error("--rank-network: {0}")]
    RankNetwork(String),
    /// The cluster does not take this worker: duplicate name, other cluster, other protocol.
    #[error("the cluster refused this worker: {0}")]
    Refused(String),
    /// Its certificate or key.
    #[error(transparent)]
    Identity(#[from] identity::FilesError),
    /// It was not admitted to the cluster.
    #[error(transparent)]
    Join(#[from] identity::JoinError),
    /// It has no certificate, or one that has ended, and nothing by which to get one.
    #[error(
        "this worker was not admitted to the cluster yet: give it a join token (`muster workers admit`) by --join-token-file or \
         MUSTER_JOIN_TOKEN, or start it as a user who may admit workers"
    )]
    Nowhere,
    /// The data directory is that of a worker of another name.
    #[error("the data directory is that of {named}, not of {own}: keep the --name, or give a new --data directory")]
    OtherName {
        /// Whose certificate it holds.
        named: String,
        /// Who this is to be.
        own: String,
    },
    /// The data directory belongs to another cluster.
    #[error("the data directory belongs to cluster {ours}, but cluster {theirs} answered")]
    OtherCluster {
        /// Written in the data directory at the first contact.
        ours: ClusterId,
        /// Who answered.
        theirs: ClusterId,
    },
    /// A part of the daemon ended that never ends by itself.
    #[error("the {0} ended unexpectedly")]
    ActorDied(&'static str),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
