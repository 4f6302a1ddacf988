//! A stand-in for `libcuda.so.1` and `libnccl.so.2` in one library, so that the NCCL backend can be run without a
//! device.
//!
//! Device memory is host memory. Communicators keep to NCCL's non-blocking protocol: a call returns "in progress" and a
//! thread carries it out over a socket to a hub, which lives in the process that made the unique id, that of rank 0. A call on a
//! handle that was aborted or destroyed ends the process, so that no test can pass with one. As with NCCL, two ranks
//! on one device are refused, unless `NCCL_HOSTID` says that they are on different machines. With `STANDIN_BLOCKS`
//! set, all-reduce blocks in the call, as NCCL does when it misbehaves. Built by `tests/nccl.rs` with rustc alone.
//!
//! `STANDIN_JOIN_HANGS` and `STANDIN_JOIN_BLOCKS` name a rank that never joins: its handle stays in progress, or the call does not
//! come back. `STANDIN_FAILS=RANK:N` lets the N-th operation of a rank end in an asynchronous error. With `--cfg lacks_finalize`
//! one symbol is missing.
#![allow(unexpected_cfgs, non_snake_case, clippy::missing_safety_doc)]

mod arithmetic;
mod driver;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{c_char, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use driver::export;

const OK: c_int = 0;
const SYSTEM: c_int = 2;
const INTERNAL: c_int = 3;
const INVALID_USAGE: c_int = 5;
const REMOTE: c_int = 6;
const IN_PROGRESS: c_int = 7;

/// NCCL's last words are the process's, not a handle's.
static REFUSED: AtomicBool = AtomicBool::new(false);

type Type = c_int;
type Stream = usize;
type Job = Box<dyn FnOnce(&mut TcpStream) -> Result<()> + Send>;

struct State {
    /// Set once connected, for `abort` to cut.
    socket: Mutex<Option<TcpStream>>,
    pending: AtomicUsize,
    error: AtomicI32,
    dead: AtomicBool,
}

/// What a handle points to; never freed, so that a call on a dead one is seen.
pub struct Comm {
    rank: usize,
    world: usize,
    state: Arc<State>,
    jobs: Sender<Job>,
}

#[repr(C)]
pub struct Id([u8; 128]);

#[repr(C)]
pub struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

thread_local! {
    static GROUP: RefCell<(u32, Vec<(&'static Comm, Job)>)> = const { RefCell::new((0, Vec::new())) };
}

fn number(from: &mut impl Read) -> Result<usize> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes) as usize)
}

fn exactly(from: &mut impl Read, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Serves one group. Where a rank is gone, the others get an error, or with `STANDIN_SILENT` wait for ever.
fn hub(listener: TcpListener) -> Result<()> {
    let ranks = meet(&listener)?;
    let kept: Vec<_> = ranks.iter().map(TcpStream::try_clone).collect();
    let gone = answer(ranks);
    while std::env::var_os("STANDIN_SILENT").is_some() {
        std::thread::park();
    }
    drop(kept);
    gone
}

/// Tells each rank 1, or 0 where two ranks of one machine have the same device.
fn meet(listener: &TcpListener) -> Result<Vec<TcpStream>> {
    let mut ranks: Vec<Option<TcpStream>> = vec![None];
    let mut places = BTreeSet::new();
    while ranks.iter().any(Option::is_none) {
        let mut stream = listener.accept()?.0;
        let (rank, world) = (number(&mut stream)?, number(&mut stream)?);
        places.insert((number(&mut stream)?, number(&mut stream)?));
        ranks.resize_with(world, || None);
        ranks[rank] = Some(stream);
    }
    let mut ranks: Vec<_> = ranks.into_iter().flatten().collect();
    let apart = places.len() == ranks.len();
    for rank in &mut ranks {
        rank.write_all(&[u8::from(apart)])?;
    }
    Ok(ranks)
}

/// What `NCCL_HOSTID` says, as a number.
fn machine() -> usize {
    let name = std::env::var_os("NCCL_HOSTID").unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as usize
}

/// Operation after operation until somebody is gone.
fn answer(mut ranks: Vec<TcpStream>) -> Result<()> {
    loop {
        let (mut calls, mut inputs) = (Vec::new(), Vec::new());
        for rank in &mut ranks {
            calls.push([number(rank)?, number(rank)?, number(rank)?]);
            let length = number(rank)?;
            inputs.push(exactly(rank, length)?);
        }
        let folds_unlike = calls[0][0] == 0 && inputs.iter().any(|input| input.len() != inputs[0].len());
        if folds_unlike || calls.iter().any(|call| *call != calls[0]) {
            // NCCL does not compare calls: it hangs.
            std::thread::park();
        }
        let [kind, dtype, detail] = calls[0];
        let output = match kind {
            0 => arithmetic::fold(dtype as i32, detail as i32, &inputs),
            1 => inputs.swap_remove(detail),
            _ => inputs.concat(),
        };
        // Last the rank that this thread lives with, which may end as soon as it has its own.
        for rank in ranks.iter_mut().rev() {
            rank.write_all(&output)?;
        }
    }
}

impl Comm {
    fn live(handle: *const Comm) -> &'static Comm {
        // SAFETY: handles come from `init` and are never freed.
        let comm = unsafe { &*handle };
        if comm.state.dead.load(SeqCst) {
            eprintln!("stand-in: call on a handle that is gone");
            std::process::abort();
        }
        comm
    }

    fn submit(&self, job: Job) {
        self.state.pending.fetch_add(1, SeqCst);
        let _ = self.jobs.send(job);
    }

    /// Starts one operation, or queues it in the group of this thread.
    fn start(&'static self, job: Job) -> c_int {
        let grouped = GROUP.with_borrow(|group| group.0 > 0);
        if grouped {
            GROUP.with_borrow_mut(|group| group.1.push((self, job)));
            return OK;
        }
        self.submit(job);
        if std::env::var_os("STANDIN_BLOCKS").is_none() {
            return IN_PROGRESS;
        }
        while self.state.pending.load(SeqCst) > 0 {
            std::thread::yield_now();
        }
        self.state.error.load(SeqCst)
    }
}

