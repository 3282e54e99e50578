//! The collectives that Myelon may take.

#![allow(non_snake_case, reason = "these are NCCL's names")]
#![allow(clippy::missing_safety_doc, reason = "the promises are those of NCCL's documentation")]

use std::ffi::{c_int, c_void};

use myelon_ccl::device::DevicePtr;
use myelon_ccl::{Call, Collective, Rank};

use crate::abi::{Comm, SUCCESS, Stream, bytes};
use crate::guard::{is_inside, no_panic};
use crate::log::{self, Named};
use crate::real::call_real;
use crate::{communicators, failure, group, route};

/// What a program asks for, in NCCL's numbers.
struct Asked {
    collective: Collective,
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    op: Option<c_int>,
    root: c_int,
}

/// Gives a call to Myelon, now or at the end of the group, or to NCCL.
fn issue(name: Named, asked: &Asked, comm: Comm, stream: Stream, forward: impl FnOnce() -> c_int) -> c_int {
    if is_inside() {
        return forward();
    }
    no_panic(|| {
        let &Asked { collective, sendbuff, recvbuff, count, datatype, op, root } = asked;
        let (entry, moved) = (communicators::find(comm), bytes(count, datatype));
        let chosen = route::route(entry.as_deref(), collective, datatype, op, moved);
        let (entry, (dtype, op)) = match (entry.as_deref(), chosen) {
            (Some(_), Ok(chosen)) => (entry.expect("it is there"), chosen),
            (_, chosen) => {
                let reason = chosen.err().unwrap_or(route::Reason::NotAttached);
                return group::forwarded(entry, name, reason, moved, stream, forward);
            }
        };
        log::count(name, Ok(()), moved);
        let (input, output) = (DevicePtr(sendbuff as u64), DevicePtr(recvbuff as u64));
        let (count, root) = (count as u64, Rank(root as u32));
        let (call, stream) = (Call { collective, input, output, count, dtype, op, root }, group::handle(stream));
        if group::is_open() {
            group::keep(entry, call, stream);
            return SUCCESS;
        }
        let attached = entry.attached.as_ref().expect("chosen because it is attached");
        attached.issue(&[call], stream).map_or_else(|error| failure::of(&error), |()| SUCCESS)
    })
}

/// As NCCL's: by Myelon where it is for the case, else forwarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclAllReduce(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    op: c_int,
    comm: Comm,
    stream: Stream,
) -> c_int {
    let forward = || call_real!(ncclAllReduce(sendbuff, recvbuff, count, datatype, op, comm, stream));
    let collective = Collective::AllReduce;
    let asked = Asked { collective, sendbuff, recvbuff, count, datatype, op: Some(op), root: 0 };
    issue(Named::ncclAllReduce, &asked, comm, stream, forward)
}

/// As [`ncclAllReduce`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclReduceScatter(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    op: c_int,
    comm: Comm,
    stream: Stream,
) -> c_int {
    let forward = || call_real!(ncclReduceScatter(sendbuff, recvbuff, count, datatype, op, comm, stream));
    let collective = Collective::ReduceScatter;
    let asked = Asked { collective, sendbuff, recvbuff, count, datatype, op: Some(op), root: 0 };
    issue(Named::ncclReduceScatter, &asked, comm, stream, forward)
}

/// As [`ncclAllReduce`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclAllGather(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    comm: Comm,
    stream: Stream,
) -> c_int {
    let forward = || call_real!(ncclAllGather(sendbuff, recvbuff, count, datatype, comm, stream));
    let collective = Collective::AllGather;
    let asked = Asked { collective, sendbuff, recvbuff, count, datatype, op: None, root: 0 };
    issue(Named::ncclAllGather, &asked, comm, stream, forward)
}

/// As [`ncclAllReduce`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclBroadcast(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    root: c_int,
    comm: Comm,
    stream: Stream,
) -> c_int {
    let forward = || call_real!(ncclBroadcast(sendbuff, recvbuff, count, datatype, root, comm, stream));
    let asked = Asked { collective: Collective::Broadcast, sendbuff, recvbuff, count, datatype, op: None, root };
    issue(Named::ncclBroadcast, &asked, comm, stream, forward)
}

/// As [`ncclAllReduce`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclBcast(
    buff: *mut c_void,
    count: usize,
    datatype: c_int,
    root: c_int,
    comm: Comm,
    stream: Stream,
) -> c_int {
    let forward = || call_real!(ncclBcast(buff, count, datatype, root, comm, stream));
    let collective = Collective::Broadcast;
    let asked = Asked { collective, sendbuff: buff, recvbuff: buff, count, datatype, op: None, root };
    issue(Named::ncclBcast, &asked, comm, stream, forward)
}
