//! Operations on several streams, captured or not, in the order of their calls.

use super::*;
use crate::device::cpu::CpuDevice;
use crate::device::handles::{Buffer, Stream};

fn last(order: &Order) -> Option<u64> {
    order.state().last.as_ref().map(|last| last.stream)
}

#[test]
fn a_stream_that_was_waited_for_may_go() {
    let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
    let order = Order::new(&device, false).unwrap();
    let streams = [(); 3].map(|()| Stream::new(&device).unwrap());
    for stream in &streams {
        order.issue(stream.handle(), None, || Ok(())).unwrap();
    }
    order.synchronize(streams[0].handle()).unwrap();
    assert_eq!(last(&order), Some(streams[2].handle().raw()), "another stream had the last operation");
    order.synchronize(streams[2].handle()).unwrap();
    assert_eq!(last(&order), None);
    drop(streams);
    assert!(order.is_idle());
    let next = Stream::new(&device).unwrap();
    order.issue(next.handle(), None, || Ok(())).unwrap();
}

/// A long operation on one stream, a capture on another, and then an operation there.
#[test]
fn a_capture_does_not_hide_the_operation_before_it() {
    let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
    let (order, large) = (Order::new(&device, false).unwrap(), 64 << 20);
    let (data, seen) = (Buffer::new(&device, large).unwrap(), Buffer::new(&device, 1).unwrap());
    let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
    data.fill(0, &first).unwrap();
    first.synchronize().unwrap();
    let issue = |stream: &Stream, work: &dyn Fn() -> Result<()>| order.issue(stream.handle(), None, work).unwrap();
    for round in 1..=8 {
        issue(&first, &|| data.fill(round, &first));
        let graph = second.capture(|| {
            issue(&second, &|| Ok(()));
            Ok(())
        });
        let last = data.address().offset(large - 1);
        // SAFETY: both buffers outlive the synchronisation below.
        let copy = || unsafe { device.copy(seen.address(), last, 1, second.handle()) };
        issue(&second, &copy);
        second.synchronize().unwrap();
        let mut byte = [0];
        seen.download(&mut byte, &second).unwrap();
        assert_eq!(byte, [round], "the second operation overtook the first");
        drop(graph.unwrap());
    }
    first.synchronize().unwrap();
}

/// A slow operation on one branch of a capture, and the next on another, which nothing else puts behind it.
#[test]
fn operations_on_branches_of_one_capture_follow_each_other() {
    let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
    for transient in [false, true] {
        let (order, large) = (Order::new(&device, transient).unwrap(), 64 << 20);
        let (data, seen) = (Buffer::new(&device, large).unwrap(), Buffer::new(&device, 1).unwrap());
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        data.fill(0, &first).unwrap();
        first.synchronize().unwrap();
        // Before the capture there is an operation on the first stream, as after a warm-up.
        order.issue(first.handle(), None, || Ok(())).unwrap();
        let (forked, joined) = (Event::new(&device).unwrap(), Event::new(&device).unwrap());
        let graph = first.capture(|| {
            forked.record(first.handle())?;
            forked.hold(second.handle())?;
            order.issue(first.handle(), None, || data.fill(9, &first))?;
            let last = data.address().offset(large - 1);
            // SAFETY: both buffers outlive the replay, which is waited for.
            let copy = || unsafe { device.copy(seen.address(), last, 1, second.handle()) };
            order.issue(second.handle(), None, copy)?;
            joined.record(second.handle())?;
            joined.hold(first.handle())
        });
        let graph = graph.unwrap();
        graph.launch(&first).unwrap();
        first.synchronize().unwrap();
        let mut byte = [0];
        seen.download(&mut byte, &first).unwrap();
        assert_eq!(byte, [9], "the second operation overtook the first");
    }
}

#[test]
fn what_cannot_be_asked_has_not_ended() {
    let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
    let order = Order::new(&device, false).unwrap();
    let stream = Stream::new(&device).unwrap();
    order.issue(stream.handle(), None, || Ok(())).unwrap();
    let capture = stream.capture(|| {
        assert!(order.is_hidden() && !order.is_idle());
        Ok(())
    });
    drop(capture.unwrap());
    stream.synchronize().unwrap();
    assert!(!order.is_hidden() && order.is_idle());
    // While an operation is being queued nobody who asks is held up.
    let ask = || {
        assert!(!order.is_idle());
        Ok(())
    };
    order.issue(stream.handle(), None, ask).unwrap();
}

