//! Multi-GPU all-reduce over NVLink: a Rust runtime, and CUDA kernels that also run on the CPU.
//!
//! Every rank has an array; after an all-reduce every rank has the same array, reduced over all ranks element by element.
//! A rank is one GPU and the process or thread that drives it. A [`Communicator`] is the group of ranks, seen from one of
//! them: 1 to 8 ranks of one node. Kernels are compiled at run time for the exact case and cached on disk, so building needs
//! no CUDA, and a machine without a GPU runs the same kernels on [`device::cpu::CpuDevice`], slowly.
//!
//! # Example
//!
//! Four ranks as threads of one process, on the CPU. On GPUs, [`Communicator::all_gpus`] takes the place of `threads`; a
//! process that a launcher started has its rank from [`Communicator::from_env`].
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::thread;
//!
//! use myelon_ccl::device::Device;
//! use myelon_ccl::device::cpu::CpuDevice;
//! use myelon_ccl::device::handles::{Buffer, Stream};
//! use myelon_ccl::{Communicator, DType, Options, ReduceOp, Result};
//!
//! const COUNT: usize = 1024;
//!
//! fn run(communicator: Communicator) -> Result<()> {
//!     let stream = Stream::new(communicator.device())?;
//!     let data = Buffer::new(communicator.device(), 4 * COUNT as u64)?;
//!     // Dropped before the stream of its last operation, also where an error ends this function.
//!     let communicator = communicator;
//!
//!     let ones: Vec<u8> = [1.0f32; COUNT].iter().flat_map(|value| value.to_ne_bytes()).collect();
//!     data.upload(&ones, &stream)?;
//!     let (input, output) = (data.address(), data.address());
//!     // SAFETY: the buffer holds COUNT elements and outlives the synchronisation; the stream outlives the communicator.
//!     unsafe { communicator.all_reduce(input, output, COUNT as u64, DType::F32, ReduceOp::Sum, stream.handle())? };
//!     communicator.synchronize(stream.handle())?;
//!
//!     let mut sums = vec![0u8; 4 * COUNT];
//!     data.download(&mut sums, &stream)?;
//!     assert_eq!(sums[..4], 4.0f32.to_ne_bytes());
//!     Ok(())
//! }
//!
//! fn main() -> Result<()> {
//!     let mut devices: Vec<Arc<dyn Device>> = Vec::new();
//!     for ordinal in 0..4 {
//!         devices.push(CpuDevice::new(ordinal)?);
//!     }
//!     let ranks = Communicator::threads(&devices, &Options::from_env()?)?;
//!     thread::scope(|scope| {
//!         let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || run(rank))).collect();
//!         threads.into_iter().try_for_each(|thread| thread.join().expect("no rank panics"))
//!     })
//! }
//! ```
//!
//! Slices of `cudarc` need no `unsafe`, for they know their length, type, device and streams:
//!
//! ```no_run
//! # fn run(communicator: &myelon_ccl::Communicator) -> Result<(), Box<dyn std::error::Error>> {
//! use myelon_ccl::ReduceOp;
//! use myelon_ccl::device::cuda::CudaDevice;
//!
//! let gpu = CudaDevice::new(communicator.device().properties().ordinal)?;
//! let stream = gpu.context().new_stream()?;
//! let input = stream.clone_htod(&vec![communicator.rank().0 as f32; 1 << 20])?;
//! let mut output = stream.alloc_zeros::<f32>(1 << 20)?;
//! communicator.all_reduce_slice(&input, &mut output, ReduceOp::Sum, &stream)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Concepts
//!
//! - A [`variant`] is one kernel algorithm with a name. The manifest, `configs/variants.toml`, says what each supports; the
//!   lane [`table`] of a machine, or a rule where it has none, says which one a message takes. [`Communicator::all_reduce_as`] takes one of the caller's choice.
//! - A [`variant::Plan`] is how one request runs: kernel, lanes, threads, chunk, pieces. It depends only on what is equal on
//!   all ranks, so every rank comes to the same plan without asking.
//! - A [`bootstrap`] is how ranks find each other: threads of one process, processes that share a
//!   [`bootstrap::UniqueId`], or the job of a launcher ([`bootstrap::from_env`]). [`Communicator::connect`] takes any of them.
//! - The [`memory::SymmetricHeap`] is memory with the same layout on every rank that all ranks reach. User buffers need no
//!   registration: data passes through the heap, whose size [`memory::HeapLimits`] bounds. When a communicator comes up, every
//!   pair of ranks stores and loads test data there.
//! - A [`Window`] is memory of the user's that [`Communicator::register`] made reachable for all ranks. Operations that name the
//!   window of their output ([`Operation::window`]) can have results stored right into it.
//! - [`Communicator::split`] makes communicators of some of the ranks, by color and key: a child beside its parent, with a heap
//!   and operations of its own.
//! - The engine of a communicator is Myelon's kernels. Where GPUs cannot reach each other's memory that is an error, or NCCL
//!   with [`comm::Fallback::Nccl`] in [`Options::fallback`]; [`Communicator::engine`] says which one runs. On NCCL there are no
//!   variants and plans, and NCCL's kernels have no deadline.
//!
//! Results are the same bits on every rank and in every run of one plan. 16- and 8-bit floats are accumulated in 32 bits and
//! rounded once at the end, except where a variant's manifest entry says `rounding = "per_hop"`.
//!
//! # Other collectives
//!
//! [`Communicator::reduce_scatter`] and [`Communicator::all_gather`] are the halves of an all-reduce, [`Communicator::broadcast`] gives
//! one rank's array to all. They are operations like any other, in the one sequence of the communicator; a [`Call`] is one of any
//! [`Collective`] as a value.
//!
//! # Threads and streams
//!
//! A call queues work on a stream and returns; the result is there once the stream has passed it. Every rank issues the same
//! operations in the same order. Operations of one communicator run in that order, whatever streams they are given.
//! A communicator may be shared by threads, which take turns. Each rank has a thread of its own: a rank that waits for another
//! one on the same thread waits for ever.
//!
//! [`Communicator::all_reduce_batch`] issues several operations by one call: in order, and all checked before the first is
//! launched. [`Communicator::all_reduce_buckets`] reduces a list of buffers as one operation, and in one launch where it fits: for
//! small ones of one type and operator without an order among them, such as the gradients of many tensors.
//!
//! [`Communicator::barrier`] holds a stream until the streams of all ranks have come to it; the host goes on.
//!
//! Communicators that share ranks, a child and its parent, have sequences of their own, which only streams order. Ranks that are
//! in both issue their operations in the same order.
//!
//! The first use of a data type and operator that was not prepared compiles and loads kernels, between barriers of all ranks'
//! hosts. [`Options::prepare`] and [`Communicator::prepare_types`] do it ahead of time.
//!
//! # Graphs
//!
//! An all-reduce can be captured into a CUDA graph and replayed once its kernels are prepared; an unprepared one is an error
//! inside a capture. All counters live in device memory, so a replay is a new operation. Every rank replays the same graphs in
//! the same order. A replay is ordered with what is on other streams by the caller: one operation of a communicator at a time.
//! A drop waits for replays that were launched before it, and none is launched after. While the stream of its last operation is
//! being captured, an operation on another stream may be an error: it could not wait for that one. A window that a captured
//! operation names is dropped after the graph's last replay has ended.
//!
//! # Errors
//!
//! A wrong call is an error before anything is launched and loses nothing; peers that called correctly wait for it. What goes wrong afterwards is reported by
//! [`Communicator::synchronize`], [`Communicator::status`] and the next call: [`Error::Stalled`] names the rank, lane and peer
//! of the wait that passed [`Options::timeout`] and the ranks that had not started the operation, [`Error::PeerLost`] a rank
//! whose process ended, or that left while others waited for it, [`Error::PeerMismatch`] both sides of a disagreement, [`Error::Aborted`] who gave up. While a communicator comes
//! up or prepares, a rank whose own part went well says [`Error::PeerFailed`] with the error of the one that failed.
//!
//! After such an error the output is undefined and the communicator of no further use. The CUDA context lives: kernels return,
//! they do not trap. A new communicator in the same processes works.
//!
//! # Environment
//!
//! The environment is read where a function's name or documentation says so: [`Options::from_env`], [`bootstrap::launcher`],
//! [`device::cpu`], [`device::cuda::locate`], [`device::cache`] and [`device::source`]. The README lists all variables.

#![warn(missing_docs)]

pub mod abi;
pub mod baseline;
pub mod bootstrap;
pub mod comm;
pub mod device;
pub mod error;
mod log_filter;
pub mod measure;
pub mod memory;
pub mod study;
pub mod table;
pub mod types;
pub mod variant;
pub mod verify;
pub mod watch;

pub use comm::{Bucket, Call, Communicator, Fallback, Operation, Options};
pub use error::{Error, Result};
pub use log_filter::LogFilter;
pub use memory::Window;
pub use types::{
    Collective, DType, Launching, MAX_WORLD_SIZE, Metadata, Output, Places, Rank, ReduceOp, SyncPolicy, Wait, WorldSize,
};
