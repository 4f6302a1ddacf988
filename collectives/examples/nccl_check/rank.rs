//! The child's side: one rank of a group, which does what its stage asks and says what it sees.

use std::io::BufRead;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use collectives::nccl::{self, Limits, connect_over_with};
use collectives::{BufMut, Communicator, Error, Op, Peer, Rendezvous, bench_all_reduce};

use crate::exact;
use crate::group::Stage;

/// Of one operation, where that is what is checked.
pub const TIME_LIMIT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_mins(1);
/// Of the operations that a rank leaves in the middle.
const ELEMENTS: usize = 4 << 20;
/// Whole operations before that.
const ROUNDS: usize = 5;

struct Rank {
    stage: Stage,
    bytes_max: usize,
    iterations: usize,
    guard: Arc<dyn Communicator>,
    comm: Arc<nccl::Communicator>,
}

pub fn main(arguments: &[String]) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(&format!("failed: {reason}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let [rank, stage, bytes_max, iterations, devices] = arguments else {
        return Err("started by nccl_check alone".to_owned());
    };
    let number = |text: &String| text.parse::<usize>().map_err(|error| error.to_string());
    let (rank, stage) = (number(rank)? as u32, Stage::named(stage).ok_or("no such stage")?);
    let guard = connect(rank)?;
    let op_timeout = if stage == Stage::TimeLimit { TIME_LIMIT } else { PATIENCE };
    let count = nccl::available().map_err(words)?.devices.len();
    let device = if devices == "one-device" { 0 } else { rank as usize % count };
    let started = Instant::now();
    // What the guard has already heard is the first cause, so all see the same.
    match connect_over_with(Arc::clone(&guard), device, Limits { timeout: PATIENCE, op_timeout }) {
        Ok(comm) => {
            say(&format!("joined {}", started.elapsed().as_millis()));
            let rank = Rank { stage, bytes_max: number(bytes_max)?, iterations: number(iterations)?, guard, comm };
            rank.serve()
        }
        Err(error) => {
            say(&format!("refused {} {error}", started.elapsed().as_millis()));
            if guard.check().is_err() { Ok(()) } else { Err("the guard did not end with it".to_owned()) }
        }
    }
}

/// Over TCP, with the addresses that the parent has collected.
fn connect(rank: u32) -> Result<Arc<dyn Communicator>, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(words)?;
    say(&format!("listening {}", listener.local_addr().map_err(words)?));
    let addresses: Vec<SocketAddr> =
        read().split(' ').map(str::parse).collect::<Result<_, _>>().map_err(|error| format!("addresses: {error}"))?;
    let peers: Vec<_> = addresses.into_iter().zip(0..).map(|(address, rank)| Peer { rank, address }).collect();
    let listener = (peers.len() > 1).then_some(listener);
    let (timeout, op_timeout) = (PATIENCE, PATIENCE);
    collectives::connect(Rendezvous { rank, peers, listener, token: 1, secret: [7; 32], timeout, op_timeout })
        .map_err(words)
}

impl Rank {
    fn serve(self) -> Result<(), String> {
        match self.stage {
            Stage::Results => self.results(),
            Stage::Times => self.times(),
            Stage::Abort | Stage::Kill | Stage::TimeLimit => self.end(),
        }
    }

    fn results(self) -> Result<(), String> {
        let mut compared = 0;
        for count in [0, 1, 20_011] {
            compared += exact::all(&self.comm, count)?;
        }
        say(&format!("compared {compared}"));
        self.comm.check().map_err(words)?;
        let started = Instant::now();
        drop(self.comm);
        say(&format!("left {}", started.elapsed().as_millis()));
        // The guard works on.
        self.guard.barrier().map_err(words)
    }

    fn times(self) -> Result<(), String> {
        let mut bytes = 4096;
        while bytes <= self.bytes_max {
            // Fewer of the large ones, which differ less.
            let iterations = self.iterations.min((1 << 30) / bytes).max(3);
            let host = bench_all_reduce(&*self.comm, bytes, iterations).map_err(words)?;
            let device = self.device_us(bytes, iterations)?;
            if self.comm.rank() == 0 {
                let (median, p10, p90, rate) = (host.median_us, host.p10_us, host.p90_us, host.algbw_gbps);
                say(&format!("time {bytes} {median:.1} {p10:.1} {p90:.1} {rate:.2} {device:.1}"));
            }
            bytes *= 4;
        }
        if self.comm.rank() == 0 {
            say("time end");
        }
        Ok(())
    }

    /// Median time of all-reduce on the device, in microseconds, as this rank sees it.
    fn device_us(&self, bytes: usize, iterations: usize) -> Result<f64, String> {
        let mut buffer = self.comm.stream().alloc_zeros::<f32>(bytes / 4).map_err(words)?;
        let mut times = Vec::new();
        for round in 0..iterations + 3 {
            self.comm.barrier().map_err(words)?;
            let started = Instant::now();
            self.comm.all_reduce_device(&mut buffer, Op::Sum).map_err(words)?;
            if round >= 3 {
                times.push(started.elapsed().as_secs_f64() * 1e6);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// Whole operations, then the one that does not come to an end.
    fn end(self) -> Result<(), String> {
        let (rank, world) = (self.comm.rank(), self.comm.world_size());
        let mut buffer = vec![(rank + 1) as f32; ELEMENTS];
        self.reduce(&mut buffer).map_err(words)?;
        if buffer.iter().any(|value| *value != world as f32) {
            return Err("a wrong result".to_owned());
        }
        say("together");
        let error = if rank + 1 == world { self.leave(&mut buffer) } else { self.reduce_until_error(&mut buffer) };
        let kind = match error {
            Error::Timeout { .. } => "timeout",
            Error::Aborted { .. } => "aborted",
            _ => "otherwise",
        };
        say(&format!("ended {kind} {:?} {error}", error.culprit()));
        // COLL-6, and the guard's end.
        if !matches!(self.comm.barrier(), Err(Error::Aborted { .. })) {
            return Err("the communicator took another call".to_owned());
        }
        if world > 1 && self.guard.check().is_ok() {
            return Err("the guard did not end".to_owned());
        }
        Ok(())
    }

    /// The last rank: goes in the middle of operations, or stays away from them and looks on.
    fn leave(&self, buffer: &mut [f32]) -> Error {
        let alone = self.comm.world_size() == 1;
        if !alone {
            read();
        }
        match self.stage {
            Stage::TimeLimit => say("acting"),
            Stage::Kill => {
                let rounds = (0..ROUNDS).try_for_each(|_| self.reduce(buffer));
                say("acting");
                // Killed in one of these.
                return rounds.map_or_else(|error| error, |()| self.reduce_until_error(buffer));
            }
            _ => {
                if let Err(error) = (0..ROUNDS).try_for_each(|_| self.reduce(buffer)) {
                    return error;
                }
                say("acting");
                self.comm.abort("the operator said so");
            }
        }
        loop {
            if let Err(error) = self.comm.check() {
                return error;
            }
            std::thread::yield_now();
        }
    }

    fn reduce(&self, buffer: &mut [f32]) -> Result<(), Error> {
        self.comm.all_reduce(BufMut::from(buffer), Op::Max)
    }

    fn reduce_until_error(&self, buffer: &mut [f32]) -> Error {
        loop {
            if let Err(error) = self.reduce(buffer) {
                return error;
            }
        }
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// One line to the parent.
fn say(line: &str) {
    println!("@{}", line.replace('\n', " "));
}

/// One line from the parent.
fn read() -> String {
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    line.trim().to_owned()
}
