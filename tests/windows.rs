//! Windows: memory that every rank registered, between threads and processes, zero-copy or not.

mod support;

use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::device::{DeviceKind, DevicePtr};
use myelon_ccl::memory::Window;
use myelon_ccl::variant::{Choice, Manifest, Request, Shape};
use myelon_ccl::{Communicator, DType, Error, Launching, Operation, Options, Output, Rank, ReduceOp, Result};

use support::group::{self, Group};
use support::{asked_ranks, child, device_kind, on_ranks, options};

const COUNT: u64 = 3000;
const BYTES: u64 = 4 * COUNT;

fn request(registered: bool) -> Request {
    Request { count: COUNT, dtype: DType::I32, op: ReduceOp::Sum, registered }
}

fn ring(output: Option<Output>) -> Choice {
    let choice = Choice::of(Manifest::embedded().get("ring").unwrap());
    Choice { shape: Shape { output, ..Shape::default() }, ..choice }
}

/// One rank with a buffer.
struct Rig {
    communicator: Communicator,
    stream: Stream,
    data: Buffer,
}

impl Rig {
    fn new(communicator: Communicator, shared: bool) -> Self {
        let device = communicator.device();
        let data = if shared { Buffer::shared(device, 2 * BYTES) } else { Buffer::new(device, 2 * BYTES) }.unwrap();
        Self { stream: Stream::new(device).unwrap(), data, communicator }
    }

    fn register(&self) -> Window {
        // SAFETY: every test drops the window, or the communicator, before the buffer, and then nothing is queued.
        unsafe { self.communicator.register(self.data.address(), self.data.bytes()).unwrap() }
    }

    /// Fills the operand with `value` at an offset, which is where the sum goes.
    fn fill(&self, value: i32) {
        self.data.upload(&value.to_ne_bytes().repeat(2 * COUNT as usize), &self.stream).unwrap();
    }

    fn operation<'a>(&self, window: &'a Window, offset: u64) -> Operation<'a> {
        let data = self.data.address().offset(offset);
        Operation { window: Some(window), ..Operation::of(&request(true), data, data) }
    }

    fn issue(&self, choice: &Choice, operation: &Operation<'_>) -> Result<()> {
        // SAFETY: the buffer holds twice the elements, and is dropped behind the communicator.
        unsafe { self.communicator.all_reduce_as(choice, operation, self.stream.handle()) }
    }

    /// Every element of the first sum, after the stream has passed.
    fn expect(&self, offset: u64, value: i32) {
        self.communicator.synchronize(self.stream.handle()).unwrap();
        let mut seen = vec![0; 2 * BYTES as usize];
        self.data.download(&mut seen, &self.stream).unwrap();
        let sum = &seen[offset as usize..][..BYTES as usize];
        let wrong = sum.chunks_exact(4).position(|word| word != value.to_ne_bytes());
        assert_eq!(wrong, None, "rank {}", self.communicator.rank());
    }

    /// What the ranks' numbers, plus one each, add up to.
    fn sum(&self) -> i32 {
        let world_size = self.communicator.world_size();
        world_size.ranks().map(|rank| rank.0 as i32 + 1).sum()
    }

    fn own(&self) -> i32 {
        self.communicator.rank().0 as i32 + 1
    }

    /// Runs a ring that the window allows, and one that is told not to use it.
    fn works(&self, window: &Window) {
        for output in [None, Some(Output::Staged)] {
            for offset in [0, 16, 4, BYTES] {
                self.fill(self.own());
                self.issue(&ring(output), &self.operation(window, offset)).unwrap();
                self.expect(offset, self.sum());
            }
        }
    }
}

#[test]
fn threads_register_any_memory_and_give_it_back() {
    on_ranks(asked_ranks().unwrap_or(3), &options(), |communicator| {
        let rig = Rig::new(communicator, false);
        for _ in 0..3 {
            let window = rig.register();
            assert!(window.is_zero_copy());
            for rank in rig.communicator.world_size().ranks() {
                assert!(window.at(rank, 2 * BYTES - 1).is_some());
                assert_eq!(window.at(rank, 2 * BYTES), None);
            }
            assert_eq!(window.at(rig.communicator.rank(), 8), Some(rig.data.address().offset(8)));
            assert_eq!(window.at(Rank(rig.communicator.world_size().get()), 0), None);
            rig.works(&window);
            rig.communicator.deregister(window).unwrap();
        }
    });
}

