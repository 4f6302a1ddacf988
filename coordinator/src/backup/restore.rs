//! Reads a backup: to check it, or into the data folder of a coordinator that founds the cluster again.
//!
//! The folder becomes a coordinator's last of all, by its certificate: one that a crash left half made starts nothing, and is to
//! be removed.

use super::file::FrameReader;
use super::founder::Founder;
use super::{BackupError, Head, JOBS_LEFT_OUT, Record};
use crate::api::store_of;
use crate::raft::Addresses;
use cluster_state::{ApiToken, Command, Outcome, State};
use identity::{Authority, Credentials, Material, NodeFolder, NodeRequest, SealingKey, Secret, SecretKind, Subject};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use stores::blobs::{BlobStore, BlobWriter, FinishedBlob};
use stores::streams::{StreamLimits, StreamName, StreamStore};
use types::{ClusterId, ContentHash, CoordinatorId, JobId, LogIndex, Role, Timestamp, Workspace};

/// How the first owner gets in again; 30 days.
const TOKEN_LIFE: Duration = Duration::from_hours(30 * 24);
/// Of the coordinator's first certificate.
const CERTIFICATE_LIFE: Duration = Duration::from_hours(24);
/// Blobs that share their flushes.
const BLOBS_TOGETHER: usize = 256;
/// Bytes of the tables at most: a snapshot has no more.
const TABLES_BYTES_MAX: usize = 16 << 30;

/// What is in a backup.
#[derive(Clone, Debug)]
pub struct Contents {
    /// What it says of itself.
    pub head: Head,
    /// Jobs in its tables.
    pub jobs: u64,
    /// Workers in its tables.
    pub workers: u64,
    /// Users in its tables.
    pub users: u64,
    /// Whole blobs.
    pub blobs: u64,
    /// Bytes of blobs and streams.
    pub bytes: u64,
    /// Blobs that jobs name and that no coordinator had when it was made.
    pub missing: Vec<ContentHash>,
    /// The first job whose lineage is not what was sealed when it ended, and the number of its record.
    pub altered: Option<(JobId, u64)>,
}

/// How to restore.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The data folder: absent or empty.
    pub data_dir: PathBuf,
    /// The coordinator's number.
    pub id: CoordinatorId,
    /// Where it will listen.
    pub grpc: String,
    /// Where it will listen for HTTP.
    pub http: String,
    /// Numbers of jobs that are left out.
    pub jobs_left_out: u64,
}

impl Restore {
    /// With the usual number of jobs left out.
    pub fn new(data_dir: impl Into<PathBuf>, id: CoordinatorId, grpc: String, http: String) -> Self {
        Self { data_dir: data_dir.into(), id, grpc, http, jobs_left_out: JOBS_LEFT_OUT }
    }
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// From this.
    pub contents: Contents,
    /// Holds a new token of an owner.
    pub admin: PathBuf,
    /// Whose token it is.
    pub owner: String,
    /// The next job has at least this number.
    pub next_job: u64,
}

/// Reads a whole backup, checks every byte of it, and says what is in it. Blocks.
pub fn check(file: &Path, key: &SealingKey) -> Result<Contents, BackupError> {
    read(file, key, &mut Nowhere).map(|read| read.contents)
}

/// Makes the data folder of a coordinator that is all of the cluster, as the backup has it. Blocks.
pub fn restore(file: &Path, key: &SealingKey, wanted: &Restore) -> Result<Restored, BackupError> {
    let folder = &wanted.data_dir;
    let is_free = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(BackupError::io("list", folder)(error)),
    };
    if !is_free {
        return Err(BackupError::NotEmpty(folder.clone()));
    }
    let _lock = daemon::files::lock_folder(folder)?;
    let streams = StreamStore::open(&folder.join("streams"), StreamLimits::default())?;
    let blobs = BlobStore::open(&folder.join("blobs"))?;
    let mut place = Place { blobs, streams, finished: (Workspace::default(), Vec::new()) };
    let Read { contents, keys, time, state } = read(file, key, &mut place)?;
    place.flush()?;
    let identity = NodeFolder::open(folder)?;
    for (name, bytes) in &keys {
        identity.store_shared_file(name, bytes)?;
    }
    let material = certificate(&identity, wanted, contents.head.cluster)?;
    let (token, owner) = owner_token(&state, &material)?;
    let digest = token.digest();
    let admin = folder.join("admin.json");
    let credentials = Credentials { coordinators: vec![wanted.grpc.clone()], token };
    credentials.store(&admin).map_err(|error| BackupError::Refused(error.to_string()))?;
    let next_job = state.jobs_count().saturating_add(wanted.jobs_left_out).saturating_add(1);
    let founder = Founder {
        id: wanted.id,
        addresses: Addresses { grpc: wanted.grpc.clone(), http: wanted.http.clone() },
        cluster: contents.head.cluster,
        incarnation: contents.head.incarnation,
        term: contents.head.term,
        index: contents.head.index.max(state.applied()),
        jobs_left_out: wanted.jobs_left_out,
        action: "cluster/restore",
        object: format!("the tables at entry {}", contents.head.index),
    };
    let raft = folder.join("raft");
    let made = founder.make(&raft, state, time, |state, index, now| let_in(state, index, now, &owner, digest))?;
    std::fs::rename(&made, &raft).map_err(BackupError::io("put in its place", &made))?;
    daemon::files::sync_folder(folder).map_err(BackupError::io("flush", folder))?;
    identity.store(&material)?;
    Ok(Restored { contents, admin, owner, next_job })
}