#[test]
fn a_captured_operation_leaves_the_order_as_it_was() {
    let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
    let order = Order::new(&device, false).unwrap();
    let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
    let issue = |stream: &Stream| order.issue(stream.handle(), None, || Ok(()));
    let capture = |stream: &Stream| drop(stream.capture(|| issue(stream)).unwrap());
    capture(&second);
    assert_eq!(last(&order), None);
    issue(&first).unwrap();
    let issued = order.state().issued;
    capture(&second);
    assert_eq!((last(&order), order.state().issued), (Some(first.handle().raw()), issued));
    issue(&second).unwrap();
    capture(&first);
    assert_eq!(last(&order), Some(second.handle().raw()));
    // The caller's part is done: the second stream was made to wait for the first.
    drop(first);
    issue(&second).unwrap();
    second.synchronize().unwrap();
    assert!(order.is_idle());
}

#[test]
fn with_marks_from_the_start_a_stream_may_go_after_its_call() {
    let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
    let order = Order::new(&device, true).unwrap();
    let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
    order.issue(first.handle(), None, || Ok(())).unwrap();
    drop(first);
    order.follow(second.handle()).unwrap();
    order.issue(second.handle(), None, || Ok(())).unwrap();
    second.synchronize().unwrap();
    drop(second);
    assert!(order.is_idle());
}

#[test]
fn work_that_fails_may_have_queued_something() {
    let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
    let order = Order::new(&device, false).unwrap();
    let streams = [(); 2].map(|()| Stream::new(&device).unwrap());
    for stream in &streams {
        let error = order.issue(stream.handle(), None, || Err(Error::invalid("the second of two launches")));
        assert!(error.unwrap_err().to_string().contains("the second of two launches"));
        assert_eq!(last(&order), Some(stream.handle().raw()));
    }
}

#[test]
fn no_operation_overtakes_one_whose_stream_is_being_captured() {
    let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
    let order = Order::new(&device, false).unwrap();
    let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
    let issue = |stream: &Stream| order.issue(stream.handle(), None, || Ok(()));
    issue(&first).unwrap();
    let capture = first.capture(|| {
        issue(&first)?;
        let begun = || panic!("begun all the same");
        let error = order.issue(second.handle(), None, begun).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert!(error.to_string().contains("end the capture first"), "{error}");
        Ok(())
    });
    drop(capture.unwrap());
    issue(&second).unwrap();
    // From here on an event stands behind every operation, and a capture hinders nobody.
    drop(second.capture(|| issue(&first)).unwrap());
}

#[test]
fn a_stream_with_an_owner_lives_as_long_as_it_has_the_last_operation() {
    let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
    let order = Order::new(&device, false).unwrap();
    let owners = [(); 3].map(|()| Arc::new(Stream::new(&device).unwrap()));
    let issue = |owner: &Arc<Stream>| order.issue(owner.handle(), Some(Arc::clone(owner) as Owner), || Ok(()));
    let kept = || owners.each_ref().map(|owner| Arc::strong_count(owner) > 1);
    // An owner that comes late is kept as well, and one that is there stays.
    order.issue(owners[0].handle(), None, || Ok(())).unwrap();
    for owner in [Some(Arc::clone(&owners[0]) as Owner), None] {
        order.issue(owners[0].handle(), owner, || Ok(())).unwrap();
        assert_eq!(kept(), [true, false, false]);
    }
    drop(owners[1].capture(|| issue(&owners[1])).unwrap());
    assert_eq!(kept(), [true, false, false], "a graph needs no stream");
    let refused = owners[0].capture(|| issue(&owners[2]));
    assert!(refused.is_err());
    assert_eq!(kept(), [true, false, false], "nothing waits for the first stream yet");
    issue(&owners[2]).unwrap();
    assert_eq!(kept(), [false, false, true]);
    order.synchronize(owners[2].handle()).unwrap();
    assert_eq!(kept(), [false; 3]);
}
