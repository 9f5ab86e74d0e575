//! `evaluate` as a person meets it: a tiny model in this process, and the same one behind `/v1/completions`.

mod folder;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};

use folder::{finish, folder, yushan};
use serde_json::{Value, json};

/// A running server; it ends with the test.
struct Server {
    child: Child,
    address: String,
    /// Kept open, so that it can write to it.
    _stderr: BufReader<ChildStderr>,
}

impl Server {
    fn start(folder: &Path, models: &str) -> Server {
        let arguments = format!("serve {models} --port 0 --threads 1");
        let mut child = yushan(folder, &arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it did not start: {said}");
            let last = said.lines().last().and_then(|line| line.strip_prefix("OpenAI"));
            if let Some(address) = last {
                break address.trim().to_owned();
            }
        };
        Server { child, address, _stderr: stderr }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// Questions of both forms, a malformed one and one that does not fit; texts of which one is longer than a window.
fn files(folder: &Path) {
    let things = ["ball", "book", "cat", "boat", "hat", "lamp", "shoe", "star"];
    let sentence = |at: usize| {
        let (one, other) = (things[at % 8], things[(at * 5 + 3) % 8]);
        format!(
            "Once there was a {one} that lay beside the old {other} for a long {} time.",
            at % 7
        )
    };
    let mut arc = String::from("{\"question\": \"no key\", \"choices\": [\"a\", \"b\"]}\n");
    let mut swag = String::new();
    for at in 0..20 {
        let choices: Vec<&str> = (0..4).map(|more| things[(at + more * 3) % 8]).collect();
        let row = json!({"question": sentence(at), "choices": choices, "answer": at % 4});
        arc += &format!("{row}\n");
        let endings = [sentence(at + 1), "and sat down".into(), things[at % 8].into()];
        swag += &format!("{}\n", json!({"ctx": sentence(at), "endings": endings, "label": at % 3}));
    }
    let long = "far ".repeat(100);
    arc += &format!("{}\n", json!({"question": long, "choices": ["a", "b"], "answer": 1}));
    let texts: String = (0..30)
        .map(|at| {
            let sentences: Vec<String> = (0..=at % 9).map(|more| sentence(at + more)).collect();
            format!("{}\n--\n", sentences.join(" "))
        })
        .collect();
    let passages: Vec<String> =
        (0..60).map(|at| sentence(at) + " It was a " + things[at % 8]).collect();
    for (name, text) in [
        ("arc.jsonl", arc),
        ("swag.jsonl", swag),
        ("texts.txt", texts),
        ("cloze.txt", passages.join(" \r\n \n")),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

const ASKED: &str = "--questions arc.jsonl --questions swag.jsonl --cloze cloze.txt --limit 20 --texts texts.txt \
                     --between=-- -c 256 --json";

/// The figures, and what was said beside them.
fn figures(folder: &Path, arguments: &str) -> (Value, String) {
    let (code, stdout, stderr) = finish(yushan(folder, &format!("evaluate {arguments}")));
    assert_eq!(code, Some(0), "{arguments}: {stderr}");
    (serde_json::from_str(&stdout).unwrap(), stderr)
}

#[test]
fn a_model_and_its_server_get_the_same_figures() {
    let folder = folder();
    let folder = folder.path();
    files(folder);
    let (here, said) = figures(folder, &format!("bare.gguf --threads 2 {ASKED}"));
    assert!(said.contains("arc.jsonl, row 1: the question: `answer` is null"), "{said}");
    let server = Server::start(folder, "bare.gguf model.gguf");
    let at = format!("{} --served bare --tokenizer bare.gguf", server.address);
    let (there, _) = figures(folder, &format!("{at} {ASKED}"));
    assert_eq!(here["questions"], there["questions"]);
    assert_eq!(here["context"], 256);
    let all: Vec<_> = here["questions"].as_array().unwrap().iter().collect();
    let of = |field: &str| all.iter().map(|one| one[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("form"), ["arc", "hellaswag", "cloze"]);
    assert_eq!(of("items"), [20, 20, 20]);
    assert_eq!(of("malformed"), [1, 0, 0]);
    // To the last bit: a row's logits depend neither on the rows beside it nor on how it is cut into steps.
    assert_eq!(here["texts"], there["texts"]);
    let one = &here["texts"][0];
    assert_eq!(one["documents"], 30);
    let sum = std::fs::read(folder.join("texts.txt")).unwrap();
    assert_eq!(one["sha256"], yushan_train::digest::hex(&yushan_train::digest::sha256(&sum)));
    // Random weights, 320 tokens that are letters: somewhat more than log2 of 320.
    assert!((7.0..11.0).contains(&one["bpb"].as_f64().unwrap()), "{one}");
}

#[test]
fn figures_are_written_for_people_and_questions_that_do_not_fit_are_counted() {
    let folder = folder();
    let folder = folder.path();
    files(folder);
    let asked = "evaluate bare.gguf --questions arc.jsonl --texts texts.txt --tokens 300 -c 256";
    let (code, stdout, stderr) = finish(yushan(folder, asked));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("1 questions do not fit into the context"), "{stderr}");
    for part in
        ["arc.jsonl: 20 questions (arc)", "  right by length  0.", "chance 0.2500", "SHA-256"]
    {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    assert!(stdout.contains("texts.txt: 1 document, 300 tokens, "), "{stdout}");
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let folder = folder();
    let folder = folder.path();
    files(folder);
    std::fs::write(folder.join("empty.jsonl"), "\n").unwrap();
    std::fs::write(folder.join("empty.txt"), "").unwrap();
    let nobody = "http://127.0.0.1:9 --tokenizer bare.gguf --texts texts.txt";
    for (arguments, expected, part) in [
        ("bare.gguf", 2, "--questions, --texts or --cloze"),
        ("bare.gguf --texts absent.txt", 3, "absent.txt"),
        ("bare.gguf --questions empty.jsonl", 1, "no question of the form arc"),
        (
            "bare.gguf --questions arc.jsonl --form hellaswag",
            1,
            "row 1: the question: no text `ctx`",
        ),
        ("bare.gguf --texts empty.txt", 1, "no text"),
        ("bare.gguf --cloze empty.txt", 1, "no cloze items"),
        ("bare.gguf --texts texts.txt --record", 2, "a run's folder"),
        ("bare.gguf --texts texts.txt --served bare", 2, "a model on a server"),
        ("http://127.0.0.1:9 --texts texts.txt", 2, "--tokenizer FILE"),
        (nobody, 1, "it does not answer"),
    ] {
        let (code, stdout, stderr) = finish(yushan(folder, &format!("evaluate {arguments}")));
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{arguments}: {stderr}");
        assert!(stderr.contains(part), "{arguments}: {stderr}");
    }
    let server = Server::start(folder, "bare.gguf model.gguf");
    let asked = format!("evaluate {} --tokenizer bare.gguf --texts texts.txt", server.address);
    let (code, _, stderr) = finish(yushan(folder, &asked));
    assert!(
        code == Some(2) && stderr.contains("has bare, model: choose with --served"),
        "{stderr}"
    );
    let (code, _, stderr) = finish(yushan(folder, &format!("{asked} --served other")));
    assert!(code == Some(2) && stderr.contains("--served NAME"), "{stderr}");
}