/// Its certificate, by the authority that signs now.
fn certificate(identity: &NodeFolder, wanted: &Restore, cluster: ClusterId) -> Result<Material, BackupError> {
    let refuse = |what: &str| BackupError::Refused(what.to_owned());
    let (trusted, vouched) = (identity.authorities()?, identity.vouched()?);
    let signing = trusted.last().ok_or_else(|| refuse("the backup has no authority"))?;
    let authority: Authority = identity
        .authority(identity::fingerprint(signing))?
        .ok_or_else(|| refuse("the backup lacks the key of the authority that signs"))?;
    let subject = Subject::Coordinator { cluster, id: wanted.id };
    let host = wanted.grpc.rsplit_once(':').map_or(wanted.grpc.as_str(), |(host, _)| host).trim_matches(['[', ']']);
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if !hosts.iter().any(|known| known == host) {
        hosts.push(host.to_owned());
    }
    let (now, life) = (daemon::clock::now(), CERTIFICATE_LIFE);
    let request =
        NodeRequest { subject: &subject, hosts: &hosts, trusted: &trusted, vouched: vouched.as_ref(), now, life };
    Ok(Material::issue(&authority, &request)?)
}

/// A new secret for the owner that comes first by name: whoever restores has the keys of the cluster in hand anyway.
fn owner_token(state: &State, material: &Material) -> Result<(Secret, String), BackupError> {
    let refuse = |what: &str| BackupError::Refused(what.to_owned());
    let owner = state.users().find(|user| user.roles.contains(&Role::Owner.into()));
    let owner = owner.ok_or_else(|| refuse("the backup has no user who is an owner"))?;
    let authority = identity::signing(material).ok_or_else(|| refuse("the backup has no authority"))?;
    let token = Secret::generate(SecretKind::Access, authority)
        .map_err(|source| BackupError::Refused(format!("random bytes cannot be drawn: {source}")))?;
    Ok((token, owner.name.clone()))
}

fn let_in(
    state: &mut State,
    index: LogIndex,
    now: Timestamp,
    owner: &str,
    digest: [u8; 32],
) -> Result<(), BackupError> {
    let token = ApiToken {
        id: format!("restored{:x}", index.0),
        user: owner.to_owned(),
        digest,
        note: "made when the cluster was restored".into(),
        created: now,
        expires: Timestamp(now.0 + TOKEN_LIFE.as_millis() as u64),
        roles: None,
    };
    match state.apply(index, now, &Command::CreateToken { token }) {
        Outcome::Refused(refusal) => Err(BackupError::Refused(format!("no token for {owner}: {refusal}"))),
        _ => Ok(()),
    }
}

/// Where the data goes.
trait Sink {
    /// The next bytes of a blob.
    fn blob(&mut self, open: &mut Option<OpenBlob>, piece: Piece<'_>) -> Result<(), BackupError>;
    /// The next bytes of a stream.
    fn stream(&mut self, name: StreamName, token: types::Token, offset: u64, data: &[u8]) -> Result<(), BackupError>;
}

/// Some bytes of a blob.
struct Piece<'a> {
    workspace: &'a Workspace,
    hash: ContentHash,
    bytes_total: u64,
    offset: u64,
    data: &'a [u8],
}

/// A blob that is not whole yet.
struct OpenBlob {
    workspace: Workspace,
    hash: ContentHash,
    bytes: u64,
    content: Content,
}

enum Content {
    Written(BlobWriter),
    Summed(sha2::Sha256),
}

/// Only looks.
struct Nowhere;

impl Sink for Nowhere {
    fn blob(&mut self, open: &mut Option<OpenBlob>, piece: Piece<'_>) -> Result<(), BackupError> {
        use sha2::Digest as _;
        let new = || OpenBlob {
            workspace: piece.workspace.clone(),
            hash: piece.hash,
            bytes: 0,
            content: Content::Summed(sha2::Sha256::new()),
        };
        let mut blob = open.take().unwrap_or_else(new);
        if let Content::Summed(sum) = &mut blob.content {
            sum.update(piece.data);
        }
        blob.bytes += piece.data.len() as u64;
        if blob.bytes < piece.bytes_total {
            *open = Some(blob);
            return Ok(());
        }
        let Content::Summed(sum) = blob.content else { return Ok(()) };
        if ContentHash(sum.finalize().into()) == blob.hash {
            return Ok(());
        }
        Err(BackupError::Refused(format!("the backup's blob {} has another content", blob.hash)))
    }

    fn stream(&mut self, _: StreamName, _: types::Token, _: u64, _: &[u8]) -> Result<(), BackupError> {
        Ok(())
    }
}

