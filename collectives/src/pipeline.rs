//! Operations in the background: a thread that runs what was submitted, in submission order, while the caller computes.
//!
//! Submission order is execution order, so all ranks must submit alike. Nobody else may use the communicator meanwhile.
//!
//! Buffers are lent by value and come back through the [`Handle`], so that nobody touches one under way. To submit and to wait
//! allocates nothing: places in the queue are made once, and what is done is a count, since operations end in the order in which
//! they were submitted.

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::buffer::{Buf, BufMut, Element, Op};
use crate::communicator::Communicator;
use crate::error::Error;
use crate::shared::CommBuf;

/// Submissions that may wait; a caller that is further ahead than this waits as it submits.
const IN_FLIGHT_MAX: usize = 1024;

/// Memory that an operation in the background may use: owned, and always at the same place, wherever its owner goes.
///
/// # Safety
/// The elements do not move when the value does, and nothing else refers to them.
pub unsafe trait Memory: Send + 'static {
    /// Its elements.
    fn elements(&mut self) -> BufMut<'_>;
}

// SAFETY: a vector's elements are on the heap, and its own.
unsafe impl<T: Element> Memory for Vec<T> {
    fn elements(&mut self) -> BufMut<'_> {
        BufMut::from(self)
    }
}

/// Elements of one type in memory of [`Communicator::alloc`], for operations in the background.
#[derive(Debug)]
pub struct Part<T> {
    buffer: CommBuf,
    range: Range<usize>,
    of: PhantomData<T>,
}

impl<T: Element> Part<T> {
    /// These elements of the buffer, or as many of them as it has.
    pub fn new(buffer: CommBuf, range: Range<usize>) -> Self {
        let most = buffer.elements::<T>().len();
        let end = range.end.min(most);
        Part { buffer, range: range.start.min(end)..end, of: PhantomData }
    }

    /// The whole buffer.
    pub fn into_buffer(self) -> CommBuf {
        self.buffer
    }
}

// SAFETY: the memory of a `CommBuf` is a mapping or on the heap, and its own.
unsafe impl<T: Element> Memory for Part<T> {
    fn elements(&mut self) -> BufMut<'_> {
        let elements = self.buffer.elements_mut::<T>();
        BufMut::from(elements.get_mut(self.range.clone()).unwrap_or_default())
    }
}

/// Where the elements of a buffer lie. Whoever has the handle keeps them there.
struct Span {
    view: BufMut<'static>,
}

impl Span {
    fn of(memory: &mut impl Memory) -> Self {
        // SAFETY: the handle owns the memory, which does not move by the contract of `Memory`, and gives it back or frees it only
        // after the operation has ended, or with the thread; a handle that is forgotten never frees it.
        let view = unsafe { std::mem::transmute::<BufMut<'_>, BufMut<'static>>(memory.elements()) };
        Span { view }
    }
}

enum Job {
    AllReduce(Span, Op),
    ReduceScatter(Span, Span, Op),
    AllGather(Span, Span),
    Broadcast(Span, u32),
    Barrier,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    submitted: u64,
    /// Of those that failed and were not waited for yet, by number.
    errors: BTreeMap<u64, Error>,
    /// No more will be submitted.
    closed: bool,
    /// The thread is gone.
    ended: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to do.
    work: Condvar,
    /// Something was done, or taken.
    news: Condvar,
    /// Operations that have ended.
    done: AtomicU64,
}

