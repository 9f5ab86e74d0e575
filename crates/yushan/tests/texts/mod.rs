//! Texts that are made up, and a recipe for a corpus of them.

use std::fs;

/// Two sources, of which nothing is dropped: made-up texts are alike.
#[allow(dead_code, reason = "not every test that includes this changes it")]
pub(crate) const CORPUS: &str = r#"
name = "small"
[[source]]
name = "stories"
path = "stories.txt"
format = "text"
split_documents = "<|endoftext|>"
licence = "CC0-1.0"
[[source]]
name = "notes"
path = "notes.jsonl"
format = "jsonl"
licence = "CC0-1.0"
[filter]
max_top_n_grams = [1.0, 1.0, 1.0]
max_duplicate_n_grams = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
[dedup]
near = false
[holdout]
share = 0.1
[tokenizer]
vocabulary = 320
"#;

/// Sentences of made-up words in an English frame.
struct Words(u64);

impl Words {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % end as u64) as usize
    }

    fn word(&mut self) -> String {
        let parts = ["ba", "ko", "ri", "men", "tal", "su", "ver", "ni", "lo", "da"];
        (0..2 + self.below(2)).map(|_| parts[self.below(10)]).collect()
    }

    fn document(&mut self) -> String {
        let ends = ["sang", "slept", "ran", "fell"];
        let mut text = String::new();
        for _ in 0..4 + self.below(6) {
            let [a, b, c, d] = [(); 4].map(|()| self.word());
            let end = ends[self.below(4)];
            text += &format!("The {a} of the {b} was {c} and they took it with a {d} that {end}. ");
        }
        text.trim_end().to_owned()
    }
}

/// A folder with those texts and that recipe, `corpus.toml`.
pub(crate) fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let mut words = Words(7);
    let stories: Vec<String> = (0..1500).map(|_| words.document()).collect();
    let notes = (0..150).map(|_| serde_json::json!({ "text": words.document() }).to_string());
    let notes: Vec<String> = notes.collect();
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
    // Both kinds of line ends.
    write("stories.txt", &stories.join("\r\n<|endoftext|>\r\n"));
    write("notes.jsonl", &notes.join("\n"));
    write("corpus.toml", CORPUS);
    place
}
