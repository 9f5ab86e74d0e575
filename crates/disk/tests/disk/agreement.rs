//! SQLite and memory give the same answers to the same calls, reopened in between or not.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use yushan_abi::Document;
use yushan_disk::{Memory, Sqlite};

use crate::calls::{Call, call, document, item, record};

/// A call, or none: close and open again.
fn step() -> impl Strategy<Value = Option<Call>> {
    prop_oneof![1 => Just(None), 12 => a_call().prop_map(Some)]
}

fn a_call() -> impl Strategy<Value = Call> {
    // Few of each, so that calls meet.
    let kind = || select(vec!["file", "key", "files"]).prop_map(str::to_string);
    let key = || select(vec!["a", "b", "B", "ä", "山"]).prop_map(str::to_string);
    let owner = || select(vec!["ann", "bob", ""]).prop_map(str::to_string);
    let text = || {
        let words =
            ["玉山", "國家公園", "tea", "Tea", "café", "x", " ", "，", "\"", "山", "ラーメン"];
        let known = vec(select(words.to_vec()), 0..8);
        let known = known.prop_map(|words| words.join(" ").replace("  ", ""));
        prop_oneof![3 => known, 1 => any::<String>()]
    };
    let pid = || prop_oneof![3 => 0..3_u64, 1 => any::<u64>()];
    let records = vec((pid(), "[a-z山\"\\\\]{0,9}"), 0..4).prop_map(|records| {
        records.iter().map(|(pid, body)| record(*pid >> 1, body)).collect::<Vec<_>>()
    });
    let bytes = || vec(0..2_u8, 0..3);
    prop_oneof![
        records.prop_map(Call::Append),
        (0..9_u64, 1..9_usize).prop_map(|(from, most)| Call::Replay { from, most }),
        (pid(), prop_oneof![0..9_u64, any::<u64>()], 1..9_usize)
            .prop_map(|(pid, after, most)| Call::ReplayOf { pid: pid >> 1, after, most }),
        Just(Call::Verify),
        (kind(), key(), owner(), text(), any::<u64>()).prop_map(
            |(kind, key, owner, body, created_ms)| {
                Call::Put(Document { created_ms, ..document(&kind, &key, &owner, &body) })
            }
        ),
        (kind(), key()).prop_map(|(kind, key)| Call::Get { kind, key }),
        (kind(), key()).prop_map(|(kind, key)| Call::Delete { kind, key }),
        (kind(), option::of(owner()), prop_oneof![Just(String::new()), key()], 0..4_usize)
            .prop_map(|(kind, owner, after, limit)| Call::List { kind, owner, after, limit }),
        bytes().prop_map(Call::PutBytes),
        bytes().prop_map(|bytes| {
            let name = yushan_abi::Disk::put_bytes(&Memory::new(), &bytes);
            Call::GetBytes(name.unwrap_or_default())
        }),
        (owner(), key(), text())
            .prop_map(|(owner, id, text)| Call::Insert(item(&owner, &id, &text))),
        (owner(), key()).prop_map(|(owner, id)| Call::Remove { owner, id }),
        (owner(), text(), 0..4_usize).prop_map(|(owner, query, limit)| Call::Search {
            owner,
            query,
            limit
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_answers_as_memory_does(steps in vec(step(), 1..48)) {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new();
        let mut sqlite = Sqlite::open(folder.path()).unwrap();
        for step in &steps {
            match step {
                None => {
                    drop(sqlite);
                    sqlite = Sqlite::open(folder.path()).unwrap();
                }
                Some(one) => prop_assert_eq!(call(&sqlite, one), call(&memory, one), "{:?}", one),
            }
        }
    }
}
