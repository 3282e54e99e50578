//! Candidates, and which of them are one.

use myelon_ccl::WorldSize;
use myelon_ccl::device::DeviceKind;
use myelon_ccl::table::Machine;
use myelon_ccl::variant::Lanes;

use super::*;
use crate::fake::space;

fn place(space: &Space, wanted: &str) -> usize {
    space.entrants.iter().position(|entrant| entrant.to_string().starts_with(wanted)).unwrap()
}

#[test]
fn the_manifests_shapes_come_first_and_everything_is_set() {
    let space = space(vec![1 << 20], &[DType::F32], &[], false);
    for (index, entrant) in space.entrants.iter().enumerate() {
        let Entrant::Myelon(choice) = entrant else {
            assert_eq!(index + 1, space.entrants.len(), "NCCL comes last");
            continue;
        };
        let shape = choice.shape;
        assert_eq!(choice.variant.parameters.of(shape.or(&full())), shape, "{choice}");
        assert!(space.entrants[..index].iter().all(|other| other != entrant), "{choice} is there twice");
    }
    assert!(space.seeds >= Manifest::embedded().enabled().count());
    assert!(space.entrants.len() > 500, "{}", space.entrants.len());
}

/// A shape with every parameter that a row of a table sets.
fn full() -> Shape {
    let shape = "lanes = 1\nthreads = 32\nchunk = \"16\"\nstages = 2\nproducer_warps = 1\nslots = 2\ncopied = 4\nwait = \"spin\"\n\
                 sync = \"light\"\nplaces = \"coalesced\"\nmetadata = \"derived\"\nlaunch = \"persistent\"\n\
                 output = \"staged\"";
    toml::from_str(shape).unwrap()
}

#[test]
fn candidates_of_one_plan_are_measured_once() {
    let space = space(vec![1 << 10, 1 << 24], &[DType::F32], &["one_shot_push"], false);
    let of = |lanes: u32| place(&space, &format!("one_shot_push lanes={lanes} threads=512 wait=adaptive sync=light"));
    let small = [16, 32, 128].map(|lanes| space.stand_in((0, 1 << 10), of(lanes)));
    assert!(small.iter().all(|&stand_in| stand_in == small[0]), "1 KiB has no work for a second lane");
    assert_eq!(space.stand_in((0, 1 << 24), of(16)), Some(of(16)));
    assert_eq!(space.stand_in((0, 12345), of(16)), Some(of(16)), "a size between others");
}

#[test]
fn neighbours_are_a_step_apart() {
    let space = space(vec![1 << 20], &[DType::F32], &["one_shot_push", "ring"], false);
    let of = place(&space, "one_shot_push lanes=32 threads=128 wait=adaptive sync=light");
    let near: Vec<_> = space.neighbours[of].iter().map(|&entrant| space.entrants[entrant].short()).collect();
    for expected in
        ["lanes=64 threads=128", "lanes=32 threads=64", "lanes=64 threads=64", "lanes=32 threads=128 sync=strict"]
    {
        assert!(near.contains(&format!("one_shot_push {expected}")), "{expected}: {near:?}");
    }
    assert!(near.iter().all(|name| name.starts_with("one_shot_push") && !name.contains("lanes=128")), "{near:?}");
    assert!(
        space.neighbours.iter().enumerate().all(|(a, near)| near.iter().all(|&b| space.neighbours[b].contains(&a)))
    );
}

#[test]
fn every_parameter_has_neighbours() {
    let space = space(vec![1 << 26], &[DType::F32], &["ring", "ring_with_copies", "low_latency"], false);
    let are_near = |a: &str, b: &str| space.neighbours[place(&space, a)].contains(&place(&space, b));
    let ring = "ring lanes=128 threads=512 chunk=128K slots=2 wait=adaptive sync=light launch=persistent";
    assert!(are_near(&format!("{ring} output=staged"), &format!("{ring} output=direct")));
    let copies = "ring_with_copies lanes=128 threads=512 chunk=128K slots=2";
    assert!(are_near(&format!("{copies} copied=7"), &format!("{copies} copied=8")));
    assert!(!are_near(&format!("{copies} copied=4"), &format!("{copies} copied=8")));
}

#[test]
fn what_does_not_fit_is_left_out_and_said() {
    let ground = |footprint| Ground {
        device: DeviceKind::Cuda,
        arch: "sm_80".into(),
        ranks: WorldSize::new(8).unwrap(),
        shared: false,
        footprint,
        multiprocessors: None,
    };
    let values = Values { chunk: vec![Bytes(1 << 20)], ..Values::default() };
    let effort = Effort { first: 1, last: 1, keep: 1, exhaustive: false };
    let names = ["ring".to_owned(), "one_shot_push".to_owned()];
    let class = Class { dtypes: DTypeClass::Float, dtype: DType::F32, buffers: Buffers::Plain };
    let new =
        |footprint| Space::new(ground(footprint), &names, &values, vec![class], vec![1 << 20], &[], effort).unwrap();
    let small = new(None);
    let said = |part: &str| small.left_out.iter().any(|why| why.contains(part));
    assert!(
        said("one_shot_push: not tried on sm_80") && said("chunk=1M") && said("over the footprint"),
        "{:?}",
        small.left_out
    );
    let large = new(Some(1 << 30));
    assert!(large.entrants.len() > small.entrants.len() && large.limits.slot_bytes == 1 << 20);
    for rivals in [&[][..], &[Baseline::Nccl]] {
        let none = Space::new(ground(Some(1)), &names, &values, vec![class], vec![1 << 20], rivals, effort);
        assert!(none.unwrap_err().to_string().contains("no candidate is left"), "{rivals:?}");
    }
    let lanes = |entrant: &Entrant| {
        matches!(entrant, Entrant::Myelon(Choice { shape: Shape { lanes: Some(Lanes::UpTo(128)), .. }, .. }))
    };
    assert!(small.entrants.iter().all(lanes), "the manifest's");
}

#[test]
fn no_candidate_and_no_judged_one_has_more_lanes_than_the_smallest_gpu_has_multiprocessors() {
    let class = Class { dtypes: DTypeClass::Float, dtype: DType::F32, buffers: Buffers::Plain };
    let effort = Effort { first: 1, last: 1, keep: 1, exhaustive: false };
    let ground = Ground {
        device: DeviceKind::Cuda,
        arch: "sm_90a".into(),
        ranks: WorldSize::new(2).unwrap(),
        shared: false,
        footprint: None,
        multiprocessors: Some(24),
    };
    let new = |values: &Values| Space::new(ground.clone(), &[], values, vec![class], vec![1 << 26], &[], effort);
    let mut space = new(&Values::of(DeviceKind::Cuda)).unwrap();
    let table = LaneTable::embedded(&Machine::of_gpus("NVIDIA H200"), ground.ranks).unwrap();
    space.judge(&table).unwrap();
    assert_eq!(space.limits.lanes, 24);
    let lanes = |choice: &Choice| choice.shape.lanes.map_or(0, |lanes| lanes.most(1 << 26));
    assert_eq!(space.choices().iter().map(lanes).max(), Some(24));
    assert!((0..space.seeds).any(|seed| space.stand_in((0, 1 << 26), seed).is_some()), "own shapes run");
    assert!(space.judged.iter().all(|(&case, &taken)| space.stand_in(case, taken).is_some()), "what is taken runs");
    let named = Values { named: vec![Shape { lanes: Some(Lanes::UpTo(64)), ..Shape::default() }], ..Values::default() };
    let message = new(&named).unwrap_err().to_string();
    assert!(message.contains("with lanes=64: the smallest GPU has 24 multiprocessors"), "{message}");
}
