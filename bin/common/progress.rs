//! The bar on standard error, and what is printed above it.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::stdout;

/// The bar of a run of so many cases; hidden where standard error is no terminal.
pub(crate) fn progress(cases: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}").ok();
    let bar = ProgressBar::with_draw_target(Some(cases), ProgressDrawTarget::stderr());
    style.into_iter().fold(bar, ProgressBar::with_style)
}

/// Prints on standard output, above the bar.
pub(crate) fn print(progress: &ProgressBar, text: &str) {
    progress.suspend(|| stdout::print(text));
}