/// Runs in the communicator's thread: joins, then one job after another.
fn serve(state: &State, address: &str, greeting: [usize; 4], jobs: &std::sync::mpsc::Receiver<Job>) {
    let join = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        for word in greeting {
            stream.write_all(&(word as u64).to_le_bytes())?;
        }
        *state.socket.lock().unwrap() = Some(stream.try_clone()?);
        if exactly(&mut stream, 1)? == [0] {
            REFUSED.store(true, SeqCst);
            state.error.store(INVALID_USAGE, SeqCst);
        }
        Ok(stream)
    };
    if is_named("STANDIN_JOIN_HANGS", greeting[0]) {
        std::thread::park();
    }
    let mut stream: Result<TcpStream> = join();
    let done = |failed: bool| {
        if failed {
            state.error.store(REMOTE, SeqCst);
        }
        state.pending.fetch_sub(1, SeqCst);
    };
    done(stream.is_err());
    for (number, job) in (1..).zip(jobs) {
        if std::env::var("STANDIN_FAILS") == Ok(format!("{}:{number}", greeting[0])) {
            state.error.store(INTERNAL, SeqCst);
            state.pending.fetch_sub(1, SeqCst);
            continue;
        }
        done(stream.as_mut().map_or(true, |stream| job(stream).is_err()));
    }
}

/// One operation: `[kind, dtype, operation or root]`, the input's place and bytes, the output's place, and which part
/// of the answer goes there.
fn exchange(
    call: [usize; 3],
    from: usize,
    length: usize,
    to: usize,
    part: std::ops::Range<usize>,
    whole: usize,
) -> Job {
    Box::new(move |stream| {
        for word in [call[0], call[1], call[2], length] {
            stream.write_all(&(word as u64).to_le_bytes())?;
        }
        if length > 0 {
            // SAFETY: the caller keeps the memory until the operation has ended.
            stream.write_all(unsafe { std::slice::from_raw_parts(from as *const u8, length) })?;
        }
        let answer = exactly(stream, whole)?;
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(answer[part.clone()].as_ptr(), to as *mut u8, part.len()) };
        Ok(())
    })
}

/// Whether the variable has the number of this rank.
fn is_named(variable: &str, rank: usize) -> bool {
    std::env::var(variable) == Ok(rank.to_string())
}

unsafe fn init(handle: *mut *mut Comm, world: c_int, id: &Id, rank: c_int) -> c_int {
    let address = String::from_utf8_lossy(&id.0).trim_end_matches('\0').to_owned();
    let state = Arc::new(State {
        socket: Mutex::new(None),
        pending: AtomicUsize::new(1),
        error: AtomicI32::new(OK),
        dead: AtomicBool::new(false),
    });
    let (jobs, queue) = channel();
    let (rank, world) = (rank as usize, world as usize);
    let comm = Comm { rank, world, state: Arc::clone(&state), jobs };
    if is_named("STANDIN_JOIN_BLOCKS", rank) {
        std::thread::park();
    }
    let greeting = [rank, world, machine(), driver::current()];
    std::thread::spawn(move || serve(&state, &address, greeting, &queue));
    unsafe { *handle = Box::into_raw(Box::new(comm)) };
    IN_PROGRESS
}

