//! The words that every crate of Muster shares: ids, resources, jobs, gangs, wishes, reports; values only, no I/O, no clock.
//!
//! A constructor holds each rule (what a name may contain, how large a gang may be), so that nobody checks it again.

mod access;
mod grant;
mod hash;
mod ids;
mod job;
mod lifecycle;
mod limits;
mod machine;
mod placement;
mod queue;
mod role;
mod time;
mod trace;
mod wish;

pub use access::{
    Admits, Caller, FEDERATED_NAME_BYTES_MAX, Permission, Principal, Role, SECRET_NAME_RULE, USER_NAME_BYTES_MAX,
    UnknownWord, federated_name, is_provider_name, is_secret_name, is_user_name, provider_of, workspace_of_secret,
};
pub use grant::{Grant, InvalidGrant, Workspace, covers};
pub use hash::{ContentHash, FileKind, Tree, TreeEntry, TreeError};
pub use ids::{
    AttemptNumber, AttemptSecret, ClusterId, CoordinatorId, InvalidClusterId, InvalidName, JobId, LogIndex, RankIndex,
    RequestId, Token, WorkerId, WorkerInstance,
};
pub use job::{
    CodeSnapshot, Constraints, Distribution, GangSpec, GitState, Input, InputKind, JobSpec, Output, PlaceLevel,
    RankResources, RestartPolicy,
};
pub use lifecycle::{AttemptPhase, EndCause, JobPhase};
pub use limits::Limits;
pub use machine::{
    Availability, Device, DeviceSoftware, Inventory, TAINT_RULE, Topology, Window, WorkerRegistration, is_taint,
};
pub use placement::{Member, MemberKey, Placement, RankPlacement};
pub use queue::{DEFAULT_QUEUE, QUEUE_NAME_RULE, Queue, QueueQuota, is_queue_name};
pub use role::{AnyRole, CustomRole, ROLE_NAME_RULE, is_role_name, permissions_of};
pub use time::{Millis, Timestamp};
pub use trace::{SpanId, TraceId};
pub use wish::{
    CheckpointRef, Endpoint, Goal, MemberEnd, MemberState, MemberStatus, OutputTree, RankEnd, RankExit,
    RendezvousFault, StreamKind, StreamLength, StreamTime, Wish,
};
