use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::files::Disk;
use super::save::save_with;
use super::*;
use crate::Error;
use crate::decoder::layout;
use crate::order::{Counts, Cursor, Cut, Options};
use fragile::{Fragile, Mode};

mod fragile;

/// A tokenizer of three words.
const TOKENIZER_JSON: &str = r#"{"added_tokens": [{"id": 2, "content": "<|endoftext|>", "special": true}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}"#;

/// Random bits (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }
}

fn shape(tied: bool) -> Shape {
    Shape {
        vocabulary: 5,
        context: 16,
        dim: 6,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 7,
        tied,
        norm_eps: 1e-5,
        rope_base: 10_000.0,
    }
}

/// A snapshot full of random bits, NaNs among them.
fn snapshot(step: u64) -> Snapshot<'static> {
    let mut random = Random(step + 1);
    let mut vector = |length: usize| -> Vec<f32> {
        (0..length).map(|_| f32::from_bits(random.next() as u32)).collect()
    };
    let shape = shape(step.is_multiple_of(20));
    let params = vector(shape.parameters());
    let optimizer = vec![
        ("first_moment".into(), vector(shape.parameters()).into()),
        ("empty".into(), vector(0).into()),
        ("second_moment".into(), vector(31).into()),
    ];
    let options = Options { context: 16, seed: u64::MAX - step, bos: Some(2), cut: Cut::Carry };
    let finite = |bits: u64| f64::from_bits(bits & !(1 << 62));
    let floats: Vec<f64> = (0..40).map(|_| finite(random.next())).collect();
    Snapshot {
        shape,
        params: params.into(),
        optimizer,
        tokenizer: TOKENIZER_JSON.as_bytes().into(),
        ends: Ends { bos: 2, eos: 2 },
        state: State {
            step,
            cursor: Cursor {
                options,
                passages: 9,
                rows: step * 8,
                epoch: 3,
                drawn: 5,
                waiting: vec![(3, 0), (1, 16)],
                counts: Counts { passages: 32, cuts: 1, used: 4, cut_off: 5 },
            },
            updates: step,
            rng: vec![random.next(), random.next()],
            schedule: json!({"floats": floats, "peak": 1e-3_f64, "large": 1e300, "third": 1.0 / 3.0}),
            spikes: json!(null),
            recipe: "depth = 4 # 玉山\n".into(),
            metadata: json!({"z": [1, {"y": "\u{0}"}], "a": u64::MAX, "i": i64::MIN}),
        },
    }
}

/// Equal to the last bit, NaNs too.
fn same(one: &Snapshot<'_>, other: &Snapshot<'_>) -> bool {
    let bits = |v: &[f32]| -> Vec<u32> { v.iter().map(|number| number.to_bits()).collect() };
    let vectors = |snapshot: &Snapshot<'_>| -> Vec<(String, Vec<u32>)> {
        snapshot.optimizer.iter().map(|(name, v)| (name.clone(), bits(v))).collect()
    };
    bits(&one.params) == bits(&other.params)
        && vectors(one) == vectors(other)
        && (&one.shape, &one.tokenizer, one.ends, &one.state)
            == (&other.shape, &other.tokenizer, other.ends, &other.state)
}

