//! What happened, in order: its hash tells whether a seed was replayed exactly, its end what came before a violation.

use std::collections::VecDeque;
use std::time::Duration;

/// Events that a failure shows.
const LAST: usize = 60;

/// Events by virtual time.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    last: VecDeque<String>,
    time: Duration,
    phase: &'static str,
    /// Prints each event as it happens.
    print: bool,
}

impl Trace {
    /// Nothing happened yet.
    pub fn new(print: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            last: VecDeque::new(),
            time: Duration::ZERO,
            phase: "at the beginning",
            print,
        }
    }

    /// This happened at `at`.
    pub fn note(&mut self, at: Duration, what: &str) {
        let line = format!("{:>11.6} s  {what}", at.as_secs_f64());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.events += 1;
        self.time = at;
        if self.print {
            println!("{line}");
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// What follows is this part of a seed's life.
    pub fn enter(&mut self, phase: &'static str) {
        self.phase = phase;
    }

    /// In which part of its life the seed is.
    pub fn phase(&self) -> &'static str {
        self.phase
    }

    /// Of the last event.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Of everything that happened.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How much happened.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last of it.
    pub fn last(&self) -> impl Iterator<Item = &String> {
        self.last.iter()
    }
}
