//! What the threads of a silent rank are at, as far as the kernel shows it to its supervisor: state, system call, and where in
//! the kernel. A debugger is neither needed nor used, and nothing is stopped for it.
//!
//! Which lines of a program these calls come from only the program can say. One that catches SIGABRT (Python's `faulthandler`,
//! glog, Java) mostly says so before it ends: [`catches_abort`].

use std::fmt::Write as _;
use std::fs;

/// Of the whole text.
pub(super) const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Processes and threads of each that are looked at.
const PROCESSES_MAX: usize = 16;
const THREADS_MAX: usize = 256;
/// Of the names of programs and files.
const NAME_CHARS_MAX: usize = 120;

/// Calls in which a thread may stay for long, where they have a descriptor as their first argument: told which.
const WITH_DESCRIPTOR: [(i64, &str); 14] = [
    (libc::SYS_read, "read"),
    (libc::SYS_write, "write"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pread64, "pread64"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_ioctl, "ioctl"),
    (libc::SYS_flock, "flock"),
];

/// Others of that kind.
const OTHERS: [(i64, &str); 13] = [
    (libc::SYS_futex, "futex"),
    (libc::SYS_ppoll, "ppoll"),
    (libc::SYS_pselect6, "pselect6"),
    (libc::SYS_epoll_pwait, "epoll_pwait"),
    (libc::SYS_nanosleep, "nanosleep"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_wait4, "wait4"),
    (libc::SYS_waitid, "waitid"),
    (libc::SYS_rt_sigsuspend, "rt_sigsuspend"),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_openat, "openat"),
];

/// Some systems have older forms of them too.
#[cfg(target_arch = "x86_64")]
const OLDER: [(i64, &str); 4] = [
    (libc::SYS_poll, "poll"),
    (libc::SYS_select, "select"),
    (libc::SYS_epoll_wait, "epoll_wait"),
    (libc::SYS_pause, "pause"),
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: [(i64, &str); 0] = [];

/// The threads of these processes: a line for each process, and one for each kind of thread in it.
pub(super) fn text(processes: &[i32]) -> String {
    let mut text = String::new();
    for pid in processes.iter().take(PROCESSES_MAX) {
        process(*pid, &mut text);
    }
    let more = processes.len().saturating_sub(PROCESSES_MAX);
    if more > 0 {
        let _ = writeln!(text, "and {more} more processes");
    }
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

fn process(pid: i32, text: &mut String) {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    let mut threads: Vec<i32> =
        threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    threads.sort_unstable();
    // In the order of the first thread of each kind: the main thread's first.
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for thread in threads.iter().take(THREADS_MAX).filter_map(|thread| describe(pid, *thread)) {
        match kinds.iter_mut().find(|(kind, _)| *kind == thread) {
            Some((_, count)) => *count += 1,
            None => kinds.push((thread, 1)),
        }
    }
    let _ = writeln!(text, "process {pid}, {}:", command(pid));
    for (kind, count) in kinds {
        let times = if count > 1 { format!("{count} x ") } else { String::new() };
        let _ = writeln!(text, "  {times}{kind}");
    }
    let more = threads.len().saturating_sub(THREADS_MAX);
    if more > 0 {
        let _ = writeln!(text, "  and {more} more threads");
    }
}

/// The beginning of a command line.
fn command(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&bytes).replace('\0', " ");
    words.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).take(NAME_CHARS_MAX).collect()
}

/// None when it is gone.
fn describe(pid: i32, thread: i32) -> Option<String> {
    let folder = format!("/proc/{pid}/task/{thread}");
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    // The name may hold anything, even `)`.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(').map_or("", |(_, name)| name);
    let mut line = format!("{name}: {}", state(rest.trim_start().chars().next()?));
    let call = fs::read_to_string(format!("{folder}/syscall")).ok();
    if let Some(call) = call.and_then(|call| describe_call(pid, &call)) {
        let _ = write!(line, " in {call}");
    }
    let place = fs::read_to_string(format!("{folder}/wchan")).unwrap_or_default();
    if !matches!(place.trim(), "" | "0") {
        let _ = write!(line, " ({})", place.trim());
    }
    Some(line)
}

fn state(letter: char) -> &'static str {
    match letter {
        'R' => "runs",
        'S' => "sleeps",
        'D' => "sleeps and cannot be interrupted",
        'T' => "stopped by a signal",
        't' => "stopped by a debugger",
        'Z' | 'X' => "ended",
        'I' => "idle",
        _ => "in a state of its own",
    }
}

