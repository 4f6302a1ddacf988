//! Bounds on what comes from outside, in one place, each with its reason.

/// Bounds that the edges check; past one of them a call is refused with a message that names it.
pub struct Limits;

impl Limits {
    /// Ranks in one gang: what a single manifest still carries within an entry.
    pub const RANKS_MAX: u32 = 4_096;
    /// Bytes of one encoded job: entries stay small in the log (sled wants at most 64 KiB).
    pub const SPEC_BYTES_MAX: usize = 48 * 1024;
    /// Bytes of one command line.
    pub const COMMAND_BYTES_MAX: usize = 16 * 1024;
    /// Entries in each map of a job (inputs, outputs, variables, tags).
    pub const MAP_ENTRIES_MAX: usize = 256;
    /// GPUs that one rank may ask for.
    pub const GPUS_PER_RANK_MAX: u32 = 128;
    /// CPU slots that one rank may ask for.
    pub const CPUS_PER_RANK_MAX: u32 = 4_096;
    /// Bytes of memory that one rank may ask for: 1 PiB.
    pub const MEMORY_BYTES_PER_RANK_MAX: u64 = 1 << 50;
    /// Priority, to both sides of 0.
    pub const PRIORITY_MAX: u32 = 1_000_000;
    /// Further attempts of a job.
    pub const RESTARTS_MAX: u32 = 1_000_000;
    /// Longest grace, and longest first back-off, in milliseconds: 1 hour.
    pub const WAIT_MS_MAX: u64 = 3_600_000;
    /// Longest time limit in milliseconds: 10 years, so that sums with wall-clock time stay far from their ends.
    pub const TIMEOUT_MS_MAX: u64 = 315_360_000_000;
    /// Bytes of a queue's name.
    pub const QUEUE_BYTES_MAX: usize = 63;
    /// Parts of a queue's name.
    pub const QUEUE_DEPTH_MAX: usize = 4;
    /// Queues of a cluster: each is looked at whenever shares are compared.
    pub const QUEUES_MAX: usize = 1_000;
    /// Weight of a queue.
    pub const QUEUE_WEIGHT_MAX: u32 = 1_000_000;
    /// Device classes with a quota in one queue.
    pub const QUEUE_CLASSES_MAX: usize = 64;
    /// Bytes of a device class's name.
    pub const CLASS_BYTES_MAX: usize = 128;
    /// Device classes, labels and tolerated taints of workers that a job may name.
    pub const WISHES_MAX: usize = 16;
    /// Taints that operators add to one worker, and that it is started with.
    pub const TAINTS_MAX: usize = 16;
    /// Planned maintenance windows of one worker.
    pub const WINDOWS_MAX: usize = 16;
    /// Bytes of a secret: fewer could not be told from ordinary words in a log.
    pub const SECRET_BYTES_MIN: usize = 8;
    /// Bytes of a secret: what one variable of a process may hold, with room to spare.
    pub const SECRET_BYTES_MAX: usize = 32 * 1024;
    /// Secrets of a cluster: their tables are held in memory.
    pub const SECRETS_MAX: usize = 10_000;
    /// Secrets that one job is given.
    pub const SECRETS_OF_JOB_MAX: usize = 32;
    /// Users whom a secret is shared with.
    pub const SECRET_USERS_MAX: usize = 256;
    /// Bytes of one chunk of a blob or stream on the wire.
    pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
    /// Bytes of one gRPC message.
    pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
    /// Bytes of one message of a worker's session: all wishes for a worker, and all that it says at once, are whole. 64 MiB
    /// carry the wishes of hundreds of the largest gangs.
    pub const SESSION_MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
    /// Bytes of a member's end in the log: what each of its ranks did fits always, their last words and metrics as far as
    /// they do.
    pub const MEMBER_END_BYTES_MAX: usize = 256 * 1024;
    /// Bytes of the reason why a member was not prepared.
    pub const REASON_BYTES_MAX: usize = 16 * 1024;
    /// Files in one snapshot.
    pub const TREE_ENTRIES_MAX: usize = 100_000;
    /// Bytes of all files in one snapshot: 16 GiB.
    pub const TREE_BYTES_MAX: u64 = 16 << 30;
    /// Bytes of stderr kept as evidence of a failure.
    pub const STDERR_TAIL_BYTES: usize = 4 * 1024;
    /// Lines of stderr kept as evidence of a failure.
    pub const STDERR_TAIL_LINES: usize = 20;
    /// Jobs in one page of a list.
    pub const PAGE_MAX: u32 = 1_000;
}
