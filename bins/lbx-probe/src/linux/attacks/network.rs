//! Sockets: kinds that lead into the kernel or out of a VM, and who answers on the others.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use libc::{
    AF_ALG, AF_BLUETOOTH, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, SOCK_DGRAM, SOCK_RAW,
    SOCK_SEQPACKET, SOCK_STREAM, c_int, c_long,
};

use nix::errno::Errno;

use super::{Attack, Called, all_refused, attack, one_by_one, refused, refused_or};
use crate::linux::inside::Inside;
use crate::linux::line::{Answer, name_of};
use crate::linux::raw::call;

const HIGH: c_long = 0x5a5a_5a5a_0000_0000;
/// More families than Linux has.
const FAMILIES: c_int = 50;
/// linux/net.h; the libc crate has them not, or calls the first deprecated.
const SOCK_PACKET: c_int = 10;
const SOCK_DCCP: c_int = 6;
/// asm-generic/socket.h; not in every libc.
const SO_PEERPIDFD: c_int = 77;
const LOOPBACK_TRY: Duration = Duration::from_millis(500);
/// So soon a machine hears that it may not send what it has sent.
const DATAGRAM_TRY: Duration = Duration::from_millis(100);
/// discard(1): hardly anybody listens, and nobody needs to.
const DISCARD: u16 = 9;

