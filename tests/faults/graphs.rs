//! Operations captured into graphs.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use myelon_ccl::device::handles::Stream;
use myelon_ccl::variant::{Choice, Request};
use myelon_ccl::{Communicator, DType, Operation, ReduceOp};

use crate::rig::{ELEMENTS, Rig, SHORT, SOON, culprits_of, on_rigs, variants, with_timeout};
use crate::support::{devices, on_ranks};

#[test]
fn a_replayed_graph_works_on_the_data_of_the_moment() {
    for variant in &variants() {
        on_rigs(&devices(3), &with_timeout(10 * SOON), variant, |rig| {
            let twice = |count| rig.issue(count, DType::F32).and_then(|()| rig.issue(ELEMENTS, DType::F32));
            let graph = rig.stream.capture(|| twice(7)).unwrap();
            for round in 0..20 {
                rig.fill(round);
                // Eager operations between replays move the same counters on.
                if round % 3 == 0 {
                    rig.issue(ELEMENTS, DType::F32).unwrap();
                }
                rig.output.fill(0xee, &rig.stream).unwrap();
                graph.launch(&rig.stream).unwrap();
                rig.communicator.synchronize(rig.stream.handle()).unwrap();
                rig.check(round);
            }
        });
    }
}

#[test]
fn an_unprepared_capture_is_an_error_that_says_so_and_does_no_harm() {
    on_rigs(&devices(2), &with_timeout(10 * SOON), &variants()[0], |rig| {
        let request = Request { count: 64, dtype: DType::F64, op: ReduceOp::Max, registered: false };
        let choice = Choice::of(&variants()[0]);
        let (input, output) = (rig.input.address(), rig.output.address());
        let capture = || {
            // SAFETY: both buffers hold far more than 64 doubles and outlive the rig's kernels.
            rig.stream.capture(|| unsafe {
                rig.communicator.all_reduce_as(&choice, &Operation::of(&request, input, output), rig.stream.handle())
            })
        };
        let message = capture().unwrap_err().to_string();
        assert!(message.contains("prepare") && message.contains("capture"), "{message}");
        rig.works();
        rig.communicator.prepare(&[rig.communicator.plan(&choice, &request).unwrap()]).unwrap();
        let graph = capture().unwrap();
        graph.launch(&rig.stream).unwrap();
        rig.communicator.synchronize(rig.stream.handle()).unwrap();
        rig.works();
    });
}

#[test]
fn a_replay_without_the_peer_is_a_stall_that_names_it() {
    let done = Barrier::new(2);
    on_rigs(&devices(2), &with_timeout(SHORT), &variants()[0], |rig| {
        let graph = rig.stream.capture(|| rig.issue(ELEMENTS, DType::F32)).unwrap();
        if rig.rank().0 == 0 {
            graph.launch(&rig.stream).unwrap();
            let error = rig.communicator.synchronize(rig.stream.handle()).unwrap_err();
            assert_eq!(culprits_of(&error).len(), 1, "{error}");
        }
        done.wait();
    });
}

#[test]
fn what_the_options_prepare_can_be_captured_at_once() {
    let options = myelon_ccl::Options { prepare: vec![(DType::F32, ReduceOp::Sum)], ..with_timeout(10 * SOON) };
    on_ranks(2, &options, |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let buffer = myelon_ccl::device::handles::Buffer::new(communicator.device(), 4 * ELEMENTS).unwrap();
        buffer.fill(0, &stream).unwrap();
        for count in [1, 100, ELEMENTS] {
            let (data, handle) = (buffer.address(), stream.handle());
            let graph = stream.capture(|| {
                // SAFETY: the buffer holds ELEMENTS floats and outlives the synchronisation below.
                unsafe { communicator.all_reduce(data, data, count, DType::F32, ReduceOp::Sum, handle) }
            });
            let graph = graph.unwrap();
            graph.launch(&stream).unwrap();
            communicator.synchronize(handle).unwrap();
        }
    });
}

#[test]
fn a_drop_waits_for_replays_that_were_launched_before() {
    on_rigs(&devices(2), &with_timeout(Duration::ZERO), &variants()[0], |rig| {
        let graph = rig.stream.capture(|| rig.issue(ELEMENTS, DType::F32)).unwrap();
        rig.fill(7);
        rig.stream.synchronize().unwrap();
        // Later than the first look for waits in vain.
        const LATE: Duration = Duration::from_millis(400);
        if rig.rank().0 == 1 {
            std::thread::sleep(LATE);
        }
        graph.launch(&rig.stream).unwrap();
        let (began, is_early) = (Instant::now(), rig.rank().0 == 0);
        let Rig { communicator, stream, output, input, .. } = rig;
        let device = Arc::clone(communicator.device());
        drop(communicator);
        assert!(!is_early || began.elapsed() > LATE / 2, "rank 0 left while its replay waited for rank 1");
        assert!(device.stream_is_idle(stream.handle()).unwrap());
        let mut seen = vec![0; 4 * ELEMENTS as usize];
        output.download(&mut seen, &stream).unwrap();
        assert_eq!(seen[..4], (701f32 + 702f32).to_le_bytes());
        drop(input);
    });
}

/// What `end` does to rank 0's communicator while a replay on the stream waits for rank 1, which never comes.
fn with_a_lone_replay(end: impl Fn(Communicator, &Stream) + Sync) {
    let done = Barrier::new(2);
    on_rigs(&devices(2), &with_timeout(Duration::ZERO), &variants()[0], |rig| {
        let graph = rig.stream.capture(|| rig.issue(ELEMENTS, DType::F32)).unwrap();
        if rig.rank().0 == 0 {
            graph.launch(&rig.stream).unwrap();
            let Rig { communicator, stream, input: _input, output: _output, .. } = rig;
            end(communicator, &stream);
            done.wait();
        } else {
            done.wait();
        }
    });
}

#[test]
fn a_drop_stops_a_replay_that_waits_for_a_peer_for_ever() {
    with_a_lone_replay(|communicator, stream| {
        let device = Arc::clone(communicator.device());
        drop(communicator);
        assert!(device.stream_is_idle(stream.handle()).unwrap());
    });
}

/// Where another stream is being captured nobody can tell whether replays run: they are stopped, and what they use is kept.
#[test]
fn a_drop_inside_a_capture_frees_nothing_under_a_replay() {
    with_a_lone_replay(|communicator, stream| {
        let other = Stream::new(communicator.device()).unwrap();
        // The drop costs that stream its capture, at least on GPUs.
        drop(other.capture(|| {
            drop(communicator);
            Ok(())
        }));
        stream.synchronize().unwrap();
    });
}
