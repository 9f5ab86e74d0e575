//! An address of the web, a line; then a `robots.txt`. What is visited is never of this machine or its network.
#![no_main]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use yushan_abi::Cancel;
use yushan_tools::search::robots::Robots;
use yushan_tools::web::address::special;
use yushan_tools::web::guard::Guard;

fuzz_target!(|text: &str| {
    let (address, robots) = text.split_once('\n').unwrap_or((text, ""));
    let inside: IpAddr = [127, 0, 0, 1].into();
    let guard = Guard::default().with_lookup(move |_, _| Ok(vec![inside]));
    if let Ok(url) = guard.parse(address) {
        let ip = match url.host() {
            Some(url::Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(url::Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            _ => None,
        };
        assert!(ip.is_none_or(|ip| special(ip).is_none()));
        let (host, port) = (url.host_str().unwrap(), url.port_or_known_default().unwrap());
        // Whatever the name is, it leads inside, so nothing is given.
        let deadline = Instant::now() + Duration::from_secs(10);
        let found = guard.addresses(host, port, deadline, &Cancel::default());
        assert!(found.is_err() || ip.is_some());
    }
    let _ = Robots::parse(robots, "Yushan").allows(address);
});
