//! What every disk and index must do: one list of checks, run on each implementation.

use std::ops::ControlFlow;

use yushan_abi::{DiskError, Document, Label, NewRecord, Sources};
use yushan_disk::{Memory, Sqlite};

use crate::calls::{Both, document, item, record, replayed, replayed_of};

type Check = (&'static str, fn(&dyn Both));

const CHECKS: &[Check] = &[
    ("an empty disk", empty),
    ("a journal grows", journal_grows),
    ("replay begins and ends where it is told", replay_ranges),
    ("a process's records are shown alone", replay_of_one),
    ("a visitor may come back, and sees what was there when it came", visitor_comes_back),
    ("values of all sizes survive", extremes),
    ("documents keep their time and change their body", documents),
    ("a document needs a kind and a key", unnamed),
    ("lists are pages in order", lists),
    ("bytes are stored by their SHA-256", bytes),
    ("only a SHA-256 is the name of a content", names),
    ("texts are found by their words", found),
    ("no query is an error", queries),
    ("better fits come first", order),
    ("owners find their own alone", owners),
    ("an item replaces the one with its id", replaced),
    ("many at once", threads),
];

/// Runs all checks, each on a disk of its own.
fn check<B: Both>(make: impl Fn() -> B) {
    for (name, check) in CHECKS {
        eprintln!("{name}");
        check(&make());
    }
}

#[test]
fn memory() {
    check(Memory::new);
}

#[test]
fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    check(|| {
        number.set(number.get() + 1);
        Sqlite::open(&folder.path().join(number.get().to_string())).unwrap()
    });
}

fn empty(disk: &dyn Both) {
    assert_eq!(disk.verify(), Ok(0));
    assert_eq!(disk.append(&[]), Ok(0));
    assert_eq!(replayed(disk, 0, 9), Ok(vec![]));
    assert_eq!(disk.get("file", "a"), Ok(None));
    assert_eq!(disk.delete("file", "a"), Ok(false));
    assert_eq!(disk.list("file", None, "", 9), Ok(vec![]));
    assert_eq!(disk.get_bytes(&"0".repeat(64)), Ok(None));
    assert_eq!(disk.search("ann", "玉山", 9), Ok(vec![]));
    assert_eq!(disk.remove("ann", "1"), Ok(false));
}