/// What was prepared before is prepared for windows too, and a replay works on the data of the moment.
#[test]
fn graphs_of_operations_in_windows_are_captured_without_further_ado() {
    let prepared = Options { prepare: vec![(DType::I32, ReduceOp::Sum)], choice: Some(ring(None)), ..options() };
    on_ranks(asked_ranks().unwrap_or(3), &prepared, |communicator| {
        let rig = Rig::new(communicator, false);
        let window = rig.register();
        let operation = rig.operation(&window, 0);
        let again = rig.operation(&window, BYTES);
        // SAFETY: the buffer and the window outlive the graph.
        let issue = |operation| unsafe { rig.communicator.all_reduce_operation(operation, rig.stream.handle()) };
        let graph = rig.stream.capture(|| issue(&operation).and_then(|()| issue(&again))).unwrap();
        for round in 1..6 {
            rig.fill(round * rig.own());
            graph.launch(&rig.stream).unwrap();
            rig.expect(0, round * rig.sum());
            rig.expect(BYTES, round * rig.sum());
        }
        drop(graph);
        rig.communicator.deregister(window).unwrap();
    });
}

#[test]
fn an_address_that_is_not_aligned_makes_a_window_that_is_staged_on_all_ranks() {
    on_ranks(asked_ranks().unwrap_or(3), &options(), |communicator| {
        let rig = Rig::new(communicator, false);
        let odd = u64::from(rig.communicator.rank().0 == 1) * 4;
        // SAFETY: the window is dropped before the buffer, and then nothing is queued.
        let window = unsafe { rig.communicator.register(rig.data.address().offset(odd), BYTES + 64).unwrap() };
        assert!(!window.is_zero_copy());
        assert_eq!(window.at(rig.communicator.rank(), 0), None);
        let data = window.address();
        let operation = Operation { window: Some(&window), ..Operation::of(&request(false), data, data) };
        rig.fill(rig.own());
        rig.issue(&ring(None), &operation).unwrap();
        rig.expect(odd, rig.sum());
        let message = rig.issue(&ring(Some(Output::Direct)), &operation).unwrap_err().to_string();
        assert!(message.contains("none that is zero-copy"), "{message}");
        rig.communicator.deregister(window).unwrap();
    });
}

#[test]
fn what_is_wrong_is_told_before_anything_is_launched() {
    on_ranks(asked_ranks().unwrap_or(2), &options(), |communicator| {
        let rig = Rig::new(communicator, false);
        // SAFETY: nothing is registered.
        let register = |address, bytes| unsafe { rig.communicator.register(address, bytes) };
        assert!(register(DevicePtr(0), 16).unwrap_err().to_string().contains("no memory to register"));
        // On one rank only: the others hear of it.
        let bytes = if rig.communicator.rank() == Rank(0) { 0 } else { 16 };
        assert!(register(rig.data.address(), bytes).unwrap_err().to_string().contains("no memory to register"));
        let error = register(rig.data.address(), 16 + u64::from(rig.communicator.rank().0)).unwrap_err();
        assert!(matches!(&error, Error::PeerMismatch { what, .. } if what.contains("size of a window")), "{error}");

        let window = rig.register();
        let message = |operation| rig.issue(&ring(None), operation).unwrap_err().to_string();
        let outside = rig.operation(&window, BYTES + 4);
        assert!(message(&outside).contains("do not lie in the window"), "{}", message(&outside));
        let landing = Choice {
            shape: Shape { output: Some(Output::Landing), ..Shape::default() },
            ..Choice::of(Manifest::embedded().get("ring_copy_engine").unwrap())
        };
        let message = rig.issue(&landing, &rig.operation(&window, 0)).unwrap_err().to_string();
        assert!(message.contains("apart from the input"), "{message}");
        // The first of a batch can be done, and is not either.
        let apart = Operation { output: rig.data.address().offset(BYTES), ..rig.operation(&window, 0) };
        rig.fill(7);
        // SAFETY: as in `issue`.
        let batch = unsafe {
            let operations = [apart, rig.operation(&window, 0)];
            rig.communicator.all_reduce_batch_as(&landing, &operations, rig.stream.handle())
        };
        let message = batch.unwrap_err().to_string();
        assert!(message.contains("operation 1 of a batch") && message.contains("apart from the input"), "{message}");
        rig.expect(BYTES, 7);
        rig.works(&window);
        rig.communicator.deregister(window).unwrap();
    });
}

