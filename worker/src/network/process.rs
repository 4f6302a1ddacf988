//! `muster rank-network`: the process that keeps a member's network.

use super::lines::{Lines, pause, say};
use super::{Order, Place, address, device, receive_with, send_with};
use crate::process::Identity;
use crate::shim::{hide_memory, record};
use collectives::tunnel::Machine;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The supervisors of its ranks are started when it has answered.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// How soon it notices that they have all ended.
const LOOK: Duration = Duration::from_millis(200);
/// An order is longer than this only if it is nobody's of ours.
const ORDER_BYTES_MAX: u64 = 256 << 20;

/// Runs `muster rank-network`. Call it before any thread is made: it forks.
pub fn main() -> ExitCode {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => ExitCode::FAILURE,
        0 => match serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(format_args!("{error}"));
                ExitCode::FAILURE
            }
        },
        // The daemon takes note of this one's end at once.
        _ => ExitCode::SUCCESS,
    }
}

fn serve() -> io::Result<()> {
    let _ = rustix::process::setsid();
    // It holds the gang's secret.
    hide_memory(true);
    let line = io::stdin().as_fd().try_clone_to_owned()?;
    let made = make(&line);
    let (place, descriptors) = match &made {
        Ok(made) => (Ok(&made.place), made.inside.listeners.iter().map(AsFd::as_fd).collect()),
        Err(error) => (Err(error.to_string()), Vec::new()),
    };
    send_with(&line, &serde_json::to_vec(&place)?, &descriptors)?;
    drop(descriptors);
    let Ok(Made { order, inside, listener, .. }) = made else { return Ok(()) };
    drop(line);
    let device::Inside { namespace, packets, listeners } = inside;
    // The ranks have them.
    drop(listeners);
    let own = Machine {
        number: order.number,
        count: u32::try_from(order.machines.len()).map_err(io::Error::other)?,
        token: order.token,
        secret: order.secret,
    };
    let address = address(order.number as usize).ok_or(io::ErrorKind::InvalidInput)?;
    let lines = Arc::new(Lines::new(own, address, order.machines, packets));
    lines.start(listener)?;
    until_all_have_ended(&order.ranks);
    drop(namespace);
    Ok(())
}

struct Made {
    order: Order,
    place: Place,
    inside: device::Inside,
    /// At which other machines dial.
    listener: TcpListener,
}

fn make(line: &OwnedFd) -> io::Result<Made> {
    let (_, mut descriptors) = receive_with(line, 1)?;
    let listener = descriptors.pop().ok_or_else(|| io::Error::other("no socket came with the order"))?;
    let mut text = Vec::new();
    UnixStream::from(line.try_clone()?).take(ORDER_BYTES_MAX).read_to_end(&mut text)?;
    let order: Order = serde_json::from_slice(&text)?;
    let own = address(order.number as usize).ok_or(io::ErrorKind::InvalidInput)?;
    let inside = device::make(own, &order.ports)?;
    let place = Place { process: Identity::own()?, descriptor: inside.namespace.as_raw_fd() };
    Ok(Made { order, place, inside, listener: TcpListener::from(listener) })
}

/// Of the supervisors of these ranks: once they have begun, or have not in time.
fn until_all_have_ended(ranks: &[PathBuf]) {
    let mut waited = Duration::ZERO;
    loop {
        let supervisors: Vec<_> = ranks.iter().filter_map(|rank| record::supervisor(rank)).collect();
        let lives = supervisors.iter().any(|record| record.process.open().is_some());
        if !lives && (supervisors.len() == ranks.len() || waited > BEGIN_MAX) {
            return;
        }
        pause(LOOK);
        waited += LOOK;
    }
}
