//! Shards: written and read back, cut off, changed, of another tokenizer.

use std::fs;

use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// Document `i` of the test: its split, ids, bytes and source.
fn document(i: u32, vocabulary: u32) -> (usize, Vec<u32>, u32, u32) {
    let length = [0, 1, 7, 30][i as usize % 4];
    let ids = (0..length).map(|at| (i * 31 + at * 7919) % vocabulary).collect();
    ((i % 5 == 4) as usize, ids, length * 3 + 1, i % 3)
}

fn written(folder: &Path, vocabulary: u32, documents: u32) -> Manifest {
    let splits = names(&["train", "holdout-b"]);
    let mut writer = Writer::create(folder, vocabulary, [7; 32], &names(&["a", "b", "c"]), &splits)
        .with_file_tokens(100);
    for i in 0..documents {
        let (split, ids, bytes, source) = document(i, vocabulary);
        writer.push(split, &ids, bytes, source).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn what_was_written_is_read() {
    for (vocabulary, width) in [(300, 2), (65_536, 2), (65_537, 4)] {
        let folder = tempfile::tempdir().unwrap();
        let manifest = written(folder.path(), vocabulary, 60);
        assert!(manifest.splits[0].files.len() > 2, "several files");
        for (number, split) in ["train", "holdout-b"].iter().enumerate() {
            for check in [Check::Now, Check::Lazily] {
                let shards = Shards::open(folder.path(), split, check).unwrap();
                let wanted: Vec<_> = (0..60)
                    .map(|i| document(i, vocabulary))
                    .filter(|one| one.0 == number)
                    .collect();
                assert_eq!(shards.count(), wanted.len());
                assert_eq!(shards.files[0].shard.width, width);
                for (at, (_, ids, bytes, source)) in wanted.iter().enumerate() {
                    let mut read = vec![99];
                    shards.tokens_of(at, &mut read).unwrap();
                    assert_eq!(read[1..], ids[..]);
                    assert_eq!(shards.length(at), ids.len());
                    assert_eq!(shards.bytes(at), u64::from(*bytes));
                    assert_eq!(shards.source(at), ["a", "b", "c"][*source as usize]);
                }
                let tokens = wanted.iter().map(|one| one.1.len() as u64).sum::<u64>();
                assert_eq!((shards.tokens(), manifest.splits[number].totals().1), (tokens, tokens));
            }
        }
    }
}

#[test]
fn every_changed_bit_and_every_cut_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = written(folder.path(), 300, 12);
    let file = &manifest.splits[0].files[0].name;
    let path = folder.path().join(file);
    let whole = fs::read(&path).unwrap();
    let check = |bytes: &[u8], what: String| {
        // A new file, as mapped files are replaced and never written in place.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let error =
            Shards::open(folder.path(), "train", Check::Now).err().expect(&what).to_string();
        assert!(
            error.contains(file.as_str()) && error.contains("build the shards again"),
            "{what}: {error}"
        );
        let lazily = Shards::open(folder.path(), "train", Check::Lazily);
        let lazily = lazily.and_then(|shards| shards.tokens_of(0, &mut Vec::new()));
        assert!(lazily.is_err(), "{what}");
    };
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        check(&changed, format!("byte {at}"));
    }
    for length in (1..whole.len()).step_by(13) {
        check(&whole[..length], format!("{length} bytes"));
    }
    fs::remove_file(&path).unwrap();
    let error = Shards::open(folder.path(), "train", Check::Now).err().unwrap().to_string();
    assert!(error.contains(file.as_str()), "{error}");
}

#[test]
fn parse_bounds_what_is_not_hashed() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = written(folder.path(), 300, 12);
    let whole = fs::read(folder.path().join(&manifest.splits[0].files[0].name)).unwrap();
    assert!(Shard::parse(whole.clone()).is_ok());
    let end = whole.len();
    for (at, value, said) in [
        (64, 0xff, "the vocabulary has 300"),
        (8, 3, "2 or 4"),
        (end - 24 + 7, 0xff, "more than fit"),
        (end - 24 - 16 + 1, 0xff, "has tokens"),
        (end - 1, 0, "YUSHARDE"),
        (0, 0, "YUSHARD1"),
    ] {
        let mut changed = whole.clone();
        changed[at] = value;
        if at == 64 {
            changed[65] = 0xff;
        }
        let error = Shard::parse(changed).err().unwrap().to_string();
        assert!(error.contains(said), "{at}: {error}");
    }
    assert!(Shard::parse(Vec::new()).is_err());
}

#[test]
fn manifests_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 300, 12);
    let path = folder.path().join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    let (_, hash) = Manifest::read(folder.path()).unwrap();
    for (old, new, said) in [
        ("\"format\": 1", "\"format\": 2", "format 2 is not 1"),
        ("\"vocabulary\": 300", "\"vocabulary\": 301", "300 as vocabulary"),
        ("\"tokenizer\": \"07", "\"tokenizer\": \"08", "as tokenizer"),
        ("train-00000.tokens", "../00000.tokens", "not the name of a file"),
        ("\"sources\"", "\"source\"", "unknown field `source`"),
        ("\"name\": \"train\"", "\"name\": \"trial\"", "there are: trial, holdout-b"),
    ] {
        assert!(text.contains(old), "{old}");
        fs::write(&path, text.replacen(old, new, 1)).unwrap();
        let error = Shards::open(folder.path(), "train", Check::Lazily).err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
    fs::write(&path, &text).unwrap();
    assert_eq!(Shards::open(folder.path(), "train", Check::Lazily).unwrap().hash(), hash);
}

#[test]
fn an_id_outside_the_vocabulary_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let splits = names(&["train"]);
    let mut writer = Writer::create(folder.path(), 10, [0; 32], &splits, &splits);
    let error = writer.push(0, &[3, 10], 2, 0).unwrap_err().to_string();
    assert!(error.contains("token 10 is not below the vocabulary of 10"), "{error}");
    // A split without documents has no files and reads as empty.
    writer.finish().unwrap();
    assert_eq!(Shards::open(folder.path(), "train", Check::Now).unwrap().count(), 0);
}
