//! What is timed for each element type and operator.

use std::collections::{BTreeMap, BTreeSet};

use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::against::AUTO;
use myelon_ccl::variant::Shape;
use myelon_ccl::{DType, Error, ReduceOp, Result, WorldSize};

use crate::args::SweepArgs;
use crate::candidate::Candidate;
use crate::here::Surroundings;
use crate::shapes::none_takes;
use crate::values::OrAll;

/// Stands for [`AUTO`] and every enabled variant on the command line.
const ALL: &str = "all";

/// Every combination of the parameters that were asked for; the manifest's own shape where none was.
pub(crate) fn shapes(args: &SweepArgs) -> Vec<Shape> {
    let shapes = vec![Shape::default()];
    let shapes = Shape::with_each(shapes, &args.lanes, |shape, lanes| shape.lanes = Some(lanes));
    let shapes = Shape::with_each(shapes, &args.lane_threads, |shape, threads| shape.threads = Some(threads));
    let shapes = Shape::with_each(shapes, &args.chunk, |shape, chunk| shape.chunk = Some(chunk));
    let shapes = Shape::with_each(shapes, &args.stages, |shape, stages| shape.stages = Some(stages));
    let shapes = Shape::with_each(shapes, &args.stage_packs, |shape, packs| shape.stage_packs = Some(packs));
    let shapes = Shape::with_each(shapes, &args.producer_warps, |shape, warps| shape.producer_warps = Some(warps));
    let shapes = Shape::with_each(shapes, &args.slots, |shape, slots| shape.slots = Some(slots));
    let shapes = Shape::with_each(shapes, &args.copied, |shape, copied| shape.copied = Some(copied));
    let shapes = Shape::with_each(shapes, &args.wait, |shape, wait| shape.wait = Some(wait));
    let shapes = Shape::with_each(shapes, &args.sync, |shape, sync| shape.sync = Some(sync));
    let shapes = Shape::with_each(shapes, &args.places, |shape, places| shape.places = Some(places));
    let shapes = Shape::with_each(shapes, &args.metadata, |shape, metadata| shape.metadata = Some(metadata));
    let shapes = Shape::with_each(shapes, &args.launch, |shape, launch| shape.launch = Some(launch));
    Shape::with_each(shapes, &args.output, |shape, output| shape.output = Some(output))
}

/// The shapes that a variant takes. One that was named must take all; of `all`, each runs with those it takes.
fn shapes_of(name: &str, named: bool, shapes: &[Shape], here: &dyn Surroundings) -> Result<Vec<Shape>> {
    let mut taken = Vec::new();
    for shape in shapes {
        match here.takes(name, shape) {
            Ok(()) => taken.push(*shape),
            Err(error) if named => return Err(error),
            Err(_) => {}
        }
    }
    Ok(taken)
}

/// Refuses a combination of parameters that nothing runs with. `shapes` has those that each of the variants takes.
fn all_are_taken(asked: &[Shape], shapes: &BTreeMap<&str, Vec<Shape>>, here: &dyn Surroundings) -> Result<()> {
    if shapes.is_empty() && asked != [Shape::default()] {
        return Err(Error::invalid(
            "auto takes what the lane table says, and --lanes and its like are for variants: name some with --variant, or all",
        ));
    }
    let is_taken = |shape: &Shape| shapes.values().any(|taken| taken.contains(shape));
    let Some(shape) = asked.iter().find(|shape| !shapes.is_empty() && !is_taken(shape)) else { return Ok(()) };
    let takes = |shape: &Shape, name: &str| here.takes(name, shape);
    // WHY: the parameter that is in the way, where there is one: the variants between them may take all others.
    let parts = shape.parts();
    let alone = parts.iter().find(|part| shapes.keys().all(|name| takes(part, name).is_err()));
    let shape = alone.unwrap_or(shape);
    let refusals = shapes.keys().filter_map(|name| Some((here.has_parameters(name, shape), takes(shape, name).err()?)));
    Err(none_takes(shape, refusals))
}

/// The candidates of one element type and operator; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) dtype: DType,
    pub(crate) op: ReduceOp,
    pub(crate) candidates: Vec<Candidate>,
}

