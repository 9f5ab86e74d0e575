//! Whole builds over small inputs: formats, bad input, the same bytes for any number of threads.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::*;
use crate::shard::{Check, Documents, Shards, TRAIN};
use crate::{Error, Result};

/// A text of its own, about a hundred words, every other one frequent in English.
fn story(number: usize) -> String {
    const FREQUENT: [&str; 16] = [
        "the", "of", "and", "to", "was", "that", "for", "with", "his", "had", "from", "they",
        "which", "be", "have", "were",
    ];
    const SYLLABLES: [&str; 16] = [
        "ba", "lo", "mir", "ten", "so", "ral", "vi", "gan", "pe", "dor", "ki", "fal", "nu", "shen",
        "ta", "wol",
    ];
    let mut state = number as u64 + 1;
    let mut pick = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % 16
    };
    let mut text = format!("Story number {number}");
    for _ in 0..8 {
        for _ in 0..6 {
            text += &format!(
                " {} {}{}{}",
                FREQUENT[pick()],
                SYLLABLES[pick()],
                SYLLABLES[pick()],
                SYLLABLES[pick()]
            );
        }
        text += ".\n";
    }
    text
}

fn stories(count: usize) -> Vec<String> {
    (0..count).map(story).collect()
}

fn jsonl(texts: &[String]) -> Vec<u8> {
    texts
        .iter()
        .flat_map(|text| format!("{}\n", serde_json::json!({"id": 1, "text": text})).into_bytes())
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Some rows are null; a row group holds 50 rows.
fn parquet(texts: &[String]) -> Vec<u8> {
    let field = |name: &str| {
        let built = Type::primitive_type_builder(name, Physical::BYTE_ARRAY);
        Arc::new(built.with_repetition(Repetition::OPTIONAL).build().unwrap())
    };
    let schema = Type::group_type_builder("rows")
        .with_fields(vec![field("text"), field("url")])
        .build()
        .unwrap();
    let properties = WriterProperties::builder().build();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties)).unwrap();
    for texts in texts.chunks(50) {
        let mut group = writer.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            let mut levels = vec![1i16; texts.len()];
            levels.push(0);
            let values: Vec<ByteArray> =
                texts.iter().map(|text| ByteArray::from(text.as_str())).collect();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// A recipe with one source, `lines` added to it, and others after it.
fn recipe(folder: &Path, file: &str, format: &str, lines: &str) -> Recipe {
    let text = format!(
        "name = \"test\"\nmemory = \"16 MB\"\n[[source]]\nname = \"a\"\npath = \"{file}\"\nformat = \"{format}\"\nlicence = \"CC0-1.0\"\n{lines}\n"
    );
    Recipe::parse("recipe", &text, folder).unwrap()
}

fn build(recipe: &Recipe, threads: usize) -> Result<Built> {
    clean(recipe, &recipe.folder.join(format!("out-{threads}")), threads, &mut |_| {})
}

fn texts(built: &Built, split: &str) -> Vec<String> {
    built.corpus.rows(split).unwrap().map(|row| row.unwrap().text).collect()
}

fn dropped(built: &Built) -> BTreeMap<&'static str, u64> {
    let dropped = built.counts.iter().flat_map(|one| &one.dropped);
    dropped.map(|(reason, count)| (reason.name(), count.documents)).collect()
}

/// All files of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn every_format_gives_the_same_documents() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = stories(120);
    let plain = wanted.join("<|endoftext|>\n").into_bytes();
    let lines = jsonl(&wanted);
    let split = "split_documents = \"<|endoftext|>\"\nholdout = 0.0";
    for (file, bytes, format, lines) in [
        ("a.txt", plain.clone(), "text", split),
        ("a.txt.gz", [gzip(&plain[..5000]), gzip(&plain[5000..])].concat(), "text", split),
        ("a.txt.xz", xz(&plain), "text", split),
        ("a.txt.zst", zst(&plain), "text", split),
        ("a.jsonl", lines.clone(), "jsonl", "holdout = 0.0"),
        ("a.jsonl.xz", xz(&lines), "jsonl", "holdout = 0.0"),
        ("a.parquet", parquet(&wanted), "parquet", "holdout = 0.0"),
    ] {
        let inside = folder.path().join(format!("{file}.d"));
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join(file), bytes).unwrap();
        let built = build(&recipe(&inside, file, format, lines), 2).unwrap();
        let wanted: Vec<&str> = wanted.iter().map(|text| text.trim()).collect();
        assert_eq!(texts(&built, TRAIN), wanted, "{file}");
        let missing = if format == "parquet" { vec![("no text field", 3)] } else { Vec::new() };
        assert_eq!(dropped(&built), BTreeMap::from_iter(missing), "{file}");
    }
}

