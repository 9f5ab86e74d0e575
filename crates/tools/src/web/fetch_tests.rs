use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::super::served::{Asked, html, read_request, response, serve, serve_raw};
use super::*;

/// A fetcher that may visit these ports of the loopback.
fn fetcher(ports: &[u16]) -> Fetcher {
    let guard = ports
        .iter()
        .fold(Guard::default(), |guard, port| guard.allow(&format!("127.0.0.1:{port}")).unwrap());
    Fetcher { guard, limits: Limits { time: Duration::from_secs(20), ..Limits::default() } }
}

fn get(fetcher: &Fetcher, url: &str) -> Result<Fetched, Failure> {
    let url = fetcher.guard.parse(url).map_err(Failure::Refused)?;
    fetcher.fetch(Ask::page(url), &Cancel::default())
}

/// Every form of an address that leads, or might lead, into this machine or its network.
const INSIDE: &[&str] = &[
    // Loopback, as it is written and as it could be.
    "http://127.0.0.1/",
    "http://127.0.0.1:80/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.255.255.254/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0x7F.0x0.0x0.0x1/",
    "http://127.0.0.1./",
    "http://１２７.０.０.１/",
    "http://127。0。0。1/",
    "http://①②⑦.0.0.1/",
    "http://%31%32%37.0.0.1/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://a.localhost/",
    "http://ⓛocalhost/",
    "http:\\\\127.0.0.1\\",
    "http:127.0.0.1/",
    "  http://127.0.0.1/  ",
    "ht\ntp://127.0.0.1/",
    // "This network".
    "http://0/",
    "http://0.0.0.0/",
    "http://0.0.0.0:443/",
    "http://[::]/",
    // IPv6 loopback, and IPv4 inside IPv6.
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:ffff:7f00:0001]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:c0a8:101::1]/",
    "http://[2001:0:53aa:64c:0:0:f5ff:fffe]/",
    "http://[2001::1]/",
    "http://[2001:4860::5efe:10.0.0.1]/",
    // Private, shared, link-local, metadata.
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://167772161/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://3232235521/",
    "http://0xc0a80001/",
    "http://0300.0250.0.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0251.0376.0251.0376/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://metadata.google.internal/",
    "http://[fd00:ec2::254]/",
    "http://[fd20:ce::254]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    // Benchmark, documentation, protocols, multicast, reserved, broadcast.
    "http://198.18.0.1/",
    "http://198.19.255.255/",
    "http://192.0.2.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://4294967295/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[100::1]/",
    "http://[ff02::1]/",
    "http://[4000::1]/",
    // Names of the house.
    "http://intranet/",
    "http://router.lan/",
    "http://printer.local/",
    "http://nas.home.arpa/",
    "http://db.corp/",
    "http://x.onion/",
    // Names and passwords, schemes, ports, and what is no address.
    "http://example.org@127.0.0.1/",
    "http://user@example.org/",
    "http://user:password@example.org/",
    "http://:@127.0.0.1/",
    "file:///etc/passwd",
    "ftp://example.org/",
    "gopher://127.0.0.1:6379/_x",
    "data:text/html,x",
    "javascript:alert(1)",
    "dict://example.org:2628/",
    "http://example.org:22/",
    "http://example.org:25/",
    "http://example.org:6379/",
    "http://example.org:0/",
    "http://example.org:99999/",
    "http://[::1%25lo]/",
    "http://127.0.0.1.1.1/",
    "http://1.2.3.256/",
    "http:///",
    "http://",
    "//127.0.0.1/",
    "/etc/passwd",
    "",
];

