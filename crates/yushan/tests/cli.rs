//! The commands as a person meets them: the built binary, its stdout, its one line of error, its
//! exit code. Models are tiny and made here, but for the one whose real weights lie beside the
//! checkout.

mod folder;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use folder::{TEMPLATE, finish, folder, tiny, yushan};
use serde_json::{Value, json};

/// The stdout of a command that works and says nothing on stderr.
fn works(folder: &Path, arguments: &str) -> String {
    let (code, stdout, stderr) = finish(yushan(folder, arguments));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments}");
    stdout
}

fn parsed(folder: &Path, arguments: &str) -> Value {
    serde_json::from_str(&works(folder, arguments)).unwrap()
}

/// The folder of the real weights; `None`, and a line, when it is absent.
fn stories() -> Option<PathBuf> {
    let root = std::env::var_os("YUSHAN_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let path = root.join("data/weights/stories260K");
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: shared data not found: {}", path.display());
    None
}

#[test]
fn help_and_version() {
    let folder = folder();
    let version = works(folder.path(), "--version");
    assert!(version.starts_with(concat!("yushan ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    let help = works(folder.path(), "--help");
    for command in [
        "run", "inspect", "convert", "quantize", "score", "evaluate", "bench", "pull", "models",
        "rm", "serve", "chat", "export", "import", "top", "keys", "ps", "kill", "nice", "stop",
        "cont", "doctor",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in {help}");
        assert!(works(folder.path(), &format!("{command} --help")).contains("Usage:"));
    }
    assert!(help.contains("Exit codes:"), "{help}");
}

#[test]
fn servers_of_tools_are_read_from_tools_json() {
    let folder = folder();
    let home = folder.path().join("home");
    std::fs::create_dir_all(&home).unwrap();
    let write = |text: &str| std::fs::write(home.join("tools.json"), text).unwrap();
    write(r#"{"mcp": [{"name": "x", "transport": "stdio", "program": "/bin/true"}]}"#);
    let said = works(folder.path(), "mcp list");
    assert!(said.starts_with("x: ") || said.contains("server x"), "it ends at once: {said}");
    write(r#"{"mcp": [{"name": "x", "transport": "stdio", "programm": "/bin/true"}]}"#);
    let (code, _, stderr) = finish(yushan(folder.path(), "mcp list"));
    assert!(code == Some(1) && stderr.contains("unknown field `programm`"), "{stderr}");
}

#[test]
fn the_doctor_says_what_is_missing_and_how_to_get_it() {
    let folder = folder();
    let said = works(folder.path(), "doctor");
    for line in said.lines().filter(|line| line.contains("missing (")) {
        assert!(line.contains("install: "), "{line}");
    }
    let names: Vec<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(["python", "chromium", "bwrap", "sandbox"].iter().all(|name| names.contains(name)));
    assert!(said.contains("full    not tried yet"), "{said}");
    // What is tried is remembered.
    let (code, tried, stderr) = finish(yushan(folder.path(), "doctor sandbox"));
    let count =
        |word: &str| tried.lines().filter(|line| line.trim_start().starts_with(word)).count();
    assert_eq!(count("FAIL"), 0, "{tried}");
    let said = works(folder.path(), "doctor");
    if count("pass") == 0 {
        assert!(code == Some(1) && stderr.contains("no sandbox holds on this machine"), "{stderr}");
        assert!(said.contains("cannot be built here"), "{said}");
        return;
    }
    assert!(code == Some(0) && count("pass") >= 40 && tried.contains("python       runs on tier"));
    assert!(said.contains("attempts contained"), "{said}");
}

#[test]
fn errors_are_one_line_and_a_code() {
    let folder = folder();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("text.txt", "no model\n");
    write("bad.json", "{");
    write("bad.gbnf", "root ::= (");
    write("short.txt", "a");
    for (arguments, expected, part) in [
        ("run absent.gguf hello", 3, "no file \"absent.gguf\""),
        ("run text.txt hello", 3, "text.txt"),
        ("run plain.gguf hello", 3, "tokenizer"),
        ("inspect text.txt", 3, "text.txt"),
        ("run bare.gguf hello -c 3", 1, "the context window holds 3"),
        ("run bare.gguf hello -c 4294967295", 4, "tokens would fit (--context "),
        ("run bare.gguf hello --json-schema absent.json", 3, "absent.json"),
        ("run bare.gguf hello --json-schema bad.json", 3, "bad.json"),
        ("run bare.gguf hello --grammar bad.gbnf", 3, "bad.gbnf"),
        ("run bare.gguf hello --draft absent.gguf", 3, "the draft model"),
        ("run bare.gguf hello --logit-bias 99999=1", 2, "99999"),
        ("convert bare.gguf out.gguf", 3, "GGUF already"),
        ("quantize absent.gguf out.gguf --type Q8_0", 3, "absent.gguf"),
        ("score bare.gguf short.txt", 3, "tokens"),
        ("score bare.gguf absent.txt", 3, "absent.txt"),
        ("rm absent", 3, "absent"),
        ("pull no-name", 2, "hf:OWNER/REPO"),
        ("bench bare.gguf --prefill 0 --decode 0", 2, "nothing to measure"),
    ] {
        let (code, stdout, stderr) = finish(yushan(folder.path(), arguments));
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{arguments}: {stderr}");
        // A warning may stand before the error.
        let errors: Vec<&str> =
            stderr.lines().filter(|line| !line.starts_with("warning: ")).collect();
        assert!(
            matches!(errors[..], [line] if line.starts_with("error: ") && line.contains(part)),
            "{arguments}: {stderr}"
        );
    }
}

#[test]
fn wrong_command_lines_are_refused() {
    let folder = folder();
    for arguments in [
        "",
        "fly",
        "run",
        "run bare.gguf hello --top-p 3",
        "run bare.gguf hello -t -1",
        "run bare.gguf hello -n 0",
        "run bare.gguf hello -c 18446744073709551615",
        "run bare.gguf hello --ids --logprobs 2",
        "run bare.gguf hello --raw --system x",
        "run bare.gguf hello --draft bare.gguf --lookup",
        "quantize bare.gguf out.gguf --type Q9",
        "quantize bare.gguf out.gguf",
        "bench bare.gguf --threads 0",
    ] {
        let (code, stdout, stderr) = finish(yushan(folder.path(), arguments));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.contains("Usage:") || stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn ids_and_text_equal_the_reference() {
    let Some(stories) = stories() else { return };
    let text = std::fs::read_to_string(stories.join("reference_greedy.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let ids = |name: &str| -> Vec<u64> {
        reference[name].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    let (prompt, all) = (ids("prompt_tokens"), ids("greedy_tokens"));
    let model = stories.join("stories260K.bin");
    let run = |flags: &str| {
        let mut command = yushan(&stories, "run");
        command.arg(&model).arg(reference["prompt"].as_str().unwrap());
        command.args(flags.split(' ')).args(["-t", "0", "-n"]);
        command.arg((all.len() - prompt.len()).to_string());
        let (code, stdout, stderr) = finish(command);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        stdout
    };
    let line: Vec<String> = all.iter().map(u64::to_string).collect();
    let expected = line.join(" ") + "\n";
    for flags in ["--ids --echo", "--ids --echo --lookup", "--ids --echo --threads 1"] {
        assert_eq!(run(flags), expected, "{flags}");
    }
    let text = reference["greedy_text"].as_str().unwrap();
    assert_eq!(run("--echo").trim_end(), text.trim_end());
}

#[test]
fn a_seed_fixes_the_reply() {
    let folder = folder();
    let run =
        |flags: &str| works(folder.path(), &format!("run bare.gguf hello -n 24 --ids {flags}"));
    let first = run("--seed 7");
    assert_eq!(first.split_whitespace().count(), 24);
    assert_eq!(run("--seed 7 --threads 1"), first);
    assert_ne!(run("--seed 8"), first);
    // Guesses change the speed, never the reply.
    assert_eq!(run("--seed 7 --lookup"), first);
    assert_eq!(run("--seed 7 --draft bare.gguf"), first);
    assert_eq!(run("--seed 7 -t 0"), run("-t 0"));
    let banned: String = first.split_whitespace().next().unwrap().into();
    let without = run(&format!("--seed 7 --logit-bias {banned}=-inf"));
    assert!(!without.split_whitespace().any(|id| id == banned), "{banned} is in {without}");
}

#[test]
fn prompts_come_from_stdin() {
    let folder = folder();
    let flags = "-n 8 -t 0 --ids";
    let expected = works(folder.path(), &format!("run model.gguf hello {flags}"));
    for name in ["run model.gguf", "run model.gguf -"] {
        let mut command = yushan(folder.path(), &format!("{name} {flags}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{name}");
    }
}

#[test]
fn templates_are_used_unless_raw() {
    let folder = folder();
    let count = |flags: &str| {
        let command = yushan(folder.path(), &format!("{flags} hello -n 1 -t 0 --stats"));
        let (code, _, stderr) = finish(command);
        assert_eq!(code, Some(0), "{stderr}");
        let line = stderr.lines().find(|line| line.starts_with("prompt")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    // BOS, ▁ and five letters.
    assert_eq!(count("run bare.gguf"), 7);
    assert_eq!(count("run model.gguf --raw"), 7);
    // BOS, ▁, "user: hello\nassistant:"
    assert_eq!(count("run model.gguf"), 2 + 22);
    assert_eq!(count("run model.gguf --system x"), 2 + "system: x\n".len() + 22);
}

#[test]
fn replies_have_the_form_asked_for() {
    let folder = folder();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("regex.regex", "(ab|c){3}\n");
    write("a.gbnf", "root ::= \"a\" [b-c] \"d\"");
    write("a.lark", "start: \"x\" | \"y\"");
    for (file, possible) in [
        ("regex.regex", &["ababab", "ababc", "abcab", "abcc", "cabab", "cabc", "ccab", "ccc"][..]),
        ("a.gbnf", &["abd", "acd"]),
        ("a.lark", &["x", "y"]),
    ] {
        let reply = works(folder.path(), &format!("run bare.gguf hello --grammar {file}"));
        assert!(possible.contains(&reply.trim_end()), "{file}: {reply:?}");
    }
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "kind": { "enum": ["a", "b"] },
        },
        "required": ["name", "kind"],
        "additionalProperties": false,
    });
    write("schema.json", &schema.to_string());
    for seed in 0..3 {
        let flags = format!("--json-schema schema.json --seed {seed}");
        let reply = parsed(folder.path(), &format!("run model.gguf hello {flags}"));
        assert!(reply["name"].as_str().unwrap().chars().count() <= 8, "{reply}");
        assert!(["a", "b"].contains(&reply["kind"].as_str().unwrap()), "{reply}");
    }
}

#[test]
fn logprobs_are_lines_of_json() {
    let folder = folder();
    let lines = works(folder.path(), "run bare.gguf hi -n 3 -t 0 --logprobs 2 --echo");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // BOS, ▁, h, i and the reply.
    assert_eq!(lines.len(), 4 + 3);
    assert_eq!((&lines[0]["id"], &lines[0]["logprob"]), (&json!(1), &Value::Null));
    for line in &lines[4..] {
        let top = line["top"].as_array().unwrap();
        assert_eq!(top.len(), 2);
        // Greedy takes the likeliest.
        assert_eq!((&line["id"], &line["logprob"]), (&top[0]["id"], &top[0]["logprob"]));
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
        assert!(line["logprob"].as_f64().unwrap() <= 0.0);
    }
}

#[test]
fn stop_texts_and_stats() {
    let folder = folder();
    let whole = works(folder.path(), "run bare.gguf hello -n 24 --seed 1");
    // The text up to a character that stands in it.
    let stop = whole.trim_end().chars().rfind(char::is_ascii_graphic).unwrap();
    let mut command = yushan(folder.path(), "run bare.gguf hello -n 24 --seed 1 --stats --stop");
    command.arg(stop.to_string());
    let (code, stdout, stderr) = finish(command);
    assert_eq!(code, Some(0));
    assert_eq!(stdout.strip_suffix('\n').unwrap(), whole.split(stop).next().unwrap());
    for line in ["load  ", "prompt  ", "reply  ", "seed         1\n", "end          the stop text"]
    {
        assert!(stderr.contains(line), "{line:?} is not in {stderr}");
    }
}

/// Ctrl-C stops the reply; what was generated stands there, the line is ended, and so is the
/// program, with the code that shells expect.
#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_reply() {
    let folder = folder();
    let arguments = "run bare.gguf hello --ignore-eos -c 200000 --ids";
    let mut child = yushan(folder.path(), arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 4];
    stdout.read_exact(&mut first).unwrap();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(rest.ends_with('\n'), "{rest:?}");
}

#[test]
fn models_are_quantized_inspected_and_scored() {
    let folder = folder();
    let line = works(folder.path(), "quantize bare.gguf small.gguf --type q8_0");
    assert!(line.starts_with("small.gguf: ") && line.contains("bits a weight"), "{line}");
    let before = parsed(folder.path(), "inspect bare.gguf --json");
    let after = parsed(folder.path(), "inspect small.gguf --json --sequences 3 -c 64");
    assert_eq!(before["parameters"], after["parameters"]);
    assert_eq!(before["tensors"].as_array().unwrap().len(), 2 + 9 * tiny::LAYERS);
    assert!(after["types"].get("Q8_0").is_some(), "{after}");
    assert_eq!(
        (&after["memory"]["sequences"], &after["memory"]["context"]),
        (&3.into(), &64.into())
    );
    assert!(before["memory"]["weights"].as_u64() > after["memory"]["weights"].as_u64());
    let text = works(folder.path(), "inspect model.gguf");
    for part in ["SentencePiece BPE, 320 tokens", TEMPLATE, "blk.1.ffn_down.weight", "[256, 512]"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let text: String = "the quick brown fox jumps over the lazy dog. ".repeat(20);
    std::fs::write(folder.path().join("text.txt"), text).unwrap();
    let score = |flags: &str| parsed(folder.path(), &format!("score {flags} --json -c 128"));
    let (large, small) = (score("bare.gguf text.txt"), score("small.gguf text.txt"));
    let perplexity = |score: &Value| score["perplexity"].as_f64().unwrap();
    assert_eq!(large["windows"], 7);
    assert_eq!(large["scored_tokens"], 7 * 63);
    assert!((perplexity(&small) / perplexity(&large) - 1.0).abs() < 0.02, "{small} {large}");
    assert_eq!(score("bare.gguf text.txt --chunks 2")["windows"], 2);
}

#[test]
fn real_weights_are_converted_and_quantized() {
    let Some(stories) = stories() else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = stories.join("stories260K.bin");
    let run = |arguments: &[&str]| {
        let mut command = yushan(folder.path(), "");
        command.args(arguments);
        let (code, stdout, stderr) = finish(command);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        stdout
    };
    let model = model.to_str().unwrap();
    run(&["convert", model, "stories.gguf"]);
    run(&["quantize", model, "stories-q8.gguf", "--type", "Q8_0"]);
    let reply = |file| run(&["run", file, "Once upon a time", "-t", "0", "-n", "40"]);
    assert_eq!(reply("stories.gguf"), reply(model));
    assert!(reply("stories-q8.gguf").starts_with(", there was a little"));
    // Nothing is left over.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn bench_reports_each_test_beside_its_limit() {
    let folder = folder();
    let flags = "--threads 1 --prefill 32 --decode 4 --sequences 1,2 --repeat 1";
    let report = parsed(folder.path(), &format!("bench bare.gguf --json {flags}"));
    assert!(report["read_bandwidth"]["1"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["peak"]["1"].as_f64().unwrap() > 0.0, "{report}");
    let rows = report["rows"].as_array().unwrap();
    let tests: Vec<_> = rows
        .iter()
        .map(|row| {
            (row["test"].as_str().unwrap(), row["tokens"].as_u64(), row["sequences"].as_u64())
        })
        .collect();
    let expected = [("prefill", 32, 1), ("decode", 4, 1), ("decode", 4, 2)];
    assert_eq!(tests, expected.map(|(test, tokens, n)| (test, Some(tokens), Some(n))));
    for row in rows {
        let percent = match row["test"].as_str() {
            Some("prefill") => "percent_of_peak",
            _ => "percent_of_bandwidth",
        };
        assert!(row[percent].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
    }
    let table = works(folder.path(), &format!("bench bare.gguf {flags}"));
    assert_eq!(table.lines().filter(|line| line.starts_with("decode ")).count(), 2, "{table}");
}
