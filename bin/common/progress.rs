//! The bar on standard error, and what is printed above it.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
    progress.suspend(|| {
        let mut out = std::io::stdout().lock();
        // A reader that closes the pipe early has seen what it wanted; the files are still to be written.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    });
}
