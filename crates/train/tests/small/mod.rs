//! A small world to train in: texts with a grammar of their own, a tokenizer and shards of them, and a recipe.

use std::path::Path;

use yushan_model::tokenizer::{Ends, Special};
use yushan_train::bpe;
use yushan_train::digest::sha256;
use yushan_train::pretrain::{Job, SHARDS};
use yushan_train::recipe::{Recipe, Settings};
use yushan_train::shard::Writer;

/// A generator of small numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % end as u64) as usize
    }
}

/// A story of some sentences.
fn story(random: &mut Random) -> String {
    let names = ["Anna", "Ben", "Chen", "Mei"];
    let things = ["ball", "book", "cat", "boat", "hat"];
    let ends = ["was happy", "went home", "sat down", "sang a song"];
    let mut text = String::new();
    for _ in 0..2 + random.below(6) {
        let name = names[random.below(4)];
        let thing = things[random.below(5)];
        text += &format!(
            "{name} saw a {thing}. {name} took the {thing} and {}. ",
            ends[random.below(4)]
        );
    }
    text.trim_end().to_owned()
}

/// Makes a folder as `yushan data build` does: 400 stories to train on, 40 that are held out.
pub(crate) fn data(folder: &Path) {
    let mut random = Random(7);
    let stories: Vec<String> = (0..440).map(|_| story(&mut random)).collect();
    let options = bpe::Options { vocabulary: 312, ..bpe::Options::default() };
    let words = bpe::Words::count(stories.iter(), options.pre_tokenizer, 1 << 20, 1);
    let trained = bpe::train(&words, &options).unwrap();
    trained.write(folder, 1 << 20).unwrap();
    let tokenizer = trained.tokenizer().unwrap();
    let shards = folder.join(SHARDS);
    std::fs::create_dir(&shards).unwrap();
    let json = std::fs::read(folder.join("tokenizer.json")).unwrap();
    let splits = ["train".to_owned(), "holdout-stories".to_owned()];
    let sources = ["stories".to_owned()];
    let mut writer = Writer::create(&shards, 312, sha256(&json), &sources, &splits);
    for (at, story) in stories.iter().enumerate() {
        let ids = tokenizer.encode(story, Special::AsText, Ends::Bare);
        writer.push(usize::from(at >= 400), &ids, story.len() as u32, 0).unwrap();
    }
    writer.finish().unwrap();
}

/// A recipe over that folder: two layers of 32, rows of 64 tokens, eight of them a step.
pub(crate) fn settings(data: &Path, more: &[(&str, &str)]) -> Settings {
    let text = "
        depth = 2
        [model]
        dim = 32
        heads = 2
        kv_heads = 1
        ffn = 64
        context = 64
        [train]
        tokens = 20480
        batch_tokens = 512
        learning_rate = 0.01
        warmup = 4
        [evaluate]
        every = 20
        tokens = 2000
        [sample]
        every = 0
        prompts = [\"Anna saw\"]
        tokens = 8
        [checkpoint]
        every = 5
    ";
    let set: Vec<(String, String)> =
        more.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let mut recipe = Recipe::parse_with(text, "small", &set).unwrap();
    recipe.data.folder = Some(data.to_owned());
    recipe.settle(312).unwrap()
}

/// A run of these settings on one thread.
pub(crate) fn job<'a>(settings: &'a Settings, folder: &'a Path, resume: bool) -> Job<'a> {
    Job {
        settings,
        folder,
        recipe: "",
        resume,
        threads: 1,
        peak: 1e11,
        commands: vec!["yushan train pretrain".to_owned()],
        code: None,
        started: None,
        predicted: None,
        energy: Path::new("no counters here"),
    }
}