pub(super) const ATTACKS: &[Attack] = &[
    attack("socket-vsock", "vsock(7)", "talks to the hypervisor past the network", |_| {
        all_refused(
            "socket AF_VSOCK",
            [
                ("AF_VSOCK", socket(AF_VSOCK, SOCK_STREAM, 0)),
                ("high bits", call!(libc::SYS_socket, HIGH | c_long::from(AF_VSOCK), SOCK_STREAM, 0)),
            ],
        )
    }),
    attack("socket-packet", "packet(7), CVE-2020-14386", "reads and forges packets", |_| {
        all_refused(
            "socket AF_PACKET",
            [
                ("SOCK_RAW", socket(AF_PACKET, SOCK_RAW, 0)),
                ("SOCK_DGRAM", socket(AF_PACKET, SOCK_DGRAM, 0)),
                ("AF_INET SOCK_PACKET", socket(AF_INET, SOCK_PACKET, 0)),
            ],
        )
    }),
    attack("socket-raw", "raw(7), CAP_NET_RAW", "forges packets of IP", |_| {
        all_refused(
            "socket SOCK_RAW",
            [
                ("AF_INET", socket(AF_INET, SOCK_RAW, libc::IPPROTO_ICMP)),
                ("AF_INET6", socket(AF_INET6, SOCK_RAW, libc::IPPROTO_ICMPV6)),
            ],
        )
    }),
    attack("socket-udplite", "udplite(7)", "uses a protocol of IP that hardly anybody does", |_| {
        of_ip("UDPLITE", SOCK_DGRAM, libc::IPPROTO_UDPLITE)
    }),
    attack("socket-dccp", "AF_INET, CVE-2017-6074", "uses a protocol of IP that hardly anybody does", |_| {
        of_ip("DCCP", SOCK_DCCP, libc::IPPROTO_DCCP)
    }),
    attack("socket-sctp", "sctp(7), CVE-2021-3772", "uses a protocol of IP that hardly anybody does", |_| {
        of_ip("SCTP", SOCK_STREAM, libc::IPPROTO_SCTP)
    }),
    attack("socket-alg", "AF_ALG, CVE-2019-8912", "uses ciphers of the kernel", |_| {
        refused("socket AF_ALG", socket(AF_ALG, SOCK_SEQPACKET, 0))
    }),
    attack("socket-bluetooth", "AF_BLUETOOTH, CVE-2020-12351", "talks by radio", |_| {
        refused("socket AF_BLUETOOTH", socket(AF_BLUETOOTH, SOCK_RAW, 1))
    }),
    attack("socket-netlink", "netlink(7), CVE-2022-32250", "configures the kernel, but for asking for routes", |_| {
        // all protocols but 0, NETLINK_ROUTE
        let of = |protocol| (format!("protocol {protocol}"), socket(AF_NETLINK, SOCK_RAW, protocol));
        all_refused("socket AF_NETLINK 1 to 22", (1..=22).map(of))
    }),
    attack("socket-others", "CVE-2010-3904, CVE-2021-43267", "uses protocols that hardly anybody does", |_| {
        let known = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];
        let families = (0..FAMILIES).filter(|family| !known.contains(family));
        let kinds = [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET];
        let each = families.flat_map(|family| kinds.map(|kind| (family, kind)));
        let of = |(family, kind)| (format!("family {family}"), socket(family, kind, 0));
        all_refused("socket of every other family", each.map(of))
    }),
    attack("socket-pair", "socketpair(2)", "makes pairs of what is refused alone", |_| {
        let mut pair = [0i32; 2];
        let called = call!(libc::SYS_socketpair, AF_VSOCK, SOCK_STREAM, 0, &raw mut pair);
        refused("socketpair AF_VSOCK", called)
    }),
    attack("socket-peer", "SO_PEERPIDFD, Linux 6.5", "holds the process at a socket's other end", |_| {
        let (mut pair, mut pidfd, mut length) = ([0i32; 2], 0i32, 4u32);
        if call!(libc::SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, &raw mut pair).is_err() {
            return Answer::skipped("getsockopt SO_PEERPIDFD", "no pair of sockets");
        }
        let called =
            call!(libc::SYS_getsockopt, pair[0], libc::SOL_SOCKET, SO_PEERPIDFD, &raw mut pidfd, &raw mut length);
        refused_or(&[Errno::ENOPROTOOPT], "getsockopt SO_PEERPIDFD", called)
    }),
    attack("network-change", "rtnetlink(7), CAP_NET_ADMIN", "takes the loopback interface down", |_| {
        let Ok(fd) = socket(AF_INET, SOCK_DGRAM, 0) else { return Answer::held("SIOCSIFFLAGS lo", "no socket") };
        // struct ifreq: the name, then flags as they are wanted: up and running
        let mut request = [0u8; 40];
        request[..2].copy_from_slice(b"lo");
        request[16..18].copy_from_slice(&((libc::IFF_UP | libc::IFF_RUNNING) as u16).to_ne_bytes());
        refused("SIOCSIFFLAGS lo up", call!(libc::SYS_ioctl, fd, libc::SIOCSIFFLAGS, &raw const request))
    }),
    attack("low-port", "ip(7), CAP_NET_BIND_SERVICE", "listens where only services of the machine may", low_port),
    attack("loopback", "network_namespaces(7)", "connects to a port of the machine's loopback", |inside| {
        let tried = "connect to a port laid on 127.0.0.1";
        let Some(port) = own_network(inside, inside.told.outside.port) else { return shared(tried) };
        match TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), LOOPBACK_TRY) {
            Ok(_) => Answer::through(tried, "connected"),
            Err(e) => Answer::held(tried, name_of(super::errno(&e))),
        }
    }),
    attack("host-loopback", "Lima, QEMU's user network", "reaches what listens for a VM's host alone", host_loopback),
    attack("abstract-socket", "unix(7), CVE-2020-15257", "connects to an abstract socket of the machine", |inside| {
        let tried = "connect to an abstract socket laid outside";
        if own_network(inside, Some(0)).is_none() {
            return shared(tried);
        }
        let address = SocketAddr::from_abstract_name(&inside.told.outside.token);
        match address.and_then(|address| UnixStream::connect_addr(&address)) {
            Ok(_) => Answer::through(tried, "connected"),
            Err(e) => Answer::held(tried, name_of(super::errno(&e))),
        }
    }),
    attack("interfaces", "network_namespaces(7)", "sees interfaces of the machine", |inside| {
        if !inside.told.own_network {
            return shared("read /proc/net/dev");
        }
        let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
        let strange = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).find(|name| *name != "lo");
        match strange {
            None => Answer::held("read /proc/net/dev", "lo alone"),
            Some(name) => Answer::through("read /proc/net/dev", format!("{name} is there")),
        }
    }),
    attack("socket-bait", "unix(7)", "connects to a socket with a path laid outside", |inside| {
        match &inside.told.outside.socket {
            Some(path) => connect([path]),
            None => Answer::skipped("connect", "none could be laid"),
        }
    }),
    attack("socket-dbus", "D-Bus", "talks to the machine's services", |_| {
        connect(["/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket", "/run/avahi-daemon/socket"])
    }),
    attack("socket-systemd", "systemd(1)", "starts services", |_| {
        connect(["/run/systemd/private", "/run/systemd/notify", "/run/systemd/journal/stdout", "/run/udev/control"])
    }),
    attack("socket-docker", "Docker's API", "starts containers as root", |_| {
        connect([
            "/run/docker.sock",
            "/var/run/docker.sock",
            "/run/containerd/containerd.sock",
            "/run/podman/podman.sock",
            "/run/crio/crio.sock",
            "/run/libvirt/libvirt-sock",
            "/run/snapd.socket",
            "/var/lib/lxd/unix.socket",
            "/nix/var/nix/daemon-socket/socket",
        ])
    }),
    attack("socket-llima-box", "lbx-on(1)", "asks the machine's root for anything", |_| {
        connect(["/run/llima-box.sock", "/run/lima-guestagent.sock", "/run/host-services/ssh-auth.sock"])
    }),
    attack("socket-desktop", "Wayland, D-Bus, GnuPG", "talks to what runs on a person's screen", |inside| {
        // the first person's; where that is the project's owner, it may be the environment's own
        match inside.told.uid {
            1000 => Answer::skipped("connect to sockets of uid 1000", "the environment has that uid"),
            _ => connect(["wayland-0", "bus", "gnupg/S.gpg-agent"].map(|name| format!("/run/user/1000/{name}"))),
        }
    }),
];

