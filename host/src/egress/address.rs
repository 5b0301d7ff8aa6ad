//! Which addresses belong to the public internet, and which to somebody's own network.
//!
//! In: an address, and the ranges that a grant adds to the public ones. Out: whether it may be connected to. Pure.
//!
//! An address that stands for an IPv4 one (`::ffff:10.0.0.1`, and NAT64's `64:ff9b::a00:1`) is judged as that one. The
//! tables follow IANA's registries of special-purpose addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;

/// Ranges that are no public hosts, with what they are.
const SPECIAL: [(&str, &str); 24] = [
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "a private network"),
    ("100.64.0.0/10", "a carrier's own network"),
    ("127.0.0.0/8", "this machine"),
    ("168.63.129.16/32", "a cloud's own service"),
    ("169.254.0.0/16", "link-local, where clouds keep their metadata"),
    ("172.16.0.0/12", "a private network"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "a private network"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("240.0.0.0/4", "reserved"),
    ("::1/128", "this machine"),
    ("fc00::/7", "a private network"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "a private network"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "for documentation"),
    ("2002::/16", "a tunnel to an IPv4 address"),
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "reserved"),
];

/// All public IPv6 addresses lie within.
const GLOBAL_UNICAST: &str = "2000::/3";

struct Tables {
    special: Vec<(IpNet, &'static str)>,
    global_unicast: IpNet,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let net = |text: &str| text.parse::<IpNet>().expect("the tables are constants");
    Tables {
        special: SPECIAL.iter().map(|(range, what)| (net(range), *what)).collect(),
        global_unicast: net(GLOBAL_UNICAST),
    }
});

/// Whether an address may be connected to, where these ranges are granted beside the public ones; else what it is.
pub(super) fn judge(address: IpAddr, granted: &[IpNet]) -> Result<(), &'static str> {
    let address = meant(address);
    if address.is_multicast() || address.is_unspecified() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err("the address of no single host");
    }
    let Some(what) = special(address) else { return Ok(()) };
    if granted.iter().any(|range| range.contains(&address)) { Ok(()) } else { Err(what) }
}

fn special(address: IpAddr) -> Option<&'static str> {
    let known = TABLES.special.iter().find(|(range, _)| range.contains(&address)).map(|(_, what)| *what);
    known.or_else(|| (address.is_ipv6() && !TABLES.global_unicast.contains(&address)).then_some("reserved"))
}

/// The IPv4 address that an IPv6 one stands for, or the address itself.
fn meant(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().or_else(|| translated(v6)).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The address behind NAT64's well-known prefix.
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() else { return None };
    Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_public_needs_no_grant_of_its_own() {
        for text in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "172.32.0.1", "100.128.0.1", "64:ff9b::101:101"] {
            assert_eq!(judge(address(text), &[]), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_somebodys_own_is_refused_however_it_is_written() {
        for text in [
            "127.0.0.1",
            "127.8.9.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "0.1.2.3",
            "192.0.0.192",
            "198.19.0.1",
            "255.255.255.254",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:a9fe:a9fe",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "2001:db8::1",
            "2001:0:1234::1",
            "2002:7f00:1::1",
            "4000::1",
        ] {
            assert!(judge(address(text), &[]).is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_that_is_granted_lets_its_own_addresses_through_and_no_others() {
        let granted: Vec<IpNet> = ["10.1.0.0/16", "::1/128"].map(|range| range.parse().expect("a range")).into();
        for (text, may) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("64:ff9b::a01:203", true),
            ("10.2.0.1", false),
            ("::1", true),
            ("127.0.0.1", false),
        ] {
            assert_eq!(judge(address(text), &granted).is_ok(), may, "{text}");
        }
    }

    #[test]
    fn no_grant_reaches_the_address_of_nobody() {
        let all: Vec<IpNet> = ["0.0.0.0/0", "::/0"].map(|range| range.parse().expect("a range")).into();
        for text in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "::ffff:0.0.0.0"] {
            assert!(judge(address(text), &all).is_err(), "{text}");
        }
    }
}
