//! The flight recorder: the last operations of this rank in fixed memory, so that it can be seen where a group hangs and
//! what it did before it failed.
//!
//! The thread inside an operation writes, without a lock or an allocation; any thread reads. A reader that comes while
//! a slot is written leaves that slot out.
//!
//! Through shared memory an operation is recorded as it ends, or as its rank goes to sleep in it: so nothing stands between telling
//! the others and looking at what they told.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::buffer::{DType, Op};
use crate::plan::{Method, Transport};
use crate::tcp::{Call, Operation, Position};
use crate::ticks::Ticks;

/// Operations that are kept.
pub(crate) const ENTRIES: usize = 1_000;

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// At work, or not yet known to wait.
    Entered,
    /// Asleep until this rank does its part.
    Waiting(u32),
    /// Over, with the result in place.
    Done,
    /// Over, with an error.
    Failed,
}

/// One operation of one rank. `Display` writes it as one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the communicator's life, from 1.
    pub sequence: u64,
    /// Which collective: `all_reduce`, `reduce_scatter`, `all_gather`, `broadcast` or `barrier`.
    pub kind: &'static str,
    /// Type of the elements; none for a barrier.
    pub dtype: Option<DType>,
    /// How elements become one, where they do.
    pub op: Option<Op>,
    /// The root of a broadcast.
    pub root: Option<u32>,
    /// Of the part that has the same length on all ranks.
    pub elements: u64,
    /// What carries the bytes.
    pub transport: Transport,
    /// How they go.
    pub method: Method,
    /// On the kernel's monotonic clock, which all processes of a host share, in nanoseconds.
    pub entered_ns: u64,
    /// As above; none while it lasts.
    pub ended_ns: Option<u64>,
    /// How far it is.
    pub state: State,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"{{"sequence":{},"kind":"{}","dtype":"#, self.sequence, self.kind)?;
        text(f, self.dtype)?;
        f.write_str(r#","op":"#)?;
        text(f, self.op)?;
        f.write_str(r#","root":"#)?;
        number(f, self.root)?;
        write!(f, r#","elements":{},"transport":"{}","#, self.elements, self.transport)?;
        write!(f, r#""method":"{}","entered_ns":{},"ended_ns":"#, self.method, self.entered_ns)?;
        number(f, self.ended_ns)?;
        let (state, waiting_for) = match self.state {
            State::Entered => ("entered", None),
            State::Waiting(rank) => ("waiting", Some(rank)),
            State::Done => ("done", None),
            State::Failed => ("failed", None),
        };
        write!(f, r#","state":"{state}","waiting_for":"#)?;
        number(f, waiting_for)?;
        f.write_str("}")
    }
}

fn text(f: &mut fmt::Formatter<'_>, value: Option<impl fmt::Display>) -> fmt::Result {
    match value {
        Some(value) => write!(f, r#""{value}""#),
        None => f.write_str("null"),
    }
}

fn number(f: &mut fmt::Formatter<'_>, value: Option<impl fmt::Display>) -> fmt::Result {
    match value {
        Some(value) => write!(f, "{value}"),
        None => f.write_str("null"),
    }
}

/// One cache line: an operation costs no second one.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Slot {
    /// 0 while the slot is written.
    sequence: AtomicU64,
    /// All of the call but the count; see [`pack`].
    call: AtomicU64,
    count: AtomicU64,
    entered: AtomicU64,
    ended: AtomicU64,
    /// See [`State::pack`].
    state: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Of the operation begun last.
    sequence: AtomicU64,
    /// When that was.
    entered: AtomicU64,
    slots: Box<[Slot]>,
    ticks: Ticks,
    transport: OnceLock<Transport>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let slots = (0..ENTRIES).map(|_| Slot::default()).collect();
        Recorder {
            sequence: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            slots,
            ticks: Ticks::new(),
            transport: OnceLock::new(),
        }
    }

    /// Said once, before the first operation; TCP otherwise.
    pub(crate) fn goes_over(&self, transport: Transport) {
        let _ = self.transport.set(transport);
    }

    fn slot(&self, sequence: u64) -> &Slot {
        &self.slots[(sequence % ENTRIES as u64) as usize]
    }

    /// Begins the next operation and gives its number. One thread at a time, which the transports' own locks see to.
    pub(crate) fn begin(&self) -> u64 {
        let sequence = self.sequence.load(Ordering::Relaxed) + 1;
        self.entered.store(self.ticks.now(), Ordering::Relaxed);
        self.sequence.store(sequence, Ordering::Release);
        sequence
    }

    /// Records the operation begun last, as far as it is now.
    pub(crate) fn record(&self, call: Call, method: Method, state: State) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        let slot = self.slot(sequence);
        slot.sequence.store(0, Ordering::Relaxed);
        // No field below is seen with the number of the operation that had the slot before.
        fence(Ordering::Release);
        slot.call.store(pack(&call, method), Ordering::Relaxed);
        slot.count.store(call.count, Ordering::Relaxed);
        slot.entered.store(self.entered.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.state.store(state.pack(), Ordering::Relaxed);
        if matches!(state, State::Done | State::Failed) {
            slot.ended.store(self.ticks.now(), Ordering::Relaxed);
        }
        slot.sequence.store(sequence, Ordering::Release);
    }

    /// Says how far the recorded operation is.
    pub(crate) fn now(&self, state: State) {
        let slot = self.slot(self.sequence.load(Ordering::Relaxed));
        if matches!(state, State::Done | State::Failed) {
            slot.ended.store(self.ticks.now(), Ordering::Relaxed);
        }
        slot.state.store(state.pack(), Ordering::Release);
    }

    /// Number and call of the operation begun last; no call before the first one, and while it is not recorded.
    pub(crate) fn current(&self) -> (u64, Option<Call>) {
        let sequence = self.sequence.load(Ordering::Acquire);
        (sequence, self.read(sequence, &|ticks| ticks).map(|(call, _)| call))
    }

    fn read(&self, sequence: u64, to_ns: &dyn Fn(u64) -> u64) -> Option<(Call, Entry)> {
        let slot = self.slot(sequence);
        if sequence == 0 || slot.sequence.load(Ordering::Acquire) != sequence {
            return None;
        }
        let state = State::unpack(slot.state.load(Ordering::Acquire))?;
        let (call, method) = unpack(slot.call.load(Ordering::Relaxed), slot.count.load(Ordering::Relaxed))?;
        let ended = matches!(state, State::Done | State::Failed).then(|| slot.ended.load(Ordering::Relaxed));
        let barrier = call.operation == Operation::Barrier;
        let folds = matches!(call.operation, Operation::AllReduce | Operation::ReduceScatter);
        let entry = Entry {
            sequence,
            kind: call.operation.name(),
            dtype: (!barrier).then_some(call.dtype),
            op: folds.then_some(call.op),
            root: (call.operation == Operation::Broadcast).then_some(call.root),
            elements: call.count,
            transport: self.transport.get().copied().unwrap_or(Transport::Tcp),
            method,
            entered_ns: to_ns(slot.entered.load(Ordering::Relaxed)),
            ended_ns: ended.map(to_ns),
            state,
        };
        fence(Ordering::Acquire);
        (slot.sequence.load(Ordering::Relaxed) == sequence).then_some((call, entry))
    }

    /// The operation begun last, where it is recorded.
    pub(crate) fn last(&self) -> Option<Entry> {
        self.entry(self.sequence.load(Ordering::Acquire))
    }

    /// How far this rank is: number and call of the operation begun last, and whether it is under way.
    pub(crate) fn position(&self) -> Position {
        let sequence = self.sequence.load(Ordering::Acquire);
        match self.read(sequence, &|ticks| ticks) {
            Some((call, entry)) => Position { sequence, running: entry.ended_ns.is_none(), call: Some(call) },
            None => Position { sequence, running: false, call: None },
        }
    }

    /// One operation, where it is kept.
    pub(crate) fn entry(&self, sequence: u64) -> Option<Entry> {
        let to_ns = self.ticks.to_ns();
        self.read(sequence, &to_ns).map(|(_, entry)| entry)
    }

    /// What is kept, oldest first.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let last = self.sequence.load(Ordering::Acquire);
        let first = last.saturating_sub(ENTRIES as u64) + 1;
        let to_ns = self.ticks.to_ns();
        (first..=last).filter_map(|sequence| self.read(sequence, &to_ns).map(|(_, entry)| entry)).collect()
    }
}

impl State {
    fn pack(self) -> u64 {
        match self {
            State::Entered => 0,
            State::Done => 1,
            State::Failed => 2,
            State::Waiting(rank) => 3 | u64::from(rank) << 32,
        }
    }

    fn unpack(word: u64) -> Option<Self> {
        Some(match word as u32 {
            0 => State::Entered,
            1 => State::Done,
            2 => State::Failed,
            3 => State::Waiting((word >> 32) as u32),
            _ => return None,
        })
    }
}

/// Root, then a byte each for ring and method, operation, op and type.
fn pack(call: &Call, method: Method) -> u64 {
    let way = (method as u64) << 1 | u64::from(call.ring);
    let what = (call.operation as u64) << 16 | (call.op as u64) << 8 | call.dtype as u64;
    u64::from(call.root) << 32 | way << 24 | what
}

fn unpack(word: u64, count: u64) -> Option<(Call, Method)> {
    let byte = |at: u32| (word >> at & 0xff) as usize;
    let call = Call {
        operation: *Operation::ALL.get(byte(16))?,
        op: *Op::ALL.get(byte(8))?,
        dtype: *DType::ALL.get(byte(0))?,
        count,
        root: (word >> 32) as u32,
        ring: byte(24) & 1 == 1,
    };
    Some((call, *Method::ALL.get(byte(24) >> 1)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(count: u64) -> Call {
        Call { operation: Operation::AllReduce, op: Op::Sum, dtype: DType::F32, count, root: 0, ring: false }
    }

    fn begin(recorder: &Recorder, call: Call, method: Method) {
        recorder.begin();
        recorder.record(call, method, State::Entered);
    }

    #[test]
    fn the_last_thousand_are_kept_in_order() {
        let recorder = Recorder::new();
        assert_eq!((recorder.entries(), recorder.current()), (vec![], (0, None)));
        for count in 1..=2_500 {
            assert_eq!(recorder.begin(), count);
            if count % 2 == 0 {
                recorder.record(sum(count), Method::Slots, State::Entered);
                recorder.now(State::Done);
            } else {
                recorder.record(sum(count), Method::Slots, State::Done);
            }
        }
        let entries = recorder.entries();
        assert!(entries.iter().map(|entry| entry.sequence).eq(1_501..=2_500));
        assert!(entries.iter().all(|entry| entry.elements == entry.sequence && entry.state == State::Done));
        assert!(entries.iter().all(|entry| entry.ended_ns.unwrap() >= entry.entered_ns));
        assert!(entries.is_sorted_by_key(|entry| entry.entered_ns));
        assert_eq!(recorder.current(), (2_500, Some(sum(2_500))));
    }

    #[test]
    fn an_entry_is_a_line_of_json() {
        let recorder = Recorder::new();
        recorder.goes_over(Transport::SharedMemory);
        begin(&recorder, sum(7), Method::Staged);
        recorder.now(State::Waiting(2));
        let mut entry = recorder.entries().remove(0);
        entry.entered_ns = 5;
        let expected = concat!(
            r#"{"sequence":1,"kind":"all_reduce","dtype":"f32","op":"sum","root":null,"elements":7,"#,
            r#""transport":"shm","method":"staged","entered_ns":5,"ended_ns":null,"state":"waiting","waiting_for":2}"#
        );
        assert_eq!(entry.to_string(), expected);
    }

    #[test]
    fn a_barrier_has_no_elements_and_a_broadcast_a_root() {
        let recorder = Recorder::new();
        let call = |operation, root| Call { operation, root, ..sum(3) };
        begin(&recorder, Call { count: 0, ..call(Operation::Barrier, 0) }, Method::Flat);
        recorder.now(State::Failed);
        begin(&recorder, call(Operation::Broadcast, 3), Method::Flat);
        let entries = recorder.entries();
        assert_eq!((entries[0].kind, entries[0].dtype, entries[0].state), ("barrier", None, State::Failed));
        assert_eq!((entries[1].root, entries[1].op, entries[1].ended_ns), (Some(3), None, None));
    }

    #[test]
    fn a_reader_beside_the_writer_sees_whole_entries_only() {
        let recorder = Recorder::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for count in 1..=200_000 {
                    begin(&recorder, sum(count), Method::Line);
                    recorder.now(State::Done);
                }
            });
            while recorder.current().0 < 200_000 {
                assert!(recorder.entries().iter().all(|entry| entry.elements == entry.sequence));
            }
        });
    }

    proptest! {
        #[test]
        fn calls_survive_the_words(
            o in 0..5usize, op in 0..4usize, t in 0..6usize, m in 0..8usize, count: u64, root: u32, ring: bool,
        ) {
            let call = Call { operation: Operation::ALL[o], op: Op::ALL[op], dtype: DType::ALL[t], count, root, ring };
            prop_assert_eq!(unpack(pack(&call, Method::ALL[m]), count), Some((call, Method::ALL[m])));
        }
    }
}
