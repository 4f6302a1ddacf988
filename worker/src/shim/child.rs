//! Starts the rank: fork (into its control group where there is one), own session, its descriptors, exec. Between fork and
//! exec only calls that are safe there, on values made before; a fault comes back through a pipe with its stage.

use super::calls::Filter;
use super::confine::{close_others_at_exec, confine, hide_memory};
use super::limits::RankLimits;
use super::namespace::{self, Namespace};
use super::places::Mounts;
use super::secret_files::{Paths, SecretFiles};
use super::spec::{Credentials, LISTEN_FD, METRICS_FD, ShimSpec};
use crate::secrets::Secrets;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What is executed, in the form that exec takes.
pub(super) struct Program {
    arguments: Vec<CString>,
    /// Tried first; may be empty.
    direct: Vec<CString>,
    environment: Vec<CString>,
    /// Secrets that it finds in files.
    files: SecretFiles,
    folder: CString,
    user: Option<Credentials>,
    limits: RankLimits,
    /// Its gang's, before it loses the right to enter.
    network: Option<File>,
    /// Before it becomes that user.
    mounts: Option<Mounts>,
    /// Instead, where it stays who it is.
    namespace: Option<namespace::Entry>,
    /// As the last of all that it loses.
    calls: Option<Filter>,
    /// `cgroup.procs` of the v2 group, for a child that was not born in it.
    unified: Option<CString>,
    /// `cgroup.procs` files to join.
    joins: Vec<CString>,
    /// The only ones that it runs on.
    processors: Option<CpuSet>,
}

/// The rank's descriptors.
pub(super) struct Descriptors {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) metrics: OwnedFd,
    pub(super) listener: Option<OwnedFd>,
}

/// Numbers from which on a descriptor cannot be in the way of the rank's own.
pub(super) const PARKED_FD_MIN: RawFd = 64;
/// Raised for ranks: when the machine runs out of memory a rank goes before a daemon.
const OOM_SCORE: &[u8] = b"500";
/// Niceness of a rank's session (-20 to 19; `sched(7)`, autogroup). Where the kernel shares processors between sessions first, a rank that never rests
/// would have as much of one as all daemons that were started together; so they have three times as much when they need it.
const SESSION_NICENESS: &[u8] = b"5";

#[repr(u8)]
#[derive(Clone, Copy)]
enum Stage {
    Session = 1,
    Join,
    Processors,
    Descriptors,
    Network,
    Places,
    Confinement,
    Folder,
    Exec,
}

impl Stage {
    fn text(byte: u8) -> &'static str {
        match byte {
            1 => "cannot make a session",
            2 => "cannot join its control group",
            3 => "cannot have its processors",
            4 => "cannot set up its descriptors",
            5 => "cannot enter its gang's network",
            6 => "cannot have places of its own",
            7 => "cannot be confined",
            8 => "cannot enter its folder",
            _ => "cannot execute its program",
        }
    }
}

impl Program {
    /// `more` is added to the environment.
    pub(super) fn new(spec: &ShimSpec, more: &[(String, String)], secrets: &Secrets) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| io::Error::other("a NUL in command or environment"));
        let members = |group: &std::path::PathBuf| text(group.join("cgroup.procs").as_os_str().as_bytes());
        if spec.command.is_empty() {
            return Err(io::Error::other("the command is empty"));
        }
        Ok(Self {
            arguments: spec.command.iter().map(|argument| text(argument.as_bytes())).collect::<io::Result<_>>()?,
            direct: spec.direct.iter().map(|argument| text(argument.as_bytes())).collect::<io::Result<_>>()?,
            files: SecretFiles::new(spec, secrets)?,
            environment: environment(spec, more, secrets)
                .map(|(name, value)| text(&[name.as_bytes(), b"=", value].concat()))
                .collect::<io::Result<_>>()?,
            folder: text(spec.folder.as_os_str().as_bytes())?,
            user: spec.user.clone(),
            limits: spec.limits,
            network: spec.network.as_ref().map(crate::network::Place::open).transpose()?,
            mounts: spec.places.as_ref().map(super::places::Places::mounts).transpose()?,
            namespace: spec.namespace.as_ref().map(Namespace::entry).transpose()?,
            calls: (spec.is_apart() && !spec.all_calls).then(Filter::new),
            unified: spec.groups.unified.as_ref().map(members).transpose()?,
            joins: spec.groups.controllers.iter().map(members).collect::<io::Result<_>>()?,
            processors: processors(spec),
        })
    }
}

