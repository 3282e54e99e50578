//! What orders work: events, graphs, words in memory.

use std::time::{Duration, Instant};

use myelon_ccl::device::{Device, EventHandle, LaunchShape};

use super::{BYTES, Bench, COUNT, SHAPE, read};

fn event_after(bench: &Bench) -> EventHandle {
    let event = bench.device.create_event().unwrap();
    bench.device.record_event(event, bench.stream).unwrap();
    event
}

#[test]
fn events_tell_time_and_queries_do_not_block() {
    let Some(bench) = Bench::new() else { return };
    let start = event_after(&bench);
    bench.add(1.0, Duration::from_millis(200), SHAPE);
    let end = event_after(&bench);
    assert!(!bench.device.event_is_reached(end).unwrap(), "the kernel takes 200 ms");
    assert!(!bench.device.stream_is_idle(bench.stream).unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !bench.device.event_is_reached(end).unwrap() {
        assert!(Instant::now() < deadline, "the event was not reached within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(bench.device.stream_is_idle(bench.stream).unwrap());
    let elapsed = bench.device.elapsed_ns(start, end).unwrap();
    assert!(elapsed >= 190_000_000, "{elapsed} ns");
    for event in [start, end] {
        // SAFETY: of this device, and not used after this.
        unsafe { bench.device.destroy_event(event) };
    }
}

#[test]
fn a_stream_waits_for_an_event_of_another() {
    let Some(bench) = Bench::new() else { return };
    bench.clear();
    bench.add(1.0, Duration::from_millis(50), SHAPE);
    let event = event_after(&bench);
    let other = bench.device.create_stream().unwrap();
    bench.device.wait_event(other, event).unwrap();
    assert_eq!(read(&bench.device, bench.data, other), vec![1.0; COUNT as usize]);
    // SAFETY: both are of this device and idle.
    unsafe {
        bench.device.destroy_event(event);
        bench.device.destroy_stream(other);
    }
}

/// On another stream than the kernel's, which a graph holds.
#[test]
fn an_event_behind_everything_waits_for_replays() {
    let Some(bench) = Bench::new() else { return };
    let device = &bench.device;
    bench.clear();
    device.synchronize_stream(bench.stream).unwrap();
    device.begin_capture(bench.stream).unwrap();
    bench.add(1.0, Duration::from_millis(200), SHAPE);
    let graph = device.end_capture(bench.stream).unwrap();
    let (event, other) = (device.create_event().unwrap(), device.create_stream().unwrap());
    device.launch_graph(graph, bench.stream).unwrap();
    if device.record_everything(event).unwrap() {
        assert!(!device.event_is_reached(event).unwrap(), "the kernel takes 200 ms");
        device.wait_event(other, event).unwrap();
        assert_eq!(read(device, bench.data, other), vec![1.0; COUNT as usize]);
        assert!(device.event_is_reached(event).unwrap() && device.stream_is_idle(bench.stream).unwrap());
    } else {
        eprintln!("the driver is older than CUDA 12.5");
    }
    device.synchronize_stream(bench.stream).unwrap();
    // SAFETY: all of this device, and idle.
    unsafe {
        device.destroy_graph(graph);
        device.destroy_event(event);
        device.destroy_stream(other);
    }
}

#[test]
fn a_graph_replays_what_was_captured() {
    let Some(bench) = Bench::new() else { return };
    bench.clear();
    bench.device.synchronize_stream(bench.stream).unwrap();
    assert!(!bench.device.is_capturing(bench.stream).unwrap());
    bench.device.begin_capture(bench.stream).unwrap();
    assert!(bench.device.is_capturing(bench.stream).unwrap());
    bench.add(1.0, Duration::ZERO, SHAPE);
    bench.add(2.0, Duration::ZERO, LaunchShape { dependent: true, ..SHAPE });
    // Loads, allocations and new streams of the same thread must not spoil a capture.
    let block = bench.device.allocate_shared(1).unwrap();
    let (stream, event) = (bench.device.create_stream().unwrap(), bench.device.create_event().unwrap());
    let graph = bench.device.end_capture(bench.stream).unwrap();
    drop(block);
    // SAFETY: of this device, and never used.
    unsafe {
        bench.device.destroy_event(event);
        bench.device.destroy_stream(stream);
    }
    assert_eq!(bench.values(), vec![0.0; COUNT as usize], "capturing runs nothing");
    for _ in 0..3 {
        bench.device.launch_graph(graph, bench.stream).unwrap();
    }
    assert_eq!(bench.values(), vec![9.0; COUNT as usize]);
    // SAFETY: all launches are over.
    unsafe { bench.device.destroy_graph(graph) };
}

/// The word is written behind a slow kernel of the other stream, at once and in a graph whose branches meet nowhere else.
#[test]
fn a_stream_waits_for_a_word_that_another_writes() {
    let Some(bench) = Bench::new() else { return };
    let device = &bench.device;
    assert!(device.has_value_operations());
    let (word, side) = (device.allocate(8).unwrap(), device.create_stream().unwrap());
    let [fork, join] = [(); 2].map(|()| device.create_event().unwrap());
    let block = device.allocate_shared(BYTES).unwrap();
    let issue = || {
        // SAFETY: word, block and data live until the streams are idle.
        unsafe {
            device.fill(word, 0, 8, bench.stream).unwrap();
            device.record_event(fork, bench.stream).unwrap();
            device.wait_event(side, fork).unwrap();
            bench.add(1.0, Duration::from_millis(20), SHAPE);
            device.write_value(word, 3, bench.stream).unwrap();
            device.wait_value(word, 2, side).unwrap();
            device.copy(block.address, bench.data, BYTES, side).unwrap();
        }
        device.record_event(join, side).unwrap();
        device.wait_event(bench.stream, join).unwrap();
    };
    bench.clear();
    issue();
    assert_eq!(read(device, block.address, bench.stream), vec![1.0; COUNT as usize]);
    device.begin_capture(bench.stream).unwrap();
    issue();
    let graph = device.end_capture(bench.stream).unwrap();
    for sum in [2.0, 3.0] {
        device.launch_graph(graph, bench.stream).unwrap();
        assert_eq!(read(device, block.address, bench.stream), vec![sum; COUNT as usize]);
    }
    // SAFETY: all of this device, and idle.
    unsafe {
        device.destroy_graph(graph);
        device.destroy_event(fork);
        device.destroy_event(join);
        device.destroy_stream(side);
        device.free(word);
    }
}