/// Gives a handle up; what is under way fails.
fn end(handle: *mut Comm) -> c_int {
    let comm = Comm::live(handle);
    comm.state.dead.store(true, SeqCst);
    if let Some(socket) = &*comm.state.socket.lock().unwrap() {
        let _ = socket.shutdown(Shutdown::Both);
    }
    OK
}

export! {
    fn ncclGetVersion(version: *mut c_int) { *version = 22_703; OK }
    fn ncclGetUniqueId(id: *mut Id) {
        let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return SYSTEM };
        let Ok(address) = listener.local_addr() else { return SYSTEM };
        let text = address.to_string();
        *id = Id([0; 128]);
        (&mut (*id).0)[..text.len()].copy_from_slice(text.as_bytes());
        std::thread::spawn(move || {
            let _ = hub(listener);
        });
        OK
    }
    fn ncclCommInitRankConfig(handle: *mut *mut Comm, world: c_int, id: Id, rank: c_int, config: *mut Config) {
        let config = &*config;
        if (config.magic, config.blocking, config.size) != (0xcafe_beef, 0, 48) || config.version < 21_800 {
            return 4;
        }
        init(handle, world, &id, rank)
    }
    fn ncclCommGetAsyncError(handle: *mut Comm, error: *mut c_int) {
        let state = &Comm::live(handle).state;
        let pending = state.pending.load(SeqCst) > 0;
        *error = if pending { IN_PROGRESS } else { state.error.load(SeqCst) };
        OK
    }
    fn ncclCommAbort(handle: *mut Comm) { end(handle) }
    fn ncclCommDestroy(handle: *mut Comm) { end(handle) }
    #[cfg(not(lacks_finalize))]
    fn ncclCommFinalize(handle: *mut Comm) { Comm::live(handle); OK }
    fn ncclGroupStart() { GROUP.with_borrow_mut(|group| group.0 += 1); OK }
    fn ncclGroupEnd() {
        let jobs = GROUP.with_borrow_mut(|group| {
            group.0 -= 1;
            if group.0 == 0 { std::mem::take(&mut group.1) } else { Vec::new() }
        });
        for (comm, job) in jobs {
            comm.submit(job);
        }
        IN_PROGRESS
    }
    fn ncclAllReduce(from: usize, to: usize, count: usize, dtype: Type, op: c_int, handle: *mut Comm, _at: Stream) {
        let length = count * arithmetic::size(dtype);
        Comm::live(handle).start(exchange([0, dtype as usize, op as usize], from, length, to, 0..length, length))
    }
    fn ncclReduceScatter(from: usize, to: usize, count: usize, dtype: Type, op: c_int, handle: *mut Comm, _at: Stream) {
        let (comm, each) = (Comm::live(handle), count * arithmetic::size(dtype));
        let (whole, part) = (each * comm.world, each * comm.rank..each * (comm.rank + 1));
        comm.start(exchange([0, dtype as usize, op as usize], from, whole, to, part, whole))
    }
    fn ncclAllGather(from: usize, to: usize, count: usize, dtype: Type, handle: *mut Comm, _at: Stream) {
        let (comm, each) = (Comm::live(handle), count * arithmetic::size(dtype));
        let whole = each * comm.world;
        comm.start(exchange([2, dtype as usize, 0], from, each, to, 0..whole, whole))
    }
    fn ncclBroadcast(from: usize, to: usize, count: usize, dtype: Type, root: c_int, handle: *mut Comm, _at: Stream) {
        let (comm, whole) = (Comm::live(handle), count * arithmetic::size(dtype));
        let length = if comm.rank == root as usize { whole } else { 0 };
        comm.start(exchange([1, dtype as usize, root as usize], from, length, to, 0..whole, whole))
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(_code: c_int) -> *const c_char {
    c"error of the stand-in".as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetLastError(handle: *mut Comm) -> *const c_char {
    if !handle.is_null() {
        Comm::live(handle);
    }
    if REFUSED.load(SeqCst) { c"Duplicate GPU detected".as_ptr() } else { c"no more is known".as_ptr() }
}
