//! The connections of one machine to the others of its gang, and the packets that go through them.

use super::device::{VNET, VNET_NEEDS_CHECKSUM};
use super::{address, member_at};
use collectives::tunnel::{Machine, PACKET_MAX, Receiving, Sending};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For both sides to prove themselves. The other may not have begun yet: its daemon hears of the start when this one does.
const GREET_MAX: Duration = Duration::from_secs(20);
const CONNECT_MAX: Duration = Duration::from_secs(5);
const REDIAL: Duration = Duration::from_millis(100);
/// Greetings at once, of strangers too.
const GREETINGS_MAX: usize = 64;
/// Packets that wait for a machine's connection: more are dropped, as any network may, and sent again by those who miss them.
const WAITING_MAX: usize = 64;
/// Of a thread that moves packets.
const STACK_BYTES: usize = 256 << 10;
/// Of the header of a packet.
const IPV4_BYTES: usize = 20;

/// What is known of the way to one machine.
enum Line {
    Waiting(Vec<Vec<u8>>),
    Open(Box<Sending>),
}

/// See the module.
pub(super) struct Lines {
    own: Machine,
    address: Ipv4Addr,
    machines: Vec<SocketAddr>,
    packets: File,
    lines: Vec<Mutex<Line>>,
    greetings: AtomicUsize,
}

impl Lines {
    pub(super) fn new(own: Machine, address: Ipv4Addr, machines: Vec<SocketAddr>, packets: File) -> Self {
        let lines = machines.iter().map(|_| Mutex::new(Line::Waiting(Vec::new()))).collect();
        Self { own, address, machines, packets, lines, greetings: AtomicUsize::new(0) }
    }

    /// Begins to connect and to move packets; all threads end with the process.
    pub(super) fn start(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let lines = self.clone();
        thread("packets", move || lines.bring())?;
        let lines = self.clone();
        thread("greetings", move || lines.listen(&listener))?;
        for number in 0..self.own.number {
            let lines = self.clone();
            thread("line", move || lines.keep(number))?;
        }
        Ok(())
    }

    fn line(&self, number: usize) -> Option<MutexGuard<'_, Line>> {
        Some(self.lines.get(number)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the ranks here to the other machines.
    fn bring(&self) {
        let mut buffer = vec![0; VNET + PACKET_MAX];
        loop {
            match (&self.packets).read(&mut buffer) {
                Ok(bytes) => self.send(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return say(format_args!("the device gives no packets any more: {error}")),
            }
        }
    }

    fn send(&self, packet: &[u8]) {
        let Some((_, to)) = ends(packet) else { return };
        let Some(number) = member_at(to).filter(|number| *number != self.own.number as usize) else { return };
        let Some(mut line) = self.line(number) else { return };
        match &mut *line {
            Line::Waiting(packets) if packets.len() < WAITING_MAX => packets.push(packet.to_vec()),
            Line::Waiting(_) => {}
            Line::Open(sending) => {
                if let Err(error) = sending.send(packet) {
                    say(format_args!("machine {number} takes no packets any more: {error}"));
                    sending.close();
                    *line = Line::Waiting(Vec::new());
                }
            }
        }
    }

    /// To a machine of a lower number, for good.
    fn keep(self: Arc<Self>, number: u32) {
        loop {
            let to = self.machines[number as usize];
            let dialled = TcpStream::connect_timeout(&to, CONNECT_MAX)
                .map_err(|error| error.to_string())
                .and_then(|stream| self.own.dial(stream, number, GREET_MAX).map_err(|error| error.to_string()));
            match dialled {
                Ok((sending, receiving)) => self.carry(number, sending, receiving),
                Err(error) => say(format_args!("machine {number} at {to} is not reached: {error}")),
            }
            pause(REDIAL);
        }
    }

    /// Machines of higher numbers.
    fn listen(self: Arc<Self>, listener: &TcpListener) {
        loop {
            let Ok((stream, from)) = listener.accept() else {
                pause(REDIAL);
                continue;
            };
            if self.greetings.fetch_add(1, Ordering::Relaxed) >= GREETINGS_MAX {
                self.greetings.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let lines = self.clone();
            let begun = thread("line", move || {
                let accepted = lines.own.accept(stream, GREET_MAX);
                lines.greetings.fetch_sub(1, Ordering::Relaxed);
                match accepted {
                    Ok((number, sending, receiving)) => lines.carry(number, sending, receiving),
                    Err(error) => say(format_args!("{from} is no machine of this gang: {error}")),
                }
            });
            if begun.is_err() {
                self.greetings.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Packets of one machine to the ranks here, until its connection ends. A newer connection takes the place of an older one.
    fn carry(&self, number: u32, mut sending: Sending, mut receiving: Receiving) {
        let (Some(mut line), Some(theirs)) = (self.line(number as usize), address(number as usize)) else { return };
        match std::mem::replace(&mut *line, Line::Waiting(Vec::new())) {
            // One that cannot be sent is told by the next.
            Line::Waiting(packets) => drop(packets.iter().try_for_each(|packet| sending.send(packet))),
            Line::Open(older) => older.close(),
        }
        *line = Line::Open(Box::new(sending));
        drop(line);
        loop {
            match receiving.receive() {
                // Nobody speaks for another machine, or to one behind this.
                Ok(packet) if ends(packet) == Some((theirs, self.address)) && is_plain(packet) => {
                    if let Err(error) = (&self.packets).write(packet) {
                        say(format_args!("a packet of machine {number} is dropped: {error}"));
                    }
                }
                Ok(_) => {}
                Err(error) => return say(format_args!("the connection of machine {number} ended: {error}")),
            }
        }
    }
}

/// Whose packet it is, and whom it is for; none of what is no packet of version 4.
fn ends(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header = packet.get(VNET..VNET + IPV4_BYTES)?;
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    (header[0] >> 4 == 4).then(|| (address(12), address(16)))
}

/// What stands before it asks nothing of the kernel but that a checksum is not looked for.
fn is_plain(packet: &[u8]) -> bool {
    packet[0] & !VNET_NEEDS_CHECKSUM == 0 && packet[1] == 0
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(run).map(drop)
}

pub(super) fn pause(time: Duration) {
    let time = rustix::time::Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    let _ = rustix::event::poll(&mut [], Some(&time));
}

/// A line into the supervisors' log.
pub(super) fn say(line: std::fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(format!("network: {line}\n").as_bytes());
}
