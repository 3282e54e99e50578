//! The numbers of an error, beside its text: for a caller that acts on them.

use std::ffi::c_int;

use myelon::{Error, Rank};

use crate::border::Place;
use crate::codes::myelonStatus_t;
use crate::guard::{guard, last_info};

/// The numbers of the last call on this thread that failed; -1 where its error has none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct myelonErrorInfo_t {
    /// The rank that noticed.
    pub rank: c_int,
    /// The rank that it is about: the one waited for, lost, or of another opinion.
    pub peer: c_int,
    /// The lane of a wait that passed its deadline.
    pub lane: c_int,
}

/// The numbers of what myelonGetLastError says in words. All of them -1 if no call on this thread has failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonGetLastErrorInfo(info: *mut myelonErrorInfo_t) -> myelonStatus_t {
    // Before the guard, which on a failure of this call has another error to tell of.
    let known = last_info();
    guard("myelonGetLastErrorInfo", || {
        // SAFETY: the caller's word.
        unsafe { Place::at(info, "info") }?.put(known);
        Ok(())
    })
}

impl myelonErrorInfo_t {
    /// An error without numbers.
    pub(crate) const NONE: Self = Self { rank: -1, peer: -1, lane: -1 };

    /// Those of an error of the library.
    pub(crate) fn of(error: &Error) -> Self {
        let number = |rank: &Rank| rank.0 as c_int;
        match error {
            Error::Stalled { rank, lane, peer, .. } => {
                Self { rank: number(rank), peer: number(peer), lane: *lane as c_int }
            }
            Error::PeerMismatch { rank, peer, .. }
            | Error::PeerLost { rank, peer, .. }
            | Error::PeerFailed { rank, peer, .. }
            | Error::NoPeerAccess { rank, peer, .. } => Self { rank: number(rank), peer: number(peer), ..Self::NONE },
            Error::Aborted { rank, .. } | Error::Nccl { rank, .. } | Error::Bootstrap { rank, .. } => {
                Self { rank: number(rank), ..Self::NONE }
            }
            _ => Self::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Fault;

    #[test]
    fn numbers_are_those_of_the_last_failure() {
        let told = || {
            let mut info = myelonErrorInfo_t { rank: 7, peer: 7, lane: 7 };
            // SAFETY: the place of a whole struct.
            assert_eq!(unsafe { myelonGetLastErrorInfo(&mut info) }, myelonStatus_t::myelonSuccess);
            info
        };
        assert_eq!(told(), myelonErrorInfo_t::NONE);
        let lost = || Error::PeerLost { rank: Rank(2), peer: Rank(0), detail: "gone".into() };
        assert_eq!(guard("myelonTest", || Err(Fault::from(lost()))), myelonStatus_t::myelonPeerLost);
        assert_eq!(guard("myelonTest", || Ok(())), myelonStatus_t::myelonSuccess);
        assert_eq!(told(), myelonErrorInfo_t { rank: 2, peer: 0, lane: -1 });
        guard("myelonTest", || Err(Fault::invalid("no rank has to do with it")));
        assert_eq!(told(), myelonErrorInfo_t::NONE);
    }
}
