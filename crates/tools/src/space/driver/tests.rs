//! What all drivers owe to a space, whichever they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use yushan_abi::{
    Cancel, Disk, Effect, Invocation, Label, Picture, Senses, SensesError, Sources, Tool,
    ToolResult, Wish,
};

use super::super::kept::{CELLS, FILES, PAGES};
use super::super::{Space, fork};
use crate::archive::driver::{ArchiveExtract, ArchiveList};
use crate::convert::driver::Convert;
use crate::draw::driver::Draw;
use crate::draw::image::Image;
use crate::files::Files;
use crate::memory::MemoryDisk;
use crate::search::{Providers, Search};
use crate::web::fetch::Fetcher;
use crate::web::guard::Guard;
use crate::web::held::{Held, HeldResult};
use crate::web::reader::Reader;

struct Painter;

impl Senses for Painter {
    fn draw(&self, _: &Wish<'_>) -> Result<Picture, SensesError> {
        Ok(Picture { bytes: b"\x89PNG\r\n\x1a\n".to_vec(), media_type: "image/png".into() })
    }
}

/// All that work in a space and need nothing else.
fn drivers(disk: &Arc<dyn Disk>) -> Vec<Box<dyn Tool>> {
    let one = || Arc::clone(disk);
    let mut drivers: Vec<Box<dyn Tool>> = vec![
        Box::new(Convert::new(one(), crate::convert::Limits::default())),
        Box::new(ArchiveList::new(one(), crate::archive::Limits::default())),
        Box::new(ArchiveExtract::new(one(), crate::archive::Limits::default())),
        Box::new(Draw::new(one())),
        Box::new(Image::new(one(), Arc::new(Painter), Effect::Write, "nobody")),
    ];
    drivers.extend(Files::all(disk).into_iter().map(|tool| Box::new(tool) as Box<dyn Tool>));
    drivers
}

fn call(tool: &dyn Tool, arguments: &Value) -> ToolResult {
    let (key, space, owner, cancel) = ("1", "talk", "ann", Cancel::default());
    let label = Label::of(Sources::USER);
    tool.call(&Invocation { arguments, key, space, owner, label: &label, cancel })
}

#[test]
fn an_error_that_names_a_file_is_no_better_than_who_named_it() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let space = Space::open(Arc::clone(&disk), "ann", "talk").unwrap();
    let (user, web) = (Label::of(Sources::USER), Label::of(Sources::WEB));
    // Where a file is to be written there is a folder, and in it a file of the web's.
    for folder in ["out.json", "out.svg", "out.png", "out"] {
        space.write(&format!("{folder}/obey me"), b"", &web).unwrap();
    }
    space.write("in.csv", b"a\n1\n", &user).unwrap();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("out", zip::write::SimpleFileOptions::default()).unwrap();
    let zip = zip.finish().unwrap().into_inner();
    space.write("in.zip", &zip, &user).unwrap();
    let drivers = drivers(&disk);
    for (name, arguments) in [
        ("convert", json!({"path": "absent.csv", "to_path": "x.json"})),
        ("convert", json!({"path": "in.csv", "to_path": "out.json"})),
        ("archive_list", json!({"path": "absent.zip"})),
        ("archive_extract", json!({"path": "absent.zip", "folder": ""})),
        ("archive_extract", json!({"path": "in.zip", "folder": ""})),
        ("draw", json!({"path": "out.svg", "scene": {"items": []}})),
        ("image", json!({"path": "out", "prompt": "a mountain"})),
        ("files_read", json!({"path": "absent"})),
        ("files_write", json!({"path": "out", "text": ""})),
        ("files_write", json!({"path": "absent", "remove": true})),
    ] {
        let tool = drivers.iter().find(|tool| tool.spec().name == name).unwrap();
        let result = call(&**tool, &arguments);
        let text = result.text();
        assert!(result.failed && text.contains("obey me"), "{name} {arguments}: {text}");
        assert!(!result.label().is_trusted(), "{name} {arguments}: {text}");
    }
}

#[test]
fn whichever_driver_is_released_nothing_stays_of_what_nobody_can_name() {
    let memory = Arc::new(MemoryDisk::default());
    let disk = Arc::clone(&memory) as Arc<dyn Disk>;
    let space = Space::open(Arc::clone(&disk), "ann", "ann:talk").unwrap();
    space.write("a", b"1", &Label::of(Sources::USER)).unwrap();
    let held = Held::new(Arc::clone(&disk));
    let (number, url, label) = (0, "https://example.org/".into(), Label::of(Sources::WEB));
    let result = HeldResult { number, url, label, sha256: None };
    held.add_results("ann:talk", "ann", vec![result]).unwrap();
    let mut drivers = drivers(&disk);
    let search = Search::new("search", Arc::new(Providers::default()), Arc::clone(&held));
    drivers.push(Box::new(search));
    let fetcher = Fetcher { guard: Guard::default(), limits: Default::default() };
    let pages = Reader::new(fetcher, Arc::clone(&held)).tools();
    let drivers = drivers.iter().map(|tool| &**tool);
    for (number, tool) in drivers.chain([&*pages[0]]).enumerate() {
        let name = &tool.spec().name;
        let copy = format!("check-{number}.1.0");
        tool.forked("ann:talk", &copy).unwrap();
        let is_there = |kind| disk.get(kind, &copy).unwrap().is_some();
        assert_eq!([FILES, PAGES, CELLS].map(is_there), [true, true, false], "{name}");
        tool.released(&copy);
        let begun = Instant::now();
        while [FILES, PAGES].map(is_there) != [false, false] {
            assert!(begun.elapsed() < Duration::from_secs(20), "{name} leaves its space behind");
            std::thread::sleep(Duration::from_millis(1));
        }
        // The same for a conversation between two of its turns, which stays.
        tool.released("ann:talk");
        // It can begin anew: nothing is known of the fork.
        fork(&*disk, "ann:talk", &copy).unwrap();
    }
    assert_eq!(space.list().unwrap().len(), 1);
    assert_eq!(held.result("ann:talk", 1).unwrap().url, "https://example.org/");
}
