//! Which addresses of the internet may be reached, and which lead into the machine or the house.
//!
//! The key decision: for IPv4 everything but IANA's special-purpose blocks, for IPv6 nothing but global unicast without
//! the blocks that wrap an IPv4 address or are special themselves. What is new is refused until somebody looks at it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A block of addresses, by its first address and the bits that all of it share.
struct Block<A>(A, u32, &'static str);

const fn v4(a: u8, b: u8, c: u8, bits: u32, name: &'static str) -> Block<Ipv4Addr> {
    Block(Ipv4Addr::new(a, b, c, 0), bits, name)
}

const fn v6(a: u16, b: u16, bits: u32, name: &'static str) -> Block<Ipv6Addr> {
    Block(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits, name)
}

/// IANA's registry of special-purpose IPv4 addresses (RFC 6890 and its updates), and one metadata service.
const SPECIAL_V4: [Block<Ipv4Addr>; 17] = [
    v4(0, 0, 0, 8, "\"this network\""),
    v4(10, 0, 0, 8, "private"),
    v4(100, 64, 0, 10, "shared (carrier-grade NAT)"),
    v4(127, 0, 0, 8, "loopback"),
    v4(169, 254, 0, 16, "link-local (cloud metadata)"),
    v4(172, 16, 0, 12, "private"),
    v4(192, 0, 0, 24, "protocol assignments"),
    v4(192, 0, 2, 24, "documentation"),
    v4(192, 88, 99, 24, "6to4 relay"),
    v4(192, 168, 0, 16, "private"),
    v4(198, 18, 0, 15, "benchmark"),
    v4(198, 51, 100, 24, "documentation"),
    v4(203, 0, 113, 24, "documentation"),
    v4(224, 0, 0, 4, "multicast"),
    v4(240, 0, 0, 4, "reserved or broadcast"),
    // Azure's metadata and DNS service answers its own machines at an address of a public block.
    Block(Ipv4Addr::new(168, 63, 129, 16), 32, "cloud metadata"),
    Block(Ipv4Addr::new(192, 31, 196, 0), 24, "AS112"),
];

/// What of global unicast is special (RFC 6890, RFC 9637), and names for what lies outside it.
const SPECIAL_V6: [Block<Ipv6Addr>; 12] = [
    v6(0x2001, 0, 32, "Teredo"),
    v6(0x2001, 0, 23, "protocol assignments"),
    v6(0x2001, 0x0db8, 32, "documentation"),
    v6(0x2002, 0, 16, "6to4"),
    v6(0x3fff, 0, 20, "documentation"),
    v6(0x3ffe, 0, 16, "former test network"),
    v6(0x0064, 0xff9b, 32, "NAT64"),
    v6(0xfc00, 0, 7, "unique local"),
    v6(0xfe80, 0, 10, "link-local"),
    v6(0xfec0, 0, 10, "site-local"),
    v6(0xff00, 0, 8, "multicast"),
    v6(0x0100, 0, 64, "discard-only"),
];

/// Why an address may not be reached; nothing if it is an ordinary one of the internet.
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let number = u32::from(address);
    let inside = |block: &&Block<Ipv4Addr>| (number ^ u32::from(block.0)) >> (32 - block.1) == 0;
    SPECIAL_V4.iter().find(inside).map(|block| block.2)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let number = u128::from(address);
    let inside = |block: &&Block<Ipv6Addr>| (number ^ u128::from(block.0)) >> (128 - block.1) == 0;
    if let Some(block) = SPECIAL_V6.iter().find(inside) {
        return Some(block.2);
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0, 0, 0, 0, 0, 0xffff, ..] => Some("IPv4-mapped"),
        [0, 0, 0, 0, 0xffff, 0, ..] => Some("IPv4-translated"),
        [0, 0, 0, 0, 0, 0, ..] => Some("IPv4-compatible"),
        // An ISATAP interface is a tunnel to the IPv4 address in its last bits.
        [_, _, _, _, 0 | 0x0200, 0x5efe, ..] => Some("ISATAP"),
        [first, ..] if first >> 13 == 1 => None,
        _ => Some("outside global unicast"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_addresses_of_the_internet_are_not_special() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "93.184.216.34",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "169.253.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "168.63.129.15",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450:4001:80b::200e",
        ] {
            assert_eq!(special(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn the_first_and_the_last_of_each_block_are_special() {
        for Block(first, bits, name) in SPECIAL_V4 {
            let first = u32::from(first);
            let last = first | u32::MAX.checked_shr(bits).unwrap_or(0);
            for number in [first, last] {
                assert_eq!(special(Ipv4Addr::from(number).into()), Some(name));
            }
        }
        for Block(first, bits, _) in SPECIAL_V6 {
            let first = u128::from(first);
            for number in [first, first | (u128::MAX >> bits)] {
                assert!(special(Ipv6Addr::from(number).into()).is_some(), "{first:x}");
            }
        }
    }
}
