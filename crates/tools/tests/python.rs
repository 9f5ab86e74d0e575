//! The code interpreter, in the sandbox of this machine. Its `main` begins as a program must that builds sandboxes, so it runs its
//! tests itself, as the usual harness would: one line a test, and a sum.

mod desk;
mod memory;
mod plot;

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use yushan_abi::{Cancel, Label, Sources, Tool};
use yushan_sandbox::Tier;
use yushan_tools::python::{Limits, Python};

use desk::{Desk, found, has_packages, limits};

fn main() -> ExitCode {
    yushan_sandbox::enter();
    let tests: &[(&str, fn())] = &[
        ("cells_share_their_variables", cells_share_their_variables),
        ("errors_show_the_cells_own_lines", errors_show_the_cells_own_lines),
        ("files_come_in_and_go_out", files_come_in_and_go_out),
        ("results_carry_all_that_was_seen", results_carry_all_that_was_seen),
        ("without_namespaces_it_works_too", without_namespaces_it_works_too),
        ("limits_end_a_cell_and_take_it_back", limits_end_a_cell_and_take_it_back),
        ("forks_go_their_own_ways", forks_go_their_own_ways),
        ("a_new_interpreter_has_the_old_state", a_new_interpreter_has_the_old_state),
        ("a_state_that_cannot_be_had_again_is_said_to_be_lost", lost_is_said),
        ("a_call_that_is_made_again_is_not_run_again", repeated_calls),
        ("what_cannot_be_kept_is_said", what_cannot_be_kept_is_said),
        ("a_hostile_cell_deceives_itself_alone", a_hostile_cell_deceives_itself_alone),
        ("without_a_sandbox_nothing_runs", without_a_sandbox_nothing_runs),
        ("calls_in_one_space_wait_for_each_other", calls_wait),
        ("few_run_at_once_and_nobody_notices", few_run_at_once),
        ("few_run_at_once_however_many_want_to", few_run_in_parallel),
        ("what_nobody_can_name_again_is_gone", released_spaces_are_gone),
        ("a_table_is_analysed", a_table_is_analysed),
        ("a_plot_is_a_plot", a_plot_is_a_plot),
        ("two_hundred_that_are_killed_leave_nothing_behind", two_hundred_kills),
    ];
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests.iter().filter(|(name, _)| is_wanted(name)) {
        let is_ok = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if is_ok { "ok" } else { "FAILED" });
        if is_ok { passed += 1 } else { failed += 1 }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let left_out = tests.len() - passed - failed;
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

fn cells_share_their_variables() {
    let desk = Desk::new(Tier::Full);
    for (code, expected) in [
        ("1 + 1", "2"),
        ("x = 20", "(nothing was printed)"),
        ("print('a')\nx * 2 + 2", "a\n42"),
        ("_ + 1", "43"),
        ("def f(n):\n    return n * x\nf(3)", "60"),
        (
            "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('out')",
            "out\nerr\nout\n",
        ),
        ("import subprocess\nsubprocess.run(['echo', 'below']).returncode", "below\n0"),
        ("'é' * 3", "'ééé'"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    a: int\nP(1)", "P(a=1)"),
        ("import pickle\npickle.loads(pickle.dumps(P(2)))", "P(a=2)"),
        ("x = None\nx", "(nothing was printed)"),
    ] {
        desk.says(code, expected);
    }
    let result = desk.call(&json!({"code": "x = 1", "restart": true}));
    assert!(!result.failed);
    desk.fails("f(3)", "NameError: name 'f' is not defined");
}

fn errors_show_the_cells_own_lines() {
    let desk = Desk::new(Tier::Full);
    let code = "import json\ndef read(text):\n    return json.loads(text)\nread('{')";
    let text = desk.fails(code, "JSONDecodeError: Expecting property name");
    assert!(
        text.contains("File \"<cell 1>\", line 4") && text.contains("    return json.loads(text)")
    );
    assert!(!text.contains("decoder.py") && !text.contains("runner"), "{text}");
    for (code, expected) in [
        ("1 +", "SyntaxError"),
        ("x = (", "SyntaxError"),
        ("\0", "null bytes"),
        ("input('name? ')", "nobody can type here"),
        ("exit(3)", "SystemExit: 3"),
        ("def f(): f()\nf()", "RecursionError"),
        ("raise ValueError('a') from KeyError('b')", "ValueError: a"),
        ("import absent", "ModuleNotFoundError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", "E"),
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1')", "URLError"),
        ("open('/etc/shadow')", "No such file"),
    ] {
        desk.fails(code, expected);
    }
    // What was printed before stays, and so does what was set.
    let text = desk.fails("y = 5\nprint('before')\n1/0", "ZeroDivisionError");
    assert!(text.starts_with("before\nTraceback"), "{text}");
    desk.says("y", "5");
}

fn files_come_in_and_go_out() {
    let desk = Desk::new(Tier::Full);
    desk.write("data/in.csv", b"a,b\n1,2\n", &Label::of(Sources::USER));
    desk.says("open('data/in.csv').read()", "'a,b\\n1,2\\n'");
    let result = desk.run("import os\nos.makedirs('out', exist_ok=True)\nopen('out/x.bin', 'wb').write(bytes(range(256))) and None");
    assert_eq!(result.text(), "[files: out/x.bin]");
    let file = &result.files[0];
    assert_eq!((file.path.as_str(), file.size), ("out/x.bin", 256));
    assert_eq!(desk.read("out/x.bin"), (0..=255).collect::<Vec<u8>>());
    assert_eq!(desk.disk_bytes(&file.sha256).len(), 256);
    // Changed outside, seen inside; removed inside, gone outside.
    desk.write("data/in.csv", b"new", &Label::of(Sources::USER));
    desk.says("open('data/in.csv').read()", "'new'");
    let result = desk.run("os.remove('data/in.csv')");
    assert_eq!((result.text().as_str(), result.files.len()), ("[files: data/in.csv (removed)]", 0));
    assert_eq!(desk.paths(), ["out/x.bin"]);
    desk.space().undo().unwrap();
    desk.says("open('data/in.csv').read()", "'new'");
    desk.space().remove("out/x.bin").unwrap();
    desk.says("os.listdir('out')", "[]");
    // What is only looked at is not written again.
    assert!(desk.run("sorted(os.listdir())").files.is_empty());
    // Modules of one's own.
    desk.write("helping.py", b"def five():\n    return 5\n", &Label::of(Sources::USER));
    desk.says("import helping\nhelping.five()", "5");
}

fn results_carry_all_that_was_seen() {
    let desk = Desk::new(Tier::Full);
    let code = Label::of(Sources::CODE.union(Sources::USER));
    assert_eq!(desk.run("1").label(), code);
    desk.write("page.txt", b"x", &Label::of(Sources::WEB));
    let label = desk.run("open('out.txt', 'w').write('x')").label();
    assert!(label.covers(&Label::of(Sources::WEB)) && !label.is_trusted());
    let entries = desk.space().list().unwrap();
    let out = entries.iter().find(|entry| entry.file.path == "out.txt").unwrap();
    assert_eq!(out.label, label);
    // What was once seen is not forgotten with the file, nor with the process.
    desk.space().remove("page.txt").unwrap();
    desk.space().remove("out.txt").unwrap();
    assert!(!desk.run("1").label().is_trusted());
    assert!(!desk.restarted().run("1").label().is_trusted());
    let result = desk.call(&json!({"code": "1", "restart": true}));
    assert_eq!(result.label(), code);
}

fn without_namespaces_it_works_too() {
    let desk = Desk::new(Tier::Narrow);
    desk.write("in.txt", b"narrow", &Label::of(Sources::USER));
    desk.says("text = open('in.txt').read()\ntext", "'narrow'");
    desk.run("open('out.txt', 'w').write(text)");
    assert_eq!(desk.read("out.txt"), b"narrow");
    desk.fails("open('/etc/shadow').read()", "Permission denied");
    desk.fails("import socket\nsocket.socket()", "Operation not permitted");
    // Its own, and perhaps that of the one that looks for fonts.
    assert!(desk::folders() > 0);
    drop(desk);
    eventually(|| desk::folders() == 0);
}

/// Within a time that no machine needs.
fn eventually(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn limits_end_a_cell_and_take_it_back() {
    let mut limits = limits();
    limits.memory = 512 << 20;
    limits.scratch = 32 << 20;
    let desk = Desk::with(Tier::Full, limits.clone());
    desk.run("x = 1");
    for (code, expected) in [
        ("x = 2\nwhile True: print('y' * 100000)", "it printed more than 64 MiB"),
        ("x = 2\nprint('so far', flush=True)\nimport os\nos._exit(7)", "ended with code 7"),
        ("x = 2\nimport ctypes\nctypes.string_at(0)", "ended with code 139"),
    ] {
        let text = desk.fails(code, expected);
        assert!(text.starts_with("The cell was stopped"), "{text}");
        assert_eq!(text.ends_with("so far\n"), code.contains("so far"), "{text}");
        desk.says("x", "1");
    }
    let quick = Limits { wall: Duration::from_secs(2), ..limits.clone() };
    for code in
        ["import time\ntime.sleep(60)", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"]
    {
        Desk::with(Tier::Full, quick.clone()).fails(code, "it took longer than 2 s");
    }
    for (code, expected) in [
        ("x = 2\ny = bytearray(600 << 20)", "MemoryError"),
        ("x = 2\nopen('big', 'wb').write(bytes(40 << 20))", "Error"),
        (
            "x = 2\nimport os\nfiles = [open('/dev/null') for _ in range(1000)]",
            "Too many open files",
        ),
    ] {
        desk.fails(code, expected);
        desk.says("x", "2");
        desk.run("files = y = None\nx = 1\nimport os\nif os.path.exists('big'): os.remove('big')");
    }
    let text = desk.run("print('a' * 100_000)\nprint('the end')").text();
    assert!(text.len() < 50_000 && text.contains("bytes left out") && text.ends_with("the end\n"));
    let text = desk.run("list(range(100_000))").text();
    assert!(text.len() < 50_000 && text.contains("characters left out"), "{}", text.len());
    limits.cpu = Duration::from_secs(1);
    let busy = Desk::with(Tier::Full, limits);
    busy.fails("while True: pass", "it used more than 1 s of processor time");
    let below =
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])";
    busy.fails(below, "it used more than 1 s of processor time");
    let bomb = "import os, time\ntry:\n    while True:\n        if os.fork() == 0:\n            time.sleep(60)\nexcept OSError as error:\n    print('refused')";
    desk.says(bomb, "refused\n");
}

fn forks_go_their_own_ways() {
    let desk = Desk::new(Tier::Full);
    desk.run("import random\nx = [1]\nopen('a', 'w').write('1')\nfirst = random.random()");
    desk.python.forked("talk", "branch").unwrap();
    let branch = desk.in_space("branch");
    branch.run("x.append('branch')\nopen('a', 'w').write('branch')");
    desk.run("x.append('trunk')");
    branch.python.forked("branch", "twig").unwrap();
    branch.python.forked("branch", "twig").unwrap();
    let twig = branch.in_space("twig");
    twig.says("x, open('a').read()", "([1, 'branch'], 'branch')");
    branch.says("x, open('a').read()", "([1, 'branch'], 'branch')");
    desk.says("x, open('a').read()", "([1, 'trunk'], '1')");
    assert_eq!(twig.run("first").text(), desk.run("first").text());
    // A fork of nothing is nothing.
    desk.python.forked("nowhere", "elsewhere").unwrap();
    desk.in_space("elsewhere").fails("x", "NameError");
    // Another user's is closed.
    let foreign = desk.of_owner("bob");
    foreign.fails("x", "belongs to another user");
}

fn a_new_interpreter_has_the_old_state() {
    let desk = Desk::new(Tier::Full);
    desk.write("in", b"old", &Label::of(Sources::USER));
    desk.run("import random, secrets, uuid\na = open('in').read()\nr = random.random(), secrets.token_hex(8), uuid.uuid4(), hash('x')");
    desk.write("in", b"new", &Label::of(Sources::USER));
    desk.run("b = open('in').read()");
    desk.fails("c = 3\n1/0", "ZeroDivisionError");
    desk.run("class C: pass\nC()");
    let before = desk.run("a, b, c, r").text();
    // It was killed; the server was started again.
    desk.python.released("talk");
    assert_eq!(desk.run("a, b, c, r").text(), before);
    let after = desk.restarted();
    assert_eq!(after.run("a, b, c, r").text(), before);
    assert!(before.starts_with("('old', 'new', 3, (0."), "{before}");
    after.run("import time\nprint(time.time_ns())\nd = time.time_ns()");
    let text = after.restarted().run("a").text();
    assert!(
        text.contains("What cells 8 printed was not the same as before") && text.ends_with("'old'"),
        "{text}"
    );
}

fn lost_is_said() {
    let mut limits = limits();
    let desk = Desk::with(Tier::Full, limits.clone());
    desk.run("import time\nx = 1");
    desk.run("time.sleep(1)\nopen('a', 'w').write('1')");
    limits.rebuild = Duration::from_millis(500);
    let after = desk.with_python(Python::on(desk.disk(), found(), limits, Ok(Tier::Full)));
    let expected = "its state is lost: running the earlier cells again failed at cell";
    let lost = after.run("x = 2");
    let text = lost.text();
    assert!(text.contains(expected) && text.contains("This cell was not run"), "{text}");
    // It may quote what the interpreter said.
    assert!(lost.failed && lost.label().covers(&Label::of(Sources::CODE)));
    after.fails("x", "NameError");
    assert_eq!(after.read("a"), b"1");
}

fn repeated_calls() {
    let desk = Desk::new(Tier::Full);
    desk.run("n = 0");
    let call = |desk: &Desk| {
        desk.call_as(
            &json!({"code": "n += 1\nopen('n', 'w').write(str(n))\nn"}),
            "same",
            Cancel::default(),
        )
    };
    let first = call(&desk);
    assert_eq!(first, call(&desk.restarted()));
    assert_eq!(first, call(&desk));
    desk.says("n", "1");
}

fn what_cannot_be_kept_is_said() {
    let desk = Desk::new(Tier::Full);
    for (code, expected) in [
        (
            "open('a\\nb', 'w').write('x')",
            "[not kept: the path \"a\\nb\" has characters that cannot be seen",
        ),
        ("open(b'\\xff', 'w').write('x')", "[not kept: the path \"\\\\udcff\" has a backslash"),
        ("import os\nos.symlink('/etc/passwd', 'link')\nos.listdir()", "'link'"),
        (
            "open('large', 'wb').write(bytes(65 << 20))",
            "[not kept: large: 68157440 bytes, at most 67108864]",
        ),
    ] {
        let text = desk.run(code).text();
        assert!(text.contains(expected), "{code}: {text}");
    }
    assert!(desk.paths().is_empty());
    let many = "for i in range(1200): open(f'f{i}', 'w').close()";
    let text = desk.run(many).text();
    assert!(text.contains("more than 1000 files"), "{text}");
    desk.run("import glob\nfor path in glob.glob('f*'): os.remove(path)");
    // A full disk: the cell has not happened.
    desk.run("x = 1");
    desk.memory.is_full.store(true, Ordering::Relaxed);
    desk.fails("x = 2\nopen('b', 'w').write('b')", "the disk is full");
    desk.memory.is_full.store(false, Ordering::Relaxed);
    desk.says("x", "1");
    assert!(desk.paths().is_empty());
}

fn a_hostile_cell_deceives_itself_alone() {
    let desk = Desk::new(Tier::Full);
    desk.run("x = 1");
    let channel = "import os, sys, json\ndef frame(head, body=b''):\n    head = json.dumps(head).encode()\n    os.write(fd, len(head).to_bytes(4, 'big') + len(body).to_bytes(8, 'big') + head + body)\nfd = [f for f in range(3, 20) if os.path.exists(f'/proc/self/fd/{f}') and 'pipe' in os.readlink(f'/proc/self/fd/{f}')][-1]\n";
    for (code, expected) in [
        ("os.write(fd, b'x' * 100)", "could not be understood"),
        (
            "os.write(fd, (4).to_bytes(4, 'big') + (1 << 60).to_bytes(8, 'big'))",
            "could not be understood",
        ),
        (
            "frame({'kind': 'done', 'mark': 'x', 'value': 'false', 'error': None, 'left_out': []})",
            "could not be understood",
        ),
        ("frame({'kind': 'file', 'path': '../../x'}, b'x')", "not kept: the path"),
        ("os.close(2)\nos.close(fd)", ""),
        (
            "[frame({'kind': 'removed', 'path': 'x'}) for _ in range(5000)]",
            "more than there can be",
        ),
    ] {
        let text = desk.run(&format!("{channel}{code}")).text();
        assert!(text.contains(expected), "{code}: {text}");
        desk.says("x", "1");
    }
    assert!(desk.paths().is_empty());
}

fn without_a_sandbox_nothing_runs() {
    let desk = Desk::new(Tier::Full);
    let python = Python::on(desk.disk(), found(), limits(), Err("no walls".into()));
    let desk = desk.with_python(python);
    desk.fails("1", "Python does not run here: no walls; whoever runs this server can look with `yushan doctor sandbox`");
    let desk = Desk::new(Tier::Full);
    for (arguments, expected) in [
        (json!({}), "missing field `code`"),
        (json!({"code": 1}), "invalid type"),
        (json!({"code": "1", "shell": true}), "unknown field `shell`"),
        (json!({"code": "#".repeat(300_000)}), "has more than 262144 bytes"),
    ] {
        let result = desk.call(&arguments);
        assert!(result.failed && result.text().contains(expected), "{}", result.text());
    }
}

fn calls_wait() {
    let desk = Desk::new(Tier::Full);
    desk.run("n = 0");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| desk.run("n += 1"));
        }
    });
    desk.says("n", "8");
    // Who waits for another call hears that it is cancelled.
    let (cancel, slow) = (Cancel::default(), Cancel::default());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            desk.call_as(&json!({"code": "import time\ntime.sleep(30)"}), "slow", slow.clone())
        });
        std::thread::sleep(Duration::from_millis(100));
        let waiting =
            scope.spawn(|| desk.call_as(&json!({"code": "n"}), "waiting", cancel.clone()));
        cancel.cancel();
        assert!(waiting.join().unwrap().failed);
        slow.cancel();
    });
    desk.says("n", "8");
}

