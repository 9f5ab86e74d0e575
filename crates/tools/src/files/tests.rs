use yushan_abi::Cancel;

use super::*;
use crate::memory::MemoryDisk;

struct Desk {
    disk: Arc<dyn Disk>,
    tools: Vec<Files>,
}

impl Desk {
    fn new() -> Desk {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let tools = Files::all(&disk);
        Desk { disk, tools }
    }

    fn space(&self) -> Space {
        Space::open(Arc::clone(&self.disk), "ann", "talk").unwrap()
    }

    fn call(&self, name: &str, arguments: &Value) -> ToolResult {
        let tool = self.tools.iter().find(|tool| tool.spec().name == name).unwrap();
        let (label, cancel) = (Label::of(Sources::USER), Cancel::default());
        let (space, owner) = ("talk", "ann");
        tool.call(&Invocation { arguments, key: "1", space, owner, label: &label, cancel })
    }

    fn says(&self, name: &str, arguments: &Value, expected: &str) {
        let result = self.call(name, arguments);
        assert!(
            !result.failed && result.text().contains(expected),
            "{name} {arguments}: {result:?}"
        );
    }

    fn refuses(&self, name: &str, arguments: &Value, expected: &str) {
        let result = self.call(name, arguments);
        assert!(
            result.failed && result.text().contains(expected),
            "{name} {arguments}: {result:?}"
        );
    }
}

#[test]
fn what_is_written_is_read_listed_found_and_taken_back() {
    let desk = Desk::new();
    desk.says("files_list", &json!({}), "no files yet");
    desk.says(
        "files_write",
        &json!({"path": "a.txt", "text": "one\ntwo\n"}),
        "a.txt: made, 8 bytes",
    );
    desk.says("files_read", &json!({"path": "a.txt"}), "one\ntwo\n");
    desk.says(
        "files_write",
        &json!({"path": "a.txt", "replace": "two", "text": "2"}),
        "from 8 to 6",
    );
    desk.says("files_read", &json!({"path": "a.txt", "from_line": 2}), "lines 2 to 2 of 2:\n2\n");
    desk.says(
        "files_read",
        &json!({"path": "a.txt", "lines": 1}),
        "(goes on: from_line 2 of 2 lines)",
    );
    desk.says("files_list", &json!({}), "a.txt (text/plain, 6 bytes)");
    desk.says("files_list", &json!({"history_of": "a.txt"}), "from 8 to 6 bytes\na.txt: made, 8");
    desk.says("files_search", &json!({"query": "ONE"}), "a.txt:1: one\n1 lines found");
    desk.says("files_search", &json!({"query": "^[0-9]$", "regex": true}), "a.txt:2: 2");
    desk.says("files_search", &json!({"query": "^[0-9]$"}), "no line found in 1 text files");
    desk.says("files_undo", &json!({}), "a.txt: from 8 to 6 bytes");
    desk.says("files_read", &json!({"path": "a.txt"}), "two");
    desk.says("files_write", &json!({"path": "a.txt", "remove": true}), "a.txt: removed");
    desk.says("files_undo", &json!({}), "taken back");
    desk.says("files_read", &json!({"path": "a.txt"}), "two");
    desk.says("files_write", &json!({"path": "a.txt", "text": "one\ntwo\n"}), "as it was");
}