#[test]
fn rows_say_where_they_are_from_and_shards_follow() {
    struct Letters;
    impl Encode for Letters {
        fn vocabulary(&self) -> u32 {
            256
        }
        fn sha256(&self) -> [u8; 32] {
            [9; 32]
        }
        fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
            out.extend(text.bytes().map(u32::from));
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.jsonl"), jsonl(&stories(300))).unwrap();
    let built = build(&recipe(folder.path(), "*.jsonl", "jsonl", "holdout = 0.2"), 2).unwrap();
    let rows: Vec<Row> = built.corpus.rows("holdout-a").unwrap().collect::<Result<_>>().unwrap();
    assert!((30..90).contains(&rows.len()), "{} of 300 held out", rows.len());
    assert_eq!(rows.len() as u64, built.counts[0].holdout.documents);
    for row in &rows {
        assert_eq!(
            (row.source.as_str(), row.licence.as_str(), row.language.as_str()),
            ("a", "CC0-1.0", "en")
        );
        assert!(!row.label.is_trusted() && row.label.origins.contains("a"));
        assert_eq!(row.sha256, crate::digest::hex(&crate::digest::sha256(row.text.as_bytes())));
    }
    let out = folder.path().join("shards");
    tokenize(&built.corpus, &Letters, &out, &mut |_| {}).unwrap();
    let shards = Shards::open(&out, "holdout-a", Check::Now).unwrap();
    assert_eq!(shards.count(), rows.len());
    for (number, row) in rows.iter().enumerate() {
        let mut ids = Vec::new();
        shards.tokens_of(number, &mut ids).unwrap();
        let text: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
        assert_eq!(
            (text.as_slice(), shards.bytes(number)),
            (row.text.as_bytes(), row.text.len() as u64)
        );
        assert_eq!(shards.source(number), "a");
    }
    let error = tokenize(&built.corpus, &Letters, &out, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("the folder exists"), "{error}");
}

#[test]
fn a_source_with_a_share_of_its_own_leaves_the_others_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let all = stories(400);
    fs::write(folder.path().join("a.jsonl"), jsonl(&all[..300])).unwrap();
    fs::write(folder.path().join("b.jsonl"), jsonl(&all[300..])).unwrap();
    let built = |share: &str, threads: usize| {
        let source = |name: &str, more: &str| {
            format!(
                "[[source]]\nname = \"{name}\"\npath = \"{name}.jsonl\"\nformat = \"jsonl\"\nlicence = \"CC0-1.0\"\n{more}\n"
            )
        };
        let sources = source("a", "") + &source("b", share);
        let text =
            format!("name = \"test\"\nmemory = \"16 MB\"\n{sources}[holdout]\nshare = 0.05\n");
        build(&Recipe::parse("recipe", &text, folder.path()).unwrap(), threads).unwrap()
    };
    let (common, own) = (built("", 1), built("holdout = 0.3", 2));
    assert_eq!(texts(&common, "holdout-a"), texts(&own, "holdout-a"));
    let trained = |built: &Built| -> Vec<String> {
        let rows = built.corpus.rows(TRAIN).unwrap().map(|row| row.unwrap());
        rows.filter(|row| row.source == "a").map(|row| row.text).collect()
    };
    assert_eq!(trained(&common), trained(&own));
    // What was held out stays held out when the share grows.
    let (few, many) = (texts(&common, "holdout-b"), texts(&own, "holdout-b"));
    assert!(few.iter().all(|text| many.contains(text)), "{} {}", few.len(), many.len());
    assert!(few.len() < 20 && (15..50).contains(&many.len()), "{} {}", few.len(), many.len());
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = stories(2000);
    // Every fifth again, some with a word more; and what is dropped.
    let again: Vec<String> = all.iter().step_by(5).cloned().collect();
    all.extend(
        again
            .iter()
            .enumerate()
            .map(|(at, text)| if at % 2 == 0 { text.clone() } else { format!("{text}The end.") }),
    );
    all.extend((0..50).map(|i| format!("{i} too short")));
    fs::write(folder.path().join("a.jsonl"), jsonl(&all)).unwrap();
    let recipe = recipe(folder.path(), "a.jsonl", "jsonl", "");
    let built: Vec<Built> = [1, 2, 5].map(|threads| build(&recipe, threads).unwrap()).into();
    let first = files(built[0].corpus.folder());
    for other in &built[1..] {
        assert!(files(other.corpus.folder()) == first, "threads change the bytes");
    }
    assert_eq!(
        dropped(&built[0]),
        BTreeMap::from([("exact duplicate", 200), ("near duplicate", 200), ("too few words", 50)])
    );
    // The first of each stays.
    let kept: Vec<String> =
        ["train", "holdout-a"].iter().flat_map(|split| texts(&built[0], split)).collect();
    assert!(stories(2000).iter().all(|text| kept.iter().any(|one| one == text.trim())));
    for name in
        ["report.md", "report.html", "drops.svg", "lengths.svg", "counts.json", "corpus.json"]
    {
        assert!(!first[name].is_empty(), "{name}");
    }
    assert!(
        String::from_utf8_lossy(&first["report.md"]).contains("| near duplicate | 200 | 200 |")
    );
    // A second build finds the first.
    assert!(build(&recipe, 2).unwrap().was_there);
    let leftovers = files_beside(folder.path());
    assert_eq!(leftovers, ["a.jsonl", "out-1", "out-2", "out-5"]);
    let rows = built[0].corpus.folder().join("train-00000.jsonl");
    fs::write(&rows, "{}").unwrap();
    let error = build(&recipe, 1).unwrap_err().to_string();
    assert!(error.contains("train-00000.jsonl") && error.contains("SHA-256"), "{error}");
    let error = built[0].corpus.rows(TRAIN).unwrap().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("does not read"), "{error}");
}