#[test]
fn a_window_is_of_one_communicator() {
    let all = Barrier::new(2);
    let windows = std::sync::Mutex::new(Vec::new());
    on_ranks(2, &options(), |communicator| {
        let rig = Rig::new(communicator, false);
        let window = rig.register();
        windows.lock().unwrap().push(window);
        all.wait();
        // Each rank has a communicator of its own in this process: the window of the other is no window here.
        let other = {
            let mut windows = windows.lock().unwrap();
            let place = windows.iter().position(|window: &Window| window.address() != rig.data.address());
            windows.remove(place.unwrap())
        };
        let operation =
            Operation { window: Some(&other), ..Operation::of(&request(true), other.address(), other.address()) };
        let message = rig.issue(&ring(None), &operation).unwrap_err().to_string();
        assert!(message.contains("another communicator"), "{message}");
        drop(other);
        all.wait();
    });
}

/// In what rank 1 differs from the others.
#[derive(Clone, Copy, Debug)]
enum Odd {
    Offset,
    Window,
    Unregistered,
}

/// Each rank would store into the next rank's memory where its own output lies in the window.
#[test]
fn ranks_that_mean_different_places_are_told_before_anything_is_stored() {
    let ranks = asked_ranks().unwrap_or(3);
    for odd in [Odd::Offset, Odd::Window, Odd::Unregistered] {
        let ended = Barrier::new(ranks as usize);
        let errors = on_ranks(ranks, &options(), |communicator| {
            let rig = Rig::new(communicator, false);
            let whole = rig.register();
            let [first, second] = [0, BYTES].map(|offset| {
                // SAFETY: as in `register`.
                unsafe { rig.communicator.register(rig.data.address().offset(offset), BYTES).unwrap() }
            });
            let is_odd = rig.communicator.rank() == Rank(1);
            let offset = if is_odd { BYTES } else { 0 };
            let operation = rig.operation(&whole, offset);
            let window = match odd {
                Odd::Offset => Some(&whole),
                Odd::Window => Some(if is_odd { &second } else { &first }),
                Odd::Unregistered => Some(&whole).filter(|_| !is_odd),
            };
            rig.fill(rig.own());
            rig.issue(&ring(None), &Operation { window, ..operation }).unwrap();
            let error = rig.communicator.synchronize(rig.stream.handle()).unwrap_err();
            ended.wait();
            let mut seen = vec![0; 2 * BYTES as usize];
            rig.data.download(&mut seen, &rig.stream).unwrap();
            let other = &seen[(BYTES - offset) as usize..][..BYTES as usize];
            let kept = other.chunks_exact(4).all(|word| word == rig.own().to_ne_bytes());
            assert!(kept, "{odd:?}: memory of rank {} that is no output was written to", rig.communicator.rank());
            ended.wait();
            error
        });
        let known = |error: &Error| matches!(error, Error::PeerMismatch { .. } | Error::Aborted { .. });
        assert!(errors.iter().all(known), "{odd:?}: {errors:?}");
        let told = errors.iter().map(Error::to_string).find(|text| text.contains("disagree on operation 1")).unwrap();
        assert!(told.contains("sum into a window, whose type, count, window and offset in it"), "{odd:?}: {told}");
    }
}

/// Runs `test` as every rank of a group, each with `prepare` done to its command.
fn over_processes(test: &str, prepare: impl Fn(u32, &mut Command)) {
    let group = Group::new(asked_ranks().unwrap_or(3));
    let ends: Vec<_> = group
        .ranks()
        .map(|rank| {
            let mut command = group.command(rank, test);
            prepare(rank, &mut command);
            std::thread::spawn(move || child::run(command, Duration::from_secs(120)))
        })
        .collect();
    for (rank, end) in ends.into_iter().enumerate() {
        let outcome = end.join().unwrap();
        assert!(outcome.passed(), "rank {rank}: {outcome}");
    }
}