/// One job a type and operator. A variant that was named must support what was named; `all` means all that is supported.
pub(crate) fn jobs(
    args: &SweepArgs,
    device: DeviceKind,
    ranks: WorldSize,
    here: &dyn Surroundings,
) -> Result<Vec<Job>> {
    let known = here.variants(args.collective.unwrap_or_default());
    let given: Vec<&str> = args.variants.iter().map(String::as_str).collect();
    // WHY: times on the CPU mean nothing, so what the table chooses there is of no more interest than the rest.
    let given = match device {
        _ if !given.is_empty() => given,
        DeviceKind::Cuda => vec![AUTO],
        DeviceKind::Cpu => vec![ALL],
    };
    let all_variants = given.contains(&ALL);
    let mut names: Vec<&str> = Vec::new();
    for &name in &given {
        match name {
            ALL => {}
            AUTO => names.push(name),
            _ if known.iter().any(|known| known == name) => names.push(name),
            _ => {
                let known = known.join(", ");
                let known = if known.is_empty() { "no others".to_owned() } else { known };
                let what =
                    if name.is_empty() { "an empty name".to_owned() } else { format!("unknown variant '{name}'") };
                return Err(Error::invalid(format!("{what}: --variant takes auto, all, and of names {known}")));
            }
        }
    }
    if all_variants {
        names.push(AUTO);
        names.extend(known.iter().map(String::as_str).filter(|name| here.is_enabled(name)));
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(*name));

    let asked = shapes(args);
    let mut shapes = BTreeMap::new();
    for &name in names.iter().filter(|name| **name != AUTO) {
        let named = given.contains(&name);
        shapes.insert(name, shapes_of(name, named, &asked, here)?);
    }
    all_are_taken(&asked, &shapes, here)?;
    let (dtypes, every_dtype) = choose(&args.dtypes, DType::ALL);
    let (ops, every_op) = operators(args)?;
    let mut jobs = Vec::new();
    let mut refused = None;
    for (dtype, op) in dtypes.iter().flat_map(|&dtype| ops.iter().map(move |&op| (dtype, op))) {
        if let Err(error) = here.has(device, dtype) {
            if !every_dtype {
                return Err(error);
            }
            refused = Some(error);
            continue;
        }
        let mut candidates = Vec::new();
        for &name in &names {
            if name == AUTO {
                candidates.push(Candidate::Auto);
                continue;
            }
            match here.refusal(name, device, ranks, dtype, op) {
                None => candidates.extend(shapes[name].iter().map(|&shape| Candidate::Variant(name.to_owned(), shape))),
                Some(why) => {
                    let error = Error::unsupported(format!(
                        "variant '{name}' {why} (asked for {dtype} {op} over {ranks} ranks)"
                    ));
                    if !(all_variants || every_dtype || every_op) {
                        return Err(error);
                    }
                    refused = Some(error);
                }
            }
        }
        if !candidates.is_empty() {
            jobs.push(Job { dtype, op, candidates });
        }
    }
    let runs_with = |shape: &Shape| {
        let mut candidates = jobs.iter().flat_map(|job| &job.candidates);
        candidates.any(|candidate| matches!(candidate, Candidate::Variant(_, other) if other == shape))
    };
    let is_dropped = asked.iter().any(|shape| *shape != Shape::default() && !runs_with(shape));
    match refused {
        // WHY: what takes a shape may not have the type, the operator or the ranks.
        Some(error) if jobs.is_empty() || is_dropped => Err(error),
        _ => Ok(jobs),
    }
}

/// The named operators, or sum; it stands for none where the collective has none.
fn operators(args: &SweepArgs) -> Result<(Vec<ReduceOp>, bool)> {
    let collective = args.collective.unwrap_or_default();
    match &args.ops[..] {
        [] => Ok((vec![ReduceOp::Sum], false)),
        _ if !collective.has_operator() => {
            Err(Error::invalid(format!("-o with --collective {collective}, which reduces nothing: leave -o out")))
        }
        asked => Ok(choose(asked, ReduceOp::ALL)),
    }
}

/// The named values, each once, or every value; and which of the two.
fn choose<T: Copy + PartialEq>(asked: &[OrAll<T>], all: &[T]) -> (Vec<T>, bool) {
    let every = asked.iter().any(|choice| matches!(choice, OrAll::All));
    let chosen = all.iter().copied().filter(|&value| every || asked.contains(&OrAll::One(value))).collect();
    (chosen, every)
}

#[cfg(test)]
mod tests {
    use myelon_ccl::measure::Bytes;
    use myelon_ccl::variant::Lanes;

    use super::*;
    use crate::request::fake::{CPU, Fake, NODE, check, refused};