fn files_beside(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn hostile_documents_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let check = |file: &str, format: &str, lines: &str, out: usize| {
        let built = build(&recipe(folder.path(), file, format, lines), out).unwrap();
        (built.counts[0].clone(), dropped(&built), texts(&built, TRAIN))
    };
    // One giant line: passages of words, never more than was allowed.
    let giant = (0..400).map(|i| story(i).replace('\n', " ")).collect::<String>();
    write("giant.txt", giant.as_bytes());
    let (counts, _, kept) = check("giant.txt", "text", "max_document = 4096\nholdout = 0.0", 1);
    assert_eq!(
        counts.cut_inside_lines,
        giant.len() as u64 / 4096 + (counts.read.documents - 1 - giant.len() as u64 / 4096)
    );
    assert!(kept.iter().all(|text| text.len() <= 4096) && kept.len() > giant.len() / 4096);
    // Bytes that are not UTF-8, and all line ends.
    let mixed = [story(1).replace('\n', "\r\n"), story(2).replace('\n', "\r"), story(3)]
        .join("<|endoftext|>\n");
    let mut mixed = mixed.into_bytes();
    mixed.extend_from_slice(b"<|endoftext|>\r\n");
    mixed.extend_from_slice(story(4).as_bytes());
    mixed.extend_from_slice(b"caf\xe9");
    write("mixed.txt", &mixed);
    let split = "split_documents = \"<|endoftext|>\"\nholdout = 0.0";
    let (counts, _, kept) = check("mixed.txt", "text", split, 2);
    assert_eq!(counts.replaced, 1);
    assert_eq!(kept[..3], [1, 2, 3].map(|i| story(i).trim().to_string()));
    assert!(kept[3].ends_with("caf\u{fffd}"));
    let drop = format!("{split}\n[filter]\ninvalid_utf8 = \"drop\"");
    assert_eq!(check("mixed.txt", "text", &drop, 3).1, BTreeMap::from([("invalid UTF-8", 1)]));
    // Lines that are no rows.
    let mut lines = jsonl(&stories(3));
    lines.extend_from_slice(b"\n{\"text\": \n{\"other\": 1}\r\n{\"text\": \"\"}\n[]\n");
    lines.extend_from_slice(format!("{{\"text\": \"{}\"}}\n", "x".repeat(2_000_000)).as_bytes());
    write("lines.jsonl", &lines);
    let (_, reasons, kept) = check("lines.jsonl", "jsonl", "holdout = 0.0", 4);
    assert_eq!(
        reasons,
        BTreeMap::from([("empty", 1), ("line too long", 1), ("no text field", 1), ("not JSON", 2)])
    );
    assert_eq!(kept.len(), 3);
}

