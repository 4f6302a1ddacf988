//! System calls on sockets: options, and reads and writes that never wait and never raise a signal.

use std::io::{IoSlice, IoSliceMut};
use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, sockopt};

/// What became of a read or write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Bytes(usize),
    /// Not now: poll first.
    Later,
    /// The connection is over, for this reason.
    Over(String),
}

/// Options of every socket, before or after connecting.
pub(super) fn prepare(stream: &TcpStream) {
    // Each can fail on a kernel without the module or in a namespace; the transfer is then slower, not wrong.
    let _ = sockopt::set_tcp_nodelay(stream, true);
    // The system's default may be BBR, which is half as fast between hosts of one rack and on loopback.
    let _ = sockopt::set_tcp_congestion(stream, "cubic");
}

/// Makes the kernel notice a peer whose machine vanished without a word.
///
/// Only for control sockets: on a data socket the user timeout would also kill a peer that is merely computing while
/// its receive window is full.
pub(super) fn watch(stream: &TcpStream) {
    const SILENT_MS_MAX: u32 = 3_000;
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(1));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1));
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
    let _ = sockopt::set_tcp_user_timeout(stream, SILENT_MS_MAX);
}

/// Bounds what is under way between two ranks of one machine, so that it stays in the processor's caches. Between machines the
/// kernel finds out by itself how much a connection needs.
pub(super) fn narrow_at_home(stream: &TcpStream) {
    const HOME_BYTES: usize = 512 << 10;
    let at_home = matches!((stream.local_addr(), stream.peer_addr()), (Ok(here), Ok(there)) if here.ip() == there.ip());
    if at_home {
        // Where one is refused the transfer is slower, not wrong.
        let _ = sockopt::set_socket_send_buffer_size(stream, HOME_BYTES);
        let _ = sockopt::set_socket_recv_buffer_size(stream, HOME_BYTES);
    }
}

pub(super) fn send(stream: &TcpStream, head: &[u8], body: &[u8]) -> Moved {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = if head.is_empty() {
        rustix::net::send(stream, body, flags)
    } else {
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        rustix::net::sendmsg(stream, &parts, &mut SendAncillaryBuffer::default(), flags)
    };
    match sent {
        Ok(bytes) => Moved::Bytes(bytes),
        Err(Errno::AGAIN | Errno::INTR) => Moved::Later,
        Err(error) => Moved::Over(std::io::Error::from(error).to_string()),
    }
}

pub(super) fn receive(stream: &TcpStream, head: &mut [u8], body: &mut [u8]) -> Moved {
    let flags = RecvFlags::DONTWAIT;
    let received = if head.is_empty() {
        rustix::net::recv(stream, body, flags).map(|(_, bytes)| bytes)
    } else {
        let mut parts = [IoSliceMut::new(head), IoSliceMut::new(body)];
        rustix::net::recvmsg(stream, &mut parts, &mut RecvAncillaryBuffer::default(), flags)
            .map(|message| message.bytes)
    };
    match received {
        Ok(0) => Moved::Over("connection closed".to_owned()),
        Ok(bytes) => Moved::Bytes(bytes),
        Err(Errno::AGAIN | Errno::INTR) => Moved::Later,
        Err(error) => Moved::Over(std::io::Error::from(error).to_string()),
    }
}

/// How many of the next bytes are there, and a copy of them: they stay unread.
pub(super) fn peek(stream: &TcpStream, bytes: &mut [u8]) -> usize {
    rustix::net::recv(stream, bytes, RecvFlags::DONTWAIT | RecvFlags::PEEK).map_or(0, |(_, there)| there)
}

/// Waits for any of the descriptors; an interrupted or failed wait counts as nothing ready.
pub(super) fn poll(descriptors: &mut [PollFd<'_>], at_most: Duration) {
    let timeout = Timespec {
        tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    if rustix::event::poll(descriptors, Some(&timeout)).is_err() {
        descriptors.iter_mut().for_each(PollFd::clear_revents);
    }
}
