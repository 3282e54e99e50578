//! The embedded manifest, and manifests that are wrong.

use super::*;
use crate::variant::Lanes;

#[test]
fn the_embedded_manifest_is_right() {
    let manifest = Manifest::parse(SOURCE).unwrap();
    for spec in manifest.all() {
        for device in [DeviceKind::Cuda, DeviceKind::Cpu] {
            for (ranks, bytes) in (1..=8).flat_map(|ranks| [0, 1 << 10, 1 << 20, 1 << 40].map(|bytes| (ranks, bytes))) {
                spec.tuning(device, WorldSize::new(ranks).unwrap(), bytes).unwrap();
            }
        }
    }
}

#[test]
fn every_collective_has_variants_for_everything_and_a_wrong_one_is_named() {
    let manifest = Manifest::embedded();
    for &collective in Collective::ALL {
        let mut variants = manifest.enabled_of(collective);
        assert!(variants.any(|spec| spec.tried_on.is_none() && spec.min_arch.is_none()), "{collective}");
        for spec in manifest.enabled_of(collective) {
            spec.implements(collective).unwrap();
        }
    }
    let message = manifest.get("ring").unwrap().implements(Collective::Broadcast).unwrap_err().to_string();
    assert!(message.contains("ring is one of all_reduce") && message.contains("signal_broadcast"), "{message}");
}

#[test]
fn averages_that_could_overflow_on_their_way_are_refused_alone() {
    let supports = |name: &str, dtype, op, ranks| {
        Manifest::embedded().get(name).unwrap().supports(dtype, op, WorldSize::new(ranks).unwrap())
    };
    for ring in ["ring", "ring_copy_engine", "ring_reduce_scatter"] {
        let message = supports(ring, DType::F16, ReduceOp::Avg, 3).unwrap_err().to_string();
        assert!(message.contains("average f16 over more than two ranks"), "{message}");
        supports(ring, DType::F16, ReduceOp::Avg, 2).unwrap();
        supports(ring, DType::F16, ReduceOp::Sum, 8).unwrap();
        supports(ring, DType::Bf16, ReduceOp::Avg, 8).unwrap();
    }
    supports("signal_two_shot", DType::F16, ReduceOp::Avg, 8).unwrap();
}

#[test]
fn a_tuning_can_be_for_some_ranks() {
    let spec = Arc::clone(Manifest::embedded().get("two_shot_push").unwrap());
    let threads = |ranks, bytes| {
        let tuning = spec.tuning(DeviceKind::Cuda, WorldSize::new(ranks).unwrap(), bytes).unwrap();
        (tuning.shape.lanes, tuning.shape.threads)
    };
    assert_eq!(threads(2, 1 << 22), (Some(Lanes::UpTo(128)), Some(256)));
    assert_eq!(threads(4, 1 << 22), threads(2, 1 << 22));
    assert_eq!(threads(8, 1 << 22), (Some(Lanes::UpTo(128)), Some(512)));
}

#[test]
fn wrong_manifests_are_refused() {
    for (from, to) in [
        ("threads = 128", "threads = 100"),
        ("threads = 128", "threds = 128"),
        ("threads = 128", ""),
        ("stages = 3", "stages = 9"),
        ("stages = 3", "slots = 4"),
        ("enabled = true", "enabled = false"),
        ("summary", "sumary"),
        ("capacity = \"unbounded\"", "capacity = \"copies\""),
    ] {
        assert!(SOURCE.contains(from), "{from}");
        assert!(Manifest::parse(&SOURCE.replacen(from, to, 1)).is_err(), "{to}");
    }
    let producers = SOURCE.replacen("stages = 2\nproducer_warps = 1", "stages = 2\nproducer_warps = 3", 1);
    assert!(Manifest::parse(&producers).unwrap_err().to_string().contains("a warp must be left to consume"));
    let arch = SOURCE.replacen("min_arch = \"sm_80\"", "min_arch = \"ampere\"", 1);
    assert!(Manifest::parse(&arch).unwrap_err().to_string().contains("'ampere'"));
    let twice = format!("{SOURCE}\n{}", &SOURCE[SOURCE.find("[[variant]]").unwrap()..]);
    assert!(Manifest::parse(&twice).unwrap_err().to_string().contains("named twice"));
}

#[test]
fn variants_say_which_architectures_they_need() {
    let variant = Manifest::embedded().get("two_shot_tma").unwrap();
    for arch in ["sm_90", "sm_90a", "sm_100a", "sm_120", "cpu"] {
        variant.runs_on(arch).unwrap();
    }
    for arch in ["sm_70", "sm_80", "sm_89"] {
        let message = variant.runs_on(arch).unwrap_err().to_string();
        assert!(message.contains("two_shot_tma needs sm_90") && message.contains(arch), "{message}");
        assert!(!variant.is_trusted_on(arch));
    }
}

#[test]
fn unknown_variants_list_the_known() {
    let error = Manifest::embedded().get("one_shot_pull").unwrap_err().to_string();
    assert!(error.contains("one_shot_push"), "{error}");
}