fn processors(spec: &ShimSpec) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    let numbers = spec.processors.iter().map(|number| *number as usize);
    numbers.filter(|number| *number < CpuSet::MAX_CPU).for_each(|number| set.set(number));
    (set.count() > 0).then_some(set)
}

/// A secret stands before whatever else has its name. Those that are in files are not among them.
fn environment<'a>(
    spec: &'a ShimSpec,
    more: &'a [(String, String)],
    secrets: &'a Secrets,
) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let is_the_jobs = |name: &String| spec.environment.iter().any(|(known, _)| known == name);
    let more = more.iter().filter(move |(name, _)| !is_the_jobs(name));
    let plain = spec.environment.iter().chain(more).map(|(name, value)| (name.as_str(), value.as_bytes()));
    let is_secret = |name: &str| secrets.iter().any(|(variable, _)| variable == name);
    let is_file = |name: &str| spec.secret_files.iter().any(|variable| variable == name);
    plain.filter(move |(name, _)| !is_secret(name)).chain(secrets.iter().filter(move |(name, _)| !is_file(name)))
}

/// Starts the program; returns its process id once exec has succeeded.
pub(super) fn spawn(program: &Program, descriptors: Descriptors, group: Option<&File>) -> io::Result<i32> {
    let (fault_read, fault_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let parked = Parked::new(&descriptors, &fault_write)?;
    let pointers = Pointers::new(program);
    let parent = std::process::id().cast_signed();
    // SAFETY: this process has one thread, so the child may use everything that was made before; it calls only
    // async-signal-safe functions and ends in exec or _exit.
    let (pid, in_group) = unsafe { fork(group) };
    match pid {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: this is the child of that fork.
            unsafe { run_child(&pointers, program, &parked, parent, in_group) }
        }
        _ => {}
    }
    drop((descriptors, parked, fault_write));
    let mut fault = Vec::new();
    File::from(fault_read).take(5).read_to_end(&mut fault)?;
    match fault.as_slice() {
        [] => Ok(pid),
        [stage, errno @ ..] => {
            let errno = errno.try_into().map_or(0, i32::from_ne_bytes);
            // SAFETY: the child is ours and has ended or is about to.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            let source = io::Error::from_raw_os_error(errno);
            Err(io::Error::new(source.kind(), format!("{}: {source}", Stage::text(*stage))))
        }
    }
}

/// Descriptors moved out of the way of the numbers that the rank gets.
struct Parked {
    standard: [OwnedFd; 3],
    metrics: OwnedFd,
    listener: Option<OwnedFd>,
    fault: OwnedFd,
}

impl Parked {
    fn new(descriptors: &Descriptors, fault: &OwnedFd) -> io::Result<Self> {
        let listener = descriptors.listener.as_ref().map(park).transpose()?;
        Ok(Self {
            standard: [park(&descriptors.stdin)?, park(&descriptors.stdout)?, park(&descriptors.stderr)?],
            metrics: park(&descriptors.metrics)?,
            listener,
            fault: park(fault)?,
        })
    }
}

fn park(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, PARKED_FD_MIN)?)
}

/// Null-terminated arrays for exec; they point into a `Program` that outlives them.
struct Pointers {
    arguments: Vec<*const libc::c_char>,
    direct: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    /// The last variables, which the child completes.
    paths: Paths,
}

impl Pointers {
    fn new(program: &Program) -> Self {
        let terminated = |texts: &[CString]| -> Vec<*const libc::c_char> {
            texts.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
        };
        let mut environment = terminated(&program.environment);
        environment.pop();
        let mut paths = Paths::new(&program.files);
        environment.extend(paths.variables());
        environment.push(std::ptr::null());
        Self { arguments: terminated(&program.arguments), direct: terminated(&program.direct), environment, paths }
    }
}

/// A fork that puts the child into a v2 control group at birth: moving it later would take a lock of the whole machine.
/// Where that is not permitted (some sandboxes hide the call) the answer is false, and the child has to join by itself.
unsafe fn fork(group: Option<&File>) -> (i32, bool) {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    if let Some(group) = group {
        // SAFETY: all-zero is a valid clone_args.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = CLONE_INTO_CGROUP;
        args.exit_signal = libc::SIGCHLD as u64;
        args.cgroup = group.as_raw_fd() as u64;
        // SAFETY: without CLONE_VM this is a fork.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
        if pid >= 0 {
            return (pid as i32, true);
        }
    }
    // SAFETY: the caller has one thread.
    (unsafe { libc::fork() }, false)
}