fn a_table_is_analysed() {
    if !has_packages() {
        return;
    }
    let desk = Desk::new(Tier::Full);
    desk.write(
        "t.csv",
        b"year,value\n2019,10\n2020,12\n2021,14.2\n2022,15.8\n",
        &Label::of(Sources::USER),
    );
    desk.run("import pandas as pd, numpy as np\nt = pd.read_csv('t.csv')\nslope, at = np.polyfit(t.year, t.value, 1)");
    let text = desk.run("float(slope * 2025 + at)").text();
    let value: f64 = text.parse().unwrap();
    // Least squares by hand: slope 1.96, mean 13 at 2020.5.
    assert!((value - (13.0 + 4.5 * 1.96)).abs() < 1e-6, "{text}");
    let text = desk.run("t.groupby('year').value.sum()").text();
    assert!(text.contains("2021    14.2"), "{text}");
    let random = "np.random.rand(), float(np.random.default_rng().random())";
    let before = desk.run(&format!("r = {random}\nr")).text();
    assert_eq!(desk.restarted().run("r").text(), before);
}

fn a_plot_is_a_plot() {
    if !has_packages() {
        return;
    }
    let desk = Desk::new(Tier::Full);
    let code = |more: &str| {
        format!(
            "import matplotlib.pyplot as plt\nplt.figure()\nplt.plot([1, 2, 3], [2, 4, 3])\n{more}\nplt.show()"
        )
    };
    let result = desk.run(&code("plt.xlabel('year'); plt.ylabel('value'); plt.title('growth')"));
    assert_eq!(result.text(), "[files: figure-1.png]");
    assert_eq!(result.files[0].media_type, "image/png");
    let with = plot::Plot::read(&desk.read("figure-1.png"));
    assert_eq!((with.width, with.height), (640, 480));
    let bare = "plt.xticks([]); plt.yticks([])";
    desk.run(&code(bare));
    let without = plot::Plot::read(&desk.read("figure-2.png"));
    // A line in matplotlib's blue, in both; text beside the axes, in one.
    assert!(with.blue() > 500 && without.blue() > 500, "{} {}", with.blue(), without.blue());
    assert_eq!(without.beside_axes(), (0, 0, 0));
    let (below, left, above) = with.beside_axes();
    assert!(below > 200 && left > 200 && above > 100, "{below} {left} {above}");
}

