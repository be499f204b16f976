//! The machine that runs this VM, as Lima tells it the guest.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::inside::Host;

/// The disk by which Lima tells a guest what it is.
const TOLD: &str = "/mnt/lima-cidata";
/// The resolver of QEMU's network is another name of the same loopback.
const RESOLVER: u8 = 3;
const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);

pub(super) fn host() -> Host {
    let text = |file: &str| match std::fs::read_to_string(Path::new(TOLD).join(file)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|e| open(&format!("cannot read {TOLD}/{file}: {e}"))),
    };
    match (text("lima.env"), text("param.env")) {
        (Ok(machine), Ok(params)) => of(&machine, &params),
        (Err(host), _) | (_, Err(host)) => host,
    }
}

fn open(why: &str) -> Host {
    Host { open: why.to_owned(), ..Host::default() }
}

fn of(machine: &str, params: &str) -> Host {
    let Some(gateway) = value(machine, "LIMA_CIDATA_SLIRP_GATEWAY").and_then(|text| text.parse().ok()) else {
        return open("not a Lima VM");
    };
    match value(params, "PARAM_hostLoopback") {
        None => open("a Lima VM that lbx-vm has not made"),
        Some("open") => open("given up by vm.host_loopback"),
        Some(_) => {
            let [a, b, c, _] = Ipv4Addr::octets(&gateway);
            let port = value(machine, "LIMA_CIDATA_TCP_DNS_LOCAL_PORT").and_then(|text| text.parse().ok());
            Host {
                open: String::new(),
                addresses: vec![
                    IpAddr::V4(gateway),
                    IpAddr::V4(Ipv4Addr::new(a, b, c, RESOLVER)),
                    IpAddr::V6(GATEWAY_6),
                ],
                port: port.filter(|port| *port != 0),
            }
        }
    }
}

/// The value of variable `name` in `text`.
fn value<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_attacked_where_its_loopback_is_closed() {
        let machine =
            "LIMA_CIDATA_NAME=a\nLIMA_CIDATA_SLIRP_GATEWAY=192.168.5.2\nLIMA_CIDATA_TCP_DNS_LOCAL_PORT=4053\n";
        let closed = of(machine, "PARAM_llimaBox=1\nPARAM_hostLoopback=closed\n");
        assert_eq!((closed.open.as_str(), closed.port), ("", Some(4053)));
        assert_eq!(closed.addresses[..2], ["192.168.5.2", "192.168.5.3"].map(|text| text.parse::<IpAddr>().unwrap()));
        for (machine, params) in
            [("", ""), ("", "PARAM_hostLoopback=closed\n"), (machine, ""), (machine, "PARAM_hostLoopback=open\n")]
        {
            let host = of(machine, params);
            assert!(!host.open.is_empty() && host.addresses.is_empty(), "{host:?}");
        }
        assert_eq!(of("LIMA_CIDATA_SLIRP_GATEWAY=192.168.5.2\n", "PARAM_hostLoopback=closed\n").port, None);
    }
}
