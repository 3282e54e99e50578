//! Every function that NCCL 2.27 to 2.30 exports, once, and the table of them in the real library.
//!
//! Signatures are those of `nccl.h` and `nccl_device/core.h`. What is only passed on is an opaque pointer; enums are integers.

/// Calls a macro with all functions.
///
/// `own` ones do more than forward; `stream` ones queue work on a stream of a communicator, and say how much they move; `plain` ones
/// are forwarded as they are.
macro_rules! functions {
    ($apply:ident) => {
        $apply! {
            own {
                fn ncclAllReduce(sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, op: c_int, comm: Comm, stream: Stream) -> c_int;
                fn ncclAllGather(sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, comm: Comm, stream: Stream) -> c_int;
                fn ncclBcast(buff: *mut c_void, count: usize, datatype: c_int, root: c_int, comm: Comm, stream: Stream) -> c_int;
                fn ncclBroadcast(sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, root: c_int, comm: Comm, stream: Stream) -> c_int;
                fn ncclReduceScatter(sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, op: c_int, comm: Comm, stream: Stream) -> c_int;
                fn ncclCommInitRank(comm: *mut Comm, nranks: c_int, id: UniqueId, rank: c_int) -> c_int;
                fn ncclCommInitRankConfig(comm: *mut Comm, nranks: c_int, id: UniqueId, rank: c_int, config: *mut c_void) -> c_int;
                fn ncclCommInitRankScalable(comm: *mut Comm, nranks: c_int, rank: c_int, ids_count: c_int, ids: *mut UniqueId, config: *mut c_void) -> c_int;
                fn ncclCommInitAll(comms: *mut Comm, ndev: c_int, devlist: *const c_int) -> c_int;
                fn ncclCommSplit(comm: Comm, color: c_int, key: c_int, newcomm: *mut Comm, config: *mut c_void) -> c_int;
                fn ncclCommShrink(comm: Comm, exclude: *mut c_int, exclude_count: c_int, newcomm: *mut Comm, config: *mut c_void, flags: c_int) -> c_int;
                fn ncclCommGrow(comm: Comm, nranks: c_int, id: *const UniqueId, rank: c_int, newcomm: *mut Comm, config: *mut c_void) -> c_int;
                fn ncclCommFinalize(comm: Comm) -> c_int;
                fn ncclCommDestroy(comm: Comm) -> c_int;
                fn ncclCommAbort(comm: Comm) -> c_int;
                fn ncclCommRevoke(comm: Comm, flags: c_int) -> c_int;
                fn ncclCommGetAsyncError(comm: Comm, error: *mut c_int) -> c_int;
                fn ncclGetLastError(comm: Comm) -> *const c_char;
                fn ncclGetErrorString(result: c_int) -> *const c_char;
                fn ncclGroupStart() -> c_int;
                fn ncclGroupEnd() -> c_int;
                fn ncclGroupSimulateEnd(info: *mut c_void) -> c_int;
            }
            stream {
                fn ncclAlltoAll(sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, comm: Comm, stream: Stream) moves (comm, stream, count, datatype);
                fn ncclGather(sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, root: c_int, comm: Comm, stream: Stream) moves (comm, stream, count, datatype);
                fn ncclReduce(sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, op: c_int, root: c_int, comm: Comm, stream: Stream) moves (comm, stream, count, datatype);
                fn ncclScatter(sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, root: c_int, comm: Comm, stream: Stream) moves (comm, stream, count, datatype);
                fn ncclSend(sendbuff: *const c_void, count: usize, datatype: c_int, peer: c_int, comm: Comm, stream: Stream) moves (comm, stream, count, datatype);
                fn ncclRecv(recvbuff: *mut c_void, count: usize, datatype: c_int, peer: c_int, comm: Comm, stream: Stream) moves (comm, stream, count, datatype);
                fn ncclPutSignal(localbuff: *const c_void, count: usize, datatype: c_int, peer: c_int, window: *mut c_void, offset: usize, signal: c_int, context: c_int, flags: c_uint, comm: Comm, stream: Stream) moves (comm, stream, count, datatype);
                fn ncclSignal(peer: c_int, signal: c_int, context: c_int, flags: c_uint, comm: Comm, stream: Stream) moves (comm, stream, 0, UINT8);
                fn ncclWaitSignal(count: c_int, descriptors: *mut c_void, comm: Comm, stream: Stream) moves (comm, stream, 0, UINT8);
            }
            plain {
                fn ncclCommCount(comm: Comm, count: *mut c_int) -> c_int;
                fn ncclCommCuDevice(comm: Comm, device: *mut c_int) -> c_int;
                fn ncclCommDeregister(comm: Comm, handle: *mut c_void) -> c_int;
                fn ncclCommGetUniqueId(comm: Comm, id: *mut UniqueId) -> c_int;
                fn ncclCommMemStats(comm: Comm, stat: c_int, value: *mut u64) -> c_int;
                fn ncclCommQueryProperties(comm: Comm, properties: *mut c_void) -> c_int;
                fn ncclCommRegister(comm: Comm, buff: *mut c_void, size: usize, handle: *mut *mut c_void) -> c_int;
                fn ncclCommResume(comm: Comm) -> c_int;
                fn ncclCommSuspend(comm: Comm, flags: c_int) -> c_int;
                fn ncclCommUserRank(comm: Comm, rank: *mut c_int) -> c_int;
                fn ncclCommWindowDeregister(comm: Comm, window: *mut c_void) -> c_int;
                fn ncclCommWindowRegister(comm: Comm, buff: *mut c_void, size: usize, window: *mut *mut c_void, flags: c_int) -> c_int;
                fn ncclDevCommCreate(comm: Comm, requirements: *const c_void, device_comm: *mut c_void) -> c_int;
                fn ncclDevCommDestroy(comm: Comm, device_comm: *const c_void) -> c_int;
                fn ncclGetLsaDevicePointer(window: *mut c_void, offset: usize, rank: c_int, pointer: *mut *mut c_void) -> c_int;
                fn ncclGetLsaMultimemDevicePointer(window: *mut c_void, offset: usize, pointer: *mut *mut c_void) -> c_int;
                fn ncclGetMultimemDevicePointer(window: *mut c_void, offset: usize, multimem: *mut c_void, pointer: *mut *mut c_void) -> c_int;
                fn ncclGetPeerDevicePointer(window: *mut c_void, offset: usize, peer: c_int, pointer: *mut *mut c_void) -> c_int;
                fn ncclGetUniqueId(id: *mut UniqueId) -> c_int;
                fn ncclGetVersion(version: *mut c_int) -> c_int;
                fn ncclMemAlloc(pointer: *mut *mut c_void, size: usize) -> c_int;
                fn ncclMemFree(pointer: *mut c_void) -> c_int;
                fn ncclParamBind(out: *mut *mut c_void, key: *const c_char) -> c_int;
                fn ncclParamDumpAll() -> ();
                fn ncclParamGet(handle: *mut c_void, out: *mut c_void, most: c_int, length: *mut c_int) -> c_int;
                fn ncclParamGetAllParameterKeys(table: *mut *mut *const c_char, length: *mut c_int) -> c_int;
                fn ncclParamGetI16(handle: *mut c_void, out: *mut i16) -> c_int;
                fn ncclParamGetI32(handle: *mut c_void, out: *mut i32) -> c_int;
                fn ncclParamGetI64(handle: *mut c_void, out: *mut i64) -> c_int;
                fn ncclParamGetI8(handle: *mut c_void, out: *mut i8) -> c_int;
                fn ncclParamGetParameter(key: *const c_char, value: *mut *const c_char, length: *mut c_int) -> c_int;
                fn ncclParamGetStr(handle: *mut c_void, out: *mut *const c_char) -> c_int;
                fn ncclParamGetU16(handle: *mut c_void, out: *mut u16) -> c_int;
                fn ncclParamGetU32(handle: *mut c_void, out: *mut u32) -> c_int;
                fn ncclParamGetU64(handle: *mut c_void, out: *mut u64) -> c_int;
                fn ncclParamGetU8(handle: *mut c_void, out: *mut u8) -> c_int;
                fn ncclRedOpCreatePreMulSum(op: *mut c_int, scalar: *mut c_void, datatype: c_int, residence: c_int, comm: Comm) -> c_int;
                fn ncclRedOpDestroy(op: c_int, comm: Comm) -> c_int;
                fn ncclResetDebugInit() -> ();
                fn ncclWinGetUserPtr(comm: Comm, window: *mut c_void, pointer: *mut *mut c_void) -> c_int;
            }
        }
    };
}
pub(crate) use functions;