/// Says that a rank's memory is plain.
const PLAIN: &str = "TEST_PLAIN_MEMORY";
/// Says whether the window is to be zero-copy.
const ZERO_COPY: &str = "TEST_ZERO_COPY";

#[test]
fn processes_map_memory_that_was_made_for_it() {
    over_processes("rank_of_a_window", |_, command| {
        command.env(ZERO_COPY, "1");
    });
}

/// On GPUs, plain memory has a legacy handle; on the CPU it cannot be mapped, and then that of no rank is.
#[test]
fn processes_agree_where_the_memory_of_one_cannot_be_mapped() {
    let mappable = device_kind() == DeviceKind::Cuda;
    over_processes("rank_of_a_window", |rank, command| {
        command.env(ZERO_COPY, if mappable { "1" } else { "0" });
        if rank == 1 {
            command.env(PLAIN, "1");
        }
    });
}

/// A rank of the two tests above, in a process of its own.
#[test]
fn rank_of_a_window() {
    let Some(communicator) = group::join(options()) else { return };
    let rig = Rig::new(communicator, std::env::var_os(PLAIN).is_none());
    for _ in 0..2 {
        let window = rig.register();
        assert_eq!(window.is_zero_copy(), std::env::var(ZERO_COPY).as_deref() == Ok("1"));
        rig.works(&window);
        rig.communicator.deregister(window).unwrap();
    }
}

/// A stall ends with an error that `deregister` tells too, and the memory goes behind the communicator.
#[test]
fn a_window_survives_a_stall() {
    let done = Barrier::new(2);
    let short = Options { timeout: Duration::from_millis(300), ..options() };
    on_ranks(2, &short, |communicator| {
        let rig = Rig::new(communicator, false);
        let window = rig.register();
        rig.works(&window);
        let operation = rig.operation(&window, 0);
        if rig.communicator.rank() == Rank(0) {
            rig.issue(&ring(None), &operation).unwrap();
            let error = rig.communicator.synchronize(rig.stream.handle()).unwrap_err();
            assert!(matches!(error, Error::Stalled { .. }), "{error}");
            assert!(rig.communicator.deregister(window).is_err());
        }
        done.wait();
    });
}

/// Behind its failed operation a rank may free what was in a window, or use it for something else.
#[test]
fn a_rank_that_comes_when_another_has_given_up_stores_nothing_into_its_window() {
    let done = Barrier::new(2);
    let short = Options { timeout: Duration::from_millis(300), ..options() };
    for &launching in Launching::ALL {
        let ends = on_ranks(2, &short, |communicator| {
            let rig = Rig::new(communicator, false);
            let window = rig.register();
            let Choice { variant, shape } = ring(Some(Output::Direct));
            let choice = Choice { shape: Shape { launch: Some(launching), ..shape }, variant };
            let operation = rig.operation(&window, 0);
            rig.fill(rig.own());
            rig.issue(&choice, &operation).unwrap();
            rig.expect(0, rig.sum());
            let is_late = rig.communicator.rank() == Rank(1);
            // WHY not `Communicator::synchronize`: it would tell the host of the other, which then would launch nothing.
            let run = || rig.issue(&choice, &operation).and_then(|()| rig.stream.synchronize()).unwrap();
            if !is_late {
                run();
                rig.fill(77);
                rig.stream.synchronize().unwrap();
            }
            done.wait();
            if is_late {
                run();
            }
            done.wait();
            let mut seen = vec![0; 2 * BYTES as usize];
            rig.data.download(&mut seen, &rig.stream).unwrap();
            let error = rig.communicator.status().unwrap_err();
            done.wait();
            drop(window);
            (seen, error)
        });
        let [(kept, of_first), (_, of_late)] = &ends[..] else { panic!("two ranks") };
        assert!(kept.chunks_exact(4).all(|word| word == 77i32.to_ne_bytes()), "{launching:?}");
        assert!(of_first.is_stalled() && of_late.is_aborted(), "{launching:?}: {of_first}; {of_late}");
    }
}