fn socket(family: c_int, kind: c_int, protocol: c_int) -> Called {
    call!(libc::SYS_socket, family, kind, protocol)
}

/// Nobody needs privilege for it where the kernel has the protocol.
fn of_ip(name: &str, kind: c_int, protocol: c_int) -> Answer {
    all_refused(
        &format!("socket IPPROTO_{name}"),
        [("AF_INET", socket(AF_INET, kind, protocol)), ("AF_INET6", socket(AF_INET6, kind, protocol))],
    )
}

fn shared(tried: &str) -> Answer {
    Answer::skipped(tried, "shared as documented")
}

/// `what`, in an environment with a network of its own.
fn own_network<T>(inside: &Inside, what: Option<T>) -> Option<T> {
    what.filter(|_| inside.told.own_network)
}

/// Held when nobody answers at any of `paths`.
fn connect<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Answer {
    one_by_one("connect to", paths, |path| match UnixStream::connect(path) {
        Ok(_) => Ok("connected"),
        // somebody is there, who talks otherwise
        Err(e) if e.raw_os_error() == Some(libc::EPROTOTYPE) => Ok("EPROTOTYPE: it is there"),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok("EAGAIN: it is there"),
        Err(e) => Err(super::errno(&e)),
    })
}

fn host_loopback(inside: &Inside) -> Answer {
    let host = &inside.told.outside.host;
    let tried = "send and connect to the loopback of the VM's host";
    if !host.open.is_empty() {
        return Answer::skipped(tried, host.open.clone());
    }
    let mut answers = Vec::new();
    for address in &host.addresses {
        match datagram(*address) {
            Err(e) if NO_WAY.contains(&e) => answers.push(name_of(e)),
            Err(e) => return Answer::through(format!("send to {address}"), format!("{}, not refused", name_of(e))),
            Ok(()) => return Answer::through(format!("send to {address}"), "sent"),
        }
        let Some(port) = host.port else { continue };
        match TcpStream::connect_timeout(&(*address, port).into(), LOOPBACK_TRY) {
            Ok(_) => return Answer::through(format!("connect to {address}"), "connected"),
            Err(e) => answers.push(name_of(super::errno(&e))),
        }
    }
    Answer::held(tried, super::distinct(answers))
}

/// What a packet that does not leave is answered. That nobody listens is told by who has got it.
const NO_WAY: [Errno; 6] = [
    Errno::EPERM,
    Errno::EACCES,
    Errno::EHOSTUNREACH,
    Errno::ENETUNREACH,
    // no IPv6 here
    Errno::EADDRNOTAVAIL,
    Errno::EAFNOSUPPORT,
];

/// Sends a datagram to `address`; done when it has left this machine for all that is known.
fn datagram(address: IpAddr) -> Result<(), Errno> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let send = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, DISCARD))?;
        socket.set_read_timeout(Some(DATAGRAM_TRY))?;
        socket.send(&[0])?;
        socket.recv(&mut [0]).map(drop)
    };
    match send() {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
        sent => sent.map_err(|e| super::errno(&e)),
    }
}

fn low_port(inside: &Inside) -> Answer {
    let tried = "bind port 1 of 127.0.0.1";
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first.trim().parse().is_ok_and(|first: u32| first <= 1) {
        let whose = if inside.told.own_network { "its network's" } else { "the machine's" };
        return Answer::skipped(tried, format!("everybody may: {whose} ip_unprivileged_port_start"));
    }
    match std::net::TcpListener::bind("127.0.0.1:1") {
        Ok(_) => Answer::through(tried, "bound"),
        Err(e) => Answer::held(tried, name_of(super::errno(&e))),
    }
}