/// The stores of the new folder.
struct Place {
    blobs: BlobStore,
    streams: StreamStore,
    /// Of this workspace.
    finished: (Workspace, Vec<FinishedBlob>),
}

impl Place {
    fn flush(&mut self) -> Result<(), BackupError> {
        self.commit()?;
        Ok(self.streams.flush()?)
    }

    fn commit(&mut self) -> Result<(), BackupError> {
        let (workspace, finished) = &mut self.finished;
        store_of(&self.blobs, workspace)?.commit(std::mem::take(finished))?;
        Ok(())
    }
}

impl Sink for Place {
    fn blob(&mut self, open: &mut Option<OpenBlob>, piece: Piece<'_>) -> Result<(), BackupError> {
        let blob = if let Some(blob) = open.take() {
            blob
        } else {
            let writer = store_of(&self.blobs, piece.workspace)?.writer(piece.hash, piece.bytes_total)?;
            let workspace = piece.workspace.clone();
            OpenBlob { workspace, hash: piece.hash, bytes: 0, content: Content::Written(writer) }
        };
        let OpenBlob { workspace, hash, bytes, content: Content::Written(mut writer) } = blob else { return Ok(()) };
        writer.write(piece.offset, piece.data)?;
        let bytes = bytes + piece.data.len() as u64;
        if bytes < piece.bytes_total {
            *open = Some(OpenBlob { workspace, hash, bytes, content: Content::Written(writer) });
            return Ok(());
        }
        if self.finished.0 != workspace {
            self.commit()?;
            self.finished.0 = workspace;
        }
        self.finished.1.push(writer.check()?);
        if self.finished.1.len() >= BLOBS_TOGETHER {
            self.commit()?;
        }
        Ok(())
    }

    fn stream(&mut self, name: StreamName, token: types::Token, offset: u64, data: &[u8]) -> Result<(), BackupError> {
        let end = self.streams.append(&name, token, offset, data)?.length;
        if end == offset + data.len() as u64 {
            return Ok(());
        }
        Err(BackupError::Refused(format!("{name} ends at byte {end} here: the disk is full, or the backup has a gap")))
    }
}

/// What was read, apart from the data.
struct Read {
    contents: Contents,
    keys: Vec<(String, Vec<u8>)>,
    time: Timestamp,
    state: State,
}

fn read(file: &Path, key: &SealingKey, sink: &mut dyn Sink) -> Result<Read, BackupError> {
    let mut frames = FrameReader::open(file, key)?;
    let Some(Record::Head(head)) = frames.next()? else { return Err(frames.damaged("does not begin with its head")) };
    let (mut keys, mut tables, mut open) = (Vec::new(), Vec::new(), None);
    let (mut blobs, mut bytes, mut named) = (0, 0, BTreeSet::new());
    let missing = loop {
        match frames.next()?.ok_or_else(|| frames.damaged("ends without its end"))? {
            Record::Head(_) => return Err(frames.damaged("has two heads")),
            Record::Key { name, bytes } => keys.push((name, bytes)),
            Record::Tables(piece) if tables.len() + piece.len() <= TABLES_BYTES_MAX => tables.extend(piece),
            Record::Tables(_) => return Err(frames.damaged("has tables that are too large")),
            Record::Blob { workspace, hash, bytes_total, offset, data } => {
                let expected = open
                    .as_ref()
                    .map_or((&workspace, hash, 0), |blob: &OpenBlob| (&blob.workspace, blob.hash, blob.bytes));
                let is_short = data.is_empty() && offset < bytes_total;
                if expected != (&workspace, hash, offset)
                    || is_short
                    || data.len() as u64 > bytes_total - offset.min(bytes_total)
                {
                    return Err(frames.damaged(&format!("has blob {hash} in pieces that do not fit")));
                }
                bytes += data.len() as u64;
                sink.blob(&mut open, Piece { workspace: &workspace, hash, bytes_total, offset, data: &data })?;
                blobs += u64::from(open.is_none());
            }
            Record::Stream { job, attempt, rank, kind, token, offset, data } => {
                bytes += data.len() as u64;
                named.insert(job);
                sink.stream(StreamName { job, attempt, rank, kind }, token, offset, &data)?;
            }
            Record::End { missing } => break missing,
        }
    };
    if open.is_some() || frames.next()?.is_some() {
        return Err(frames.damaged("ends in the middle of a blob"));
    }
    let decoded = postcard::from_bytes::<(Timestamp, State)>(&tables);
    let (time, state) = decoded.map_err(|error| frames.damaged(&format!("has tables that cannot be read: {error}")))?;
    if state.cluster() != Some(head.cluster) || named.iter().any(|job| state.job(*job).is_none()) {
        return Err(frames.damaged("has tables that are not those of its head and data"));
    }
    let (workers, users) = (state.workers().count() as u64, state.users().count() as u64);
    let jobs = state.jobs_before(None).count() as u64;
    let altered = state.lineage_fault().map(|record| (record.job, record.number));
    let contents = Contents { head, jobs, workers, users, blobs, bytes, missing, altered };
    Ok(Read { contents, keys, time, state })
}