fn journal_grows(disk: &dyn Both) {
    let news = [record(1, "{}"), record(2, r#"{"text":"玉山"}"#), record(0, "")];
    assert_eq!(disk.append(&news[..1]), Ok(1));
    assert_eq!(disk.append(&news[1..]), Ok(3));
    assert_eq!(disk.append(&[]), Ok(3));
    let records = replayed(disk, 1, 9).unwrap();
    let seen = records.iter().map(|record| (record.seq, record.time_ms, record.pid, &record.body));
    let put = (1..).zip(&news).map(|(seq, new)| (seq, new.time_ms, new.pid, &new.body));
    assert!(seen.eq(put), "{records:?}");
    // SHA-256 over 32 zeros and the record; `journal.rs` has the values of other chains.
    assert_ne!(records[0].hash, records[1].hash);
    assert_eq!(disk.verify(), Ok(3));
}

fn replay_ranges(disk: &dyn Both) {
    disk.append(&[1, 2, 3, 4, 5].map(|pid| record(pid, "{}"))).unwrap();
    for (from, most, expected) in [
        (0, 9, 1..=5),
        (1, 9, 1..=5),
        (3, 9, 3..=5),
        (5, 9, 5..=5),
        (2, 2, 2..=3),
        #[expect(clippy::reversed_empty_ranges)]
        (6, 9, 1..=0),
        #[expect(clippy::reversed_empty_ranges)]
        (u64::MAX, 9, 1..=0),
    ] {
        let seen = replayed(disk, from, most).unwrap().into_iter().map(|record| record.seq);
        assert!(seen.eq(expected), "from {from}, at most {most}");
    }
}

fn replay_of_one(disk: &dyn Both) {
    disk.append(&[7, 8, 7, 0, u64::MAX, 7].map(|pid| record(pid, "{}"))).unwrap();
    let cases: [(u64, u64, usize, &[u64]); 9] = [
        (7, 0, 9, &[1, 3, 6]),
        (7, 1, 9, &[3, 6]),
        (7, 2, 1, &[3]),
        (7, 6, 9, &[]),
        (7, u64::MAX, 9, &[]),
        (8, 0, 9, &[2]),
        (0, 0, 9, &[4]),
        (u64::MAX, 0, 9, &[5]),
        (9, 0, 9, &[]),
    ];
    for (pid, after, most, expected) in cases {
        let seen = replayed_of(disk, pid, after, most).unwrap();
        let seen: Vec<u64> = seen.into_iter().map(|record| record.seq).collect();
        assert_eq!(seen, expected, "{pid} after {after}, at most {most}");
    }
}

fn visitor_comes_back(disk: &dyn Both) {
    disk.append(&[record(1, "{}"), record(2, "{}")]).unwrap();
    let mut seen = Vec::new();
    let result = disk.replay(1, &mut |one| {
        seen.push(one.seq);
        disk.append(&[record(3, "{}")]).unwrap();
        disk.put(&document("seen", &one.seq.to_string(), "", "{}")).unwrap();
        assert!(disk.get("seen", &one.seq.to_string()).unwrap().is_some());
        assert_eq!(replayed(disk, one.seq, 1).unwrap()[0], one);
        ControlFlow::Continue(())
    });
    assert_eq!((result, seen), (Ok(()), vec![1, 2]));
    assert_eq!(disk.verify(), Ok(4));
}

fn extremes(disk: &dyn Both) {
    let long = "山".repeat(1 << 17);
    let bodies = ["", "\0", "a\0b", "'; DROP TABLE journal; --", "\u{10ffff}", &long];
    let news =
        bodies.map(|body| NewRecord { time_ms: u64::MAX, pid: u64::MAX - 1, body: body.into() });
    disk.append(&news).unwrap();
    for (seen, new) in replayed(disk, 1, 99).unwrap().iter().zip(&news) {
        assert_eq!((seen.time_ms, seen.pid), (new.time_ms, new.pid));
        assert!(seen.body == new.body);
    }
    assert_eq!(disk.verify(), Ok(6));
    for body in bodies {
        let put = Document { created_ms: u64::MAX, ..document("k\0", "a\0b", "o\0", body) };
        disk.put(&put).unwrap();
        assert!(disk.get("k\0", "a\0b").unwrap().as_ref() == Some(&put));
        assert_eq!(disk.get("k\0", "a"), Ok(None));
        disk.insert(&item("o\0", "i\0", body)).unwrap();
    }
    assert_eq!(disk.search("o\0", "山山", 9).unwrap().len(), 1);
}

fn documents(disk: &dyn Both) {
    let first = document("key", "a", "ann", "1");
    disk.put(&first).unwrap();
    assert_eq!(disk.get("key", "a"), Ok(Some(first.clone())));
    let second = Document { created_ms: 1, ..document("key", "a", "bob", "2") };
    disk.put(&second).unwrap();
    let expected = Document { created_ms: first.created_ms, ..second };
    assert_eq!(disk.get("key", "a"), Ok(Some(expected)));
    // A key is unique within its kind alone.
    disk.put(&document("user", "a", "", "3")).unwrap();
    assert_eq!(disk.delete("key", "a"), Ok(true));
    assert_eq!(disk.delete("key", "a"), Ok(false));
    assert_eq!(disk.get("key", "a"), Ok(None));
    assert_eq!(disk.get("user", "a").unwrap().unwrap().body, "3");
}

fn unnamed(disk: &dyn Both) {
    for (kind, key) in [("", "a"), ("file", ""), ("", "")] {
        let refused = disk.put(&document(kind, key, "", "{}"));
        assert!(matches!(refused, Err(DiskError::Failed(_))), "{kind:?} {key:?}: {refused:?}");
        assert_eq!(disk.get(kind, key), Ok(None));
        assert_eq!(disk.delete(kind, key), Ok(false));
    }
    assert_eq!(disk.list("", None, "", 9), Ok(vec![]));
}

fn lists(disk: &dyn Both) {
    // By bytes: capitals first, then small letters, then what is beyond ASCII.
    let keys = ["B", "a", "b", "ä", "山", "\u{10000}"];
    for (number, key) in keys.iter().enumerate().rev() {
        let owner = if number % 2 == 0 { "ann" } else { "" };
        disk.put(&document("file", key, owner, "{}")).unwrap();
        disk.put(&document("file2", key, owner, "{}")).unwrap();
    }
    for (owner, after, limit, expected) in [
        (None, "", 99, &["B", "a", "b", "ä", "山", "\u{10000}"][..]),
        (None, "", usize::MAX, &["B", "a", "b", "ä", "山", "\u{10000}"]),
        (None, "", 2, &["B", "a"]),
        (None, "a", 2, &["b", "ä"]),
        (None, "aa", 2, &["b", "ä"]),
        (None, "\u{10000}", 2, &[]),
        (None, "", 0, &[]),
        (Some("ann"), "", 99, &["B", "b", "山"]),
        (Some("ann"), "B", 1, &["b"]),
        (Some(""), "", 99, &["a", "ä", "\u{10000}"]),
        (Some("eve"), "", 99, &[]),
    ] {
        let listed = disk.list("file", owner, after, limit).unwrap();
        let listed: Vec<&str> = listed.iter().map(|document| document.key.as_str()).collect();
        assert_eq!(listed, expected, "{owner:?} {after:?} {limit}");
    }
}

fn bytes(disk: &dyn Both) {
    // `printf '' | sha256sum`, `printf abc | sha256sum`.
    for (bytes, name) in [
        (&b""[..], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ] {
        assert_eq!(disk.put_bytes(bytes).as_deref(), Ok(name));
        assert_eq!(disk.get_bytes(name), Ok(Some(bytes.to_vec())));
    }
    let large: Vec<u8> =
        (0..3 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let name = disk.put_bytes(&large).unwrap();
    assert!(disk.get_bytes(&name).unwrap() == Some(large));
}

fn names(disk: &dyn Both) {
    let name = disk.put_bytes(b"abc").unwrap();
    for bad in
        ["", "..", "../yushan.db", "lock", "new", &name[1..], &name.to_uppercase(), &"g".repeat(64)]
    {
        let refused = disk.get_bytes(bad);
        assert!(matches!(refused, Err(DiskError::Failed(_))), "{bad:?}: {refused:?}");
    }
}

/// The ids that a query finds, best first.
fn ids(disk: &dyn Both, owner: &str, query: &str) -> Vec<String> {
    let hits = disk.search(owner, query, 99).unwrap();
    assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score), "{hits:?}");
    assert!(hits.iter().all(|hit| hit.score > 0.0 && hit.item.owner == owner), "{hits:?}");
    hits.into_iter().map(|hit| hit.item.id).collect()
}

fn found(disk: &dyn Both) {
    for (id, text) in [
        ("park", "玉山國家公園"),
        ("jade", "玉石"),
        ("dog", "My dog's name is Café-au-lait, born 2019-05-01."),
        ("kana", "ラーメンが好きです"),
        ("seoul", "서울특별시에 살아요"),
        ("wide", "ＹＵＳＨＡＮ　３９５２ｍ"),
        ("mixed", "用Rust寫的OS"),
        ("greek", "Ἀθῆναι"),
        ("hindi", "नमस्ते दुनिया"),
        ("none", "?! … 🏔"),
    ] {
        disk.insert(&item("ann", id, text)).unwrap();
    }
    for (query, expected) in [
        ("玉山", &["park"][..]),
        ("國家公園在哪裡", &["park"]),
        ("玉", &["jade", "park"]),
        ("公家", &[]),
        ("dog", &["dog"]),
        ("CAFE", &["dog"]),
        ("cafe\u{301}", &["dog"]),
        ("do", &[]),
        ("2019", &["dog"]),
        ("ラーメン", &["kana"]),
        ("ﾗｰﾒﾝ", &["kana"]),
        ("서울", &["seoul"]),
        ("yushan", &["wide"]),
        ("3952m", &["wide"]),
        ("rust", &["mixed"]),
        ("寫的", &["mixed"]),
        ("os", &["mixed"]),
        ("αθηναι", &["greek"]),
        ("दुनिया", &["hindi"]),
        ("🏔", &[]),
    ] {
        assert_eq!(ids(disk, "ann", query), expected, "{query:?}");
    }
}

fn queries(disk: &dyn Both) {
    disk.insert(&item("ann", "1", "near the NOT so OR AND far terms column")).unwrap();
    let long = "word ".repeat(100_000);
    for (query, found) in [
        ("", false),
        (" \t\n\0", false),
        ("\"", false),
        ("\"near", true),
        ("near(", true),
        ("NEAR(a b, 3)", true),
        ("AND", true),
        ("OR OR NOT", true),
        ("terms: x", true),
        ("-far", true),
        ("^far*", true),
        ("{terms}:x", true),
        ("fa*", false),
        ("far\0", true),
        ("1·far", true),
        ("2·x", false),
        ("'; DELETE FROM items; --", false),
        ("%", false),
        ("\u{feff}\u{200b}", false),
        (&long, false),
    ] {
        let shown: String = query.chars().take(40).collect();
        assert_eq!(!ids(disk, "ann", query).is_empty(), found, "{shown:?}");
    }
}

fn order(disk: &dyn Both) {
    for (id, text) in [
        ("both", "tea and coffee in the morning"),
        ("often", "tea tea tea tea and water in the morning"),
        (
            "once",
            "tea and a very long list of other things that have nothing to do with it in the morning",
        ),
        ("rare", "juice and water in the morning"),
        ("older", "twin"),
        ("newer", "twin"),
    ] {
        disk.insert(&item("ann", id, text)).unwrap();
    }
    for (query, expected) in [
        ("coffee tea", &["both", "often", "once"][..]),
        ("tea", &["often", "both", "once"]),
        ("juice in the morning", &["rare", "both", "often", "once"]),
        ("twin", &["newer", "older"]),
    ] {
        assert_eq!(ids(disk, "ann", query), expected, "{query:?}");
    }
    for limit in [0, 1, 2] {
        assert_eq!(disk.search("ann", "tea", limit).unwrap().len(), limit);
    }
}

fn owners(disk: &dyn Both) {
    let alone = {
        disk.insert(&item("ann", "1", "a secret of ann")).unwrap();
        disk.search("ann", "secret", 9).unwrap()
    };
    for owner in ["bob", "", "an", "ann ", "ANN", "1"] {
        disk.insert(&item(owner, "1", "a secret")).unwrap();
        disk.insert(&item(owner, "2", "another secret secret")).unwrap();
    }
    // Not even the score tells of the others.
    assert_eq!(disk.search("ann", "secret", 9), Ok(alone));
    assert_eq!(ids(disk, "bob", "secret"), ["2", "1"]);
    assert_eq!(ids(disk, "bob", "ann"), [""; 0]);
    assert_eq!(disk.remove("bob", "1"), Ok(true));
    assert_eq!(ids(disk, "bob", "secret"), ["2"]);
    assert_eq!(ids(disk, "", "secret"), ["2", "1"]);
    assert_eq!(ids(disk, "ann", "secret"), ["1"]);
}

fn replaced(disk: &dyn Both) {
    disk.insert(&item("ann", "1", "一隻貓")).unwrap();
    let mut second = item("ann", "1", "a dog");
    second.label = Label::of(Sources::WEB);
    second.label.origins.insert("example.org".to_string());
    disk.insert(&second).unwrap();
    assert_eq!(ids(disk, "ann", "貓"), [""; 0]);
    assert_eq!(disk.search("ann", "dog", 9).unwrap()[0].item, second);
    assert_eq!(disk.remove("ann", "1"), Ok(true));
    assert_eq!(disk.remove("ann", "1"), Ok(false));
    assert_eq!(ids(disk, "ann", "dog"), [""; 0]);
}

fn threads(disk: &dyn Both) {
    const EACH: u64 = 8;
    std::thread::scope(|scope| {
        for pid in 1..=4 {
            scope.spawn(move || {
                for round in 0..EACH {
                    let last = disk.append(&[record(pid, "{}"), record(pid, "[]")]).unwrap();
                    assert_eq!(replayed(disk, last, 1).unwrap()[0].body, "[]");
                    disk.put(&document("n", &format!("{pid} {round}"), "", "{}")).unwrap();
                    let name = disk.put_bytes(&round.to_le_bytes()).unwrap();
                    assert!(disk.get_bytes(&name).unwrap().is_some());
                    disk.insert(&item("ann", &round.to_string(), "same text")).unwrap();
                }
            });
        }
    });
    assert_eq!(disk.verify(), Ok(4 * EACH * 2));
    assert_eq!(disk.list("n", None, "", 99).unwrap().len() as u64, 4 * EACH);
    assert_eq!(ids(disk, "ann", "text").len() as u64, EACH);
}