fn few_run_at_once() {
    let desk = Desk::new(Tier::Full);
    let spaces: Vec<Desk> =
        (0..12).map(|number| desk.in_space(&format!("space {number}"))).collect();
    for (number, space) in spaces.iter().enumerate() {
        space.run(&format!("x = {number}"));
    }
    // Nobody notices that it was ended.
    for (number, space) in spaces.iter().enumerate() {
        space.says("x", &number.to_string());
    }
}

/// Where many want to work in spaces of their own, so many interpreters run and no more: the others wait for a place.
fn few_run_in_parallel() {
    const MOST: usize = 8;
    let desk = Desk::new(Tier::Full);
    let code = "import time\nbegun = time.time()\ntime.sleep(3)\nbegun, time.time()";
    let spans: Vec<(f64, f64)> = std::thread::scope(|scope| {
        let spaces = (0..MOST + 4).map(|number| desk.in_space(&format!("space {number}")));
        let calls: Vec<_> = spaces.map(|space| scope.spawn(move || space.run(code))).collect();
        let texts = calls.into_iter().map(|call| call.join().unwrap().text());
        texts.map(|text| span(&text)).collect()
    });
    let at_once =
        |at: f64| spans.iter().filter(|(begun, end)| (*begun..*end).contains(&at)).count();
    let most = spans.iter().map(|(begun, _)| at_once(*begun)).max();
    assert!(most <= Some(MOST), "{most:?}: {spans:?}");
    // Who waits hears that it is cancelled, or that none came in time, and has lost nothing.
    let desk = Desk::with(Tier::Full, Limits { place: Duration::from_secs(1), ..limits() });
    let stop = Cancel::default();
    let word = format!("5{:05}", std::process::id() % 100_000);
    let slow = format!("import subprocess\nsubprocess.run(['sleep', '{word}'])");
    std::thread::scope(|scope| {
        let mut calls = Vec::new();
        for number in 0..MOST {
            let (space, stop) = (desk.in_space(&format!("space {number}")), stop.clone());
            space.run("x = 1");
            let code = json!({"code": &slow});
            calls.push(scope.spawn(move || space.call_as(&code, "slow", stop)));
        }
        eventually(|| desk::alive(&word) == MOST);
        let late = desk.in_space("late");
        late.fails("1", "8 interpreters are at work, and none was free within 1 s");
        let cancel = Cancel::default();
        cancel.cancel();
        let cancelled = late.call_as(&json!({"code": "1"}), "cancelled", cancel).text();
        assert!(cancelled.contains("cancelled before there was room"), "{cancelled}");
        stop.cancel();
        calls.into_iter().for_each(|call| assert!(call.join().unwrap().failed));
        late.says("1 + 1", "2");
    });
    desk.in_space("space 0").says("x", "1");
}

