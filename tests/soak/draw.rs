//! What is run, drawn from a seed: the same on every rank, but for misalignment.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use myelon_ccl::abi::LINE_BYTES;
use myelon_ccl::measure::Bytes;
use myelon_ccl::variant::{Choice, Lanes, Manifest, Plan, Request, Shape};
use myelon_ccl::{Communicator, DType, Error, Output, Rank, ReduceOp};

use crate::support::Random;

/// Streams that operations are put on.
pub(crate) const STREAMS: u64 = 4;
/// Graphs of a stretch at most, and operations of a graph at most.
const GRAPHS: u64 = 6;
const GRAPH_OPERATIONS: u64 = 8;

/// What is drawn from.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    /// Of a message.
    pub(crate) most_bytes: u64,
    /// Kernels of variants at most. A pair of type and operator takes two more to verify it.
    pub(crate) kernels: usize,
    /// Pairs of type and operator at most.
    pub(crate) pairs: usize,
    /// Of the heap.
    pub(crate) lanes: u32,
    /// Of the heap.
    pub(crate) slot_bytes: u64,
    /// Operations between two waits, about.
    pub(crate) stretch: u64,
}

/// What is compiled in: one kernel.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) choice: Choice,
    pub(crate) dtype: DType,
    pub(crate) op: ReduceOp,
    pub(crate) plan: Plan,
    /// What an operation takes of rings, which is not compiled in.
    slots: Vec<Option<u32>>,
}

/// One operation of any collective.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) choice: Choice,
    /// About one rank's part, where there are parts.
    pub(crate) request: Request,
    /// The rank that a broadcast is from.
    pub(crate) root: Rank,
    pub(crate) in_place: bool,
    pub(crate) stream: usize,
    skew: u64,
}

impl Operation {
    /// Elements that this rank's operands are off the alignment of a pack; the same on all ranks where the output is registered.
    pub(crate) fn skew(&self, rank: Rank) -> u64 {
        let own = if self.request.registered { 0 } else { rank.0 };
        let draw = Random(self.skew ^ u64::from(own)).next();
        if draw & 1 == 0 { 0 } else { (draw >> 8) % 16 }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { count, dtype, op, .. } = self.request;
        let place = if self.in_place { "in place" } else { "out of place" };
        write!(f, "{}: {op} of {count} {dtype} {place} on stream {}", self.choice, self.stream)
    }
}

/// One thing that the host does.
#[derive(Debug)]
pub(crate) enum Step {
    Eager(Operation),
    /// Captures this graph.
    Capture(usize),
    /// Replays this graph, which was captured.
    Replay(usize),
}

/// What happens between two waits of the host.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// Each of operations of one stream.
    pub(crate) graphs: Vec<Vec<Operation>>,
    pub(crate) steps: Vec<Step>,
}

impl Stretch {
    /// Every operation in order.
    pub(crate) fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.steps.iter().flat_map(|step| match step {
            Step::Eager(operation) => std::slice::from_ref(operation),
            Step::Capture(_) => &[],
            Step::Replay(graph) => self.graphs[*graph].as_slice(),
        })
    }
}

impl Draw {
    fn random(&self, what: u64) -> Random {
        Random(Random(self.seed).next() ^ Random(what).next())
    }

