//! Graphs whose branches run beside each other, and streams that wait for words.

use super::tests::{APPEND, Bench, MEET, ONE, SPINS, read};
use super::*;
use crate::device::handles::Stream;

#[test]
fn a_captured_graph_runs_at_each_launch_and_not_before() {
    let bench = Bench::new();
    let (kernel, stream, side) = (bench.load(APPEND), bench.stream(), bench.stream());
    let (word, copy) = (bench.words(1, &stream), bench.words(1, &stream));
    let (fork, join) = (bench.device.create_event().unwrap(), bench.device.create_event().unwrap());
    let graph = stream.capture(|| {
        let (device, handle) = (&bench.device, stream.handle());
        bench.launch(kernel, ONE, &[word.address().0, 10, 1], &stream);
        device.record_event(fork, handle)?;
        device.wait_event(side.handle(), fork)?;
        assert!(device.is_capturing(side.handle())?);
        bench.launch(kernel, ONE, &[word.address().0, 10, 2], &side);
        device.record_event(join, side.handle())?;
        device.wait_event(handle, join)?;
        // SAFETY: both buffers outlive the graph's launches.
        unsafe { device.copy(copy.address(), word.address(), 8, handle) }?;
        assert!(device.synchronize_stream(handle).is_err());
        Ok(())
    });
    let graph = graph.unwrap();
    assert!(!bench.device.is_capturing(side.handle()).unwrap());
    assert_eq!(read(&word, &stream), [0]);
    for expected in [12, 1212] {
        graph.launch(&stream).unwrap();
        assert_eq!(read(&copy, &stream), [expected]);
    }
    assert!(bench.device.event_is_reached(join).is_err());
}

/// Two branches that end only if they run at the same time, and an order between them by events alone.
#[test]
fn branches_of_a_graph_run_at_the_same_time() {
    let bench = Bench::new();
    let (meet, append) = (bench.load(MEET), bench.load(APPEND));
    let (stream, side) = (bench.stream(), bench.stream());
    let (device, words) = (&bench.device, bench.words(3, &stream));
    let word = |index: u64| words.address().offset(8 * index).0;
    let [fork, join] = [(); 2].map(|()| device.create_event().unwrap());
    let graph = stream.capture(|| {
        // SAFETY: the words outlive the graph's launches.
        unsafe { device.fill(words.address(), 0, 16, stream.handle())? };
        device.record_event(fork, stream.handle())?;
        device.wait_event(side.handle(), fork)?;
        bench.launch(meet, ONE, &[word(0), word(1), SPINS], &stream);
        bench.launch(append, ONE, &[word(2), 10, 1], &side);
        bench.launch(meet, ONE, &[word(1), word(0), SPINS], &side);
        device.record_event(join, side.handle())?;
        device.wait_event(stream.handle(), join)?;
        bench.launch(append, ONE, &[word(2), 10, 2], &stream);
        Ok(())
    });
    let graph = graph.unwrap();
    for expected in [12, 1212, 121_212] {
        graph.launch(&stream).unwrap();
        assert_eq!(read(&words, &stream), [1, 1, expected]);
    }
}

#[test]
fn a_branch_that_is_not_waited_for_is_refused() {
    let bench = Bench::new();
    let (stream, side, other) = (bench.stream(), bench.stream(), bench.stream());
    let (device, words) = (&bench.device, bench.words(1, &stream));
    let [fork, join] = [(); 2].map(|()| device.create_event().unwrap());
    // SAFETY: the word outlives the captures, whose graphs are never launched.
    let work = |stream: &Stream| unsafe { device.fill(words.address(), 1, 8, stream.handle()) };
    let hand_over = |event, from: &Stream, to: &Stream| {
        device.record_event(event, from.handle()).and_then(|()| device.wait_event(to.handle(), event))
    };
    let unjoined = stream.capture(|| {
        hand_over(fork, &stream, &side)?;
        work(&side)?;
        hand_over(join, &side, &stream)?;
        work(&side)
    });
    assert!(unjoined.unwrap_err().to_string().contains("wait for it before the capture ends"));
    assert!(!device.is_capturing(side.handle()).unwrap());
    let elsewhere = stream.capture(|| {
        hand_over(fork, &stream, &side)?;
        device.end_capture(side.handle()).map(drop)
    });
    assert!(elsewhere.unwrap_err().to_string().contains("end it there"));
    // Joined by way of a third stream, and forked without any work.
    let joined = stream.capture(|| {
        hand_over(fork, &stream, &side)?;
        hand_over(fork, &stream, &other)?;
        work(&side)?;
        hand_over(join, &side, &other)?;
        hand_over(fork, &other, &stream)
    });
    joined.unwrap();
    stream.capture(|| hand_over(fork, &stream, &side)).unwrap();
}

#[test]
fn a_stream_waits_for_a_word_that_a_kernel_or_another_stream_writes() {
    let bench = Bench::new();
    let (append, stream, side) = (bench.load(APPEND), bench.stream(), bench.stream());
    let (device, words) = (&bench.device, bench.words(3, &stream));
    let word = |index: u64| words.address().offset(8 * index);
    assert!(device.has_value_operations());
    // SAFETY: the words outlive the synchronisation; only value operations access those that are waited for.
    unsafe {
        device.wait_value(word(0), 3, side.handle()).unwrap();
        bench.launch(append, ONE, &[word(2).0, 10, 2], &side);
        device.write_value(word(1), 7, side.handle()).unwrap();
        device.write_value(word(0), 2, stream.handle()).unwrap();
        bench.launch(append, ONE, &[word(2).0, 10, 1], &stream);
        stream.synchronize().unwrap();
        assert!(!device.stream_is_idle(side.handle()).unwrap(), "2 is less than 3");
        device.write_value(word(0), 4, stream.handle()).unwrap();
        device.wait_value(word(1), 7, stream.handle()).unwrap();
        assert_eq!(read(&words, &stream), [4, 7, 12]);
        for wrong in [DevicePtr(0), word(0).offset(4)] {
            let message = device.wait_value(wrong, 1, stream.handle()).unwrap_err().to_string();
            assert!(message.contains("a multiple of 8"), "{message}");
            assert!(device.write_value(wrong, 1, stream.handle()).is_err());
        }
    }
}

#[test]
fn captures_refuse_what_cuda_refuses() {
    let bench = Bench::new();
    let (stream, event) = (bench.stream(), bench.device.create_event().unwrap());
    bench.device.record_event(event, stream.handle()).unwrap();
    let message = stream.capture(|| bench.device.wait_event(stream.handle(), event)).unwrap_err().to_string();
    assert!(message.contains("outside the capture"), "{message}");
    assert!(bench.device.end_capture(stream.handle()).is_err());
    assert!(bench.device.begin_capture(StreamHandle::DEFAULT).is_err());
    stream.capture(|| bench.device.begin_capture(stream.handle())).unwrap_err();
    stream.synchronize().unwrap();
}
