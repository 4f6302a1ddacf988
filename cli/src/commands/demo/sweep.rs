//! Finds and kills what descends from a process, however it hid: a subreaper stays the ancestor of every orphan.

use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What descends from a process ends at once; this is for the kernel to say so.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills all descendants of `root` and reaps those that became its children. Says how many there were.
pub fn kill_descendants(root: Pid) -> usize {
    let mut seen = BTreeSet::new();
    wait_until(PATIENCE, || {
        let alive = descendants(root.as_raw_pid());
        for pid in &alive {
            seen.insert(*pid);
            if let Some(pid) = Pid::from_raw(*pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        // A killed child that nobody waits for stays in the list as a zombie.
        for pid in alive.iter().copied().filter_map(Pid::from_raw) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
        alive.is_empty()
    });
    seen.len()
}

/// Processes below `root`, zombies included.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in processes() {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).into_iter().flatten() {
            found.push(child);
            next.push(child);
        }
    }
    found
}

/// Is there such a process, and is it more than a zombie?
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|process| !process.is_zombie)
}

/// When a process started, in ticks since boot: with its number it names the process for good.
pub fn started(pid: i32) -> Option<u64> {
    stat(pid).map(|process| process.started)
}

/// Looks again and again, without spinning, until `done` or `patience` is over. For threads that may block.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = daemon::clock::boot_time();
    while !done() {
        if daemon::clock::boot_time().saturating_sub(begun) >= patience {
            return false;
        }
        pause(Duration::from_millis(10));
    }
    true
}

/// A poll of no descriptors: a pause that is not the banned sleep, because nothing here can be awaited.
fn pause(span: Duration) {
    let span = rustix::time::Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(0),
        tv_nsec: span.subsec_nanos().into(),
    };
    let _ = rustix::event::poll(&mut [], Some(&span));
}

struct Process {
    pid: i32,
    parent: i32,
    started: u64,
    is_zombie: bool,
}

fn processes() -> impl Iterator<Item = Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
}

fn stat(pid: i32) -> Option<Process> {
    parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state ppid ...`: the name may hold spaces and brackets, so fields count from the last bracket (proc(5)).
fn parse(pid: i32, text: &str) -> Option<Process> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_nasty_name_does_not_shift_the_fields() {
        let rest = "S 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0";
        let process = parse(9, &format!("9 (a) R 1 (b)) {rest}")).unwrap();
        assert_eq!((process.parent, process.started, process.is_zombie), (7, 4242, false));
        assert!(parse(9, "").is_none() && parse(9, "9 (x) S").is_none());
    }

    #[test]
    fn this_process_is_alive_and_has_a_start() {
        let own = rustix::process::getpid().as_raw_pid();
        assert!(is_alive(own) && started(own).is_some());
        assert!(!is_alive(i32::MAX));
    }
}
