use std::fs;
use std::sync::Mutex;

use yushan_abi::Sources;

use super::super::fetch::{Fetcher, Limits};
use super::super::held::Held;
use super::super::reader::Reader;
use super::super::served::{html, response, serve};
use super::*;
use crate::memory::MemoryDisk;

/// The browser; a note that these tests are skipped where there is none. Continuous integration has one.
fn chromium(disk: &Arc<MemoryDisk>) -> Option<Chromium> {
    let found = Chromium::find(disk.clone());
    if found.is_none() {
        assert!(std::env::var_os("YUSHAN_BROWSER").is_none(), "tests/browser/run installs one");
        eprintln!("skipped: no Chromium on the PATH; tests/browser/run installs one");
    }
    found
}

#[test]
fn scripts_run_and_nothing_goes_around_the_proxy() {
    let disk = Arc::new(MemoryDisk::default());
    let Some(chromium) = chromium(&disk) else { return };
    // The page asks a second server, which is there, by every means that a page has. It must not be reached.
    let reached = Arc::new(Mutex::new(Vec::new()));
    let seen = reached.clone();
    let inside = serve(move |asked| {
        seen.lock().unwrap().push(asked.path.clone());
        response(200, "Access-Control-Allow-Origin: *", "inside")
    });
    let page = format!(
        "<title>T</title><style>.h {{ display: none }}</style><body><p id=a>before</p><p class=h>hidden text</p>
         <img src=http://127.0.0.1:{inside}/image><img src=http://localhost:{inside}/name>
         <img src=http://[::1]:{inside}/v6><iframe src=http://127.0.0.1:{inside}/frame></iframe>
         <link rel=prefetch href=http://127.0.0.1:{inside}/prefetch>
         <script>
         const at = '127.0.0.1:{inside}';
         fetch('http://' + at + '/fetch', {{mode: 'no-cors'}}).catch(() => 0);
         try {{ new WebSocket('ws://' + at + '/socket') }} catch (e) {{}}
         navigator.sendBeacon('http://' + at + '/beacon', 'x');
         new EventSource('http://' + at + '/events');
         setTimeout(() => {{ alert('stop here'); document.getElementById('a').textContent = 'made by a script'; }}, 50);
         fetch('/data').then(r => r.text()).then(t => {{
           const p = document.createElement('p'); p.textContent = 'loaded: ' + t; document.body.append(p); }});
         </script>"
    );
    let port = serve(move |asked| match asked.path.as_str() {
        "/data" => response(200, "Content-Type: text/plain", "data of the page"),
        "/favicon.ico" => response(404, "", ""),
        "/away" => response(302, &format!("Location: http://127.0.0.1:{inside}/redirected"), ""),
        _ => html(&page),
    });
    // The page names no hosts, so any that are looked up are the browser's own.
    let names = Arc::new(Mutex::new(Vec::new()));
    let asked = names.clone();
    let guard = Guard::default().with_lookup(move |name, _| {
        asked.lock().unwrap().push(name.to_string());
        Err(std::io::Error::other("nothing is looked up here"))
    });
    let guard = guard.allow(&format!("127.0.0.1:{port}")).unwrap();
    let url = Url::parse(&format!("http://127.0.0.1:{port}/page")).unwrap();
    let rendered = chromium.render(&guard, &url, &Cancel::default()).unwrap();
    assert_eq!(rendered.url, url);
    let text = super::super::page::html(&rendered.html, &url, true).text();
    assert!(text.contains("made by a script"), "{text}");
    assert!(text.contains("loaded: data of the page"), "{text}");
    assert!(!text.contains("hidden text"), "{text}");
    let png = rendered.screenshot.unwrap();
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!((side(16), side(20)), SIZE);
    let away = url.join("/away").unwrap();
    let failed = chromium.render(&guard, &away, &Cancel::default()).unwrap_err();
    assert!(failed.contains(&format!("port {inside} is not visited")), "{failed}");
    assert_eq!(*names.lock().unwrap(), Vec::<String>::new(), "the browser asked for itself");
    assert_eq!(*reached.lock().unwrap(), Vec::<String>::new(), "the server inside was reached");
}

