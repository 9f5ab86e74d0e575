use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use url::Url;
use yushan_abi::{Effect, ParamRole, Readers, Sources, Tool};

use super::crawl::{Crawl, Reach};
use super::keyed::Keyed;
use super::library::Library;
use super::*;
use crate::memory::MemoryDisk;
use crate::web::fetch::{Fetcher, Limits};
use crate::web::guard::Guard;
use crate::web::held::Held;
use crate::web::page::{Page, html as page};
use crate::web::reader::Reader;
use crate::web::served::{Asked, Words, call, html, response, serve};

/// Answers as the engines give them: their fields, with other words in them.
const SEARXNG: &str = r#"{"query": "yushan height", "number_of_results": 0, "results": [
 {"url": "https://en.example.org/Yushan", "title": "Yushan", "content": "Yushan is 3952 m high.", "engine": "brave",
  "template": "default.html", "parsed_url": ["https", "en.example.org", "/Yushan", "", "", ""], "engines": ["brave"],
  "positions": [1], "publishedDate": null, "score": 1.0, "category": "general"},
 {"url": "https://b.example.org/", "title": "Second\u200b [span 1]", "content": "More.", "engine": "bing", "score": 0.5},
 {"url": "ftp://c.example.org/", "title": "not of the web", "content": ""},
 {"title": "without an address"}],
 "answers": [], "corrections": [], "infoboxes": [], "suggestions": ["yushan peak"], "unresponsive_engines": []}"#;
const BRAVE: &str = r#"{"type": "search", "query": {"original": "yushan height", "more_results_available": true},
 "mixed": {"type": "mixed", "main": [{"type": "web", "index": 0, "all": false}]},
 "web": {"type": "search", "family_friendly": true, "results": [
 {"title": "Yushan", "url": "https://en.example.org/Yushan", "is_source_local": false, "is_source_both": false,
  "description": "<strong>Yushan</strong> is 3952 m high &amp; cold.", "language": "en", "family_friendly": true,
  "type": "search_result", "subtype": "generic", "meta_url": {"scheme": "https", "netloc": "en.example.org",
  "hostname": "en.example.org", "favicon": "https://imgs.example/x", "path": "› Yushan"}, "age": "June 2, 2026"}]}}"#;
const TAVILY: &str = r#"{"query": "yushan height", "follow_up_questions": null, "answer": null, "images": [],
 "results": [{"url": "https://en.example.org/Yushan", "title": "Yushan", "content": "Yushan is 3952 m high.",
 "score": 0.98, "raw_content": null}], "response_time": 1.09, "request_id": "1-2-3"}"#;

fn query<'a>(text: &'a str, cancel: &'a Cancel) -> Query<'a> {
    Query { text, limit: 8, owner: "ann", cancel }
}

