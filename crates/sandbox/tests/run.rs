//! Commands in the sandbox, by way of the little program that runs one: its `main` begins as it must.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Exit code, stdout and stderr.
fn jail(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_yushan-jail")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn shell(script: &str) -> (Option<i32>, String, String) {
    jail(&["/bin/sh", "-c", script])
}

#[test]
fn a_command_says_what_it_says_and_ends_as_it_ends() {
    assert_eq!(shell("echo out; echo err >&2"), (Some(0), "out\n".into(), "err\nExit(0)\n".into()));
    for (script, end) in [("exit 3", "Exit(3)"), ("kill -9 $$", "Exit(137)"), ("cat", "Exit(0)")] {
        let (_, out, err) = shell(script);
        assert_eq!((out.as_str(), err.trim()), ("", end), "{script}");
    }
    let (code, _, err) = jail(&["/bin/absent"]);
    assert!(code == Some(1) && err.contains("/bin/absent: No such file"), "{err}");
}

#[test]
fn a_command_sees_what_was_named_and_writes_to_its_scratch_folder() {
    let (_, out, err) =
        shell("pwd; echo kept > a; cat a; ls /; echo $HOME; id -un 2>&1; cat /etc/hostname");
    assert!(out.starts_with("/scratch\nkept\nbin\ndev\n"), "{out}{err}");
    for absent in ["home", "root", "var", "sys", "run"] {
        assert!(!out.lines().any(|line| line == absent), "{absent}: {out}");
    }
    assert!(err.contains("/etc/hostname"), "{err}");
}

#[test]
fn without_namespaces_the_scratch_folder_is_the_one_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let script = "echo kept > a; cat a; cat /etc/passwd; sleep 60 & exit 4";
    let begun = Instant::now();
    let (_, out, err) = jail(&["--narrow", path, "/bin/sh", "-c", script]);
    assert_eq!(out, "kept\n", "{err}");
    assert!(err.contains("Permission denied") && err.ends_with("Exit(4)\n"), "{err}");
    // What it left behind was not waited for.
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(std::fs::read_to_string(folder.path().join("a")).unwrap(), "kept\n");
}

/// Processes whose command line has this word.
fn alive(word: &str) -> usize {
    let has = |entry: std::io::Result<std::fs::DirEntry>| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        let text = String::from_utf8_lossy(&line).into_owned();
        (text.contains(word) && !text.contains("yushan-jail")).then_some(())
    };
    std::fs::read_dir("/proc").unwrap().filter_map(has).count()
}

#[test]
fn two_hundred_that_are_killed_leave_nothing_behind() {
    // A duration that no other process sleeps for.
    let word = format!("8{:05}", std::process::id() % 100_000);
    let script = format!("sleep {word} & sleep {word}");
    for round in 0..200_u64 {
        let mut jail = Command::new(env!("CARGO_BIN_EXE_yushan-jail"));
        jail.args(["/bin/sh", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut jail = jail.spawn().unwrap();
        // At any moment: before the walls stand, while they are built, when the command runs.
        std::thread::sleep(Duration::from_micros(round * 137 % 20_000));
        jail.kill().unwrap();
        jail.wait().unwrap();
    }
    let begun = Instant::now();
    while alive(&word) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} are left", alive(&word));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_program_that_does_not_begin_as_it_must_is_refused() {
    // This one does not: its `main` is the test harness's.
    let error =
        yushan_sandbox::Jail::new("/bin/true", yushan_sandbox::Tier::Full).run(b"").unwrap_err();
    assert!(error.to_string().contains("enter()"), "{error}");
}
