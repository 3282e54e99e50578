//! Bringing a communicator up, asking it, ending it.

use std::ffi::{c_char, c_int};
use std::sync::Arc;

use myelon::bootstrap::{Bootstrap, TcpBootstrap, TcpOptions, UniqueId};
use myelon::device::cpu::CpuDevice;
use myelon::device::cuda::CudaDevice;
use myelon::device::{Device, DeviceKind, DevicePtr};
use myelon::{Communicator, Rank, WorldSize};

use crate::border::{Place, owned, shared, text};
use crate::codes::{DataTypeCode, OpCode, myelonStatus_t};
use crate::guard::{Fault, guard};
use crate::handles::{
    MyelonComm, MyelonOptions, myelonComm_t, myelonOptions_t, myelonStream_t, myelonUniqueId_t, stream_handle,
};
use crate::logging;
use crate::options::{of_handle, pairs};

/// Makes an id for a new group, on one of its ranks or on a process beside them, which passes it to all ranks. That process serves
/// the meeting on a thread: it lives until every rank has destroyed its communicator, and is not forked after this call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonGetUniqueId(id: *mut myelonUniqueId_t) -> myelonStatus_t {
    // SAFETY: the caller's word.
    guard("myelonGetUniqueId", || unsafe { unique_id(id, std::ptr::null_mut()) })
}

/// As myelonGetUniqueId, of a group with the silence that options have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonGetUniqueIdWith(id: *mut myelonUniqueId_t, options: myelonOptions_t) -> myelonStatus_t {
    // SAFETY: the caller's word.
    guard("myelonGetUniqueIdWith", || unsafe { unique_id(id, options) })
}

/// # Safety
/// What the two above ask of their callers.
unsafe fn unique_id(id: *mut myelonUniqueId_t, options: myelonOptions_t) -> Result<(), Fault> {
    // SAFETY: the caller's word.
    let (place, options) = unsafe { (Place::at(id, "id")?, options.as_ref()) };
    logging::start()?;
    let meeting = options.map_or_else(TcpOptions::default, |options| options.meeting.clone());
    let (id, server) = UniqueId::create_with(&meeting)?;
    server.detach();
    place.put(myelonUniqueId_t { bytes: id.to_bytes() });
    Ok(())
}

/// Brings up the communicator of one rank of world_size. Collective: every rank calls it with the same id and world size, each
/// with its own rank, and it returns once all have, or after 30 seconds with the missing ranks.
///
/// Ranks are processes, or threads of one. device is the ordinal of the rank's GPU as CUDA numbers it, or -1 for the CPU device,
/// which runs the same kernels, slowly, on host memory. options may be NULL: then the environment says it all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommInitRank(
    comm: *mut myelonComm_t,
    world_size: c_int,
    id: *const myelonUniqueId_t,
    rank: c_int,
    device: c_int,
    options: myelonOptions_t,
) -> myelonStatus_t {
    guard("myelonCommInitRank", || {
        // SAFETY: the caller's word.
        let (place, id, MyelonOptions { options, meeting }) =
            unsafe { (Place::at(comm, "comm")?, shared(id, "id")?, of_handle(options)?) };
        logging::start()?;
        let world = WorldSize::new(unsigned("world_size", world_size)?)?;
        let rank = Rank(unsigned("rank", rank)?);
        if rank.0 >= world.get() {
            return Err(Fault::invalid(format!("rank is {rank} in a world of {world}: use 0 to {}", world.get() - 1)));
        }
        let id = UniqueId::from_bytes(&id.bytes)?;
        let ordinal = if device == -1 { None } else { Some(unsigned("device", device)?) };
        let bootstrap = TcpBootstrap::connect(&id, rank, world, &meeting)?;
        // ORDER: behind the connection, by which the others hear of a device that does not open.
        let device = match ordinal {
            None => CpuDevice::new(rank.0).map(|device| device as Arc<dyn Device>),
            Some(ordinal) => CudaDevice::new(ordinal).map(|device| device as Arc<dyn Device>),
        };
        let device = device.inspect_err(|error| bootstrap.announce_abort(&error.to_string()))?;
        place.put_handle(of(Communicator::connect(device, Arc::new(bootstrap), options)?));
        Ok(())
    })
}