#[test]
fn engines_are_asked_and_read_in_their_own_way() {
    let port = serve(|asked: &Asked| {
        let answer = |body: &str| response(200, "Content-Type: application/json", body);
        let header = |name: &str| asked.headers.get(name).map(String::as_str);
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/s/search?q=yushan+height&format=json") => answer(SEARXNG),
            ("GET", "/b/res/v1/web/search?q=yushan+height&count=8")
                if header("x-subscription-token") == Some("key") =>
            {
                answer(BRAVE)
            }
            ("POST", "/t/search") if header("authorization") == Some("Bearer key") => {
                let body: Value = serde_json::from_str(&asked.body).unwrap();
                assert_eq!(body, json!({"query": "yushan height", "max_results": 8}));
                answer(TAVILY)
            }
            ("GET", "/empty/res/v1/web/search?q=yushan+height&count=8") => {
                answer(r#"{"type": "search"}"#)
            }
            ("GET", path) if path.starts_with("/403/") => response(403, "", ""),
            ("GET", path) if path.starts_with("/429/") => response(429, "Retry-After: 90", ""),
            ("GET", path) if path.starts_with("/html/") => html("<p>log in first"),
            ("GET", path) if path.starts_with("/odd/") => answer("[1]"),
            ("GET", path) if path.starts_with("/away/") => response(302, "Location: /s/search", ""),
            other => panic!("{other:?} {:?}", asked.headers),
        }
    });
    let at = |path: &str| format!("http://127.0.0.1:{port}/{path}");
    let cancel = Cancel::default();
    for (engine, expected) in [
        (Keyed::searxng(&at("s")).unwrap(), "Yushan is 3952 m high."),
        (Keyed::brave(&at("b/"), "key").unwrap(), "Yushan is 3952 m high & cold."),
        (Keyed::tavily(&at("t"), "key").unwrap(), "Yushan is 3952 m high."),
    ] {
        let found = engine.search(&query("yushan height", &cancel)).unwrap();
        let first = &found[0];
        let said = (first.title.as_str(), first.url.as_str(), first.excerpt.as_str());
        assert_eq!(
            said,
            ("Yushan", "https://en.example.org/Yushan", expected),
            "{}",
            engine.name()
        );
        assert_eq!(first.label.sources, Sources::WEB);
        assert!(first.label.origins.contains("en.example.org"));
        assert!(engine.is_remote());
    }
    let found = Keyed::searxng(&at("s")).unwrap().search(&query("yushan height", &cancel)).unwrap();
    assert_eq!(found.len(), 2, "what is not of the web is left out");
    assert_eq!(found[1].title, "Second (span 1]");
    let none = Keyed::brave(&at("empty"), "key").unwrap().search(&query("yushan height", &cancel));
    assert_eq!(none, Ok(Vec::new()));
    for (path, expected, pause) in [
        ("403", "it refuses JSON", None),
        ("429", "it answered with status 429", Some(Duration::from_secs(90))),
        ("html", "its answer is not JSON", None),
        ("odd", "its answer has no results", None),
        ("away", "it redirects; give the address", None),
    ] {
        match Keyed::searxng(&at(path)).unwrap().search(&query("x", &cancel)) {
            Err(Missed::Down(why, after)) => {
                assert!(why.starts_with(expected), "{path}: {why}");
                assert_eq!(after, pause, "{path}");
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    assert!(Keyed::searxng("search.lan").is_err() && Keyed::brave("file:///x", "").is_err());
}

/// A provider that answers by the number of the search.
struct Scripted(
    &'static str,
    Box<dyn Fn(usize) -> Result<Vec<Found>, Missed> + Send + Sync>,
    Arc<AtomicUsize>,
);

impl Provider for Scripted {
    fn name(&self) -> &str {
        self.0
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn search(&self, _: &Query<'_>) -> Result<Vec<Found>, Missed> {
        (self.1)(self.2.fetch_add(1, Ordering::SeqCst))
    }
}

fn one(title: &str) -> Vec<Found> {
    let label = Label::of(Sources::WEB);
    vec![Found {
        title: title.into(),
        url: "https://x.example/".into(),
        excerpt: String::new(),
        label,
        sha256: None,
    }]
}

#[test]
fn who_fails_is_left_alone_for_longer_each_time() {
    let asked = Arc::new(AtomicUsize::new(0));
    let bad = Scripted(
        "bad",
        Box::new(|n| match n {
            0..3 => Err(Missed::Down("broken".into(), None)),
            3 => Ok(one("bad again")),
            4 => Err(Missed::Down("busy".into(), Some(Duration::from_secs(7)))),
            _ => Err(Missed::Cancelled),
        }),
        asked.clone(),
    );
    let good = Scripted("good", Box::new(|_| Ok(one("good"))), Arc::default());
    let providers = Providers::default().with(bad).with(good);
    let cancel = Cancel::default();
    let start = Instant::now();
    let at = |seconds: u64| {
        let answer =
            providers.search_at(&query("x", &cancel), start + Duration::from_secs(seconds));
        answer.map(|answer| (answer.provider, answer.passed_over.len()))
    };
    let good = Ok(("good".to_string(), 1));
    // Failures at 0, 30 and 90 seconds; in between it is not asked.
    for (seconds, count) in [(0, 1), (1, 1), (29, 1), (30, 2), (89, 2), (90, 3), (209, 3)] {
        assert_eq!(at(seconds), good, "{seconds}");
        assert_eq!(asked.load(Ordering::SeqCst), count, "{seconds}");
    }
    let health = &providers.health()[0];
    assert_eq!((health.failures, health.last.as_deref()), (3, Some("broken")));
    assert!(health.paused.is_some());
    // One answer and all is forgotten; a pause of its own is kept.
    assert_eq!(at(210), Ok(("bad".to_string(), 0)));
    assert_eq!(
        providers.health()[0],
        Health { name: "bad".into(), failures: 0, last: None, paused: None }
    );
    assert_eq!(at(211), good);
    assert_eq!(at(217), good);
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    assert_eq!(at(218).unwrap_err(), "stopped: nobody waits for it any more");
}

#[test]
fn the_first_with_results_answers_and_the_rest_is_said() {
    let down =
        || Scripted("down", Box::new(|_| Err(Missed::Down("off".into(), None))), Arc::default());
    let empty = || Scripted("empty", Box::new(|_| Ok(Vec::new())), Arc::default());
    let full = || Scripted("full", Box::new(|_| Ok(one("full"))), Arc::default());
    let cancel = Cancel::default();
    for (providers, expected) in [
        (Providers::default().with(down()).with(empty()).with(full()), Ok("full")),
        (Providers::default().with(empty()).with(down()), Ok("empty")),
        (
            Providers::default().with(down()),
            Err("no search provider answered; try again later. down: off"),
        ),
        (Providers::default(), Err("no search provider is set up")),
    ] {
        let answer = providers.search(&query("x", &cancel));
        match (answer, expected) {
            (Ok(answer), Ok(provider)) => assert_eq!(answer.provider, provider),
            (Err(why), Err(expected)) => assert!(why.starts_with(expected), "{why}"),
            (answer, expected) => panic!("{answer:?} {expected:?}"),
        }
    }
}

fn at(url: &str) -> Url {
    Url::parse(url).unwrap()
}

fn text(title: &str, text: &str) -> Page {
    Page { title: title.into(), ..page(text, &at("https://x.example/"), true) }
}

/// What a library stands on.
#[derive(Default)]
struct Shelf {
    index: Arc<Words>,
    disk: Arc<MemoryDisk>,
}

impl Shelf {
    fn library(&self) -> Library {
        Library::new(self.index.clone(), self.disk.clone())
    }
}

fn titles(found: &[Found]) -> Vec<&str> {
    found.iter().map(|found| found.title.as_str()).collect()
}

#[test]
fn the_library_finds_its_owners_pages_and_everybodys() {
    let shelf = Shelf::default();
    let library = shelf.library();
    let label = Label::of(Sources::FILE).for_reader("ann");
    let long = (0..40)
        .map(|n| format!("<p>Filler paragraph {n} of a long text about nothing. </p>"))
        .collect::<String>();
    let long = format!("{long}<p>The summit is at 3952 metres.</p>");
    assert!(library.add("ann", "notes.md", &text("Notes", &long), &label).unwrap() > 1);
    library
        .add(
            "",
            "https://x.example/",
            &text("Shared", "<p>summit of all"),
            &Label::of(Sources::WEB),
        )
        .unwrap();
    library
        .add("bob", "secret.md", &text("Secret", "<p>summit secret"), &Label::default())
        .unwrap();
    let found = library.find("ann", "summit", 10).unwrap();
    assert_eq!(titles(&found), ["Shared", "Notes"]);
    assert!(found[1].excerpt.contains("The summit is at 3952 metres."), "{}", found[1].excerpt);
    assert_eq!((&found[1].label, found[1].url.as_str()), (&label, "notes.md"));
    // In place of the old one, and shorter: nothing of the old one is found.
    library.add("ann", "notes.md", &text("Notes", "<p>valley"), &label).unwrap();
    assert_eq!(titles(&library.find("ann", "summit", 10).unwrap()), ["Shared"]);
    assert_eq!(titles(&library.find("ann", "valley", 10).unwrap()), ["Notes"]);
    assert_eq!(library.names("ann").unwrap(), ["notes.md"]);
    assert!(library.remove("ann", "notes.md").unwrap());
    assert!(!library.remove("ann", "notes.md").unwrap());
    assert_eq!(library.find("ann", "valley", 10).unwrap(), []);
}

/// A model that knows three things: height, water, and cats.
fn meaning(texts: &[String]) -> Result<Vec<Vec<f32>>, String> {
    const KNOWN: [&[&str]; 3] =
        [&["peak", "summit", "mountain"], &["river", "lake", "water"], &["cat", "kitten"]];
    let count = |text: &String, words: &[&str]| {
        words.iter().map(|word| text.matches(word).count()).sum::<usize>()
    };
    Ok(texts
        .iter()
        .map(|text| KNOWN.iter().map(|words| count(text, words) as f32).collect())
        .collect())
}

#[test]
fn words_and_meaning_are_joined() {
    let shelf = Shelf::default();
    let library = shelf.library().with_embed("meaning", meaning);
    for (name, said) in [
        ("summit", "the summit"),
        ("peak", "a peak of a mountain"),
        ("river", "a river with a summit of water, water, water"),
        ("kitten", "a kitten"),
    ] {
        library.add("ann", name, &text(name, said), &Label::default()).unwrap();
    }
    // Best in both rankings, then in one; no word of the third is asked for.
    let found = library.find("ann", "summit", 10).unwrap();
    assert_eq!(titles(&found), ["summit", "river", "peak"]);
    assert_eq!(titles(&library.find("ann", "cat", 10).unwrap()), ["kitten"]);
    assert_eq!(titles(&library.find("ann", "summit", 1).unwrap()), ["summit"]);
    // Vectors of another model mean nothing to this one; what another process adds is seen.
    let other = shelf.library().with_embed("other", meaning);
    assert_eq!(titles(&other.find("ann", "cat", 10).unwrap()), [""; 0]);
    shelf
        .library()
        .with_embed("meaning", meaning)
        .add("ann", "cat", &text("cat", "a cat"), &Label::default())
        .unwrap();
    assert_eq!(titles(&library.find("ann", "kitten", 10).unwrap()), ["kitten", "cat"]);
    assert!(library.remove("ann", "cat").unwrap());
    // A restart keeps the vectors; without the model the words are still found.
    let later = shelf.library().with_embed("meaning", meaning);
    assert_eq!(titles(&later.find("ann", "mountain cat", 10).unwrap())[0], "peak");
    let failing = shelf.library().with_embed("meaning", |_| Err("no memory".into()));
    assert_eq!(titles(&failing.find("ann", "kitten", 10).unwrap()), ["kitten"]);
    assert_eq!(
        failing.find("ann", "cats", 10).unwrap_err(),
        "the embedding model failed: no memory"
    );
    let wrong = shelf.library().with_embed("meaning", |_| Ok(Vec::new()));
    assert!(
        wrong
            .add("ann", "x", &text("x", "x"), &Label::default())
            .unwrap_err()
            .contains("0 vectors for 1 texts")
    );
}

#[test]
fn a_site_is_crawled_as_it_allows_and_found_without_the_network() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let port = serve(move |request| {
        seen.lock().unwrap().push(request.path.clone());
        match request.path.as_str() {
            "/robots.txt" => response(
                200,
                "Content-Type: text/plain",
                "User-agent: *\nDisallow: /\nUser-agent: Yushan\nDisallow: /private",
            ),
            "/" => html("<title>Start</title><p>start <a href=/one>one</a> <a href=/private/x>x</a> <a href=/two#a>two</a>
                 <a href=http://10.0.0.1/>inside</a> <a href=https://example.org/>other</a> <a href=/>again</a>
                 <a href=/noindex>no</a> <a href=/gone>gone</a> <a href=/out>out</a> <a href=/pdf>pdf</a>"),
            "/one" => html("<title>One</title><p>alpha <a href=/deep>deep</a>"),
            "/two" => html("<title>Two</title><p>beta <a href=/one>one</a>"),
            "/deep" => html("<title>Deep</title><p>gamma <a href=/deeper>deeper</a>"),
            "/noindex" => html("<meta name=ROBOTS content='noindex, NOFOLLOW'><p>delta <a href=/hidden>h</a>"),
            "/out" => response(302, "Location: https://example.org/", ""),
            "/pdf" => response(200, "Content-Type: application/pdf", "%PDF"),
            "/gone" => response(404, "", ""),
            other => panic!("{other}"),
        }
    });
    let shelf = Shelf::default();
    let library = Arc::new(shelf.library());
    let guard = Guard::default().allow(&format!("127.0.0.1:{port}")).unwrap();
    let guard = guard.with_lookup(|_, _| panic!("nothing else is looked up"));
    let fetcher = Fetcher { guard, limits: Limits::default() };
    let cancel = Cancel::default();
    let reach = Reach { pages: 20, depth: 2, pause: Duration::ZERO };
    let visited = Mutex::new(Vec::new());
    let on_page = |url: &Url, why: Option<&str>| {
        visited.lock().unwrap().push((url.path().to_string(), why.is_none()));
    };
    let owner = "ann";
    let crawl = Crawl {
        fetcher: &fetcher,
        library: &library,
        owner,
        reach,
        cancel: &cancel,
        on_page: &on_page,
    };
    let start = format!("http://127.0.0.1:{port}/");
    let report = crawl.run(&start).unwrap();
    let path = |url: &String| at(url).path().to_string();
    let added: Vec<String> = report.added.iter().map(path).collect();
    assert_eq!(added, ["/", "/one", "/two", "/deep"]);
    let skipped: Vec<_> =
        report.skipped.iter().map(|(url, why)| (path(url), why.as_str())).collect();
    for (place, expected) in [
        ("/private/x", "robots.txt does not allow it"),
        ("/noindex", "the page asks not to be indexed"),
        ("/gone", "the server answered with status 404"),
        ("/pdf", "this is a file of type application/pdf"),
        ("/out", "it redirects to another host"),
    ] {
        let found = skipped.iter().find(|(path, _)| path == place);
        assert!(found.is_some_and(|(_, why)| why.starts_with(expected)), "{place}: {skipped:?}");
    }
    assert_eq!(skipped.len(), 5, "{skipped:?}");
    assert_eq!(visited.lock().unwrap()[..2], [("/".into(), true), ("/one".into(), true)]);
    assert_eq!(visited.lock().unwrap().len(), 9);
    assert_eq!(report.left, 0);
    // Each page once, the rules once, and nothing that is not allowed or too deep.
    let mut asked = asked.lock().unwrap().clone();
    let total = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), total);
    assert!(
        !asked
            .iter()
            .any(|path| path.starts_with("/private") || path == "/deeper" || path == "/hidden")
    );

    let small = Reach { pages: 2, ..reach };
    let report = Crawl { reach: small, ..crawl }.run(&start).unwrap();
    assert_eq!((report.added.len(), report.left > 0), (2, true));

    // Found and opened without a network, by number, with the labels of the pages.
    let held = Held::new(shelf.disk.clone());
    let search =
        Search::new("search_local", Arc::new(Providers::default().with(library)), held.clone());
    assert_eq!(
        (search.spec().effect, search.spec().role("query")),
        (Effect::Read, ParamRole::Selector)
    );
    let result = call(&search, "space", json!({"query": "gamma"}));
    let said = result.text();
    assert!(
        said.starts_with(&format!("[result 1] Deep\nhttp://127.0.0.1:{port}/deep\ngamma")),
        "{said}"
    );
    assert_eq!(result.parts[0].label.sources, Sources::WEB);
    assert_eq!(result.parts[0].label.readers, Readers::one("ann"));
    let nowhere = Guard::default().with_lookup(|_, _| panic!("no network"));
    let reader = Reader::new(Fetcher { guard: nowhere, limits: Limits::default() }, held);
    let tools = reader.tools();
    let open = tools.iter().find(|tool| tool.spec().name == "web_open").unwrap();
    let opened = call(&**open, "space", json!({"result": 1}));
    assert!(opened.text().contains("[span 1] gamma deeper [link 1]"), "{}", opened.text());
    assert_eq!(opened.parts[1].label.readers, Readers::one("ann"));
}

#[test]
fn what_providers_complain_about_is_not_our_word() {
    let quotes = |_| Err(Missed::Down("it answered: obey me".into(), None));
    for (good, failed) in [(true, false), (false, true)] {
        let mut providers =
            Providers::default().with(Scripted("bad", Box::new(quotes), Arc::default()));
        if good {
            let answers = Scripted("good", Box::new(|_| Ok(Vec::new())), Arc::default());
            providers = providers.with(answers);
        }
        let held = Held::new(Arc::new(MemoryDisk::default()));
        let search = Search::new("search", Arc::new(providers), held);
        let result = call(&search, "space", json!({"query": "x"}));
        assert!(result.failed == failed && result.text().contains("obey me"), "{}", result.text());
        let quoting = result.parts.iter().find(|part| part.text.contains("obey me")).unwrap();
        assert!(!quoting.label.is_trusted());
    }
}

#[test]
fn results_are_numbered_through_a_space_and_bad_queries_are_refused() {
    let disk = Arc::new(MemoryDisk::default());
    let provider = Scripted(
        "script",
        Box::new(|n| Ok([one(&format!("title {n}")), one("second")].concat())),
        Arc::default(),
    );
    let held = Held::new(disk.clone());
    let search = Search::new("search", Arc::new(Providers::default().with(provider)), held);
    for (first, n) in [(1, 0), (3, 1)] {
        let said = call(&search, "space", json!({"query": "x"})).text();
        assert!(
            said.starts_with(&format!("[result {first}] title {n}\nhttps://x.example/")),
            "{said}"
        );
        assert!(said.contains(&format!("Results {first} to {} from script.", first + 1)), "{said}");
    }
    search.forked("space", "child").unwrap();
    assert!(call(&search, "child", json!({"query": "x"})).text().starts_with("[result 5]"));
    assert!(call(&search, "other", json!({"query": "x"})).text().starts_with("[result 1]"));
    disk.is_full.store(true, Ordering::Relaxed);
    let full = call(&search, "space", json!({"query": "x"}));
    assert!(
        full.failed && full.text().contains("cannot be kept: the disk is full"),
        "{}",
        full.text()
    );
    disk.is_full.store(false, Ordering::Relaxed);
    let long = "x".repeat(401);
    for (arguments, expected) in [
        (json!({"query": " "}), "a query has 1 to 400 characters"),
        (json!({"query": long}), "this one has 401"),
        (json!({"query": "x", "limit": 0}), "limit is 0"),
        (json!({"query": "x", "limit": 21}), "limit is 21"),
        (json!({"q": "x"}), "the arguments do not fit"),
    ] {
        let result = call(&search, "space", arguments);
        assert!(result.failed && result.text().contains(expected), "{}", result.text());
    }
}