#[test]
fn nothing_that_leads_inside_is_visited() {
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = asked.clone();
    let fetcher = Fetcher {
        guard: Guard::default().with_lookup(move |_, _| {
            seen.fetch_add(1, Ordering::SeqCst);
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        }),
        limits: Limits::default(),
    };
    assert!(INSIDE.len() >= 100);
    for url in INSIDE {
        let failure = get(&fetcher, url).unwrap_err();
        assert!(matches!(failure, Failure::Refused(_)), "{url}: {failure:?}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "what is refused is not even looked up");
}

#[test]
fn names_are_judged_by_all_that_they_lead_to() {
    let public: IpAddr = "93.184.216.34".parse().unwrap();
    let cancel = Cancel::default();
    let deadline = Instant::now() + Duration::from_secs(20);
    for inside in INSIDE {
        // Each address of the table, as what a harmless name leads to.
        let Ok(url) = Url::parse(inside.trim()) else { continue };
        let address: IpAddr = match url.host() {
            Some(url::Host::Ipv4(address)) => address.into(),
            Some(url::Host::Ipv6(address)) => address.into(),
            _ => continue,
        };
        for answer in [vec![address], vec![public, address], vec![address, public]] {
            let guard = Guard::default().with_lookup(move |_, _| Ok(answer.clone()));
            let found = guard.addresses("harmless.example.org", 443, deadline, &cancel);
            assert!(matches!(found, Err(NoAddress::Refused(_))), "{inside}: {found:?}");
        }
    }
    let guard = Guard::default().with_lookup(move |_, _| Ok(vec![public]));
    let found = guard.addresses("harmless.example.org", 443, deadline, &cancel).unwrap();
    assert_eq!(found, [std::net::SocketAddr::new(public, 443)]);
    let none = Guard::default().with_lookup(|_, _| Ok(Vec::new()));
    let found = none.addresses("harmless.example.org", 443, deadline, &cancel);
    assert!(matches!(found, Err(NoAddress::Unknown(_))), "{found:?}");
}

/// Each time it is asked, the name leads elsewhere: first to an allowed server, then inside, then to another one.
#[test]
fn a_name_that_changes_its_answer_gains_nothing() {
    let lookups = Arc::new(AtomicUsize::new(0));
    let seen = lookups.clone();
    let guard = Guard::default().with_lookup(move |_, _| {
        let first = seen.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        Ok(vec![if first { "93.184.216.34".parse().unwrap() } else { Ipv4Addr::LOCALHOST.into() }])
    });
    let (cancel, deadline) = (Cancel::default(), Instant::now() + Duration::from_secs(20));
    // What was judged is what is connected to: one look-up for each connection, and its answer has the port.
    let first = guard.addresses("rebind.example.org", 443, deadline, &cancel).unwrap();
    assert_eq!(first[0].ip().to_string(), "93.184.216.34");
    let second = guard.addresses("rebind.example.org", 443, deadline, &cancel);
    assert!(matches!(second, Err(NoAddress::Refused(Refused::Address { .. }))), "{second:?}");
    assert_eq!(lookups.load(Ordering::SeqCst), 2);
    // The same through a whole fetch: the second answer is the one that this fetch gets.
    lookups.store(1, Ordering::SeqCst);
    let fetcher = Fetcher { guard, limits: Limits::default() };
    let failure = get(&fetcher, "http://rebind.example.org/").unwrap_err();
    assert!(matches!(failure, Failure::Refused(Refused::Address { .. })), "{failure:?}");
    assert_eq!(lookups.load(Ordering::SeqCst), 2, "looked up once");
    // Where the connection goes is what was judged: nobody looks the name up once more.
    let port = serve(|_| html("<p>pinned"));
    let lookups = Arc::new(AtomicUsize::new(0));
    let seen = lookups.clone();
    let guard =
        Guard::default().with_lookup(move |_, _| match seen.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
            _ => Ok(vec![Ipv4Addr::new(127, 99, 99, 99).into()]),
        });
    let guard = guard.allow(&format!("pin.lan:{port}")).unwrap();
    let fetcher = Fetcher { guard, limits: Limits::default() };
    assert_eq!(get(&fetcher, &format!("http://pin.lan:{port}/")).unwrap().body, b"<p>pinned");
    assert_eq!(lookups.load(Ordering::SeqCst), 1);
}

/// A server whose answers go in circles, or lead elsewhere.
fn redirecting(to: impl Fn(&str) -> String + Send + Sync + 'static) -> u16 {
    serve(move |asked| match asked.path.as_str() {
        "/end" => html("<p>the end"),
        path => response(302, &format!("Location: {}", to(path)), ""),
    })
}

#[test]
fn redirects_are_judged_one_by_one() {
    for inside in INSIDE {
        // What is no address of its own is read relative to the page, as browsers do, and stays on its host.
        if Url::parse(inside.trim()).is_err() && !inside.starts_with("//") {
            continue;
        }
        let location = inside.trim().replace(['\n', '\t'], "");
        let relative = location.starts_with("http:1") || location == "http:///";
        if relative || !location.is_ascii() && location.parse::<ureq::http::HeaderValue>().is_err()
        {
            continue;
        }
        let port = redirecting(move |_| location.clone());
        let failure = get(&fetcher(&[port]), &format!("http://127.0.0.1:{port}/")).unwrap_err();
        assert!(matches!(failure, Failure::RefusedHop(_)), "{inside}: {failure:?}");
    }
}

#[test]
fn redirects_lead_to_the_end_or_are_counted() {
    // Three hops, then the end.
    let port = redirecting(|path| match path {
        "/1" => "/2".into(),
        "/2" => "3?x=1#y".into(),
        _ => "./end".into(),
    });
    let fetched = get(&fetcher(&[port]), &format!("http://127.0.0.1:{port}/1")).unwrap();
    assert_eq!(fetched.body, b"<p>the end");
    assert_eq!(fetched.url.path(), "/end");
    assert_eq!(fetched.hops.len(), 4);
    assert!(fetched.private);
    for circle in ["/", "?again", "/a", "/%61?b"] {
        let port = redirecting(|_| circle.into());
        let failure = get(&fetcher(&[port]), &format!("http://127.0.0.1:{port}/")).unwrap_err();
        assert_eq!(failure, Failure::Redirects(8), "{circle}");
    }
    // From one allowed server to another, and to one that is not allowed though it is there.
    let end = serve(|_| html("<p>other"));
    let port = redirecting(move |_| format!("http://127.0.0.1:{end}/"));
    let start = format!("http://127.0.0.1:{port}/");
    assert_eq!(get(&fetcher(&[port, end]), &start).unwrap().body, b"<p>other");
    let failure = get(&fetcher(&[port]), &start).unwrap_err();
    assert_eq!(failure, Failure::RefusedHop(Refused::Port(end)));
    // From outside nothing leads to what is allowed.
    let guard = fetcher(&[end]).guard;
    let inside = Url::parse(&format!("http://127.0.0.1:{end}/")).unwrap();
    let outside = Url::parse("http://example.org/").unwrap();
    assert!(guard.from(&inside).check(&inside).is_ok());
    assert!(guard.from(&outside).check(&inside).is_err());
    // Neither is a POST sent on.
    let port = redirecting(|_| "/end".into());
    let ask = Ask {
        url: Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap(),
        headers: Vec::new(),
        json: Some("{}".into()),
        stays: false,
    };
    let failure = fetcher(&[port]).fetch(ask, &Cancel::default()).unwrap_err();
    assert_eq!(failure, Failure::Status(302, None));
}

#[test]
fn the_allow_list_opens_one_place_alone() {
    let port = serve(|_| html("<p>hello"));
    let allowed = fetcher(&[port]);
    let url = |host: &str| format!("http://{host}:{port}/");
    // All ways to write it are the same address.
    for same in ["127.0.0.1", "127.1", "2130706433", "0x7f.1"] {
        assert_eq!(get(&allowed, &url(same)).unwrap().body, b"<p>hello", "{same}");
    }
    for other in
        ["localhost", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "me.example.org"]
    {
        let failure = get(&allowed, &url(other)).unwrap_err();
        assert!(matches!(failure, Failure::Refused(_)), "{other}: {failure:?}");
    }
    let failure = get(&Fetcher::default(), &url("127.0.0.1")).unwrap_err();
    assert_eq!(failure, Failure::Refused(Refused::Port(port)));
    // A name, allowed with its port: what it leads to is not asked.
    let guard = Guard::default().with_lookup(|_, _| Ok(vec![Ipv4Addr::LOCALHOST.into()]));
    let guard = guard.allow(&format!("search.lan:{port}")).unwrap();
    let named = Fetcher { guard, limits: Limits::default() };
    assert_eq!(get(&named, &url("search.lan")).unwrap().body, b"<p>hello");
    assert!(get(&named, "http://search.lan/").is_err());
    for wrong in ["127.0.0.1", "", "http://a:1/", "a b:1", "u@a:1", "a:x", "a:1/b"] {
        assert!(Guard::default().allow(wrong).is_err(), "{wrong}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// What servers do, and the beginning of what is said of it.
#[test]
fn bad_answers_are_told_in_words_to_act_on() {
    let bomb = gzip(&vec![0; 9 << 20]);
    let answer = move |asked: &Asked| match asked.path.as_str() {
        "/missing" => response(404, "Content-Type: text/html", "<p>nothing"),
        "/secret" => response(403, "", ""),
        "/busy" => response(429, "Retry-After: 7", ""),
        "/failed" => response(500, "", ""),
        "/nothing" => response(204, "", ""),
        "/nowhere" => response(302, "", ""),
        "/bad-place" => response(302, "Location: http://[", ""),
        "/large" => response(200, "Content-Type: text/html", vec![b'x'; (8 << 20) + 1]),
        "/bomb" => response(200, "Content-Encoding: gzip", &bomb),
        "/packed" => {
            response(200, "Content-Type: text/html|Content-Encoding: gzip", gzip(b"<p>packed"))
        }
        "/not-packed" => response(200, "Content-Encoding: gzip", "plain"),
        "/half-packed" => response(200, "Content-Encoding: gzip", &gzip(b"<p>packed")[..15]),
        "/brotli" => response(200, "Content-Encoding: br", "xyz"),
        "/headers" => response(200, &"X: y|".repeat(200), ""),
        "/long-header" => response(200, &format!("X: {}", "y".repeat(64 << 10)), ""),
        "/half" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec(),
        "/no-http" => b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        "/silent" => Vec::new(),
        path => panic!("{path}"),
    };
    let port = serve(answer);
    let fetcher = fetcher(&[port]);
    for (path, expected) in [
        (
            "/missing",
            "the server answered with status 404: there is no such page; check the address",
        ),
        ("/secret", "the server answered with status 403: the server does not show it"),
        (
            "/busy",
            "the server answered with status 429: the server is busy; try again in 7 seconds",
        ),
        ("/failed", "the server answered with status 500: the server failed; try again later"),
        ("/nowhere", "the server answered with a redirect but no address"),
        ("/bad-place", "the server answered with a redirect but no address"),
        ("/large", "the page is larger than 8388608 bytes"),
        ("/bomb", "the page is larger than 8388608 bytes"),
        ("/not-packed", "the page cannot be unpacked"),
        ("/half-packed", "the page cannot be unpacked"),
        ("/brotli", "the page cannot be unpacked (content-encoding br)"),
        ("/headers", "the server does not speak HTTP as it should"),
        ("/long-header", "the server does not speak HTTP as it should"),
        ("/half", "the server cannot be reached or broke off"),
        ("/no-http", "the server does not speak HTTP as it should"),
        ("/silent", "the server"),
    ] {
        let failure = get(&fetcher, &format!("http://127.0.0.1:{port}{path}")).unwrap_err();
        assert!(failure.to_string().starts_with(expected), "{path}: {failure}");
    }
    let packed = get(&fetcher, &format!("http://127.0.0.1:{port}/packed")).unwrap();
    assert_eq!(packed.body, b"<p>packed");
    assert!(get(&fetcher, &format!("http://127.0.0.1:{port}/nothing")).unwrap().body.is_empty());
}

#[test]
fn who_is_slow_or_silent_is_left_and_so_is_who_nobody_waits_for() {
    // Sends a header a byte at a time for ever, or a body, or nothing at all.
    let (came, comes) = mpsc::channel();
    let came = Mutex::new(came);
    let port = serve_raw(move |mut stream| {
        let path = read_request(&stream).map(|asked| asked.path).unwrap_or_default();
        let _ = lock(&came).send(path.clone());
        let path = path.trim_end_matches("?again");
        let _ = stream.write_all(match path {
            "/body" => b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\nX: ",
        });
        while path != "/nothing" && stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
        if path == "/nothing" {
            loop {
                thread::park();
            }
        }
    });
    let mut fetcher = fetcher(&[port]);
    for path in ["/body", "/header", "/nothing"] {
        fetcher.limits.time = Duration::from_millis(300);
        let url = format!("http://127.0.0.1:{port}{path}");
        assert_eq!(get(&fetcher, &url).unwrap_err(), Failure::Timeout(0), "{path}");
        fetcher.limits.time = Duration::from_secs(600);
        let cancel = Cancel::default();
        let ask = Ask::page(Url::parse(&format!("{url}?again")).unwrap());
        let failure = thread::scope(|scope| {
            let fetching = scope.spawn(|| fetcher.fetch(ask, &cancel));
            // Once it has reached the server nobody wants it.
            let reached = comes.iter().any(|asked| asked == format!("{path}?again"));
            assert!(reached);
            cancel.cancel();
            fetching.join().unwrap().unwrap_err()
        });
        assert_eq!(failure, Failure::Cancelled, "{path}");
    }
}

#[test]
fn unsafe_connections_are_refused() {
    // A server with a certificate that it made itself, and one that does not speak TLS.
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![made.cert.der().clone()], key)
    .unwrap();
    let config = Arc::new(config);
    let own = serve_raw(move |stream| {
        let connection = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let _ = stream.write_all(&html("never read"));
    });
    let plain = serve_raw(|mut stream| {
        let mut hello = [0; 4096];
        let _ = stream.read(&mut hello);
        let _ = stream.write_all(&html("never read"));
        while stream.read(&mut hello).is_ok_and(|n| n > 0) {}
    });
    let refused = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closed = refused.local_addr().unwrap().port();
    drop(refused);
    let fetcher = fetcher(&[own, plain, closed]);
    for (port, expected) in [
        (own, "no secure connection: invalid peer certificate"),
        (plain, "no secure connection"),
        (closed, "the server cannot be reached or broke off"),
    ] {
        let failure = get(&fetcher, &format!("https://127.0.0.1:{port}/")).unwrap_err();
        assert!(failure.to_string().starts_with(expected), "{failure}");
    }
}

#[test]
fn what_is_sent_says_who_we_are_and_nothing_else() {
    let port = serve(|asked| {
        let names = asked.headers.keys().cloned().collect::<Vec<_>>().join(" ");
        response(
            200,
            "Content-Type: Text/Plain; Charset=\"Big5\"",
            format!("{} {names}", asked.method),
        )
    });
    let fetched = get(&fetcher(&[port]), &format!("http://127.0.0.1:{port}/#fragment")).unwrap();
    let said = String::from_utf8(fetched.body).unwrap();
    assert_eq!(said, "GET accept accept-encoding host user-agent");
    assert_eq!(
        (fetched.media_type.as_str(), fetched.charset.as_deref()),
        ("text/plain", Some("Big5"))
    );
}

#[test]
fn no_proxy_of_the_environment_is_used() {
    // Another test once more, in a process whose environment names proxies that are not there.
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "web::fetch::tests::redirects_lead_to_the_end_or_are_counted"]);
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        again.env(name, "http://127.0.0.1:9").env(name.to_uppercase(), "http://127.0.0.1:9");
    }
    let said = String::from_utf8(again.env_remove("NO_PROXY").output().unwrap().stdout).unwrap();
    assert!(said.contains("1 passed"), "{said}");
}