/// Brings up the communicator of the rank that mpirun, srun, torchrun or MYELON_RANK made of this process, on the GPU of its local
/// rank, or on the CPU device where there is no GPU. Collective. options as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommInitEnv(comm: *mut myelonComm_t, options: myelonOptions_t) -> myelonStatus_t {
    guard("myelonCommInitEnv", || {
        // SAFETY: the caller's word.
        let (place, MyelonOptions { options, meeting }) = unsafe { (Place::at(comm, "comm")?, of_handle(options)?) };
        logging::start()?;
        place.put_handle(of(Communicator::from_env_with(&meeting, options)?));
        Ok(())
    })
}

/// Makes a communicator of the ranks of comm that give the same color, on the same devices, in the order of their keys, then of their
/// ranks in comm. Collective over comm. color -1 is none: *out is then NULL. It has memory, kernels and an order of operations of its
/// own, lives on when comm is destroyed, and is to be destroyed itself. options are its own, as above. While several communicators of
/// a process use a GPU their kernels may run at the same time: all ranks issue the operations of the two in the same order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommSplit(
    comm: myelonComm_t,
    color: c_int,
    key: c_int,
    options: myelonOptions_t,
    out: *mut myelonComm_t,
) -> myelonStatus_t {
    guard("myelonCommSplit", || {
        // SAFETY: the caller's word.
        let (communicator, MyelonOptions { options, .. }, place) =
            unsafe { (known(comm)?, of_handle(options)?, Place::at(out, "out")?) };
        let color = if color == -1 { None } else { Some(unsigned("color", color)?) };
        // In the order of the keys, negative ones too.
        let key = key as u32 ^ 1 << 31;
        match communicator.split(color, key, options)? {
            Some(child) => place.put_handle(of(child)),
            None => place.put(std::ptr::null_mut()),
        }
        Ok(())
    })
}

/// Ends a communicator: waits a bounded time for its last operations, ends what still runs then, and says goodbye to the peers.
/// Never waits longer than some seconds. NULL is fine; a handle that was destroyed before, or that another thread still uses, is
/// undefined behaviour. Replays of graphs that hold an operation of it count as operations: they were launched before, and for them it waits
/// until everything that the process queued on the GPU has ended; no stream of the GPU is being captured then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommDestroy(comm: myelonComm_t) -> myelonStatus_t {
    guard("myelonCommDestroy", || {
        // SAFETY: the caller's word.
        drop(unsafe { owned(comm) });
        Ok(())
    })
}

/// Ends every running and future operation of a communicator, on this rank at once and on its peers as soon as they hear of it.
/// From any thread. why, which may be NULL, is in the error that all ranks then get. The communicator is still to be destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommAbort(comm: myelonComm_t, why: *const c_char) -> myelonStatus_t {
    guard("myelonCommAbort", || {
        // SAFETY: the caller's word.
        let (communicator, why) = unsafe { (known(comm)?, text(why)) };
        communicator.abort(why.as_deref().unwrap_or("the program called myelonCommAbort"));
        Ok(())
    })
}

/// What went wrong so far with the operations of a communicator, without waiting for them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommStatus(comm: myelonComm_t) -> myelonStatus_t {
    // SAFETY: the caller's word.
    guard("myelonCommStatus", || Ok(unsafe { known(comm) }?.status()?))
}

/// Copies a word into 4 bytes of device memory, in the order of the stream and behind the operation before: 0 where every operation of
/// this rank that ended so far did so with its data, else 1. For work on the GPU that must not use results that never came; it can be
/// captured. What it was, myelonCommStatus says. The stream is as for an operation. myelonUnsupported where operations run on NCCL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommQueueStatus(
    comm: myelonComm_t,
    status: *mut u32,
    stream: myelonStream_t,
) -> myelonStatus_t {
    guard("myelonCommQueueStatus", || {
        // SAFETY: the caller's word.
        let communicator = unsafe { known(comm) }?;
        if status.is_null() || !status.is_aligned() {
            return Err(Fault::invalid(format!("status is {status:p}: it takes 4 aligned bytes of device memory")));
        }
        // SAFETY: the caller's word.
        Ok(unsafe { communicator.queue_status(DevicePtr(status as usize as u64), stream_handle(stream)) }?)
    })
}