#[test]
fn bad_input_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let plain = stories(300).concat().into_bytes();
    write("empty.txt", b"");
    write("short.txt", b"one two three");
    write("cut.gz", &gzip(&plain)[..3000]);
    write("cut.xz", &xz(&plain)[..3000]);
    write("cut.zst", &zst(&plain)[..3000]);
    let mut damaged = xz(&plain);
    damaged[2000] ^= 0x55;
    write("bad.xz", &damaged);
    write("a.parquet", &parquet(&stories(60)));
    write("cut.parquet", &parquet(&stories(60))[..2000]);
    let mut damaged = parquet(&stories(60));
    damaged[4..40].fill(0xff);
    write("bad.parquet", &damaged);
    write("a.jsonl", &jsonl(&stories(3)));
    for (file, format, lines, said) in [
        ("empty.txt", "text", "", "its files hold no documents"),
        ("short.txt", "text", "", "all 1 documents were dropped, 1 as `too few words`"),
        ("no*.txt", "text", "", "no file matches"),
        ("$YUSHAN_NO_SUCH/a", "text", "", "the variable YUSHAN_NO_SUCH is not set"),
        ("cut.gz", "text", "", "its gzip data end too early: the file is cut off"),
        ("cut.xz", "text", "", "its xz data end too early: the file is cut off"),
        ("cut.zst", "text", "", "its zstd data end too early: the file is cut off"),
        ("bad.xz", "text", "", "its xz data are damaged"),
        ("cut.parquet", "parquet", "", "not readable as Parquet"),
        ("bad.parquet", "parquet", "", "damaged"),
        ("a.jsonl", "parquet", "", "not readable as Parquet"),
        ("a.parquet", "parquet", "text_field = \"body\"", "no column `body`; there are: text, url"),
        (
            "a.jsonl",
            "jsonl",
            "text_field = \"body\"",
            "no row has a text in the field `body`; the first one has: id, text",
        ),
    ] {
        let error = build(&recipe(folder.path(), file, format, lines), 1).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(said), "{file}: {text}");
        let names_it =
            file.contains(['*', '$']) || text.contains("corpus `test`") || text.contains(file);
        assert!(names_it, "{file}: {text}");
        assert!(matches!(error, Error::Bad { .. }), "{text}");
    }
    assert!(
        !files_beside(folder.path())
            .iter()
            .any(|name| name.starts_with('.') || name.starts_with("out"))
    );
    fs::create_dir(folder.path().join("out-1")).unwrap();
    let error = build(&recipe(folder.path(), "a.jsonl", "jsonl", ""), 1).unwrap_err().to_string();
    assert!(error.contains("the folder exists, and is no corpus"), "{error}");
}

#[test]
fn recipes_are_checked() {
    let source = "[[source]]\nname = \"a\"\npath = \"x\"\nformat = \"text\"\nlicence = \"MIT\"\n";
    for (text, said) in [
        (String::new(), "missing field `name`"),
        ("name = \"x\"".into(), "no source: write at least one"),
        (
            format!("name = \"x\"\n{source}liscence = \"y\""),
            "unknown key `liscence`; did you mean `licence`?",
        ),
        (
            format!("name = \"x\"\nmemory = \"1 MB\"\n{source}"),
            "memory = 1000000 bytes is too little",
        ),
        (format!("name = \"x\"\nmemory = \"big\"\n{source}"), "`big` is no size"),
        (
            format!("name = \"x\"\n{source}max_document = \"1 GB\""),
            "source `a`: max_document = 1000000000 bytes",
        ),
        (format!("name = \"x\"\n{source}{source}"), "two sources are called `a`"),
        (format!("name = \"x\"\n{source}holdout = 2.0"), "a share is from 0 to 1"),
        (format!("name = \"x\"\n{source}[dedup]\nbands = 0"), "bands × rows from 1 to 512"),
        (format!("name = \"x\"\n{source}[filter]\nmin_word = 3"), "did you mean `min_words`?"),
        (
            format!("name = \"x\"\n{}", source.replace("text", "txt")),
            "unknown word `txt`; did you mean `text`?",
        ),
        (
            format!("name = \"x\"\n{}", source.replace("\"a\"", "\"../a\"")),
            "a name has 1 to 64 letters",
        ),
    ] {
        let error = Recipe::parse("recipe", &text, Path::new(".")).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    for name in ["english", "zh-hant"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../recipes/{name}.toml"));
        assert_eq!(Recipe::read(&path).unwrap().name, name);
    }
}

#[test]
fn shared_texts_become_a_corpus() {
    let root = std::env::var_os("YUSHAN_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        std::path::PathBuf::from,
    );
    if !root.join("data/pretrain").exists() {
        eprintln!("skipped: shared data not found: {}", root.join("data/pretrain").display());
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/zh-hant.toml");
    // The variable may be unset where the folder lies beside the checkout.
    let text = fs::read_to_string(path).unwrap().replace("$YUSHAN_SHARED", &root.to_string_lossy());
    let folder = tempfile::tempdir().unwrap();
    let built = build(&Recipe::parse("recipe", &text, folder.path()).unwrap(), 2).unwrap();
    let kept: Vec<(&str, u64)> = built
        .counts
        .iter()
        .map(|one| (one.source.as_str(), one.train.documents + one.holdout.documents))
        .collect();
    for ((source, documents), (name, least, most)) in kept.into_iter().zip([
        ("tang-poems", 20_000, 21_664),
        ("encyclopedia", 1_900, 2_000),
        ("stories", 3_300, 3_448),
    ]) {
        assert!(source == name && (least..=most).contains(&documents), "{source}: {documents}");
    }
    let languages =
        built.corpus.rows("holdout-encyclopedia").unwrap().map(|row| row.unwrap().language);
    let languages: Vec<String> = languages.collect();
    assert!(
        languages.iter().filter(|language| *language == "zh-Hant").count() * 100
            > languages.len() * 95
    );
}
