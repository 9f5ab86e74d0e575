//! A path in a file space, and after a zero byte the first bytes of the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_tools::space::{check_path, media_type};

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let (path, bytes) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let path = String::from_utf8_lossy(path);
    let _ = media_type(&path, bytes);
    if let Ok(checked) = check_path(&path) {
        // What is accepted stays what it is, and below its folder.
        assert_eq!(check_path(&checked).ok().as_deref(), Some(checked.as_str()));
        let names = std::path::Path::new(&checked).components();
        assert!(names.into_iter().all(|name| matches!(name, std::path::Component::Normal(_))));
    }
});