    /// Variants in turn, each with a pair of type and operator, and a point of the manifest, at random.
    pub(crate) fn cases(&self, communicator: &Communicator) -> Vec<Case> {
        let mut random = self.random(u64::MAX);
        let kind = communicator.device().properties().kind;
        let arch = &communicator.device().properties().arch;
        // Floats and integers by turns: they go through different mailboxes.
        let types = [true, false].map(|floats| {
            let types = DType::ALL.iter().copied().filter(|dtype| dtype.is_float() == floats);
            types.collect::<Vec<_>>()
        });
        let pairs = types.map(|types| {
            let pair = |_| (*random.pick(&types), *random.pick(ReduceOp::ALL));
            (0..self.pairs / 2).map(pair).collect::<Vec<_>>()
        });
        let all = Manifest::embedded().all().filter(|variant| variant.enabled);
        let variants: Vec<_> = all.filter(|variant| variant.runs_on(arch).is_ok()).cloned().collect();
        let (mut cases, mut seen) = (Vec::new(), HashSet::new());
        // Some draws are not supported, or there already.
        for (turn, variant) in variants.iter().cycle().enumerate().take(4 * self.kernels) {
            let (dtype, op) = *random.pick(&pairs[turn / variants.len() % 2]);
            let points = variant.parameters.points();
            let point = *random.pick(&points);
            let count = (1 << random.below(21)) / dtype.size_bytes() as u64;
            let request = Request { count, dtype, op, registered: point.is_direct() };
            // INVARIANT: all that is compiled in is set, so that one case is one kernel whatever the size of a message.
            let tuning = variant.tuning(kind, communicator.world_size(), request.bytes()).unwrap().shape;
            let bounded = Shape { lanes: None, chunk: None, slots: None, ..tuning };
            let choice = Choice { variant: Arc::clone(variant), shape: point.or(&bounded) };
            match communicator.plan(&choice, &request) {
                Ok(plan) if cases.len() < self.kernels && seen.insert(plan.kernel.clone()) => {
                    let slots = points.iter().map(|point| point.slots).collect();
                    cases.push(Case { choice, dtype, op, plan, slots });
                }
                Ok(_) | Err(Error::Unsupported(_)) => {}
                Err(error) => panic!("{choice}: {error}"),
            }
        }
        cases
    }

    /// The operations of stretch `index`.
    pub(crate) fn stretch(&self, cases: &[Case], index: u64) -> Stretch {
        let mut random = self.random(index);
        let mut stretch = Stretch { graphs: Vec::new(), steps: Vec::new() };
        let mut operations = 0;
        while operations < self.stretch {
            let graphs = stretch.graphs.len() as u64;
            let step = match random.below(8) {
                // About half of all operations are replayed.
                0 if graphs > 0 => Step::Replay(random.below(graphs) as usize),
                1 if graphs < GRAPHS => {
                    let stream = random.below(STREAMS) as usize;
                    let length = 1 + random.below(GRAPH_OPERATIONS);
                    stretch.graphs.push((0..length).map(|_| self.operation(&mut random, cases, stream)).collect());
                    Step::Capture(graphs as usize)
                }
                _ => {
                    let stream = random.below(STREAMS) as usize;
                    Step::Eager(self.operation(&mut random, cases, stream))
                }
            };
            operations += match &step {
                Step::Eager(_) => 1,
                Step::Capture(_) => 0,
                Step::Replay(graph) => stretch.graphs[*graph].len() as u64,
            };
            stretch.steps.push(step);
        }
        stretch
    }

    fn operation(&self, random: &mut Random, cases: &[Case], stream: usize) -> Operation {
        let Case { choice, dtype, op, plan, slots } = random.pick(cases);
        let ranks = u64::from(plan.kernel.world_size.get());
        let parts = if choice.variant.collective.has_parts() { ranks } else { 1 };
        let count = self.count(random, *dtype) / parts;
        let root = Rank(random.below(ranks) as u32);
        let request = Request { count, dtype: *dtype, op: *op, registered: choice.shape.is_direct() };
        let lanes = if random.below(2) == 0 { self.lanes } else { 1 + random.below(u64::from(self.lanes)) as u32 };
        let chunk = Bytes((self.slot_bytes >> random.below(4)).max(LINE_BYTES));
        let shape = Shape {
            lanes: Some(Lanes::UpTo(lanes)),
            chunk: choice.variant.parameters.has_chunk().then_some(chunk),
            slots: *random.pick(slots),
            ..choice.shape
        };
        let choice = Choice { variant: Arc::clone(&choice.variant), shape };
        let in_place = random.below(2) == 0 && choice.shape.output != Some(Output::Landing);
        Operation { choice, request, root, in_place, stream, skew: random.next() }
    }

    /// Nothing, a few, edges, and anything; large ones seldom, for they take longest.
    fn count(&self, random: &mut Random, dtype: DType) -> u64 {
        let most = self.most_bytes / dtype.size_bytes() as u64;
        let edge = 1u64 << random.below(u64::from(most.max(2).ilog2()) + 1);
        match random.below(8) {
            0 => random.below(8).min(most),
            1..=3 => (edge - 1 + random.below(3)).min(most),
            4..=6 => random.below(most / 64 + 1),
            _ => random.below(most + 1),
        }
    }
}
