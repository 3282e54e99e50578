//! Which processes are one.

use std::process;
use std::sync::LazyLock;
use std::time::SystemTime;

/// A number that no two processes share, whatever their process namespaces, and that stays one process's own when it forks.
pub(crate) fn process_token() -> u64 {
    // WHY an id beside randomness: a child of a fork has its parent's. And why a time where there is none: ids repeat across namespaces.
    static RANDOM: LazyLock<u64> = LazyLock::new(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        getrandom::u64().unwrap_or(now.map_or(0, |now| now.as_nanos() as u64))
    });
    *RANDOM ^ (u64::from(process::id()) << 32)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};

    use super::*;

    #[test]
    fn a_token_stays_and_a_child_of_a_fork_has_another() {
        let own = process_token();
        assert_eq!(process_token(), own);
        let (mut told, mut tell) = io::pipe().unwrap();
        // SAFETY: the child loads two numbers, writes to a pipe and ends: nothing that another thread of its parent may hold.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let told = tell.write_all(&process_token().to_le_bytes());
            // SAFETY: ends the process, without what the parent's harness would do at its end.
            unsafe { libc::_exit(i32::from(told.is_err())) }
        }
        drop(tell);
        let mut token = [0; 8];
        told.read_exact(&mut token).unwrap();
        assert_ne!(u64::from_le_bytes(token), own);
        let mut status = -1;
        // SAFETY: waits for the child above; the status goes to a local.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
    }
}
