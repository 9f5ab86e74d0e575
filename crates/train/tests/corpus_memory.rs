//! A corpus of twenty times the memory that a recipe allows is built within that memory.
//!
//! The build runs in a process of its own (this test's program, called again), whose peak the system counts; a build of
//! nearly nothing says what the program takes by itself.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use yushan_train::corpus::{Recipe, clean};

const CHILD: &str = "YUSHAN_TEST_CORPUS_RECIPE";
const MEMORY: u64 = 16_000_000;

/// Texts of about 2 kB, a word of three a frequent one; every fourth is one of the last again, with a word changed.
fn write_texts(path: &Path, bytes: u64) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let (mut written, mut state) = (0, 1u64);
    let mut number = 0u64;
    while written < bytes {
        let again = number % 4 == 3;
        let mut seed = if again { number - 2 } else { number };
        let mut text = String::with_capacity(2500);
        for word in 0..330 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let value = seed >> 33;
            match value % 3 {
                0 => text.push_str(["the ", "of ", "and ", "with "][(value >> 8) as usize % 4]),
                _ => {
                    for at in 0..6 {
                        text.push(char::from(b'a' + (value >> (4 * at)) as u8 % 16));
                    }
                    text.push(' ');
                }
            }
            if word % 40 == 39 {
                text.push('\n');
            }
        }
        if again {
            state = state.wrapping_add(1);
            text += &format!("changed{state}");
        }
        let line = format!("{{\"text\": {}}}\n", serde_json::to_string(&text).unwrap());
        file.write_all(line.as_bytes()).unwrap();
        written += line.len() as u64;
        number += 1;
    }
    file.flush().unwrap();
}

/// Peak of the process that builds a corpus from a file of `bytes` bytes, and what the build said.
fn peak(folder: &Path, bytes: u64) -> (u64, String) {
    std::fs::create_dir(folder).unwrap();
    write_texts(&folder.join("texts.jsonl"), bytes);
    let recipe = format!(
        "name = \"memory\"\nmemory = {MEMORY}\n[[source]]\nname = \"texts\"\npath = \"texts.jsonl\"\nformat = \"jsonl\"\n\
         licence = \"CC0-1.0\"\nmax_document = 8192\n[filter]\nmin_stop_words = 0\n"
    );
    std::fs::write(folder.join("recipe.toml"), recipe).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_build_takes_the_memory_it_is_given", "--nocapture"])
        .env(CHILD, folder.join("recipe.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let line = said.lines().find_map(|line| line.split("VmHWM:").nth(1)).expect("a peak");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
    (kibibytes * 1024, said)
}

fn child(recipe: &Path) {
    let out = recipe.with_file_name("out");
    let built = clean(&Recipe::read(recipe).unwrap(), &out, 2, &mut |_| {}).unwrap();
    let near = built.counts[0].dropped.iter().find(|(reason, _)| reason.name() == "near duplicate");
    println!("near {}", near.map_or(0, |(_, count)| count.documents));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
}

#[test]
fn a_build_takes_the_memory_it_is_given() {
    if let Some(recipe) = std::env::var_os(CHILD) {
        return child(Path::new(&recipe));
    }
    let folder = tempfile::tempdir().unwrap();
    let (base, _) = peak(&folder.path().join("small"), 10_000);
    let (full, said) = peak(&folder.path().join("large"), 20 * MEMORY);
    eprintln!("peak {full} bytes, {base} of them the program's, for {} bytes of text", 20 * MEMORY);
    assert!(full <= base + MEMORY, "{full} bytes are more than {base} + {MEMORY}");
    assert!(!said.contains("near 0\n"), "near duplicates are found: {said}");
}
