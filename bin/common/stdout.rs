//! What is printed, and whether it got there.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

/// Why something that was printed is lost; the first reason.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints on standard output. What is lost, as on a full disk, is told by [`end`]: files may still be to be written.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    heed(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Keeps why something could not be printed, for [`end`].
pub(crate) fn heed(outcome: io::Result<()>) {
    let Err(error) = outcome else { return };
    // A reader that closes the pipe early has seen what it wanted.
    if error.kind() != ErrorKind::BrokenPipe {
        LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// The status to end with: this one, or `failed` where something that was printed is lost, which is said on standard error.
pub(crate) fn end(status: ExitCode, failed: u8) -> ExitCode {
    let Some(error) = LOST.lock().unwrap_or_else(PoisonError::into_inner).take() else { return status };
    // There is nowhere else to say it.
    let _ = writeln!(io::stderr(), "error: cannot write to standard output: {error}");
    ExitCode::from(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_went_away_is_no_failure() {
        let status = |outcome| {
            heed(outcome);
            format!("{:?}", end(ExitCode::SUCCESS, 3))
        };
        let [ok, failed] = [0, 3].map(|code| format!("{:?}", ExitCode::from(code)));
        assert_eq!([status(Ok(())), status(Err(ErrorKind::BrokenPipe.into()))], [ok.clone(), ok.clone()]);
        assert_eq!(status(Err(ErrorKind::StorageFull.into())), failed);
        assert_eq!(status(Ok(())), ok, "it is told once");
    }
}