fn names(folder: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_string();
    folders(folder).unwrap().into_iter().map(name).collect()
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn everything_comes_back_bit_for_bit() {
    for step in [0, 7, 20, 1_234_567] {
        let folder = temporary();
        let saved = save(&folder.path().join("made/by/it"), &snapshot(step), Keep::default());
        let Saved { path, bytes, removed, warnings } = saved.unwrap();
        assert_eq!((removed.len(), warnings), (0, Vec::new()));
        let written = fs::read_dir(&path).unwrap().map(|file| file.unwrap());
        let written: u64 = written.map(|file| file.metadata().unwrap().len()).sum();
        assert_eq!(bytes, written);
        let loaded = load_latest(path.parent().unwrap()).unwrap().unwrap();
        assert_eq!((loaded.path, loaded.rejected), (path, Vec::new()));
        assert!(same(&loaded.snapshot, &snapshot(step)));
    }
    assert!(load_latest(Path::new("/nowhere/at/all")).unwrap().is_none());
    assert!(load_latest(temporary().path()).unwrap().is_none());
}

#[test]
fn another_reader_finds_the_tensors_by_their_names() {
    let folder = temporary();
    let snapshot = snapshot(7);
    let path = save(folder.path(), &snapshot, Keep::default()).unwrap().path;
    let bytes = fs::read(path.join(MODEL)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let list = layout(&snapshot.shape);
    assert_eq!(file.len(), list.len());
    for tensor in &list {
        let view = file.tensor(&tensor.name).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        assert_eq!(
            view.data(),
            bytemuck::cast_slice::<f32, u8>(&snapshot.params[tensor.range.clone()])
        );
    }
    assert!(file.tensor("lm_head.weight").is_ok());

    let half = folder.path().join("half");
    export(&half, &snapshot, Type::Bf16).unwrap();
    let bytes = fs::read(half.join(MODEL)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let norm = file.tensor("model.norm.weight").unwrap();
    assert_eq!(norm.dtype(), safetensors::Dtype::BF16);
    let range =
        list.iter().find(|tensor| tensor.name == "model.norm.weight").unwrap().range.clone();
    let expected =
        snapshot.params[range].iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes());
    assert!(norm.data().iter().copied().eq(expected));
    let config = fs::read_to_string(half.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");
    assert_eq!(config["rms_norm_eps"], json!(1e-5));
    assert_eq!(config["tie_word_embeddings"], false);
    assert!(!half.join(OPTIMIZER).exists() && !half.join(STATE).exists());
    let error = export(&half, &snapshot, Type::F32).unwrap_err().to_string();
    assert!(error.contains("is there already"), "{error}");
    assert_eq!(names(folder.path()), ["half", "step-000007"]);
}

/// Two checkpoints, the newer one harmed in one way.
struct Harm {
    name: String,
    what: String,
    random: Random,
}

impl Harm {
    /// Harms `folder`, the newer checkpoint; `other` is the older one.
    fn apply(&mut self, folder: &Path, other: &Path) {
        let files = names(folder);
        let name = &files[self.random.below(files.len())];
        let path = folder.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = self.random.below(bytes.len());
        let way = self.random.below(9);
        self.name = name.clone();
        self.what = format!("{name}, way {way}, at {at} of {}", bytes.len());
        match way {
            0..=2 => bytes[at] ^= 1 << self.random.below(8),
            3 => bytes.truncate(at),
            4 => bytes.extend_from_slice(&[b'\n'][..]),
            5 => {
                // A page that was never written.
                let end = (at + 512).min(bytes.len());
                bytes[at..end].fill(0);
                // These bytes may be zeros already.
                bytes[at] ^= 0x40;
            }
            6 => {
                let (a, b) = (at, self.random.below(bytes.len()));
                bytes.swap(a, b);
                if fs::read(&path).unwrap() == bytes {
                    bytes[a] ^= 0x10;
                }
            }
            7 => return fs::remove_file(&path).unwrap(),
            _ => {
                // The same file of another checkpoint, which may be the same (config.json).
                let theirs = fs::read(other.join(name)).unwrap();
                match theirs == bytes {
                    true => bytes[at] ^= 0x80,
                    false => bytes = theirs,
                }
            }
        }
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_thousand_harmed_checkpoints_are_detected() {
    let folder = temporary();
    let keep = Keep::default();
    let (older, newer) = (snapshot(20), snapshot(40));
    save(folder.path(), &older, keep).unwrap();
    save(folder.path(), &newer, keep).unwrap();
    let paths = [20, 40].map(|step| folder.path().join(folder_name(step)));
    let whole: BTreeMap<String, Vec<u8>> = names(&paths[1])
        .into_iter()
        .map(|name| (name.clone(), fs::read(paths[1].join(name)).unwrap()))
        .collect();
    for seed in 0..1000 {
        let mut harm = Harm { name: String::new(), what: String::new(), random: Random(seed) };
        harm.apply(&paths[1], &paths[0]);
        let loaded = load_latest(folder.path()).unwrap().unwrap();
        assert_eq!(loaded.path, paths[0], "seed {seed}: {}", harm.what);
        assert!(same(&loaded.snapshot, &older));
        assert_eq!(loaded.rejected.len(), 1);
        assert_eq!(loaded.rejected[0].path, paths[1]);
        assert!(!loaded.rejected[0].reason.is_empty());
        fs::write(paths[1].join(&harm.name), &whole[&harm.name]).unwrap();
    }
    assert!(same(&load_latest(folder.path()).unwrap().unwrap().snapshot, &newer));

    // Whole folders in each other's place, and none that is whole.
    let aside = folder.path().join("aside");
    fs::rename(&paths[0], &aside).unwrap();
    fs::rename(&paths[1], &paths[0]).unwrap();
    fs::rename(&aside, &paths[1]).unwrap();
    let error = load_latest(folder.path()).unwrap_err().to_string();
    for words in ["none of 2 is whole", "step-000020: manifest.json", "of step 40", "restore one"] {
        assert!(error.contains(words), "{error}");
    }
}

/// Saves `snapshot` where the power fails after `operations`; returns whether the save had returned.
fn cut_power(folder: &Path, snapshot: &Snapshot<'_>, operations: usize, seed: u64) -> bool {
    let files = Fragile::new(folder, Mode::Power, operations);
    let saved = save_with(&files, folder, snapshot, Keep::default()).is_ok();
    files.settle(&mut Random(seed));
    saved
}

/// A save without the waiting for the disk.
fn save_unsynced(folder: &Path, snapshot: &Snapshot<'_>) {
    let files = Fragile::new(folder, Mode::Power, usize::MAX);
    save_with(&files, folder, snapshot, Keep::default()).unwrap();
}

#[test]
fn power_may_fail_at_any_operation() {
    // Steps that are there before, and the one that is saved: a third, a second, a first, one that is there already
    // beside another, and the only one again.
    let cases: [(&[u64], u64); 5] =
        [(&[10, 20], 30), (&[10], 20), (&[], 10), (&[10, 20], 20), (&[20], 20)];
    for (before, step) in cases {
        let mut outcomes = [0; 2];
        for seed in 0..4 {
            for operations in 0.. {
                let folder = temporary();
                for &step in before {
                    let mut older = snapshot(step);
                    older.state.updates = 1_000_000;
                    save_unsynced(folder.path(), &older);
                }
                let new = snapshot(step);
                let saved =
                    cut_power(folder.path(), &new, operations, seed * 1000 + operations as u64);
                let loaded = load_latest(folder.path()).unwrap();
                let is_new = loaded.as_ref().is_some_and(|loaded| same(&loaded.snapshot, &new));
                let what =
                    format!("{before:?} then {step}, power off after {operations}, seed {seed}");
                assert!(is_new || !saved, "a saved checkpoint is lost: {what}");
                if !is_new {
                    // The newest of those before.
                    match (before.last(), &loaded) {
                        (Some(&last), Some(loaded)) => {
                            let mut older = snapshot(last);
                            older.state.updates = 1_000_000;
                            assert!(same(&loaded.snapshot, &older), "{what}");
                            assert!(loaded.rejected.is_empty(), "{what}: {:?}", loaded.rejected);
                        }
                        (last, loaded) => {
                            assert_eq!((last, loaded.is_none()), (None, true), "{what}")
                        }
                    }
                }
                outcomes[usize::from(is_new)] += 1;
                // The next save works and leaves nothing of the crash.
                save_unsynced(folder.path(), &snapshot(50));
                save_unsynced(folder.path(), &snapshot(60));
                assert_eq!(names(folder.path()), ["step-000050", "step-000060"], "{what}");
                if saved && !Fragile::refused() {
                    break;
                }
            }
        }
        assert!(outcomes[0] > 40 && outcomes[1] > 5, "{outcomes:?}: the power failed elsewhere");
    }
}

#[test]
fn the_disk_may_be_full_at_any_write() {
    let folder = temporary();
    save(folder.path(), &snapshot(10), Keep::default()).unwrap();
    save(folder.path(), &snapshot(20), Keep::default()).unwrap();
    let mut failures = 0;
    for writes in 0.. {
        let files = Fragile::new(folder.path(), Mode::Full, writes);
        let result = save_with(&files, folder.path(), &snapshot(30), Keep::default());
        let Err(error) = result else { break };
        failures += 1;
        let error = error.to_string();
        for words in ["step-000030", "writing ", "No space left", "the run can go on", "make room"]
        {
            let making = writes == 0 && words == "writing ";
            assert!(error.contains(words) || making, "{error}");
        }
        assert_eq!(names(folder.path()), ["step-000010", "step-000020"]);
        let loaded = load_latest(folder.path()).unwrap().unwrap();
        assert!(same(&loaded.snapshot, &snapshot(20)) && loaded.rejected.is_empty());
    }
    assert!(failures > 15, "{failures}");
    assert_eq!(names(folder.path()), ["step-000020", "step-000030"]);
}

#[test]
fn a_small_disk_is_full_for_real() {
    let folder = temporary();
    let mount = |arguments: &[&str]| {
        let path = folder.path().to_str().unwrap();
        Command::new(arguments[0]).args(&arguments[1..]).arg(path).output()
    };
    let mounted = mount(&["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs"]);
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a tmpfs cannot be mounted here (it takes root)");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        save(folder.path(), &snapshot(10), Keep::default()).unwrap();
        let filler = folder.path().join("filler");
        fs::write(&filler, vec![1; 64 << 10]).unwrap();
        let error = save(folder.path(), &snapshot(20), Keep::default()).unwrap_err().to_string();
        assert!(error.contains("No space left on device"), "{error}");
        let loaded = load_latest(folder.path()).unwrap().unwrap();
        assert!(same(&loaded.snapshot, &snapshot(10)));
        fs::remove_file(filler).unwrap();
        save(folder.path(), &snapshot(20), Keep::default()).unwrap();
        assert_eq!(names(folder.path()), ["step-000010", "step-000020"]);
    });
    assert!(mount(&["umount"]).unwrap().status.success());
    result.unwrap();
}

#[test]
fn the_newest_and_the_milestones_stay() {
    let folder = temporary();
    let keep = Keep { newest: 2, every: 100 };
    for step in [0, 50, 100, 150, 200, 230] {
        save(folder.path(), &snapshot(step), keep).unwrap();
    }
    let there = ["step-000000", "step-000100", "step-000200", "step-000230"];
    assert_eq!(names(folder.path()), there);
    // Rolled back to 200 and gone on: what lies beyond is of another past.
    let saved = save(folder.path(), &snapshot(210), keep).unwrap();
    assert_eq!(saved.removed, [folder.path().join("step-000230")]);
    let steps: Vec<u64> = list(folder.path()).unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [210, 200, 100, 0]);
    save(folder.path(), &snapshot(220), Keep { newest: 0, every: 0 }).unwrap();
    assert_eq!(names(folder.path()), ["step-000220"]);
    // Past six digits order is by number.
    save(folder.path(), &snapshot(1_000_000), keep).unwrap();
    save(folder.path(), &snapshot(1_000_001), keep).unwrap();
    assert_eq!(names(folder.path()), ["step-1000000", "step-1000001"]);
    fs::create_dir(folder.path().join("step-x")).unwrap();
    fs::create_dir(folder.path().join("step-0000001")).unwrap();
    assert_eq!(load_latest(folder.path()).unwrap().unwrap().snapshot.state.step, 1_000_001);
}

#[test]
fn what_does_not_fit_is_refused_before_the_disk_is_touched() {
    let check = |change: &dyn Fn(&mut Snapshot<'static>), words: &str| {
        let folder = temporary();
        let mut snapshot = snapshot(7);
        change(&mut snapshot);
        let error = save(folder.path(), &snapshot, Keep::default()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(names(folder.path()).is_empty());
    };
    check(&|s| s.params.to_mut().truncate(5), "5 parameters");
    check(&|s| s.ends.eos = 5, "5 is none of the 5 tokens");
    check(&|s| s.ends.bos = 1, "added_tokens");
    check(&|s| s.tokenizer = b"{"[..].into(), "tokenizer.json");
    check(&|s| s.optimizer[1].0 = "first_moment".into(), "first_moment");
    check(&|s| s.shape.kv_heads = 5, "kv_heads");
}

#[test]
fn hostile_files_are_refused_without_harm() {
    let folder = temporary();
    let path = save(folder.path(), &snapshot(7), Keep::default()).unwrap().path;
    let files: Vec<(String, Vec<u8>)> = names(&path)
        .into_iter()
        .filter(|name| name != manifest::NAME)
        .map(|name| (name.clone(), fs::read(path.join(name)).unwrap()))
        .collect();
    let parse_with = |name: &str, bytes: &[u8]| -> crate::Result<Snapshot<'static>> {
        let file = |(other, own): &'static (String, Vec<u8>)| (other.as_str(), own.as_slice());
        let files: &'static Vec<(String, Vec<u8>)> = Box::leak(Box::new(files.clone()));
        let mut list: Vec<(&str, &[u8])> = files.iter().map(file).collect();
        list.retain(|(other, _)| *other != name);
        list.push((name, bytes));
        parse(7, &list)
    };
    let check = |name: &str, bytes: &[u8], words: &str| {
        let error = parse_with(name, bytes).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    let state = fs::read_to_string(path.join(STATE)).unwrap();
    assert!(same(&parse_with(STATE, state.as_bytes()).unwrap(), &snapshot(7)));
    let swap = |from: &str, to: &str| {
        assert!(state.contains(from), "{from}");
        state.replace(from, to)
    };
    check(STATE, b"[", STATE);
    check(STATE, swap("\"layers\": 2", "\"layers\": 16777216").as_bytes(), "at least");
    check(STATE, swap("\"layers\": 2", "\"layers\": 18446744073709551615").as_bytes(), "layers");
    check(STATE, swap("\"layers\": 2", "\"layers\": 3").as_bytes(), "expected");
    check(STATE, swap("\"dim\": 6", "\"dim\": 5").as_bytes(), "expected");
    check(STATE, swap("\"step\": 7", "\"step\": 8").as_bytes(), "step 8");
    check(STATE, swap("depth = 4", "depth = 5").as_bytes(), "recipe");
    check(STATE, swap("      31\n", "      1099511627777\n").as_bytes(), "too long");
    check(STATE, swap("      31\n", "      1099511627776\n").as_bytes(), "expected");
    check(STATE, swap("      31\n", "      30\n").as_bytes(), "expected");
    check(STATE, swap("second_moment", "second_momenX").as_bytes(), "header");
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    check(STATE, swap("\"spikes\": null", &format!("\"spikes\": {nested}")).as_bytes(), STATE);
    check(STATE, swap("\"spikes\"", "\"spokes\"").as_bytes(), "spokes");
    check(manifest::NAME, b"{}", manifest::NAME);
    check(manifest::NAME, &vec![b' '; 70_000], "at most");
    check("config.json", &vec![b' '; 2 << 20], "at most");
    check(MODEL, b"", "at least");
    check(OPTIMIZER, b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "expected");
    let error = load(Path::new("/nowhere/step-000001")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // A pipe in place of a file is not waited for.
    if cfg!(unix) {
        fs::remove_file(path.join("config.json")).unwrap();
        let made = Command::new("mkfifo").arg(path.join("config.json")).status().unwrap();
        assert!(made.success());
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn mutated_files_are_read_or_refused() {
    let folder = temporary();
    let path = save(folder.path(), &snapshot(7), Keep::default()).unwrap().path;
    let whole: Vec<(String, Vec<u8>)> = names(&path)
        .into_iter()
        .filter(|name| name != manifest::NAME)
        .map(|name| (name.clone(), fs::read(path.join(name)).unwrap()))
        .collect();
    let (mut read, mut refused) = (0, 0);
    for seed in 0..4000 {
        let mut random = Random(seed);
        let mut files = whole.clone();
        // state.json in half of the cases: it decides how the others are read.
        let state = files.iter().position(|(name, _)| name == STATE).unwrap();
        let at = if seed % 2 == 0 { state } else { random.below(files.len()) };
        let bytes = &mut files[at].1;
        for _ in 0..random.below(4) + 1 {
            let place = random.below(bytes.len().max(1));
            match random.below(5) {
                0 => bytes.truncate(place),
                1 => {
                    bytes.insert(place.min(bytes.len()), b"0123456789,[]{}\"e.-"[random.below(19)])
                }
                2 if !bytes.is_empty() => drop(bytes.remove(place)),
                3 if !bytes.is_empty() => bytes[place] = b'9',
                _ if !bytes.is_empty() => bytes[place] ^= 1 << random.below(8),
                _ => {}
            }
        }
        let list: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        match parse(7, &list) {
            Ok(snapshot) => {
                read += 1;
                assert_eq!(snapshot.params.len(), snapshot.shape.parameters());
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 500 && refused > 500, "{read} read, {refused} refused");
}