/// Waits until the stream has passed everything queued on it, and says what went wrong with the operations of the communicator.
/// Bounded, unless the timeout is 0 or NCCL runs the operations: every wait inside a kernel has the deadline. It ends when a peer is lost
/// in any case.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommSynchronize(comm: myelonComm_t, stream: myelonStream_t) -> myelonStatus_t {
    guard("myelonCommSynchronize", || {
        // SAFETY: the caller's word.
        let (communicator, stream) = unsafe { (known(comm)?, stream_handle(stream)) };
        Ok(communicator.synchronize(stream)?)
    })
}

/// The rank of this communicator, from 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommRank(comm: myelonComm_t, rank: *mut c_int) -> myelonStatus_t {
    // SAFETY: the caller's word.
    unsafe { ask("myelonCommRank", comm, rank, "rank", |communicator| communicator.rank().0 as c_int) }
}

/// How many ranks there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommWorldSize(comm: myelonComm_t, world_size: *mut c_int) -> myelonStatus_t {
    let size = |communicator: &Communicator| communicator.world_size().get() as c_int;
    // SAFETY: the caller's word.
    unsafe { ask("myelonCommWorldSize", comm, world_size, "world_size", size) }
}

/// The ordinal of the rank's GPU as CUDA numbers it, -1 for the CPU device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommDevice(comm: myelonComm_t, device: *mut c_int) -> myelonStatus_t {
    let ordinal = |communicator: &Communicator| {
        let properties = communicator.device().properties();
        if properties.kind == DeviceKind::Cpu { -1 } else { properties.ordinal as c_int }
    };
    // SAFETY: the caller's word.
    unsafe { ask("myelonCommDevice", comm, device, "device", ordinal) }
}

/// What runs the operations: "myelon", or "nccl" after a fallback. Valid for good.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonCommEngine(comm: myelonComm_t, engine: *mut *const c_char) -> myelonStatus_t {
    let name = |communicator: &Communicator| match communicator.engine() {
        "nccl" => c"nccl".as_ptr(),
        _ => c"myelon".as_ptr(),
    };
    // SAFETY: the caller's word.
    unsafe { ask("myelonCommEngine", comm, engine, "engine", name) }
}

/// Compiles and loads the kernels of n pairs of a data type and an operator ahead of their first use, which a capture needs.
/// Collective: every rank passes the same pairs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonPrepare(
    comm: myelonComm_t,
    dtypes: *const DataTypeCode,
    ops: *const OpCode,
    n: usize,
) -> myelonStatus_t {
    guard("myelonPrepare", || {
        // SAFETY: the caller's word.
        let (communicator, pairs) = unsafe { (known(comm)?, pairs(dtypes, ops, n)?) };
        Ok(communicator.prepare_types(&pairs)?)
    })
}

/// The handle's own value of a communicator.
pub(crate) fn of(communicator: Communicator) -> MyelonComm {
    MyelonComm { communicator: Arc::new(communicator) }
}

/// What a handle stands for.
///
/// # Safety
/// A handle that is not NULL was not destroyed, and is not while the caller of this uses it.
pub(crate) unsafe fn known<'a>(comm: myelonComm_t) -> Result<&'a Arc<Communicator>, Fault> {
    // SAFETY: the caller's promise.
    Ok(&unsafe { shared(comm, "comm") }?.communicator)
}

/// # Safety
/// As [`known`] and [`Place::at`].
unsafe fn ask<T>(
    name: &str,
    comm: myelonComm_t,
    place: *mut T,
    argument: &str,
    question: impl FnOnce(&Communicator) -> T,
) -> myelonStatus_t {
    guard(name, || {
        // SAFETY: the caller's promise.
        let (communicator, place) = unsafe { (known(comm)?, Place::at(place, argument)?) };
        place.put(question(communicator));
        Ok(())
    })
}

/// A number that is not negative; -1 may have a meaning of its own.
pub(crate) fn unsigned(name: &str, value: c_int) -> Result<u32, Fault> {
    let meaning = match name {
        "device" => ", nor -1 for the CPU device",
        "color" => ", nor -1 for none",
        _ => "",
    };
    u32::try_from(value).map_err(|_| Fault::invalid(format!("{name} is {value}: not a number from 0 on{meaning}")))
}
