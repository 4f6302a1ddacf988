//! A network namespace with a device through which a program has its packets: tun(4), `linux/if_tun.h`, netdevice(7).

use super::DEVICE;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;

/// The gang's network is one link of this many bits.
const MASK: Ipv4Addr = Ipv4Addr::new(255, 240, 0, 0);
/// Of one packet; with the header of [`VNET`] less than a record of a tunnel holds.
const MTU: libc::c_int = 65_000;
/// Bytes before each packet, in which the kernel says what of it is not done yet: `struct virtio_net_hdr`.
pub(super) const VNET: usize = 10;
/// Of the packet behind it the checksum is not made yet; nobody needs to, on a way that vouches for each packet.
pub(super) const VNET_NEEDS_CHECKSUM: u8 = 1;

const IFF_TUN: libc::c_short = 0x0001;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
const TUNSETIFF: libc::Ioctl = 0x4004_54ca_u32 as libc::Ioctl;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0_u32 as libc::Ioctl;
/// The reader takes packets without a checksum.
const TUN_F_CSUM: libc::c_ulong = 0x01;

/// What was made.
pub(super) struct Inside {
    /// The namespace: it lives as long as this, or a process in it.
    pub(super) namespace: File,
    /// Packets of the gang's network, each behind [`VNET`] bytes.
    pub(super) packets: File,
    /// At these ports of the member's address.
    pub(super) listeners: Vec<TcpListener>,
}

/// Makes a namespace in which a machine of this address is alone with its gang. The calling thread stays where it is.
pub(super) fn make(own: Ipv4Addr, ports: &[u16]) -> io::Result<Inside> {
    let ports = ports.to_vec();
    let made = std::thread::Builder::new().name("network".into()).spawn(move || make_here(own, &ports))?.join();
    made.unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
}

/// Of this thread, which leaves the machine's network for good.
fn make_here(own: Ipv4Addr, ports: &[u16]) -> io::Result<Inside> {
    // SAFETY: a plain system call; of the process's threads only this one moves.
    check("unshare its network", unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let packets = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(|error| {
        io::Error::new(error.kind(), format!("open /dev/net/tun (is the kernel's module tun there?): {error}"))
    })?;
    let mut request = request(DEVICE)?;
    request.ifr_ifru.ifru_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
    // SAFETY: a request as this call reads it.
    check("make the device", unsafe { libc::ioctl(packets.as_raw_fd(), TUNSETIFF, &raw const request) })?;
    // SAFETY: a number as this call reads it.
    check("set up the device", unsafe { libc::ioctl(packets.as_raw_fd(), TUNSETOFFLOAD, TUN_F_CSUM) })?;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    set_address(&socket, libc::SIOCSIFADDR, own)?;
    set_address(&socket, libc::SIOCSIFNETMASK, MASK)?;
    let mut mtu = self::request(DEVICE)?;
    mtu.ifr_ifru.ifru_mtu = MTU;
    ask(&socket, libc::SIOCSIFMTU, &mtu)?;
    for device in ["lo", DEVICE] {
        let mut up = self::request(device)?;
        up.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        ask(&socket, libc::SIOCSIFFLAGS, &up)?;
    }
    let listeners = ports.iter().map(|port| TcpListener::bind((own, *port))).collect::<io::Result<_>>()?;
    Ok(Inside { namespace, packets, listeners })
}

/// Moves the calling thread.
pub(super) fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that is open.
    check("change its network", unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

fn request(device: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    Ok(request)
}

fn set_address(socket: &std::net::UdpSocket, call: libc::Ioctl, address: Ipv4Addr) -> io::Result<()> {
    let mut request = request(DEVICE)?;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes, of which the family says how the rest is read.
    request.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
    ask(socket, call, &request)
}

fn ask(socket: &std::net::UdpSocket, call: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: a request as these calls read it.
    check("set up the device", unsafe { libc::ioctl(socket.as_raw_fd(), call, std::ptr::from_ref(request)) })
}

fn check(what: &str, result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("cannot {what}: {error}")));
    }
    Ok(())
}