/// Of `(1.5, 2.5)`.
fn span(text: &str) -> (f64, f64) {
    let (begun, end) = text.trim_matches(['(', ')']).split_once(", ").unwrap();
    (begun.parse().unwrap(), end.parse().unwrap())
}

/// What a check ran in its copy of a space is gone with it, whatever still runs there; what a user named stays.
fn released_spaces_are_gone() {
    let desk = Desk::new(Tier::Full);
    desk.run("open('a', 'w').write('1')\nx = 1");
    let kinds = ["space", "python"];
    let kept = |space: &str| kinds.map(|kind| desk.disk().get(kind, space).unwrap().is_some());
    desk.python.forked("talk", "check-1.1.0").unwrap();
    let check = desk.in_space("check-1.1.0");
    check.says("x", "1");
    check.run("open('b', 'w').write('2')");
    desk.python.released("check-1.1.0");
    eventually(|| kept("check-1.1.0") == [false, false]);
    desk.python.released("talk");
    desk.says("x", "1");
    assert_eq!(kept("talk"), [true, true]);
    // A call that is still being made keeps what it did, and that goes too.
    let fork = desk.in_space("fork-1.2.0");
    fork.run("1");
    std::thread::scope(|scope| {
        let word = format!("1.{:05}", std::process::id() % 100_000);
        let slow = format!(
            "import subprocess\nsubprocess.run(['sleep', '{word}'])\nopen('c', 'w').write('3')"
        );
        let call = scope.spawn(move || fork.run(&slow));
        eventually(|| desk::alive(&word) > 0);
        desk.python.released("fork-1.2.0");
        assert!(!call.join().unwrap().failed);
    });
    eventually(|| kept("fork-1.2.0") == [false, false]);
}