fn invocation<'a>(arguments: &'a Value, label: &'a Label) -> Invocation<'a> {
    let (key, space, owner, cancel) = ("1", "talk", "ann", Cancel::default());
    Invocation { arguments, key, space, owner, label, cancel }
}

#[test]
fn a_screenshot_is_a_file_of_the_callers_space() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let chromium = Chromium { program: "/nowhere".into(), disk: disk.clone() };
    let (arguments, user, web) = (json!({}), Label::of(Sources::USER), Label::of(Sources::WEB));
    let invocation = invocation(&arguments, &user);
    let png = b"\x89PNG\r\n\x1a\n";
    let long = format!("https://{}.example/", "a.".repeat(120));
    for place in ["https://example.org/x", "http://[::1]:8080/", &long] {
        let url = Url::parse(place).unwrap();
        let file = chromium.keep(&invocation, &url, png, &web).unwrap();
        assert!(file.path.starts_with("screenshots/") && file.media_type == "image/png");
        let space = Space::open(disk.clone(), "ann", "talk").unwrap();
        let kept = space.read(&file.path).unwrap();
        assert_eq!((kept.bytes.as_slice(), kept.label), (&png[..], web.clone()), "{place}");
    }
}

#[test]
fn a_page_that_was_opened_in_the_browser_leaves_its_picture_in_the_space() {
    let disk = Arc::new(MemoryDisk::default());
    let Some(chromium) = chromium(&disk) else { return };
    let port = serve(|_| html("<title>T</title><p>a page"));
    let guard = Guard::default().allow(&format!("127.0.0.1:{port}")).unwrap();
    let fetcher = Fetcher { guard, limits: Limits::default() };
    let tools = Reader::new(fetcher, Held::new(disk.clone())).with_chromium(chromium).tools();
    let fetch = tools.iter().find(|tool| tool.spec().name == "web_fetch").unwrap();
    let arguments = json!({"url": format!("http://127.0.0.1:{port}/"), "scripts": true});
    let user = Label::of(Sources::USER);
    let space = Space::open(disk.clone(), "ann", "talk").unwrap();
    let result = fetch.call(&invocation(&arguments, &user));
    let file = &result.files[0];
    let kept = space.read(&file.path).unwrap();
    assert_eq!(kept.bytes.len() as u64, file.size);
    assert!(!kept.label.is_trusted());
    // Where it has no place the page comes without it, and says so.
    space.remove(&file.path).unwrap();
    space.write("screenshots", b"a file", &user).unwrap();
    let result = fetch.call(&invocation(&arguments, &user));
    assert!(!result.failed && result.files.is_empty());
    assert!(result.text().contains("The screenshot is not among the files"), "{}", result.text());
}

/// Processes whose command line names this.
fn processes_with(mark: &str) -> Vec<String> {
    let names = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(mark).then_some(line)
    });
    names.collect()
}

#[test]
fn a_browser_that_nobody_waits_for_is_gone_with_all_that_it_started() {
    let disk = Arc::new(MemoryDisk::default());
    let Some(chromium) = chromium(&disk) else { return };
    let cancel = Cancel::default();
    let canceller = cancel.clone();
    let port = serve(move |_| {
        // Asked for, so the browser is there; now nobody wants it.
        canceller.cancel();
        html("<script>for (;;) {}</script>")
    });
    let guard = Guard::default().allow(&format!("127.0.0.1:{port}")).unwrap();
    let url = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
    let deadline = Instant::now() + TIME;
    let proxy = Proxy::start(guard, deadline, &Cancel::default()).unwrap();
    let mut browser = Browser::start(&chromium.program, proxy.port, deadline, &cancel).unwrap();
    let profile = browser._profile.path().to_path_buf();
    let mark = profile.display().to_string();
    let failed = browser.open(&url).unwrap_err();
    assert_eq!(failed, "stopped: nobody waits for it any more");
    assert!(!processes_with(&mark).is_empty());
    drop(browser);
    // Those that it started are ended at once and reaped by the system soon.
    while !processes_with(&mark).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes_with(&mark));
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!profile.exists());
}