/// Owner of the progress thread. Dropping it waits for what was submitted; call `abort` on the communicator to be
/// quick.
pub struct Pipeline {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// One operation under way, with its buffers. Dropping it waits for the operation.
#[must_use = "the result is lost unless waited for"]
pub struct Handle<B> {
    shared: Arc<Shared>,
    number: u64,
    /// Until they are given back.
    buffers: Option<B>,
}

impl Pipeline {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the system has no thread left.
    pub fn new(communicator: Arc<dyn Communicator>) -> Result<Self, Error> {
        let queue = Queue { jobs: VecDeque::with_capacity(IN_FLIGHT_MAX), ..Queue::default() };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), ..Shared::default() });
        let end = End(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("collectives".to_owned())
            .spawn(move || {
                let end = end;
                end.0.run(&*communicator);
            })
            .map_err(|error| Error::Invalid { reason: format!("no thread for the pipeline: {error}") })?;
        Ok(Pipeline { shared, thread: Some(thread) })
    }

    /// Queues a [`Communicator::all_reduce`]. This and all others wait only when 1024 are under way.
    pub fn all_reduce<M: Memory>(&self, mut buffer: M, op: Op) -> Handle<M> {
        let job = Job::AllReduce(Span::of(&mut buffer), op);
        self.submit(job, buffer)
    }

    /// Queues a [`Communicator::reduce_scatter`].
    pub fn reduce_scatter<S: Memory, D: Memory>(&self, mut source: S, mut own: D, op: Op) -> Handle<(S, D)> {
        let job = Job::ReduceScatter(Span::of(&mut source), Span::of(&mut own), op);
        self.submit(job, (source, own))
    }

    /// Queues a [`Communicator::all_gather`].
    pub fn all_gather<S: Memory, D: Memory>(&self, mut own: S, mut all: D) -> Handle<(S, D)> {
        let job = Job::AllGather(Span::of(&mut own), Span::of(&mut all));
        self.submit(job, (own, all))
    }

    /// Queues a [`Communicator::broadcast`].
    pub fn broadcast<M: Memory>(&self, mut buffer: M, root: u32) -> Handle<M> {
        let job = Job::Broadcast(Span::of(&mut buffer), root);
        self.submit(job, buffer)
    }

    /// Queues a [`Communicator::barrier`].
    pub fn barrier(&self) -> Handle<()> {
        self.submit(Job::Barrier, ())
    }

    fn submit<B>(&self, job: Job, buffers: B) -> Handle<B> {
        let mut queue = self.shared.queue();
        while queue.jobs.len() == IN_FLIGHT_MAX && !queue.ended {
            queue = self.shared.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.submitted += 1;
        let number = queue.submitted;
        // Else the handle says that there is nobody to do it.
        if !queue.ended {
            queue.jobs.push_back(job);
            self.shared.work.notify_one();
        }
        Handle { shared: Arc::clone(&self.shared), number, buffers: Some(buffers) }
    }
}

impl<B> Handle<B> {
    /// Whether the operation has ended, well or not: [`Handle::wait`] would not wait.
    pub fn is_done(&self) -> bool {
        self.shared.done.load(Ordering::Acquire) >= self.number || self.shared.queue().ended
    }

    /// Waits for the end of the operation and gives the buffers back. The communicator's operation timeout bounds the wait.
    ///
    /// # Errors
    /// Those of the operation; the buffers are then freed.
    pub fn wait(mut self) -> Result<B, Error> {
        self.shared.wait(self.number)?;
        self.buffers.take().ok_or_else(gone)
    }
}

impl<B> Drop for Handle<B> {
    fn drop(&mut self) {
        if self.buffers.is_some() {
            // A caller that no longer wants the result is no fault; the other ranks need this rank's share all the same.
            let _ = self.shared.wait(self.number);
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn gone() -> Error {
    Error::Aborted {
        culprit: None,
        cause: "the pipeline thread ended".to_owned(),
        operation: "an operation in the background".to_owned(),
        sequence: 0,
    }
}

/// Tells those that wait when the thread is gone, however it went.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.ended = true;
        queue.jobs.clear();
        self.0.news.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, number: u64) -> Result<(), Error> {
        let mut queue = self.queue();
        loop {
            if self.done.load(Ordering::Acquire) >= number {
                return queue.errors.remove(&number).map_or(Ok(()), Err);
            }
            if queue.ended {
                return Err(gone());
            }
            queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, communicator: &dyn Communicator) {
        let mut number = 0;
        while let Some(job) = self.next() {
            number += 1;
            let result = job.run(communicator);
            let mut queue = self.queue();
            if let Err(error) = result {
                queue.errors.insert(number, error);
            }
            self.done.store(number, Ordering::Release);
            self.news.notify_all();
        }
    }

    /// The next one, or none when there will be none.
    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Job {
    fn run(self, communicator: &dyn Communicator) -> Result<(), Error> {
        match self {
            Job::AllReduce(buffer, op) => communicator.all_reduce(buffer.view, op),
            Job::ReduceScatter(source, own, op) => communicator.reduce_scatter(Buf::from(source.view), own.view, op),
            Job::AllGather(own, all) => communicator.all_gather(Buf::from(own.view), all.view),
            Job::Broadcast(buffer, root) => communicator.broadcast(buffer.view, root),
            Job::Barrier => communicator.barrier(),
        }
    }
}
