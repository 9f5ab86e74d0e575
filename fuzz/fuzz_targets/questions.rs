//! One byte for the form, then rows of questions (ARC, MMLU, HellaSwag).
#![no_main]

use libfuzzer_sys::fuzz_target;
use yushan_train::evaluate::{Form, Items};

fuzz_target!(|input: (bool, &str)| {
    let items = Items::read(input.1, if input.0 { Form::Arc } else { Form::HellaSwag });
    assert!(items.items.iter().all(|item| item.answer < item.choices.len()));
});
