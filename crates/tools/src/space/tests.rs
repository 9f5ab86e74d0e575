use std::sync::atomic::Ordering;

use yushan_abi::Sources;

use super::*;
use crate::memory::MemoryDisk;

fn space() -> (Arc<MemoryDisk>, Space) {
    let disk = Arc::new(MemoryDisk::default());
    let space = Space::open(Arc::clone(&disk) as Arc<dyn Disk>, "ann", "talk").unwrap();
    (disk, space)
}

fn user() -> Label {
    Label::of(Sources::USER)
}

fn paths(space: &Space) -> Vec<String> {
    space.list().unwrap().into_iter().map(|entry| entry.file.path).collect()
}

#[test]
fn a_file_is_read_as_it_was_written_with_its_label() {
    let (disk, space) = space();
    let web = Label::of(Sources::WEB);
    let file = space.write("data/a.csv", b"x,y\n1,2\n", &web).unwrap();
    assert_eq!((file.media_type.as_str(), file.size), ("text/csv", 8));
    space.write("b.txt", b"", &user()).unwrap();
    let read = space.read("./data/a.csv").unwrap();
    assert_eq!(read, Content { bytes: b"x,y\n1,2\n".to_vec(), label: web });
    assert_eq!(paths(&space), ["b.txt", "data/a.csv"]);
    let again = Space::open(disk as Arc<dyn Disk>, "ann", "talk").unwrap();
    assert_eq!(paths(&again), ["b.txt", "data/a.csv"]);
    space.remove("b.txt").unwrap();
    let error = space.read("b.txt").unwrap_err().to_string();
    assert_eq!(error, r#"there is no file "b.txt"; there are: data/a.csv"#);
}

#[test]
fn what_is_another_users_stays_closed() {
    let (disk, space) = space();
    space.write("a", b"1", &user()).unwrap();
    let other = Space::open(disk as Arc<dyn Disk>, "bob", "talk");
    assert_eq!(other.err(), Some(SpaceError::Foreign));
}

#[test]
fn changes_are_taken_back_one_by_one_and_whole() {
    let (_, space) = space();
    space.write("a", b"1", &user()).unwrap();
    space.write("a", b"2", &Label::of(Sources::WEB)).unwrap();
    space.write("a", b"2", &Label::of(Sources::WEB)).unwrap(); // changes nothing
    let edit = |path: &str, bytes: Option<&[u8]>| Edit {
        path: path.into(),
        bytes: bytes.map(<[u8]>::to_vec),
        label: user(),
    };
    space.change(vec![edit("a", None), edit("b", Some(b"3"))], Vec::new()).unwrap();
    assert_eq!(paths(&space), ["b"]);
    assert_eq!(space.history("a").unwrap().len(), 3);
    assert_eq!(space.undo().unwrap().len(), 2);
    assert_eq!(paths(&space), ["a"]);
    assert_eq!(space.read("a").unwrap().label, Label::of(Sources::WEB));
    space.undo().unwrap();
    assert_eq!(space.read("a").unwrap(), Content { bytes: b"1".to_vec(), label: user() });
    space.undo().unwrap();
    assert!(paths(&space).is_empty());
    assert_eq!(space.undo(), Err(SpaceError::NothingToUndo));
    for number in 0..MOST_CHANGES + 10 {
        space.write("c", number.to_string().as_bytes(), &user()).unwrap();
    }
    assert_eq!(space.history("c").unwrap().len(), MOST_CHANGES);
}

#[test]
fn forks_go_their_own_ways_and_a_second_fork_changes_nothing() {
    let (disk, space) = space();
    space.write("a", b"1", &user()).unwrap();
    super::fork(&*disk, "talk", "branch").unwrap();
    let fork = Space::open(disk.clone(), "ann", "branch").unwrap();
    fork.write("a", b"2", &user()).unwrap();
    space.write("a", b"3", &user()).unwrap();
    super::fork(&*disk, "talk", "branch").unwrap();
    assert_eq!(fork.read("a").unwrap().bytes, b"2");
    assert_eq!(space.read("a").unwrap().bytes, b"3");
    fork.undo().unwrap();
    assert_eq!(fork.read("a").unwrap().bytes, b"1");
    super::fork(&*disk, "nothing", "of it").unwrap();
}

#[test]
fn paths_that_lead_astray_are_refused_with_the_reason() {
    let (_, space) = space();
    space.write("file", b"1", &user()).unwrap();
    space.write("folder/file", b"1", &user()).unwrap();
    let long = "x".repeat(201);
    let deep = ["d"; 17].join("/");
    for (path, why) in [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("C:/x", "is absolute"),
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a//x", "an empty name"),
        ("a/./x", "an empty name"),
        ("a/", "an empty name"),
        (".", "an empty name"),
        ("a\\x", "a backslash"),
        ("a\0", "cannot be seen"),
        ("a\nb", "cannot be seen"),
        ("a\u{202e}gpj.exe", "cannot be seen"),
        ("a\u{200b}", "cannot be seen"),
        (" a", "a space at an end"),
        (long.as_str(), "200 bytes"),
        (deep.as_str(), "16 names"),
        ("file/x", "is a file and not a folder"),
        ("folder", "is a file and not a folder"),
    ] {
        let error = space.write(path, b"2", &user()).unwrap_err().to_string();
        assert!(error.contains(why), "{path:?}: {error}");
    }
    assert_eq!(paths(&space), ["file", "folder/file"]);
    // Two spellings of one name are one file.
    space.write("re\u{301}sume\u{301}.txt", b"1", &user()).unwrap();
    assert_eq!(space.read("r\u{e9}sum\u{e9}.txt").unwrap().bytes, b"1");
    space.write("資料/表.csv", b"1", &user()).unwrap();
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let (disk, space) = space();
    let bytes = vec![0; usize::try_from(MOST_BYTES).unwrap() + 1];
    let error = space.write("a", &bytes, &user()).unwrap_err().to_string();
    assert!(error.contains("64 MiB"), "{error}");
    for name in ["a", "b", "c", "d"] {
        space.write(name, &bytes[1..], &user()).unwrap();
    }
    let error = space.write("e", b"1", &user()).unwrap_err().to_string();
    assert!(error.contains("may hold 256 MiB"), "{error}");
    assert_eq!(paths(&space), ["a", "b", "c", "d"]);
    space.write("a", b"1", &user()).unwrap();
    disk.is_full.store(true, Ordering::Relaxed);
    let error = space.write("a", b"2", &user()).unwrap_err().to_string();
    assert!(error.contains("the disk is full"), "{error}");
    disk.is_full.store(false, Ordering::Relaxed);
    assert_eq!(space.read("a").unwrap().bytes, b"1");
    let many = |count: usize| {
        let edit = |number| Edit {
            path: format!("many/{number}"),
            bytes: Some(Vec::new()),
            label: user(),
        };
        (0..count).map(edit).collect::<Vec<_>>()
    };
    let error = space.change(many(MOST_FILES), Vec::new()).unwrap_err().to_string();
    assert!(error.contains("it may hold 1000"), "{error}");
    space.change(many(MOST_FILES - 4), Vec::new()).unwrap();
}

#[test]
fn many_at_once_lose_nothing() {
    let (_, space) = space();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let space = &space;
            scope.spawn(move || {
                for number in 0..10 {
                    space.write(&format!("{thread}-{number}"), b"1", &user()).unwrap();
                }
            });
        }
    });
    assert_eq!(paths(&space).len(), 80);
}

#[test]
fn media_types_come_from_content_before_names() {
    for (path, bytes, expected) in [
        ("a.csv", b"1,2".as_slice(), "text/csv"),
        ("a.csv", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("a.csv", b"\xff\xfe\0", "application/octet-stream"),
        ("a", b"text", "text/plain"),
        ("a.JSON", b"{}", "application/json"),
        ("a.zip", b"PK\x03\x04", "application/zip"),
        ("a.txt", b"PK\x03\x04", "application/zip"),
        ("a.xlsx", b"no archive", "text/plain"),
        ("a.webp", b"RIFF\0\0\0\0WEBP", "image/webp"),
    ] {
        assert_eq!(media_type(path, bytes), expected, "{path} {bytes:?}");
    }
}
