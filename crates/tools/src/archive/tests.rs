//! Archives that are opened, and those that must not be.

use std::io::Write;

use super::*;

fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).expect("begun");
        writer.write_all(bytes).expect("written");
    }
    writer.finish().expect("finished").into_inner()
}

/// A tar by hand, so that names need not be good ones.
fn tar_of(files: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    writer.write_all(bytes).expect("written");
    writer.finish().expect("finished")
}

const FILE: u8 = b'0';

#[test]
fn all_kinds_are_listed_and_unpacked() {
    let tar = tar_of(&[("a.txt", FILE, b"one"), ("b/", b'5', b""), ("./b/c.txt", FILE, b"two")]);
    let zip = zip_of(&[("a.txt", b"one"), ("b/c.txt", b"two")]);
    for archive in [zip, packed(&tar), tar] {
        let files = unpack(&archive, &Limits::default()).expect("unpacked");
        let shown: Vec<_> = files.iter().map(|file| (&*file.path, &*file.bytes)).collect();
        assert_eq!(shown, [("a.txt", b"one".as_slice()), ("b/c.txt", b"two")]);
        let listed = list(&archive, &Limits::default()).expect("listed");
        assert!(listed.iter().all(|file| file.bytes.is_empty() && file.size == 3), "{listed:?}");
    }
}

#[test]
fn what_leads_out_or_is_no_file_is_refused() {
    for (name, kind, why) in [
        ("/etc/passwd", FILE, "absolute"),
        ("../x", FILE, "leads out"),
        ("a/../../x", FILE, "leads out"),
        ("a\\..\\x", FILE, "Windows"),
        ("C:x", FILE, "Windows"),
        ("a\nb", FILE, "cannot be shown"),
        ("a\u{202e}gpj.exe", FILE, "cannot be shown"),
        ("link", b'2', "link"),
        ("hard", b'1', "link"),
        ("device", b'3', "neither"),
        ("fifo", b'6', "neither"),
    ] {
        let tar = tar_of(&[("good", FILE, b"1"), (name, kind, b"")]);
        let error = unpack(&tar, &Limits::default()).expect_err(name).to_string();
        assert!(error.contains(why), "{name}: {error}");
        if kind == FILE {
            let error = unpack(&zip_of(&[(name, b"")]), &Limits::default()).expect_err(name);
            assert!(error.to_string().contains(why), "{name}: {error}");
        }
    }
    let mut linked = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    linked.add_symlink("link", "/etc/passwd", options).expect("a link");
    let linked = linked.finish().expect("finished").into_inner();
    let error = unpack(&linked, &Limits::default()).expect_err("a link").to_string();
    assert!(error.contains("is a link"), "{error}");
    let twice = tar_of(&[("a", FILE, b"1"), ("./a", FILE, b"2")]);
    assert!(unpack(&twice, &Limits::default()).expect_err("two").to_string().contains("twice"));
}

#[test]
fn bombs_are_refused_before_they_fill_the_memory() {
    let zeros = vec![0; 32 << 20];
    let many: Vec<String> = (0..300).map(|name| name.to_string()).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (&**name, b"".as_slice())).collect();
    let deep = "a/".repeat(40) + "b";
    let limits = Limits { entries: 200, total: 64 << 20, ..Limits::default() };
    for (archive, what) in [
        (zip_of(&[("zeros", &zeros)]), "per packed byte: more than 100"),
        (packed(&tar_of(&[("zeros", FILE, &zeros)])), "per packed byte: more than 100"),
        (
            tar_of(&[("a", FILE, &zeros), ("b", FILE, &zeros), ("c", FILE, b"1")]),
            "bytes of the archive",
        ),
        (zip_of(&many), "entries: more than 200"),
        (zip_of(&[(&deep, b"")]), "too deep"),
    ] {
        for error in [unpack(&archive, &limits), list(&archive, &limits)] {
            let error = error.expect_err(what).to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

#[test]
fn what_is_damaged_or_no_archive_is_refused() {
    let zip = zip_of(&[("a.txt", b"one"), ("b.txt", b"two")]);
    let tar = tar_of(&[("a.txt", FILE, &[7; 3000])]);
    for archive in
        [b"".as_slice(), b"PK", b"hello", &packed(b"hello"), &zip[..zip.len() / 2], &tar[..1000]]
    {
        assert!(matches!(unpack(archive, &Limits::default()), Err(ArchiveError::Malformed(_))));
    }
    // Flipped bytes: an error or files, nothing else.
    for archive in [zip, packed(&tar)] {
        for place in 0..archive.len() {
            let mut damaged = archive.clone();
            damaged[place] ^= 0x55;
            let _ = unpack(&damaged, &Limits::default());
        }
    }
}

#[test]
fn the_tools_list_and_unpack_in_a_space() {
    use std::sync::Arc;

    use serde_json::json;
    use yushan_abi::{Cancel, Disk, Invocation, Label, Sources, Tool};
    let disk: Arc<dyn Disk> = Arc::new(crate::memory::MemoryDisk::default());
    let space = crate::space::Space::open(Arc::clone(&disk), "ann", "space").expect("a space");
    let zip = zip_of(&[("a.txt", b"one"), ("b/c.txt", b"two")]);
    space.write("in.zip", &zip, &Label::of(Sources::FILE)).expect("written");
    let bad = zip_of(&[("good", b"1"), ("../bad", b"2")]);
    space.write("bad.zip", &bad, &Label::of(Sources::FILE)).expect("written");
    let call = |tool: &dyn Tool, arguments: serde_json::Value| {
        let (key, space, owner, cancel) = ("key", "space", "ann", Cancel::default());
        let label = Label::of(Sources::USER);
        tool.call(&Invocation { arguments: &arguments, key, space, owner, label: &label, cancel })
    };
    let look = driver::ArchiveList::new(Arc::clone(&disk), Limits::default());
    let extract = driver::ArchiveExtract::new(Arc::clone(&disk), Limits::default());
    let listed = call(&look, json!({"path": "in.zip"}));
    assert_eq!(listed.text(), "2 files:\na.txt (3 bytes)\nb/c.txt (3 bytes)\n");
    let result = call(&extract, json!({"path": "in.zip", "folder": "out/"}));
    assert!(!result.failed && result.files.len() == 2, "{}", result.text());
    let file = space.read("out/b/c.txt").expect("there");
    assert!(file.bytes == b"two" && !file.label.is_trusted());
    // As one change.
    space.undo().expect("undone");
    assert!(space.read("out/a.txt").is_err());
    let refused = call(&extract, json!({"path": "bad.zip", "folder": ""}));
    assert!(
        refused.failed && refused.text().contains("nothing was unpacked"),
        "{}",
        refused.text()
    );
    assert!(space.read("good").is_err());
}
