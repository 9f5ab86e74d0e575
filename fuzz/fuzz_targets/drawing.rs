//! The description of a drawing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_tools::draw::draw;

fuzz_target!(|bytes: &[u8]| {
    let Ok(scene) = serde_json::from_slice(bytes) else { return };
    if let Ok(svg) = draw(&scene) {
        assert!(svg.starts_with("<svg ") && !svg.contains("<script") && !svg.contains("NaN"));
    }
});
