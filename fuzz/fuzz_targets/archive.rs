//! A ZIP, tar or tar.gz, listed and unpacked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_tools::archive::{Limits, list, unpack};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { total: 1 << 20, entries: 100, ..Limits::default() };
    let (listed, unpacked) = (list(bytes, &limits), unpack(bytes, &limits));
    assert_eq!(listed.is_ok(), unpacked.is_ok());
    let files = unpacked.unwrap_or_default();
    assert!(files.iter().map(|file| file.bytes.len()).sum::<usize>() <= 1 << 20);
    for file in files {
        assert!(!file.path.starts_with('/') && file.path.split('/').all(|part| part != ".."));
    }
});
