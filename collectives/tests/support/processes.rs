//! Groups of ranks in processes of their own, which can be killed: the test binary runs itself, one line of text at a
//! time.
//!
//! A child is the test `rank_of_a_group` of the same binary with the variables of [`Child`]; lines that begin with
//! `@` are its.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use collectives::{Communicator, Options, Peer, Rendezvous, connect_with};

use super::PATIENCE;

/// The parent's side of one rank.
pub struct Child {
    process: std::process::Child,
    lines: Receiver<String>,
}

/// What the children of one group are started with.
#[derive(Clone, Copy, Default)]
pub struct Setting<'a> {
    /// What they do: see the test.
    pub role: &'a str,
    /// Where libraries are looked for first, by rank; the last one holds for the rest.
    pub libraries: &'a [&'a std::path::Path],
    /// More variables.
    pub variables: &'a [(&'a str, &'a str)],
}

/// Starts a group and makes its ranks known to each other.
pub fn start(world: usize, setting: Setting<'_>) -> Vec<Child> {
    let mut group: Vec<_> = (0..world).map(|rank| Child::start(rank, setting)).collect();
    let addresses: Vec<_> = group.iter().map(|child| child.hear("listening")).collect();
    for child in &mut group {
        child.tell(&addresses.join(" "));
    }
    group
}

impl Child {
    fn start(rank: usize, setting: Setting<'_>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "rank_of_a_group", "--nocapture", "--test-threads=1"]);
        command.env("COLLECTIVES_RANK", rank.to_string()).env("COLLECTIVES_ROLE", setting.role);
        if let Some(path) = setting.libraries.get(rank).or(setting.libraries.last()) {
            command.env("LD_LIBRARY_PATH", path);
        }
        command.envs(setting.variables.iter().copied());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // libtest writes `test rank_of_a_group ... ` without an end of line before the first one.
                if let Some((_, line)) = line.split_once('@') {
                    let _ = send.send(line.to_owned());
                }
            }
        });
        Child { process, lines }
    }

    /// The rest of the child's next line, which begins with `word`.
    pub fn hear(&self, word: &str) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("the child ended or hangs");
        line.strip_prefix(word).unwrap_or_else(|| panic!("expected {word}, heard {line}")).trim().to_owned()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The child's side: its role and its communicator, over TCP where `COLLECTIVES_TCP` is set; `None` in the parent.
pub fn join(op_timeout: Duration) -> Option<(String, Arc<dyn Communicator>)> {
    let rank: u32 = std::env::var("COLLECTIVES_RANK").ok()?.parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    say(&format!("listening {}", listener.local_addr().unwrap()));
    let addresses: Vec<SocketAddr> = read().split(' ').map(|address| address.parse().unwrap()).collect();
    let peers: Vec<_> = addresses.into_iter().zip(0..).map(|(address, rank)| Peer { rank, address }).collect();
    let listener = (peers.len() > 1).then_some(listener);
    let rendezvous = Rendezvous { rank, peers, listener, token: 7, secret: [3; 32], timeout: PATIENCE, op_timeout };
    let options = Options { tcp_only: std::env::var_os("COLLECTIVES_TCP").is_some(), ..Options::default() };
    Some((std::env::var("COLLECTIVES_ROLE").unwrap(), connect_with(rendezvous, options).unwrap()))
}

/// One line to the parent.
pub fn say(line: &str) {
    println!("@{line}");
}

/// One line from the parent.
pub fn read() -> String {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    line.trim().to_owned()
}
