//! A progress bar on stderr, when that is a terminal; otherwise nothing.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts bytes.
pub(crate) fn of_bytes(total: u64) -> ProgressBar {
    bar(total, "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left  {msg}")
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
