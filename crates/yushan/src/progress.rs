//! A progress bar on stderr, when that is a terminal; otherwise nothing.

use std::ops::ControlFlow;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::Interrupt;

/// Writes a file under a bar of the bytes it is made from; Ctrl-C ends it and leaves nothing behind.
pub(crate) fn of_writing<T>(
    write: impl FnOnce(&mut dyn FnMut(u64, u64, &str) -> ControlFlow<()>) -> yushan_model::Result<T>,
) -> Result<T> {
    let interrupt = Interrupt::catch()?;
    let bar = of_bytes(0);
    let written = write(&mut |done, total, tensor| {
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(tensor.to_string());
        interrupt.flow()
    });
    bar.finish_and_clear();
    Ok(written?)
}

/// A bar that counts bytes.
pub(crate) fn of_bytes(total: u64) -> ProgressBar {
    bar(
        total,
        "{wide_bar} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left  {msg}",
    )
}

/// A bar that counts steps of some work.
pub(crate) fn of_steps(total: u64) -> ProgressBar {
    bar(total, "{wide_bar} {pos} of {len}, {eta} left  {msg}")
}

/// indicatif draws on stderr and hides the bar itself where that is no terminal.
fn bar(total: u64, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}