/// Lets go of what came as stdin.
pub(super) fn replace_stdin() -> io::Result<()> {
    let null = File::open("/dev/null")?;
    // SAFETY: 0 is this process's stdin; nothing else in it holds that number.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs in the child; never returns.
unsafe fn run_child(pointers: &Pointers, program: &Program, parked: &Parked, parent: i32, in_group: bool) -> ! {
    // SAFETY: only async-signal-safe calls on values made before the fork.
    unsafe {
        if libc::setsid() < 0 {
            fail(parked, Stage::Session);
        }
        reset_signals();
        for join in program.unified.iter().filter(|_| !in_group).chain(&program.joins) {
            if !write_file(join.as_ptr(), b"0") {
                fail(parked, Stage::Join);
            }
        }
        // A control group keeps it there; where there is none, it may go elsewhere, and what knows nothing of this does not.
        if program.processors.as_ref().is_some_and(|set| sched_setaffinity(None, set).is_err()) {
            fail(parked, Stage::Processors);
        }
        // The files of a hidden process are root's, whoever it runs as.
        hide_memory(false);
        write_file(c"/proc/self/oom_score_adj".as_ptr(), OOM_SCORE);
        // Best effort, as above: not every kernel has it.
        write_file(c"/proc/self/autogroup".as_ptr(), SESSION_NICENESS);
        let metrics = (parked.metrics.as_raw_fd(), METRICS_FD);
        let standard = parked.standard.iter().zip(0..).map(|(fd, number)| (fd.as_raw_fd(), number));
        let listener = parked.listener.iter().map(|fd| (fd.as_raw_fd(), LISTEN_FD));
        let files = program.files.descriptors();
        for (from, to) in standard.chain(listener).chain(std::iter::once(metrics)).chain(files) {
            if libc::dup2(from, to) < 0 {
                fail(parked, Stage::Descriptors);
            }
        }
        pointers.paths.complete(libc::getpid());
        close_others_at_exec(program.files.end());
        if program.network.as_ref().is_some_and(|network| libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) < 0) {
            fail(parked, Stage::Network);
        }
        if program.mounts.as_ref().is_some_and(|mounts| !mounts.enter())
            || program.namespace.as_ref().is_some_and(|namespace| !namespace.enter())
        {
            fail(parked, Stage::Places);
        }
        if !confine(program.user.as_ref(), &program.limits) {
            fail(parked, Stage::Confinement);
        }
        // A change of user would have taken it back.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // The supervisor may have died before the line above.
        if libc::getppid() != parent {
            libc::_exit(127);
        }
        if libc::chdir(program.folder.as_ptr()) < 0 {
            fail(parked, Stage::Folder);
        }
        if program.calls.as_ref().is_some_and(|filter| !filter.enter()) {
            fail(parked, Stage::Confinement);
        }
        if !pointers.direct[0].is_null() {
            libc::execve(pointers.direct[0], pointers.direct.as_ptr(), pointers.environment.as_ptr());
            // Not there, no program, a script without its first line: the shell knows what to do or to say.
        }
        libc::execve(pointers.arguments[0], pointers.arguments.as_ptr(), pointers.environment.as_ptr());
        fail(parked, Stage::Exec)
    }
}

/// A rank starts with nothing blocked and nothing ignored, whatever its supervisor and daemon do with signals.
unsafe fn reset_signals() {
    // SAFETY: plain system calls on a local set.
    unsafe {
        for number in 1..32 {
            if number != libc::SIGKILL && number != libc::SIGSTOP {
                libc::signal(number, libc::SIG_DFL);
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

unsafe fn write_file(path: *const libc::c_char, bytes: &[u8]) -> bool {
    // SAFETY: the path is null-terminated, the bytes are in scope.
    unsafe {
        let fd = libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return false;
        }
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        libc::close(fd);
        written == bytes.len() as isize
    }
}

unsafe fn fail(parked: &Parked, stage: Stage) -> ! {
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0).to_ne_bytes();
    let message = [stage as u8, errno[0], errno[1], errno[2], errno[3]];
    // SAFETY: five bytes into a pipe are written whole; the process ends.
    unsafe {
        libc::write(parked.fault.as_raw_fd(), message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

/// Takes a descriptor of this process that is known by number only.
///
/// # Safety
/// Nobody else may own it.
pub(super) unsafe fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Copies this process's stdin.
pub(super) fn copy_stdin() -> io::Result<OwnedFd> {
    // SAFETY: 0 is open as long as this process lives.
    let stdin = unsafe { BorrowedFd::borrow_raw(0) };
    Ok(rustix::io::fcntl_dupfd_cloexec(stdin, PARKED_FD_MIN)?)
}