#[test]
fn errors_say_what_to_do() {
    let desk = Desk::new();
    let write = |path: &str, bytes: &[u8]| {
        desk.space().write(path, bytes, &Label::of(Sources::USER)).unwrap();
    };
    desk.refuses("files_undo", &json!({}), "nothing to undo");
    desk.refuses("files_read", &json!({"path": "a"}), "there is no file \"a\"; the space is empty");
    write("a", b"x x");
    write("b", b"\xff\xfe");
    desk.refuses("files_write", &json!({"path": "c", "remove": true}), "there are: a, b");
    desk.refuses("files_read", &json!({"path": "c"}), "there are: a, b");
    desk.refuses("files_read", &json!({"path": "b"}), "no text in UTF-8");
    desk.refuses("files_read", &json!({"path": "a", "from_line": 9}), "there is no line 9");
    desk.refuses("files_read", &json!({}), "missing field `path`");
    desk.refuses("files_read", &json!({"path": "../a"}), "leads out of its folder");
    desk.refuses(
        "files_write",
        &json!({"path": "a", "replace": "x", "text": "y"}),
        "occurs 2 times",
    );
    desk.refuses(
        "files_write",
        &json!({"path": "a", "replace": "", "text": "y"}),
        "occurs 0 times",
    );
    desk.refuses("files_write", &json!({"path": "a"}), "give `text`");
    desk.refuses("files_write", &json!({"path": "a", "text": "x", "remove": true}), "alone");
    desk.refuses("files_search", &json!({"query": "("  , "regex": true}), "no regular expression");
    let large = "(\\w{1000}){1000}";
    desk.refuses("files_search", &json!({"query": large, "regex": true}), "that can be used");
    desk.refuses("files_search", &json!({"query": ""}), "1 to 1000 bytes");
    desk.says("files_search", &json!({"query": "q"}), "1 files that are no text were left out");
}

#[test]
fn labels_stay_with_what_was_written() {
    let desk = Desk::new();
    let (web, user) = (Label::of(Sources::WEB), Label::of(Sources::USER));
    desk.space().write("page.txt", b"do this", &web).unwrap();
    desk.space().write("mine.txt", b"do that", &user).unwrap();
    assert_eq!(desk.call("files_read", &json!({"path": "mine.txt"})).label(), user);
    assert_eq!(desk.call("files_read", &json!({"path": "page.txt"})).label(), web);
    let listed = desk.call("files_list", &json!({}));
    let of = |text: &str| listed.parts.iter().find(|part| part.text.contains(text)).unwrap();
    assert_eq!((&of("page").label, &of("mine").label), (&web, &user));
    let found = desk.call("files_search", &json!({"query": "do that"}));
    assert_eq!(found.label().sources, Sources::USER.union(Sources::SYSTEM));
    // What is changed in part keeps what it was.
    desk.call("files_write", &json!({"path": "page.txt", "replace": "this", "text": "it"}));
    let label = desk.space().read("page.txt").unwrap().label;
    assert!(label.covers(&web) && label.covers(&user) && label.covers(&Label::of(Sources::MODEL)));
    desk.call("files_write", &json!({"path": "page.txt", "text": "new"}));
    assert!(desk.space().read("page.txt").unwrap().label.is_trusted());
    // An error that names a file of the page's is the page's.
    desk.space().write("obey me", b"", &web).unwrap();
    let error = desk.call("files_read", &json!({"path": "absent"}));
    assert!(error.text().contains("obey me") && !error.label().is_trusted());
}

#[test]
fn long_texts_are_shown_in_parts_and_say_so() {
    let desk = Desk::new();
    let user = Label::of(Sources::USER);
    let lines: String = (1..=20_000).map(|number| format!("line {number}\n")).collect();
    desk.space().write("long.txt", lines.as_bytes(), &user).unwrap();
    let mut from = 1;
    let mut read = String::new();
    loop {
        let result = desk.call("files_read", &json!({"path": "long.txt", "from_line": from}));
        read += &result.parts.iter().find(|part| part.label == user).unwrap().text;
        let text = result.text();
        let Some((_, rest)) = text.rsplit_once("(goes on: from_line ") else { break };
        from = rest.split(' ').next().unwrap().parse().unwrap();
    }
    assert_eq!(read, lines);
    desk.says(
        "files_search",
        &json!({"query": "line"}),
        "20000 lines found, the first 200 are shown",
    );
    desk.space().write("one.txt", "é".repeat(100_000).as_bytes(), &user).unwrap();
    desk.says("files_read", &json!({"path": "one.txt"}), "of 200000 bytes of line 1 of 1");
}

#[test]
fn a_fork_has_the_files_and_its_own_changes() {
    let desk = Desk::new();
    desk.space().write("a", b"1", &Label::of(Sources::USER)).unwrap();
    for tool in &desk.tools {
        tool.forked("talk", "branch").unwrap();
    }
    let branch = Space::open(Arc::clone(&desk.disk), "ann", "branch").unwrap();
    branch.write("a", b"2", &Label::of(Sources::USER)).unwrap();
    desk.says("files_read", &json!({"path": "a"}), "1");
}
