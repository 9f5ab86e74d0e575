use super::super::fetch::Limits;
use super::super::guard::Guard;
use super::super::held::HeldResult;
use super::super::page::Link;
use super::super::served::{call, html, response, serve};
use super::*;
use crate::memory::MemoryDisk;

struct Fixture {
    disk: Arc<MemoryDisk>,
    held: Arc<Held>,
    tools: Vec<Arc<dyn Tool>>,
    port: u16,
}

impl Fixture {
    fn tool(&self, name: &str) -> &dyn Tool {
        &**self.tools.iter().find(|tool| tool.spec().name == name).unwrap()
    }

    fn call(&self, name: &str, arguments: Value) -> ToolResult {
        call(self.tool(name), "space", arguments)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

fn fixture() -> Fixture {
    let port = serve(|asked| match asked.path.as_str() {
        "/a" => html(
            "<title>A</title><p>first <a href=/b>to b</a><p>second <a href=http://10.0.0.1/>inside</a>",
        ),
        "/b" => html("<title>B</title><p>page b"),
        "/long" => html(
            (1..=200)
                .map(|n| format!("<p>Paragraph {n}. {}", "word ".repeat(60)))
                .collect::<String>(),
        ),
        "/pdf" => response(200, "Content-Type: application/pdf", "%PDF-1.4"),
        "/docx" => response(200, "Content-Type: application/msword", "x"),
        "/to-b" => response(302, "Location: /b", ""),
        _ => response(404, "", ""),
    });
    on(Arc::new(MemoryDisk::default()), port)
}

fn on(disk: Arc<MemoryDisk>, port: u16) -> Fixture {
    let guard = Guard::default().allow(&format!("127.0.0.1:{port}")).unwrap();
    let held = Held::new(disk.clone());
    let fetcher = Fetcher { guard, limits: Limits::default() };
    let convert = |media_type: &str, bytes: &[u8]| {
        (media_type == "application/pdf").then(|| Ok(format!("{} bytes of PDF", bytes.len())))
    };
    let tools = Reader::new(fetcher, held.clone()).with_convert(convert).tools();
    Fixture { disk, held, tools, port }
}

#[test]
fn a_page_is_fetched_opened_read_on_and_labelled() {
    let web = fixture();
    let result = web.call("web_fetch", json!({"url": web.url("/a")}));
    let text = result.text();
    let expected = format!(
        "Page 1: A\n{}\n\n[span 1] first to b [link 1]\n\n[span 2] second inside [link 2]\n\nLinks:\n\
         [link 1] to b — {}\n[link 2] inside — http://10.0.0.1/\n\nShown: spans 1 to 2 of 2.",
        web.url("/a"),
        web.url("/b")
    );
    assert!(!result.failed && text.starts_with(&expected), "{text}");
    // Whoever wrote it, and who may read it: it is from the house.
    let label = &result.parts[1].label;
    assert_eq!(label.sources, Sources::WEB);
    assert_eq!(label.origins, BTreeSet::from(["127.0.0.1".to_string()]));
    assert_eq!(label.readers, Readers::one("ann"));
    assert_eq!(result.parts.last().unwrap().label, Label::of(Sources::SYSTEM));

    let opened = web.call("web_open", json!({"link": 1}));
    assert!(opened.text().starts_with("Page 2: B\n"), "{}", opened.text());
    // From the second page on, links of the first are opened by its number.
    let again = web.call("web_open", json!({"link": 1, "page": 1}));
    assert!(again.text().starts_with("Page 3: B\n"), "{}", again.text());
    let read = web.call("web_read", json!({"page": 1, "span": 2}));
    assert!(read.text().contains("\n[span 2] second inside [link 2]\n"), "{}", read.text());
    assert!(!read.text().contains("[span 1]"), "{}", read.text());
}

#[test]
fn long_pages_are_read_to_their_end() {
    let web = fixture();
    let mut text = web.call("web_fetch", json!({"url": web.url("/long")})).text();
    let mut said = text.clone();
    while let Some((_, next)) = text.split_once("It goes on: web_read with page = 1, span = ") {
        let span: u32 = next.split('.').next().unwrap().parse().unwrap();
        text = web.call("web_read", json!({"span": span})).text();
        said.push_str(&text);
    }
    for n in 1..=200 {
        assert_eq!(said.matches(&format!("[span {n}] ")).count(), 1, "{n}");
        assert_eq!(said.matches(&format!("Paragraph {n}. ")).count(), 1, "{n}");
    }
    // A page may be begun further down.
    let text = web.call("web_fetch", json!({"url": web.url("/long"), "span": 150})).text();
    assert!(text.contains("[span 150] Paragraph 150.") && !text.contains("[span 149]"));
}

#[test]
fn failures_say_what_to_do() {
    let web = fixture();
    web.call("web_fetch", json!({"url": web.url("/a")}));
    let unreached = web.url("/missing");
    for (tool, arguments, expected) in [
        ("web_fetch", json!({"url": unreached}), "status 404: there is no such page"),
        (
            "web_fetch",
            json!({"url": "http://169.254.169.254/"}),
            "not an address of the public internet",
        ),
        ("web_fetch", json!({"url": "file:///etc/passwd"}), "only http: and https: are"),
        ("web_fetch", json!({"url": "example"}), "give a whole one, like https://example.org/page"),
        ("web_fetch", json!({"url": web.url("/docx")}), "a file of type application/msword"),
        ("web_fetch", json!({"url": web.url("/a"), "span": 3}), "page 2 has spans 1 to 2"),
        ("web_fetch", json!({"url": web.url("/a"), "scripts": true}), "no browser is installed"),
        ("web_fetch", json!({"link": 1}), "the arguments do not fit"),
        ("web_open", json!({"link": 3, "page": 1}), "page 1 has links 1 to 2"),
        ("web_open", json!({"link": 2, "page": 1}), "it is not opened: 10.0.0.1 leads to"),
        (
            "web_open",
            json!({"link": 1, "page": 9}),
            "there is no such page; pages 1 to 2 can be opened",
        ),
        ("web_open", json!({"result": 1}), "nothing has been searched here yet"),
        ("web_open", json!({}), "give either link"),
        ("web_open", json!({"link": 1, "result": 1}), "give either link"),
        ("web_read", json!({"span": 7}), "there is no span 7"),
        ("web_read", json!({"span": 0}), "there is no span 0"),
        ("web_read", json!({"span": 1, "page": 7}), "there is no such page"),
    ] {
        let result = web.call(tool, arguments.clone());
        assert!(
            result.failed && result.text().contains(expected),
            "{tool} {arguments}: {}",
            result.text()
        );
    }
    let pdf = web.call("web_fetch", json!({"url": web.url("/pdf")}));
    assert!(!pdf.failed && pdf.text().contains("[span 1] 8 bytes of PDF"), "{}", pdf.text());
}

#[test]
fn what_outside_pages_name_never_leads_into_the_allow_list() {
    let web = fixture();
    let page = Page {
        spans: vec!["x [link 1]".into()],
        links: vec![Link { text: "x".into(), url: web.url("/a") }],
        ..Page::default()
    };
    let label = Label::of(Sources::WEB);
    let url = "https://example.org/".to_string();
    for private in [false, true] {
        let held = HeldPage {
            number: 0,
            url: url.clone(),
            label: label.clone(),
            private,
            sha256: String::new(),
        };
        web.held.add_page("space", "ann", held, &page).unwrap();
        let opened = web.call("web_open", json!({"link": 1}));
        assert_eq!(opened.failed, !private, "{}", opened.text());
    }
    let result = HeldResult { number: 0, url: web.url("/a"), label, sha256: None };
    web.held.add_results("space", "ann", vec![result]).unwrap();
    let opened = web.call("web_open", json!({"result": 1}));
    assert!(opened.failed && opened.text().contains("is not opened"), "{}", opened.text());
}

#[test]
fn numbers_survive_a_restart_and_go_with_a_fork() {
    let web = fixture();
    web.call("web_fetch", json!({"url": web.url("/to-b")}));
    web.tool("web_fetch").forked("space", "child").unwrap();
    web.tool("web_fetch").released("space");
    let later = on(web.disk.clone(), web.port);
    for space in ["space", "child"] {
        let read = call(later.tool("web_read"), space, json!({"span": 1}));
        assert!(read.text().contains("[span 1] page b"), "{}", read.text());
    }
    // What the child reads is not the parent's.
    call(later.tool("web_fetch"), "child", json!({"url": later.url("/a")}));
    assert!(later.call("web_read", json!({"span": 1})).text().contains("[span 1] page b"));
    later.disk.is_full.store(true, std::sync::atomic::Ordering::Relaxed);
    let full = later.call("web_fetch", json!({"url": later.url("/a")}));
    assert!(
        full.failed && full.text().contains("cannot be kept: the disk is full"),
        "{}",
        full.text()
    );
    let other = call(later.tool("web_read"), "nobody", json!({"span": 1}));
    assert!(other.failed && other.text().contains("no page has been read here yet"));
}