use std::ffi::{c_char, c_int, c_uint, c_void};

use libloading::os::unix::Library;

use crate::abi::{Comm, Stream, UniqueId};

macro_rules! table {
    (
        own { $(fn $own:ident($($own_arg:ident: $own_type:ty),*) -> $own_result:ty;)* }
        stream { $(fn $stream:ident($($stream_arg:ident: $stream_type:ty),*) moves $moves:tt;)* }
        plain { $(fn $plain:ident($($plain_arg:ident: $plain_type:ty),*) -> $plain_result:ty;)* }
    ) => {
        /// The functions of one NCCL; absent where its release lacks them.
        #[allow(non_snake_case, reason = "the fields carry the names of the C functions")]
        pub(crate) struct Functions {
            $(pub(crate) $own: Option<unsafe extern "C" fn($($own_type),*) -> $own_result>,)*
            $(pub(crate) $stream: Option<unsafe extern "C" fn($($stream_type),*) -> c_int>,)*
            $(pub(crate) $plain: Option<unsafe extern "C" fn($($plain_type),*) -> $plain_result>,)*
        }

        impl Functions {
            pub(super) fn of(library: &'static Library) -> Self {
                // SAFETY: the types are those of NCCL's headers.
                unsafe {
                    Self {
                        $($own: function(library, concat!(stringify!($own), "\0")),)*
                        $($stream: function(library, concat!(stringify!($stream), "\0")),)*
                        $($plain: function(library, concat!(stringify!($plain), "\0")),)*
                    }
                }
            }
        }
    };
}
functions!(table);

/// # Safety
/// `F` is the type of the function that the library has by this name.
unsafe fn function<F: Copy>(library: &'static Library, name: &str) -> Option<F> {
    // SAFETY: the type is the caller's promise; the library stays open.
    unsafe { library.get::<F>(name.as_bytes()) }.ok().map(|symbol| *symbol)
}
