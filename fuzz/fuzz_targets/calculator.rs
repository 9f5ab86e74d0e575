//! An expression for the calculator.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_abi::Cancel;
use yushan_tools::calculator::compute;

fuzz_target!(|expression: &str| {
    // A panic inside is caught there and said: here it counts.
    if let Err(why) = compute(expression, &Cancel::default()) {
        assert!(!why.contains("the calculator failed"), "{expression:?}");
    }
});
