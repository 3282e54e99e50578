//! Blocks that several devices and processes reach.

use std::time::Duration;

use myelon_ccl::device::Device;
use myelon_ccl::device::cuda;

use super::{BYTES, Bench, COUNT, SHAPE, gpu, read};

#[test]
fn a_shared_block_is_zeroed_and_an_import_sees_what_the_exporter_writes() {
    let Some(bench) = Bench::new() else { return };
    let block = bench.device.allocate_shared(BYTES).unwrap();
    assert_eq!(read(&bench.device, block.address, bench.stream), vec![0.0; COUNT as usize]);
    let fd = bench.device.export_shared(&block).unwrap();
    let imported = bench.device.import_shared(fd, BYTES).unwrap();
    assert_ne!(imported.address, block.address);
    bench.clear();
    bench.add(6.0, Duration::ZERO, SHAPE);
    // SAFETY: both ranges hold BYTES and live until `read` has synchronised the stream.
    unsafe { bench.device.copy(block.address, bench.data, BYTES, bench.stream) }.unwrap();
    assert_eq!(read(&bench.device, imported.address, bench.stream), vec![6.0; COUNT as usize]);
    // The import holds the memory after the exporter has let go of it.
    drop(block);
    assert_eq!(read(&bench.device, imported.address, bench.stream), vec![6.0; COUNT as usize]);
}

#[test]
fn a_second_gpu_reaches_a_block_after_it_was_granted_access() {
    let (Some(bench), Some(second)) = (Bench::new(), gpu(1)) else { return };
    if !cuda::can_access_peer(1, 0).unwrap() {
        println!("skipped: GPU 1 cannot reach GPU 0");
        return;
    }
    println!("GPU 1 reaches GPU 0 over {}", cuda::link(1, 0).unwrap());
    let block = bench.device.allocate_shared(BYTES).unwrap();
    second.grant_access(&block).unwrap();
    let stream = second.create_stream().unwrap();
    // SAFETY: the range holds BYTES and lives until `read` has synchronised the stream.
    unsafe { second.fill(block.address, 0x40, BYTES, stream) }.unwrap();
    assert_eq!(read(&second, block.address, stream), vec![f32::from_bits(0x4040_4040); COUNT as usize]);
    let imported = second.import_shared(bench.device.export_shared(&block).unwrap(), BYTES).unwrap();
    assert_eq!(read(&second, imported.address, stream), vec![f32::from_bits(0x4040_4040); COUNT as usize]);
    // SAFETY: idle after `read`.
    unsafe { second.destroy_stream(stream) };
}

#[test]
fn memory_is_exported_by_its_kind() {
    let Some(bench) = Bench::new() else { return };
    let device = &bench.device;
    let export = device.export(bench.data.offset(16), BYTES - 16).unwrap();
    assert!(export.fd.is_none() && export.card.ipc_handle.is_some(), "{export:?}");
    let message = device.export(bench.data, 1 << 40).unwrap_err().to_string();
    assert!(message.contains("not within one allocation"), "{message}");
    let host = device.allocate_host(BYTES).unwrap();
    assert!(device.export(host.device, BYTES).is_err());

    let block = device.allocate_shared(2 * BYTES).unwrap();
    let export = device.export(block.address.offset(BYTES), BYTES).unwrap();
    assert!(export.fd.is_some() && export.card.ipc_handle.is_none() && export.card.offset == BYTES, "{export:?}");
    let imported = device.import(export, BYTES).unwrap();
    bench.clear();
    bench.add(7.0, Duration::ZERO, SHAPE);
    // SAFETY: both ranges hold BYTES and live until `read` has synchronised the stream.
    unsafe { device.copy(block.address.offset(BYTES), bench.data, BYTES, bench.stream) }.unwrap();
    assert_eq!(read(device, imported.address, bench.stream), vec![7.0; COUNT as usize]);
}

#[test]
fn a_second_gpu_reaches_memory_of_either_kind() {
    let (Some(bench), Some(second)) = (Bench::new(), gpu(1)) else { return };
    if !cuda::can_access_peer(1, 0).unwrap() {
        println!("skipped: GPU 1 cannot reach GPU 0");
        return;
    }
    let block = bench.device.allocate_shared(BYTES).unwrap();
    let stream = second.create_stream().unwrap();
    for address in [bench.data, block.address] {
        // Again, and from its own GPU: no harm.
        for device in [&second, &second, &bench.device] {
            device.reach(address, BYTES).unwrap();
        }
        // SAFETY: the range holds BYTES and lives until `read` has synchronised the stream.
        unsafe { second.fill(address, 0x40, BYTES, stream) }.unwrap();
        assert_eq!(read(&second, address, stream), vec![f32::from_bits(0x4040_4040); COUNT as usize]);
    }
    assert!(second.reach(bench.device.allocate_host(BYTES).unwrap().device, BYTES).is_err());
    // SAFETY: idle after `read`.
    unsafe { second.destroy_stream(stream) };
}
