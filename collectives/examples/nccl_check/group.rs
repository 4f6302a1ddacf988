//! The parent's side: ranks as processes of this program, told and heard one line at a time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::Settings;

/// For a whole stage of a slow device.
const PATIENCE: Duration = Duration::from_mins(2);
/// For a process after its last line.
const EXIT_MAX: Duration = Duration::from_secs(10);

/// What is checked with one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All operations in all types.
    Results,
    /// All-reduce of growing buffers.
    Times,
    /// The last rank aborts while the others are inside operations.
    Abort,
    /// The last rank is killed there.
    Kill,
    /// The last rank stays away from the operation.
    TimeLimit,
}

impl Stage {
    pub const ALL: [Stage; 5] = [Stage::Results, Stage::Times, Stage::Abort, Stage::Kill, Stage::TimeLimit];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Results => "results",
            Stage::Times => "times",
            Stage::Abort => "abort",
            Stage::Kill => "kill",
            Stage::TimeLimit => "time-limit",
        }
    }

    pub fn named(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

struct Rank {
    process: Child,
    lines: Receiver<String>,
    killed: bool,
}

/// The ranks of one stage; killed when dropped.
pub struct Group {
    ranks: Vec<Rank>,
}

impl Group {
    /// Starts the ranks and makes them known to each other.
    pub fn start(stage: Stage, settings: &Settings) -> Result<Self, String> {
        let ranks = (0..settings.world).map(|rank| start(rank, stage, settings)).collect::<Result<_, _>>()?;
        let mut group = Group { ranks };
        let addresses = group.hear_all("listening")?.join(" ");
        for rank in 0..settings.world {
            group.tell(rank, &addresses)?;
        }
        Ok(group)
    }

    /// The rest of a rank's next line, which begins with `word`.
    pub fn hear(&self, rank: u32, word: &str) -> Result<String, String> {
        let line = self.ranks[rank as usize].lines.recv_timeout(PATIENCE);
        let line = line.map_err(|error| format!("rank {rank} did not say {word}: {error}"))?;
        match line.strip_prefix(word) {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => Err(format!("rank {rank} did not say {word} but: {line}")),
        }
    }

    /// As [`Group::hear`], of every rank in order.
    pub fn hear_all(&self, word: &str) -> Result<Vec<String>, String> {
        (0..self.ranks.len() as u32).map(|rank| self.hear(rank, word)).collect()
    }

    pub fn tell(&mut self, rank: u32, line: &str) -> Result<(), String> {
        let input = self.ranks[rank as usize].process.stdin.as_mut().ok_or("no stdin")?;
        writeln!(input, "{line}").map_err(|error| format!("rank {rank}: {error}"))
    }

    /// SIGKILL.
    pub fn kill(&mut self, rank: u32) -> Result<(), String> {
        let rank = &mut self.ranks[rank as usize];
        rank.killed = true;
        rank.process.kill().map_err(|error| error.to_string())
    }

    /// Waits for all to end by themselves, and well.
    pub fn end(mut self) -> Result<(), String> {
        let deadline = Instant::now() + EXIT_MAX;
        for (number, rank) in self.ranks.iter_mut().enumerate() {
            // Its output ends with it.
            while let Ok(line) = rank.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                if line.starts_with("failed") {
                    return Err(format!("rank {number} {line}"));
                }
            }
            if Instant::now() >= deadline {
                return Err(format!("rank {number} does not end"));
            }
            let status = rank.process.wait().map_err(|error| error.to_string())?;
            if !status.success() && !rank.killed {
                return Err(format!("rank {number} ended with {status}"));
            }
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            // Without effect on those that have ended.
            let _ = rank.process.kill();
            let _ = rank.process.wait();
        }
    }
}

fn start(rank: u32, stage: Stage, settings: &Settings) -> Result<Rank, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["rank", &rank.to_string(), stage.name()]);
    command.args([settings.bytes_max.to_string(), settings.iterations.to_string()]);
    command.arg(if settings.one_device { "one-device" } else { "own-device" });
    command.env("NCCL_SOCKET_IFNAME", "lo");
    if settings.one_device {
        // Two ranks of one machine on one device are refused; those of different machines are not compared.
        command.env("NCCL_HOSTID", format!("nccl-check-{rank}"));
    }
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut process = piped.map_err(|error| format!("rank {rank}: {error}"))?;
    let output = BufReader::new(process.stdout.take().ok_or("no stdout")?);
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            // NCCL writes its own lines to stdout, where it is told to be loud.
            match line.split_once('@') {
                Some(("", line)) => drop(send.send(line.to_owned())),
                _ => eprintln!("rank {rank}: {line}"),
            }
        }
    });
    Ok(Rank { process, lines, killed: false })
}
