//! The few messages by which the kernel adds and removes rules of routing: rtnetlink(7), `linux/fib_rules.h`.

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

const FRA_DST: u16 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_UID_RANGE: u16 = 20;
const FRA_DPORT_RANGE: u16 = 24;
/// Who asks for the way is told that it is prohibited (EACCES), at once.
const FR_ACT_PROHIBIT: u8 = 8;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
/// Of the header of a message, and of a rule's own.
const HEADER_BYTES: usize = 16;
/// For the kernel's answer, which holds what was asked.
const ANSWER_BYTES: usize = 4_096;
/// The kernel answers within the call; this long only if it never does.
const ANSWER_MAX: libc::timeval = libc::timeval { tv_sec: 5, tv_usec: 0 };

/// To this address, for these users, nothing goes at these ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) to: IpAddr,
    pub(super) users: RangeInclusive<u32>,
    pub(super) ports: RangeInclusive<u16>,
    /// The lower, the earlier.
    pub(super) preference: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
}

impl Rule {
    fn message(&self, change: Change, sequence: u32) -> Vec<u8> {
        let (kind, flags) = match change {
            Change::Add => (RTM_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
            Change::Remove => (RTM_DELRULE, 0),
        };
        let (family, address) = match self.to {
            IpAddr::V4(to) => (libc::AF_INET, to.octets().to_vec()),
            IpAddr::V6(to) => (libc::AF_INET6, to.octets().to_vec()),
        };
        // Family, bits of the destination, bits of the source, type of service, table, two that are reserved, action, flags.
        let mut body = vec![family as u8, (address.len() * 8) as u8, 0, 0, 0, 0, 0, FR_ACT_PROHIBIT, 0, 0, 0, 0];
        let (users, ports) = (&self.users, &self.ports);
        attribute(&mut body, FRA_DST, &address);
        attribute(&mut body, FRA_PRIORITY, &self.preference.to_ne_bytes());
        attribute(&mut body, FRA_UID_RANGE, &[users.start().to_ne_bytes(), users.end().to_ne_bytes()].concat());
        attribute(&mut body, FRA_DPORT_RANGE, &[ports.start().to_ne_bytes(), ports.end().to_ne_bytes()].concat());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let length = (HEADER_BYTES + body.len()) as u32;
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        // From whom: the kernel knows.
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        message
    }
}

/// All of these have a length that needs no padding.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

/// A way to ask the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        // SAFETY: plain system calls on a local; the descriptor is nobody else's.
        unsafe {
            let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
            if socket < 0 {
                return Err(io::Error::last_os_error());
            }
            let socket = OwnedFd::from_raw_fd(socket);
            let length = size_of::<libc::timeval>() as libc::socklen_t;
            let wait = ANSWER_MAX;
            if libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const wait).cast(),
                length,
            ) < 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { socket, sequence: 0 })
        }
    }

    /// Says what the kernel says.
    pub(super) fn change(&mut self, change: Change, rule: &Rule) -> io::Result<()> {
        self.sequence += 1;
        let message = rule.message(change, self.sequence);
        // SAFETY: as many bytes as the message has; without a name a message goes to the kernel.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answer = [0_u8; ANSWER_BYTES];
        // SAFETY: at most as many bytes as there is room for.
        let got = unsafe { libc::recv(self.socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        match errno_of(answer.get(..got as usize).unwrap_or_default(), self.sequence) {
            Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::Error::other("the kernel's answer is not understood")),
        }
    }
}

/// Of the answer to this message; 0 = it is done.
fn errno_of(answer: &[u8], sequence: u32) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let answered = u32::from_ne_bytes(answer.get(8..12)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR && answered == sequence).then(|| errno.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_it_says() {
        let rule = |to: &str| Rule {
            to: to.parse().unwrap_or(IpAddr::from([0; 4])),
            users: 5..=9,
            ports: 1..=52,
            preference: 7,
        };
        for (to, bytes) in [("169.254.169.254", 4), ("fd00:ec2::254", 16)] {
            let message = rule(to).message(Change::Add, 3);
            assert_eq!(message.len(), 16 + 12 + (4 + bytes) + 8 + 12 + 8);
            assert_eq!(message.len() % 4, 0);
            assert_eq!(message[..4], (message.len() as u32).to_ne_bytes());
        }
    }

    #[test]
    fn only_the_answer_to_what_was_asked_counts() {
        let answer = |kind: i32, sequence: u32, errno: i32| {
            let parts = [36_u32.to_ne_bytes().to_vec(), (kind as u16).to_ne_bytes().to_vec(), vec![0; 2]].concat();
            [parts, sequence.to_ne_bytes().to_vec(), vec![0; 4], errno.to_ne_bytes().to_vec()].concat()
        };
        assert_eq!(errno_of(&answer(libc::NLMSG_ERROR, 3, 0), 3), Some(0));
        assert_eq!(errno_of(&answer(libc::NLMSG_ERROR, 3, -libc::EPERM), 3), Some(libc::EPERM));
        assert_eq!(errno_of(&answer(libc::NLMSG_ERROR, 2, 0), 3), None, "an older one");
        assert_eq!(errno_of(&answer(libc::NLMSG_DONE, 3, 0), 3), None);
        assert_eq!(errno_of(&[0; 7], 3), None);
    }
}
