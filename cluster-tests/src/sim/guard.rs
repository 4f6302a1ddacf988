//! Ends a simulation that does not end by itself. Virtual time stands still while a task never waits, so only the wall clock
//! can tell; what is said then is the seed, where its thread is, and the last events.

use super::trace::Trace;
use super::{Plan, Report, locked, simulate};
use std::backtrace::Backtrace;
use std::os::unix::thread::JoinHandleExt;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A simulation's thread recurses deeply in a debug build.
const STACK_BYTES: usize = 64 << 20;
/// For a thread to say where it is: seconds on a busy machine, for names are read from a large file. One that is interrupted in the
/// middle of an allocation never does.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Functions of a stack that are told.
const FRAMES: usize = 8;
/// Crates whose functions say where a simulation is.
const OURS: [&str; 4] = ["coordinator::", "cluster_tests::", "cluster_state::", "scheduler::"];

/// Simulates on a thread of its own, for at most `wall`. A thread that does not end is left to the end of the process.
pub fn guarded(plan: Plan, folder: PathBuf, wall: Duration) -> anyhow::Result<Report> {
    let trace = Arc::new(Mutex::new(Trace::new(plan.print)));
    let (done, end) = channel();
    let shared = trace.clone();
    // Also because what the caller's thread has drawn of random numbers is not of this seed.
    let thread = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        // Nobody waits any more for one that came too late.
        .spawn(move || drop(done.send(simulate(plan, &folder, shared))))?;
    match end.recv_timeout(wall) {
        Ok(report) => Ok(report?),
        Err(RecvTimeoutError::Disconnected) => Ok(unfinished(&trace, "the simulation panicked".to_owned())),
        Err(RecvTimeoutError::Timeout) => {
            let what = format!("seed {} did not end within {} s of wall time", plan.seed, wall.as_secs());
            Ok(unfinished(&trace, format!("{what}; its thread is in {}", place(&thread))))
        }
    }
}

/// What is known of a simulation that did not come to its end.
fn unfinished(trace: &Mutex<Trace>, what: String) -> Report {
    let trace = locked(trace);
    Report {
        hash: trace.hash(),
        events: trace.events(),
        virtual_ms: trace.time().as_millis() as u64,
        violations: vec![format!("guard: {what}; {} of the plan", trace.phase())],
        last: trace.last().cloned().collect(),
        ..Report::default()
    }
}

static ASKED: Mutex<Option<Sender<String>>> = Mutex::new(None);

extern "C" fn tell_place(_signal: libc::c_int) {
    let stack = Backtrace::force_capture().to_string();
    if let Some(answer) = locked(&ASKED).take() {
        let _ = answer.send(stack);
    }
}

/// The innermost functions of ours on the thread's stack.
fn place<T>(thread: &std::thread::JoinHandle<T>) -> String {
    let (answer, answered) = channel();
    *locked(&ASKED) = Some(answer);
    let handler: extern "C" fn(libc::c_int) = tell_place;
    // SAFETY: the handler is a function for as long as this process lives. What it does is not safe in every moment that it may
    // interrupt; then it hangs, the wait below ends, and this process with it.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    // SAFETY: the thread was not joined, so its number is still its own.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
    match answered.recv_timeout(ANSWER_MAX) {
        Ok(stack) => innermost(&stack),
        Err(_) => "a place that it does not tell".to_owned(),
    }
}

fn innermost(stack: &str) -> String {
    let lines: Vec<&str> = stack.lines().map(str::trim).collect();
    // Some names come without their crate; then the file tells, whose path is that of this workspace.
    let is_here = |at: usize| lines.get(at + 1).is_some_and(|next| next.starts_with("at ./"));
    let is_named = |line: &str| OURS.iter().any(|ours| line.contains(ours));
    let frames = lines.iter().enumerate().filter(|(at, line)| {
        !line.starts_with("at ") && (is_here(*at) || is_named(line)) && !line.contains("tell_place")
    });
    let told: Vec<String> = frames
        .map(|(at, line)| {
            let function = line.split_once(": ").map_or(*line, |(_, function)| function);
            let file =
                lines.get(at + 1).and_then(|next| next.strip_prefix("at ")).and_then(|path| path.rsplit('/').next());
            file.map_or_else(|| function.to_owned(), |file| format!("{function} ({file})"))
        })
        .take(FRAMES)
        .collect();
    if told.is_empty() { "no function of ours".to_owned() } else { told.join(" < ") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_never_ends_tells_where_it_is() {
        static ENOUGH: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        #[inline(never)]
        fn spins_here(began: &std::sync::mpsc::Sender<()>) {
            began.send(()).unwrap();
            while !ENOUGH.load(std::sync::atomic::Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        }
        let (began, begun) = channel();
        let thread = std::thread::spawn(move || spins_here(&began));
        begun.recv().unwrap();
        let place = place(&thread);
        ENOUGH.store(true, std::sync::atomic::Ordering::Relaxed);
        thread.join().unwrap();
        assert!(place.contains("spins_here"), "{place}");
    }

    #[test]
    fn of_a_stack_our_innermost_functions_are_told() {
        let stack = "   0: std::backtrace::Backtrace::force_capture\n   1: cluster_tests::sim::guard::tell_place\n   \
                     2: core::poll\n   3: coordinator::leader::actor::until::{{closure}}\n             at \
                     ./coordinator/src/leader/actor.rs:322:8\n   4: coordinator::leader::actor::Leader::run\n";
        assert_eq!(
            innermost(stack),
            "coordinator::leader::actor::until::{{closure}} (actor.rs:322:8) < coordinator::leader::actor::Leader::run"
        );
    }
}
