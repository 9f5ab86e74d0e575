//! Files, conversions, archives and drawings.

use super::{Conversation, NONE, SALES, has};

pub(super) const ALL: &[Conversation] = &[
    Conversation {
        name: "files-write-and-read",
        task: "Write a.txt.",
        tools: &["files_write", "files_read"],
        turns: &[
            r#"|files_write {"path": "a.txt", "text": "one\ntwo\n"}"#,
            r#"|files_read {"path": "a.txt"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(&o.text, "two");
            assert_eq!(o.file("a.txt"), b"one\ntwo\n");
        },
        ..NONE
    },
    Conversation {
        name: "files-a-change-in-place",
        task: "Change a.txt.",
        tools: &["files_write"],
        turns: &[
            r#"|files_write {"path": "a.txt", "text": "one two"}"#,
            r#"|files_write {"path": "a.txt", "text": "2", "replace": "two"}"#,
            r#"done"#,
        ],
        then: |o| {
            assert_eq!(o.file("a.txt"), b"one 2");
        },
        ..NONE
    },
    Conversation {
        name: "files-undo",
        task: "Change a.txt and take it back.",
        tools: &["files_write", "files_undo"],
        turns: &[
            r#"|files_write {"path": "a.txt", "text": "one"}"#,
            r#"|files_write {"path": "a.txt", "text": "two"}"#,
            r#"|files_undo {}"#,
            r#"done"#,
        ],
        then: |o| {
            assert_eq!(o.file("a.txt"), b"one");
        },
        ..NONE
    },
    Conversation {
        name: "files-search",
        task: "Find the line in notes.txt.",
        tools: &["files_search"],
        turns: &[r#"|files_search {"query": "needle"}"#, r#"{last}"#],
        files: &[("notes.txt", b"hay\nneedle in it\nhay\n"), ("b.txt", b"hay")],
        then: |o| {
            has(&o.text, "notes.txt");
            has(&o.text, "needle in it");
        },
        ..NONE
    },
    Conversation {
        name: "files-list",
        task: "What is there?",
        tools: &["files_list"],
        turns: &[r#"|files_list {}"#, r#"{last}"#],
        files: &[("a/b.csv", b"x"), ("c.txt", b"y")],
        then: |o| {
            has(&o.text, "a/b.csv");
            has(&o.text, "c.txt");
        },
        ..NONE
    },
    Conversation {
        name: "files-a-path-out-is-refused",
        task: "Read it.",
        tools: &["files_read"],
        turns: &[r#"|files_read {"path": "../secret"}"#, r#"{last}"#],
        then: |o| {
            assert_eq!(o.answers[0]["failed"], true);
        },
        ..NONE
    },
    Conversation {
        name: "files-an-absent-file-is-named",
        task: "Read b.txt.",
        tools: &["files_read"],
        turns: &[
            r#"|files_read {"path": "b.txt"}"#,
            r#"|files_read {"path": "c.txt"}"#,
            r#"{last}"#,
        ],
        files: &[("c.txt", b"here")],
        then: |o| {
            has(o.answer(0), "c.txt");
            has(&o.text, "here");
        },
        ..NONE
    },
    Conversation {
        name: "files-a-part",
        task: "Read line 2 of l.txt.",
        tools: &["files_read"],
        turns: &[r#"|files_read {"path": "l.txt", "from_line": 2, "lines": 1}"#, r#"{last}"#],
        files: &[("l.txt", b"first\nsecond\nthird\n")],
        then: |o| {
            has(&o.text, "second");
            assert!(!o.text.contains("third"));
        },
        ..NONE
    },
    Conversation {
        name: "files-a-picture-is-no-text",
        task: "Read p.png.",
        tools: &["files_read"],
        turns: &[r#"|files_read {"path": "p.png"}"#, r#"{last}"#],
        files: &[("p.png", &[137, 80, 78, 71, 13, 10, 26, 10, 0, 255, 254])],
        then: |o| {
            assert_eq!(o.answers[0]["failed"], true);
        },
        ..NONE
    },
    Conversation {
        name: "convert-csv-to-xlsx-to-json",
        task: "Convert sales.csv to sales.xlsx, and that to sales.json.",
        tools: &["convert"],
        turns: &[
            r#"|convert {"path": "sales.csv", "to_path": "sales.xlsx"}"#,
            r#"|convert {"path": "sales.xlsx", "to_path": "sales.json"}"#,
            r#"done"#,
        ],
        files: &[("sales.csv", SALES)],
        then: |o| {
            let rows: serde_json::Value =
                serde_json::from_slice(&o.file("sales.json")).expect("JSON");
            assert_eq!(rows[3]["sales"], 133.1);
            assert_eq!(rows[4]["year"], 2023);
            assert!(o.file("sales.xlsx").starts_with(b"PK"));
        },
        ..NONE
    },
    Conversation {
        name: "convert-what-is-no-table-is-refused",
        task: "Convert p.csv to p.json.",
        tools: &["convert"],
        turns: &[r#"|convert {"path": "p.csv", "to_path": "p.json"}"#, r#"{last}"#],
        files: &[("p.csv", &[0, 159, 146, 150, 0, 1, 2, 3])],
        then: |o| {
            assert_eq!(o.answers[0]["failed"], true);
        },
        ..NONE
    },
    Conversation {
        name: "convert-markdown-to-html",
        task: "Convert a.md to a.html.",
        tools: &["convert"],
        turns: &[r#"|convert {"path": "a.md", "to_path": "a.html"}"#, r#"done"#],
        files: &[("a.md", b"some **bold** text")],
        then: |o| {
            has(&String::from_utf8_lossy(&o.file("a.html")), "<strong>bold</strong>");
        },
        ..NONE
    },
    Conversation {
        name: "draw-a-chart",
        task: "Draw sales.svg.",
        tools: &["draw"],
        turns: &[
            r#"|draw {"path": "sales.svg", "scene": {"items": [{"kind": "chart", "type": "line", "title": "Sales", "x_label": "year", "y_label": "sales", "labels": ["2019", "2020", "2021"], "series": [{"name": "all", "values": [100, 110, 121]}], "x": 0, "y": 0, "width": 400, "height": 300}]}}"#,
            r#"done"#,
        ],
        then: |o| {
            let svg = String::from_utf8_lossy(&o.file("sales.svg")).to_string();
            has(&svg, "<svg");
            has(&svg, "Sales");
            has(&svg, "2021");
        },
        ..NONE
    },
    Conversation {
        name: "archive-files-are-packed-listed-and-unpacked",
        task: "Pack a.txt into all.zip, then unpack that into out.",
        tools: &["python", "archive_list", "archive_extract"],
        turns: &[
            r#"|python {"code": "import zipfile\nwith zipfile.ZipFile('all.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n    z.write('a.txt')"}"#,
            r#"|archive_list {"path": "all.zip"}"#,
            r#"|archive_extract {"path": "all.zip", "folder": "out"}"#,
            r#"done"#,
        ],
        files: &[("a.txt", b"packed")],
        then: |o| {
            has(o.answer(1), "a.txt (6 bytes)");
            assert_eq!(o.file("out/a.txt"), b"packed");
        },
        ..NONE
    },
    Conversation {
        name: "archive-a-bomb-is-refused",
        task: "Unpack bomb.zip into out.",
        tools: &["python", "archive_extract"],
        turns: &[
            r#"|python {"code": "import zipfile\nwith zipfile.ZipFile('bomb.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n    z.writestr('zeros', bytes(40 << 20))"}"#,
            r#"|archive_extract {"path": "bomb.zip", "folder": "out"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            assert_eq!(o.answers[1]["failed"], true);
            has(&o.text, "refused:");
        },
        ..NONE
    },
];