    #[test]
    fn named_variants_must_exist_and_support_what_is_named() {
        refused(
            "--variant rign",
            CPU,
            "unknown variant 'rign': --variant takes auto, all, and of names ring, pair, slow",
        );
        refused("--variant ring -d e4m3", CPU, "variant 'ring' has no 8-bit floats (asked for e4m3 sum over 4 ranks)");
        refused("--variant auto,pair", NODE, "runs over 2 ranks");
        refused("--variant pair -d all", NODE, "runs over 2 ranks");
        refused("-d e4m3,e5m2", Fake { nccl: false, ..NODE }, "e5m2 is too new");
    }

    #[test]
    fn variants_are_those_of_the_collective() {
        refused("--collective broadcast --variant ring", CPU, "of names fan");
        let jobs = check("--collective broadcast --variant all", CPU).unwrap().jobs;
        assert_eq!(jobs[0].candidates, [Candidate::Auto, Candidate::Variant("fan".into(), Shape::default())]);
        for asked in ["all", "sum"] {
            refused(&format!("--collective broadcast -o {asked}"), CPU, "which reduces nothing: leave -o out");
        }
        assert_eq!(check("--collective reduce_scatter -o all", CPU).unwrap().jobs.len(), ReduceOp::ALL.len());
    }

    #[test]
    fn shapes_are_combined() {
        let jobs = check("--variant ring --lanes 2,4 --chunk 1K,2K", CPU).unwrap().jobs;
        assert_eq!(jobs[0].candidates.len(), 4);
        let last = Shape { lanes: Some(Lanes::UpTo(4)), chunk: Some(Bytes(2048)), ..Shape::default() };
        assert_eq!(jobs[0].candidates[3], Candidate::Variant("ring".into(), last));
        let jobs =
            check("--variant ring --slots 2,4 --lanes by_size --wait spin,yield --lane-threads 64,128", CPU).unwrap();
        assert_eq!(jobs.jobs[0].candidates.len(), 8);
    }

    #[test]
    fn a_named_variant_must_take_what_all_need_not() {
        refused("--variant ring --stages 3", CPU, "ring takes no stages");
        refused("--variant all,ring --stages 3", CPU, "ring takes no stages");
        let jobs = check("--variant slow,all --stages 3", CPU).unwrap().jobs;
        assert_eq!(jobs[0].candidates.len(), 2, "{jobs:?}");
    }

    #[test]
    fn a_shape_that_nothing_takes_is_refused() {
        refused("--variant all --stages 3", CPU, "no candidate takes stages=3: pair takes no stages");
        refused("--lanes 4 --slots 2,3", CPU, "no candidate takes slots=3: pair takes no 3 slots");
        refused("--variant auto --lanes 8", CPU, "name some with --variant, or all");
        refused("--lanes 8", NODE, "name some with --variant, or all");
        refused("--collective all_gather --lanes 8", CPU, "name some with --variant, or all");
        refused("--variant all --lanes 8 -d e4m3", NODE, "runs over 2 ranks (asked for e4m3");
        let jobs = check("--variant auto,ring --lanes 8", CPU).unwrap().jobs;
        assert_eq!(jobs[0].candidates.len(), 2, "{jobs:?}");
    }

    #[test]
    fn all_takes_what_is_supported() {
        let jobs = check("--variant ring,ring -d all", CPU).unwrap().jobs;
        assert_eq!(jobs.len(), DType::ALL.len() - 2);
        assert!(jobs.iter().all(|job| job.candidates == [Candidate::Variant("ring".into(), Shape::default())]));
        let old = check("-d all", Fake { nccl: false, ..NODE }).unwrap().jobs;
        assert!(old.len() == DType::ALL.len() - 1 && old.iter().all(|job| job.dtype != DType::E5m2), "{old:?}");
        let named = check("--variant slow", NODE).unwrap().jobs;
        assert_eq!(
            named[0].candidates,
            [Candidate::Variant("slow".into(), Shape::default())],
            "a disabled variant can be named"
        );
        let jobs = check("--variant all -d e4m3,half -o all", NODE).unwrap().jobs;
        assert_eq!(jobs.len(), 2 * ReduceOp::ALL.len());
        for job in jobs {
            let expected = [Candidate::Auto, Candidate::Variant("ring".into(), Shape::default())];
            assert_eq!(job.candidates, expected[..if job.dtype.is_fp8() { 1 } else { 2 }]);
        }
    }
}