/// What an interpreter may leave behind: processes, groups, folders, mounts, descriptors, threads.
fn traces(word: &str) -> (usize, usize, usize, usize, usize, usize) {
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    (
        desk::alive(word),
        desk::groups(),
        desk::folders(),
        mounts,
        count("/proc/self/fd"),
        count("/proc/self/task"),
    )
}

fn two_hundred_kills() {
    let word = format!("7{:05}", std::process::id() % 100_000);
    let nothing = traces(&word);
    let mut stages = BTreeSet::new();
    for tier in [Tier::Full, Tier::Narrow] {
        let desk = Desk::new(tier);
        desk.run("x = 1");
        let code = format!(
            "open('half', 'w').write('x')\nimport subprocess\nx = 2\nsubprocess.run(['sleep', '{word}'])"
        );
        for round in 0..100_u64 {
            let cancel = Cancel::default();
            std::thread::scope(|scope| {
                let call = scope.spawn(|| {
                    desk.call_as(&json!({"code": &code}), &format!("{round}"), cancel.clone())
                });
                // At any moment: while it starts, while earlier cells are run again, in the cell.
                std::thread::sleep(Duration::from_micros(round * 1_370 % 200_000));
                cancel.cancel();
                let text = call.join().unwrap().text();
                assert!(text.contains("cancelled"), "{text}");
                stages.insert(text.chars().take(30).collect::<String>());
            });
            if round % 10 == 0 {
                assert!(desk.paths().is_empty());
                desk.says("x", "1");
            }
        }
    }
    assert!(stages.len() > 1, "{stages:?}");
    let begun = Instant::now();
    while traces(&word) != nothing {
        let left = traces(&word);
        assert!(begun.elapsed() < Duration::from_secs(20), "{left:?} after {nothing:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
