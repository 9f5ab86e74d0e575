//! The calculator, the code interpreter, and code that is checked before it is shown.

use super::{Conversation, FIT, NONE, PLOT, SALES, Within, has, near, number};
use crate::picture;

pub(super) const ALL: &[Conversation] = &[
    Conversation {
        name: "calculator-a-sum",
        task: "What is it?",
        tools: &["calculator"],
        turns: &[r#"|calculator {"expression": "0.1 + 0.2"}"#, r#"It is {last}"#],
        then: |o| {
            has(&o.text, "0.3");
        },
        ..NONE
    },
    Conversation {
        name: "calculator-a-fraction",
        task: "What is it?",
        tools: &["calculator"],
        turns: &[r#"|calculator {"expression": "1/3 + 1/7"}"#, r#"It is {last}"#],
        then: |o| {
            has(&o.text, "10/21");
        },
        ..NONE
    },
    Conversation {
        name: "calculator-a-large-power",
        task: "What is it?",
        tools: &["calculator"],
        turns: &[r#"|calculator {"expression": "2^100"}"#, r#"It is {last}"#],
        then: |o| {
            has(&o.text, "1267650600228229401496703205376");
        },
        ..NONE
    },
    Conversation {
        name: "calculator-percent",
        task: "What is it?",
        tools: &["calculator"],
        turns: &[r#"|calculator {"expression": "15% of 80"}"#, r#"It is {last}"#],
        then: |o| {
            has(&o.text, "12");
        },
        ..NONE
    },
    Conversation {
        name: "calculator-units",
        task: "What is it?",
        tools: &["calculator"],
        turns: &[r#"|calculator {"expression": "100 km/h to m/s"}"#, r#"It is {last}"#],
        then: |o| {
            has(&o.text, "27.7");
        },
        ..NONE
    },
    Conversation {
        name: "calculator-a-root",
        task: "What is it?",
        tools: &["calculator"],
        turns: &[r#"|calculator {"expression": "sqrt(144)"}"#, r#"It is {last}"#],
        then: |o| {
            has(&o.text, "12");
        },
        ..NONE
    },
    Conversation {
        name: "calculator-an-error-is-repaired",
        task: "What is it?",
        tools: &["calculator"],
        turns: &[
            r#"|calculator {"expression": "2 +"}"#,
            r#"|calculator {"expression": "2 + 3"}"#,
            r#"It is {last}"#,
        ],
        then: |o| {
            assert_eq!(o.answers[0]["failed"], true);
            has(&o.text, "5");
        },
        ..NONE
    },
    Conversation {
        name: "calculator-two-at-once",
        task: "What are they?",
        tools: &["calculator"],
        turns: &[
            r#"|calculator {"expression": "6*7"}|calculator {"expression": "6*8"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(o.answer(0), "42");
            has(o.answer(1), "48");
            has(&o.text, "48");
        },
        ..NONE
    },
    Conversation {
        name: "calculator-percentage-change",
        task: "How much did it grow, from 146.41 to 161.051?",
        tools: &["calculator"],
        turns: &[
            r#"|calculator {"expression": "(161.051 - 146.41) / 146.41 to %"}"#,
            r#"It grew by {last}"#,
        ],
        then: |o| {
            near(number(&o.text, "by"), 10.0);
        },
        ..NONE
    },
    Conversation {
        name: "python-percentage-change-of-a-table",
        task: "By how much did the sales in sales.csv grow each year?",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "import csv\nrows = list(csv.DictReader(open('sales.csv')))\nv = [float(r['sales']) for r in rows]\nprint([round(100 * (b / a - 1), 3) for a, b in zip(v, v[1:])])"}"#,
            r#"{last}"#,
        ],
        files: &[("sales.csv", SALES)],
        then: |o| {
            has(&o.text, "[10.0, 10.0, 10.0, 10.0]");
        },
        ..NONE
    },
    Conversation {
        name: "python-trend-line-and-extrapolation",
        task: "Fit a line to sales.csv and say what it gives for 2025.",
        tools: &["python"],
        turns: &[FIT, r#"{last}"#],
        files: &[("sales.csv", SALES)],
        then: |o| {
            near(number(&o.text, "slope"), 11.592);
            near(number(&o.text, "value"), 168.47);
        },
        ..NONE
    },
    Conversation {
        name: "python-state-is-kept",
        task: "Count.",
        tools: &["python"],
        turns: &[r#"|python {"code": "x = 20"}"#, r#"|python {"code": "x + 22"}"#, r#"{last}"#],
        then: |o| {
            has(&o.text, "42");
        },
        ..NONE
    },
    Conversation {
        name: "python-a-child-that-a-cell-leaves-behind-does-not-answer",
        task: "Fork.",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "import os, time\nif os.fork() == 0:\n    time.sleep(0.3)\n    print('left behind')\n    x = 1\nelse:\n    print('begun')"}"#,
            r#"|python {"code": "time.sleep(1)\n40 + 2"}"#,
            r#"|python {"code": "'x' in globals()"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(o.answer(0), "begun");
            has(o.answer(1), "42");
            assert_eq!(o.answers[1]["failed"], false);
            has(&o.text, "False");
        },
        ..NONE
    },
    Conversation {
        name: "python-an-error-is-repaired",
        task: "Compute.",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "print(undefined)"}"#,
            r#"|python {"code": "undefined = 9\nprint(undefined)"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(o.answer(0), "NameError");
            assert_eq!(o.answers[0]["failed"], true);
            has(&o.text, "9");
        },
        ..NONE
    },
    Conversation {
        name: "python-a-file-is-made",
        task: "Write out.txt.",
        tools: &["python"],
        turns: &[r#"|python {"code": "open('out.txt', 'w').write('made here')"}"#, r#"done"#],
        then: |o| {
            assert_eq!(o.file("out.txt"), b"made here");
            assert_eq!(o.answers[0]["files"][0]["path"], "out.txt");
        },
        ..NONE
    },
    Conversation {
        name: "python-a-file-is-read-by-another-tool",
        task: "Write out.txt and read it.",
        tools: &["python", "files_read"],
        turns: &[
            r#"|python {"code": "open('out.txt', 'w').write('from python')"}"#,
            r#"|files_read {"path": "out.txt"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(&o.text, "from python");
        },
        ..NONE
    },
    Conversation {
        name: "python-no-network",
        task: "Reach http://SITE/peak from Python.",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "import socket\ntry:\n    h, p = 'SITE'.split(':')\n    socket.create_connection((h, int(p)), 1)\n    print('out')\nexcept OSError as e:\n    print('kept in', type(e).__name__)"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(&o.text, "kept in");
        },
        ..NONE
    },
    Conversation {
        name: "python-no-home",
        task: "Look around.",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "import os\nprint(os.path.exists('/root/.ssh'), os.listdir('/home') if os.path.exists('/home') else [])"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(&o.text, "False []");
        },
        ..NONE
    },
    Conversation {
        name: "python-a-memory-bomb-is-ended",
        task: "Eat.",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "a = []\nwhile True:\n    a.append(bytearray(64 << 20))"}"#,
            r#"|python {"code": "print('still here')"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            assert_eq!(o.answers[0]["failed"], true);
            has(&o.text, "still here");
        },
        ..NONE
    },
    Conversation {
        name: "python-json-to-csv",
        task: "Convert people.json to people.csv.",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "import json, csv\nrows = json.load(open('people.json'))\nwith open('people.csv', 'w', newline='') as f:\n    w = csv.DictWriter(f, rows[0].keys())\n    w.writeheader()\n    w.writerows(rows)"}"#,
            r#"done"#,
        ],
        files: &[("people.json", br#"[{"name":"ann","age":7},{"name":"bob","age":8}]"#)],
        then: |o| {
            assert_eq!(o.file("people.csv"), b"name,age\r\nann,7\r\nbob,8\r\n");
        },
        ..NONE
    },
    Conversation {
        name: "python-sqlite",
        task: "Use a database.",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "import sqlite3\nc = sqlite3.connect('d.db')\nc.execute('create table t(a)')\nc.executemany('insert into t values (?)', [(1,), (2,)])\nc.commit()\nprint(c.execute('select sum(a) from t').fetchone()[0])"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(&o.text, "3");
            assert!(o.file("d.db").starts_with(b"SQLite format 3"));
        },
        ..NONE
    },
    Conversation {
        name: "python-unicode",
        task: "Speak.",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "print(len('\\u7389\\u5c71'), '\\u7389\\u5c71'.encode().hex())"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(&o.text, "2 e78e89e5b1b1");
        },
        ..NONE
    },
    Conversation {
        name: "python-exact-fractions",
        task: "Add.",
        tools: &["python"],
        turns: &[
            r#"|python {"code": "from fractions import Fraction as F\nprint(sum(F(1, n) for n in range(1, 6)))"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(&o.text, "137/60");
        },
        ..NONE
    },
    Conversation {
        name: "python-a-plot-is-a-picture",
        task: "Plot sales.csv to plot.png, and the words under its axis alone, and others.",
        tools: &["python"],
        turns: &[
            PLOT,
            r#"|python {"code": "try:\n    _, y = ax.xaxis.label.get_position()\n    for name, text in (('word', 'year of sale'), ('other', 'month of sale')):\n        f = plt.figure()\n        f.text(0.5125, y / 480, text, ha='center', va='top')\n        f.savefig(name + '.png')\nexcept NameError:\n    print('matplotlib is missing')"}"#,
            r#"{last}"#,
        ],
        files: &[("sales.csv", SALES)],
        then: |o| {
            if o.answer(0).contains("matplotlib is missing") {
                return eprintln!("skipped: numpy, pandas or matplotlib is missing");
            }
            let plot = o.file("plot.png");
            assert!(plot.starts_with(b"\x89PNG") && plot.len() > 5000);
            assert!(picture::inked(&plot) > 2000, "a line, a frame and words");
            assert!(o.answers[0]["files"].to_string().contains("plot.png"), "it is shown");
            assert!(picture::distance(&plot, &o.file("word.png")) < 5.0, "its words are found");
            assert!(picture::distance(&plot, &o.file("other.png")) > 15.0, "and no others");
        },
        ..NONE
    },
    Conversation {
        name: "python-state-in-a-fork",
        earlier: Some("python-state-is-kept"),
        within: Within::Fork,
        tools: &["python"],
        turns: &[
            "(before)",
            r#"|python {"code": "x += 100\nopen('fork.txt', 'w').write('here')\nprint(x)"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(&o.text, "120");
            assert_eq!(o.file("fork.txt"), b"here");
        },
        ..NONE
    },
    Conversation {
        name: "python-state-and-files-of-a-fork-diverge",
        earlier: Some("python-state-in-a-fork"),
        within: Within::Origin,
        tools: &["python"],
        turns: &[
            "(before)",
            r#"|python {"code": "import os\nprint(x, os.path.exists('fork.txt'))"}"#,
            r#"{last}"#,
        ],
        then: |o| {
            has(&o.text, "20 False");
        },
        ..NONE
    },
    Conversation {
        name: "check-code-that-runs",
        task: "Write f.",
        tools: &["python"],
        turns: &["```python\ndef f(x):\n    return 2 * x\n```"],
        check: Some("assert f(2) == 4"),
        then: |o| {
            assert_eq!(o.checked, ["ran"]);
            has(&o.text, "return 2 * x");
        },
        ..NONE
    },
    Conversation {
        name: "check-code-that-fails-is-repaired",
        task: "Write f.",
        tools: &["python"],
        turns: &[
            "```python\ndef f(x):\n    return x\n```",
            "```python\ndef f(x):\n    return 2 * x\n```",
        ],
        check: Some("assert f(2) == 4"),
        then: |o| {
            assert_eq!(o.checked, ["ran"]);
            has(&o.text, "return 2 * x");
            assert!(!o.text.contains("return x"));
        },
        ..NONE
    },
    Conversation {
        name: "check-code-that-fails-twice-says-so",
        task: "Write f.",
        tools: &["python"],
        turns: &[
            "```python\ndef f(x):\n    return x\n```",
            "```python\ndef f(x):\n    return 3 * x\n```",
        ],
        check: Some("assert f(2) == 4"),
        then: |o| {
            assert_eq!(o.checked, ["failed"]);
        },
        ..NONE
    },
    Conversation {
        name: "check-no-code",
        task: "Write f.",
        tools: &["python"],
        turns: &[r#"I cannot."#],
        check: Some(""),
        then: |o| {
            assert_eq!(o.checked, ["not_run"]);
        },
        ..NONE
    },
];