/// Of a line of `/proc/PID/syscall`: number and arguments, `running`, or `-1` where it is in no call.
fn describe_call(pid: i32, line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let number: i64 = words.next()?.parse().ok().filter(|number| *number >= 0)?;
    let named = |calls: &[(i64, &'static str)]| calls.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    if let Some(name) = named(&WITH_DESCRIPTOR) {
        let descriptor = u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?;
        let file = fs::read_link(format!("/proc/{pid}/fd/{descriptor}"));
        let file = file.map_or_else(|_| String::new(), |path| format!(" {}", path.display()));
        let file: String = file.chars().take(NAME_CHARS_MAX).collect();
        return Some(format!("{name} of descriptor {descriptor}{file}"));
    }
    let name = named(&OTHERS).or_else(|| named(&OLDER));
    Some(name.map_or_else(|| format!("system call {number}"), str::to_owned))
}

/// Whether a process catches SIGABRT: it mostly has something to say then.
pub(super) fn catches_abort(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    caught & (1 << (libc::SIGABRT - 1)) != 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// Ends it with the test.
    struct Ended(Child);

    impl Ended {
        fn start(program: &str, arguments: &[&str]) -> Self {
            Ended(Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
        }

        /// Its threads, once they are as they should be.
        fn text_with(&self, expected: &str) -> String {
            let pid = self.0.id().cast_signed();
            for _ in 0..1_000_000 {
                let text = text(&[pid]);
                if text.contains(expected) {
                    return text;
                }
                std::thread::yield_now();
            }
            text(&[pid])
        }
    }

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_stopped_process_is_seen_to_be_stopped() {
        let sleeper = Ended::start("sleep", &["600"]);
        let pid = sleeper.0.id().cast_signed();
        // SAFETY: a plain system call on a child of this test.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        let text = sleeper.text_with("stopped");
        assert!(text.starts_with(&format!("process {pid}, sleep 600:\n  sleep: stopped by a signal")), "{text}");
    }

    #[test]
    fn a_process_that_waits_for_bytes_is_seen_to_read() {
        let reader = Ended::start("cat", &[]);
        // Where the machine shows no system calls, the state is all there is.
        let shown = fs::read_to_string(format!("/proc/{}/syscall", reader.0.id())).is_ok();
        let expected = if shown { "cat: sleeps in read of descriptor 0 pipe:" } else { "cat: sleeps" };
        let text = reader.text_with(expected);
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn calls_are_told_by_name_or_number() {
        assert_eq!(describe_call(0, "running\n"), None);
        assert_eq!(describe_call(0, "-1 0x7ffe 0x7f11\n"), None);
        assert_eq!(describe_call(0, &format!("{} 0x1 0x2\n", libc::SYS_futex)), Some("futex".into()));
        assert_eq!(describe_call(0, "100000 0x1\n"), Some("system call 100000".into()));
        assert_eq!(describe_call(0, &format!("{} 0x1f 0x2\n", libc::SYS_read)), Some("read of descriptor 31".into()));
    }

    #[test]
    fn only_who_catches_an_abort_is_taken_to_speak() {
        let sleeper = Ended::start("sleep", &["600"]);
        sleeper.text_with("sleep 600");
        assert!(!catches_abort(sleeper.0.id().cast_signed()));
        let shell = Ended::start("sh", &["-c", "trap : ABRT; echo; read line"]);
        shell.text_with("read of");
        let mut caught = false;
        for _ in 0..1_000_000 {
            caught = catches_abort(shell.0.id().cast_signed());
            if caught {
                break;
            }
            std::thread::yield_now();
        }
        assert!(caught);
        assert!(!catches_abort(0));
    }

    #[test]
    fn many_threads_of_one_kind_are_one_line() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let threads: Vec<_> = (0..5)
            .map(|_| {
                let held = held.clone();
                std::thread::Builder::new()
                    .name("kind".into())
                    .spawn(move || held.lock().map(|held| held.recv()).is_ok())
            })
            .collect();
        let own = std::process::id().cast_signed();
        let mut all = String::new();
        for _ in 0..100_000 {
            all = text(&[own]);
            if all.contains("5 x kind: sleeps") {
                break;
            }
            std::thread::yield_now();
        }
        assert!(all.contains("5 x kind: sleeps"), "{all}");
        assert!(all.len() <= TEXT_BYTES_MAX);
        drop(hold);
        for thread in threads {
            thread.unwrap().join().unwrap();
        }
    }
}
