//! Everything that can change the tables, and every answer; the entry's payload, so names and order here are a wire format.

use crate::{
    ApiToken, Denial, JoinToken, KeyId, LogIn, MemberChange, PlannedGang, Promise, Provider, Refusal, Resealed, Sealed,
    SetQueue, SetUser, SignedHead,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{
    Availability, Caller, CheckpointRef, ClusterId, CoordinatorId, CustomRole, EndCause, Endpoint, Grant, JobId,
    JobPhase, JobSpec, LogIndex, MemberEnd, MemberKey, Principal, Queue, RequestId, Timestamp, Token, Window, WorkerId,
    WorkerRegistration, Workspace,
};

/// One change. Effects of none happen here: leaders' loops look at the tables and act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// First of a cluster's life: gives it its identity.
    FormCluster {
        /// The identity.
        cluster: ClusterId,
    },
    /// Accepts a job once (`JOB-1`).
    SubmitJob {
        /// Chosen by the client; a second one with the same job changes nothing.
        request: RequestId,
        /// The job.
        spec: Arc<JobSpec>,
    },
    /// Asks for the end of a job. Idempotent.
    CancelJob {
        /// Which.
        job: JobId,
    },
    /// A worker opened a session.
    RegisterWorker {
        /// What it says of itself.
        registration: Box<WorkerRegistration>,
    },
    /// Cordon, uncordon or drain.
    SetAvailability {
        /// Which worker.
        worker: WorkerId,
        /// From now on.
        availability: Availability,
    },
    /// The lease of a worker is over: its ranks are dead by its own clock.
    LoseWorker {
        /// Which.
        worker: WorkerId,
        /// The entry by which it last registered; one that has registered again since is not lost by an old message.
        registered_by: LogIndex,
    },
    /// Places gangs. Re-checked whole on today's tables: taken whole or refused whole.
    CommitPlan {
        /// The index that the plan was made from.
        based_on: LogIndex,
        /// All placed gangs.
        gangs: Vec<PlannedGang>,
    },
    /// All members are prepared: their ranks may start.
    StartAttempt {
        /// Which job.
        job: JobId,
        /// Of its live attempt.
        token: Token,
        /// In rank order.
        endpoints: Vec<Endpoint>,
    },
    /// A member has no process left.
    EndMember {
        /// Which.
        key: MemberKey,
        /// That it ran under.
        token: Token,
        /// How it ended.
        end: MemberEnd,
    },
    /// Stops a live attempt for a reason that no member reported.
    StopAttempt {
        /// Which job.
        job: JobId,
        /// Of its live attempt.
        token: Token,
        /// Why.
        cause: EndCause,
    },
    /// A checkpoint is in the blob store on a majority.
    RecordCheckpoint {
        /// The member that saved it.
        key: MemberKey,
        /// That it ran under.
        token: Token,
        /// Where it is.
        checkpoint: CheckpointRef,
    },
    /// Makes or changes a queue.
    SetQueue {
        /// Which, whole.
        queue: Queue,
        /// Whether it must be new.
        how: SetQueue,
    },
    /// Deletes a queue that is not in use.
    DeleteQueue {
        /// Full name.
        name: String,
    },
    /// Moves a job that has not ended in its queue's order.
    SetPriority {
        /// Which job.
        job: JobId,
        /// The new priority.
        priority: i32,
    },
    /// Plans a maintenance window of a worker, or takes one back.
    PlanWindow {
        /// Which worker.
        worker: WorkerId,
        /// When it will be away; an end that is not after the beginning takes back the window that begins then.
        window: Window,
    },
    /// Adds taints to a worker and takes others back.
    Taint {
        /// Which worker.
        worker: WorkerId,
        /// From now on.
        add: BTreeSet<String>,
        /// No longer; those of its own registration stay.
        remove: BTreeSet<String>,
    },
    /// Remembers what waiting jobs were promised, for the next leader.
    NotePromises {
        /// The new promise of each; nothing = the old one is given up.
        promises: Vec<(JobId, Option<Promise>)>,
    },
    /// Applies a command in somebody's name, and writes that into the audit trail.
    As {
        /// In whose.
        caller: Arc<Caller>,
        /// Any but another of these.
        #[serde(deserialize_with = "crate::bounded::held_command")]
        command: Box<Command>,
    },
    /// Changes nothing here: a change of the coordinators that was asked for, so that the audit trail has it.
    NoteMembers {
        /// Which.
        change: MemberChange,
    },
    /// Writes calls that were denied into the audit trail.
    NoteDenials {
        /// At most `DENIALS_MAX`; long texts are cut.
        denials: Vec<Denial>,
    },
    /// Makes nodes trust one more certificate authority, which signs from now on.
    AddAuthority {
        /// Of the authority itself, in DER.
        certificate: Vec<u8>,
        /// Of its key by the one that signed until now, in DER; empty for the first.
        vouched: Vec<u8>,
    },
    /// Takes the trust in an authority back; the last one stays.
    RetireAuthority {
        /// SHA-256 of its certificate.
        fingerprint: [u8; 32],
    },
    /// Makes a user or changes one's roles.
    SetUser {
        /// Who.
        name: String,
        /// From now on; at least one.
        roles: BTreeSet<Grant>,
        /// Whether the user must be new.
        how: SetUser,
        /// Jobs of this user that may wait at once, 0 = as many as anybody's; none = as before.
        waiting_max: Option<u32>,
    },
    /// Removes a user with all tokens.
    RemoveUser {
        /// Who.
        name: String,
    },
    /// Lets a user in by one more token.
    CreateToken {
        /// With the digest of its secret; the secret itself never comes here.
        token: ApiToken,
    },
    /// Lets nobody in by this token any more.
    RevokeToken {
        /// Which.
        id: String,
    },
    /// Lets one node in.
    CreateJoinToken {
        /// Not used yet.
        token: JoinToken,
    },
    /// A node comes in by its token.
    UseJoinToken {
        /// SHA-256 of the secret that it showed.
        digest: [u8; 32],
        /// The node that it asks to be.
        as_whom: Principal,
    },
    /// Certificates of a node count no more, if they were issued up to now.
    RevokeNode {
        /// A coordinator or worker.
        node: Principal,
    },
    /// Makes a secret of the caller's, or gives one another value.
    SetSecret {
        /// Its name.
        name: String,
        /// What it is for; nothing = as before.
        note: Option<String>,
        /// One more than that of the present value, which is 0 before there is one.
        version: u64,
        /// The value.
        sealed: Sealed,
    },
    /// Changes who else may give a secret to their jobs.
    ShareSecret {
        /// Its name.
        name: String,
        /// These may; `*` = everybody.
        add: BTreeSet<String>,
        /// These may not, unless everybody may.
        remove: BTreeSet<String>,
    },
    /// Forgets a secret.
    RemoveSecret {
        /// Its name.
        name: String,
    },
    /// Values are to be sealed under another key from when all coordinators have it. One that no value is under yet is given up for it.
    BeginKeyExchange {
        /// The new key.
        to: KeyId,
    },
    /// A coordinator has the new key.
    NoteKeyHeld {
        /// Of the exchange that goes on.
        to: KeyId,
        /// Who.
        by: CoordinatorId,
    },
    /// Values under the new key in place of the old one; one that was set or removed meanwhile is left as it is.
    ResealSecrets {
        /// The new key.
        to: KeyId,
        /// These.
        secrets: Vec<Resealed>,
    },
    /// Every value is under the new key: from now on none is sealed under another.
    EndKeyExchange {
        /// The new key.
        to: KeyId,
    },
    /// Changes nothing here: a worker is given secrets for a job that runs on it, so that the audit trail has it.
    NoteSecretsUsed {
        /// Which job.
        job: JobId,
        /// Their names.
        names: Vec<String>,
    },
    /// Changes nothing here: somebody takes a copy of everything, so that the audit trail has it.
    NoteBackup,
    /// Keeps what a job's ranks wrote from retention, or leaves it to it again.
    KeepJob {
        /// Which job.
        job: JobId,
        /// From now on.
        keep: bool,
    },
    /// Retention forgets what the ranks of these jobs wrote, if they have ended and nobody keeps them.
    ForgetStreams {
        /// Which jobs.
        jobs: Vec<JobId>,
    },
    /// Lets the users of an identity provider in, or changes the terms.
    SetProvider {
        /// Whole; `since` is set when it is applied.
        provider: Box<Provider>,
    },
    /// Lets the users of an identity provider in no more.
    RemoveProvider {
        /// Its name.
        name: String,
    },
    /// A user of an identity provider comes in.
    LogIn(Box<LogIn>),
    /// Remembers when tokens last let somebody in.
    NoteTokensUsed {
        /// Ids, and when; at most `TOKEN_USES_MAX`.
        used: Vec<(String, Timestamp)>,
    },
    /// Makes a workspace, or notes something else of it.
    SetWorkspace {
        /// Its name.
        name: Workspace,
        /// What it is for.
        note: String,
    },
    /// Removes a workspace without jobs that nobody has a role in.
    RemoveWorkspace {
        /// Its name.
        name: Workspace,
    },
    /// Gives roles to a user and takes others back.
    ChangeRoles {
        /// Whose.
        name: String,
        /// From now on.
        add: BTreeSet<Grant>,
        /// No longer.
        remove: BTreeSet<Grant>,
    },
    /// Makes a role of the cluster's own, or changes what one gives.
    SetRole {
        /// Its name, and what it gives from now on.
        role: CustomRole,
        /// What it is for; none = as before.
        note: Option<String>,
    },
    /// Removes a role of the cluster's own that nobody has.
    RemoveRole {
        /// Its name.
        name: String,
    },
    /// Keeps a signature of where the audit trail stood.
    KeepAuditHead(Box<SignedHead>),
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is so now (or was so already).
    Done,
    /// The job exists under this number.
    Submitted {
        /// Its number.
        job: JobId,
        /// True when an earlier entry had accepted it.
        repeated: bool,
    },
    /// Where the job stands after the wish to cancel it.
    Canceled(JobPhase),
    /// The plan was taken; this is the token of all its attempts.
    PlanTaken(Token),
    /// Nothing changed.
    Refused(Refusal),
}
