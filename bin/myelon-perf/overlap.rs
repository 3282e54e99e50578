//! `--overlap` on one rank: every candidate verified, then timed alone and beside a neighbour that every rank runs.

use std::time::{Duration, Instant};

use myelon_ccl::baseline::MatrixProduct;
use myelon_ccl::device::DeviceKind;
use myelon_ccl::device::handles::{Event, Stream};
use myelon_ccl::measure::Summary;
use myelon_ccl::measure::neighbour::Work;
use myelon_ccl::measure::overlap::{NcclMemory, Overlap, Overlaps, time_within};
use myelon_ccl::variant::Request;
use myelon_ccl::verify::Verifier;
use myelon_ccl::{Error, Rank, Result};

use crate::bench::Bench;
use crate::candidate::{Issue, Planned, rivals};
use crate::common::interrupt::Interrupt;
use crate::exchange;
use crate::kernel::Kernel;
use crate::machine;
use crate::measure::End;
use crate::overlap_printer::OverlapPrinter;
use crate::request::SweepRequest;
use crate::sweep::{Sweep, entrants};

/// Rows and columns of the matrices that are multiplied on GPUs: 1.1e12 multiplications and additions each time.
const ORDER: u32 = 8192;
/// How long the neighbour runs in a repeat at least, alone: so long that several all-reduces of 256 MiB run beside it.
const STRETCH_US: f64 = 20_000.0;
/// The same on the CPU device.
const CPU_STRETCH_US: f64 = 1_000.0;
/// All-reduces of a repeat at least, and at most.
const OPERATIONS: [u32; 2] = [4, 1 << 14];
/// Operations are launched one by one.
const ISSUE: Issue = Issue { graph: 0, batch: 0, between: false };
/// Longest wait for the first all-reduce of a repeat; more than its deadline, which tells more.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every job in turn, until an interrupt comes to a rank. Collective. `printer` is filled on rank 0 only.
pub(crate) fn run(
    bench: &Bench,
    request: &SweepRequest,
    interrupt: &Interrupt,
    printer: &mut Option<OverlapPrinter>,
) -> Result<End> {
    let communicator = bench.communicator();
    let seats = machine::seats(communicator)?;
    // WHY: before the neighbour, which allocates as well.
    let nccl_memory = nccl_memory(bench, request)?;
    let mut place = Place::new(bench)?;
    if communicator.rank() == Rank(0) {
        let (caution, neighbour) = (machine::caution(request.device, &seats), place.neighbour.describe());
        let (provenance, heap) = (machine::provenance(communicator)?, communicator.footprint_bytes());
        let overlaps = Overlaps::new(provenance, caution, &neighbour, heap, nccl_memory);
        *printer = Some(OverlapPrinter::start(request, &machine::lines(&seats), overlaps));
    }
    // WHY: told before the place goes, which waits for what is queued.
    jobs(&mut place, request, interrupt, printer).inspect_err(|error| communicator.abort(&error.to_string()))
}

/// What NCCL holds once it has run: it allocates most at its first operations. Collective.
fn nccl_memory(bench: &Bench, request: &SweepRequest) -> Result<Option<NcclMemory>> {
    let (Some(job), Some(size)) = (request.jobs.first(), request.largest()) else { return Ok(None) };
    let (count, registered) = (size.elements(job.dtype), bench.is_registered());
    let first = Request { count, dtype: job.dtype, op: job.op, registered };
    for planned in rivals(bench, &request.against, first, ISSUE)? {
        bench.issue(&planned)?;
    }
    bench.finish()?;
    bench.rival_memory()
}

fn jobs(
    place: &mut Place<'_>,
    request: &SweepRequest,
    interrupt: &Interrupt,
    printer: &mut Option<OverlapPrinter>,
) -> Result<End> {
    let bench = place.bench;
    let mut sweep = Sweep::new(bench, request);
    for job in &request.jobs {
        let verifier = Verifier::prepare(bench.communicator().device(), job.dtype, job.op)?;
        for size in request.sizes.clone() {
            let planned = entrants(bench, job, size, &request.against, ISSUE)?;
            let plans: Vec<_> = planned.iter().filter_map(|planned| planned.plan.clone()).collect();
            bench.communicator().prepare(&plans)?;
            let wrong = sweep.wrong_of_each(&planned, &verifier)?;
            for (planned, wrong) in planned.iter().zip(wrong) {
                if interrupt.came_to_any(&**bench.communicator().bootstrap())? {
                    return Ok(End { wrong: sweep.wrong(), interrupted: true });
                }
                if let Some(printer) = printer {
                    printer.announce(format!("{} {size}", planned.variant));
                }
                let input = bench.operands(&planned.engine).input;
                // SAFETY: the operands have room for the largest size and live as long as the bench, which outlives the place.
                unsafe { verifier.fill(&bench.tallies()[0], input, &planned.request, bench.stream())? };
                let [alone_us, beside_us, neighbour_alone_us, neighbour_beside_us] =
                    place.times(planned, request.warmup, request.repeats)?;
                let row = sweep.row(planned, alone_us, wrong);
                if let Some(printer) = printer {
                    printer.row(Overlap { row, beside_us, neighbour_alone_us, neighbour_beside_us });
                }
            }
        }
    }
    Ok(End { wrong: sweep.wrong(), interrupted: false })
}

/// What runs beside all-reduces, on a stream of its own.
enum Neighbour {
    Product { product: MatrixProduct, stream: Stream },
    Kernel(Kernel),
}

impl Neighbour {
    fn new(bench: &Bench) -> Result<Self> {
        let device = bench.communicator().device();
        match device.properties().kind {
            DeviceKind::Cuda => {
                let stream = Stream::new(device)?;
                Ok(Self::Product { product: MatrixProduct::new(device, &stream, ORDER)?, stream })
            }
            DeviceKind::Cpu => Kernel::new(device, Work::Compute).map(Self::Kernel),
        }
    }

    fn queue(&self) -> Result<()> {
        match self {
            Self::Product { product, .. } => product.queue(),
            Self::Kernel(kernel) => kernel.queue(),
        }
    }

    fn stream(&self) -> &Stream {
        match self {
            Self::Product { stream, .. } => stream,
            Self::Kernel(kernel) => kernel.stream(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Product { product, .. } => product.describe(),
            Self::Kernel(_) => "multiply-adds of a kernel that stands for a product of matrices".to_owned(),
        }
    }
}

/// A rank's neighbour, and what times it and the all-reduces of the bench.
struct Place<'a> {
    bench: &'a Bench,
    neighbour: Neighbour,
    /// How often the neighbour runs in a repeat. The same on all ranks.
    runs: u32,
    start: Event,
    end: Event,
    /// The end of each operation, behind that of the one before the first.
    marks: Vec<Event>,
}

impl<'a> Place<'a> {
    /// Collective: no rank goes on, and polls, while another loads the kernels of its neighbour.
    fn new(bench: &'a Bench) -> Result<Self> {
        let device = bench.communicator().device();
        let (neighbour, start, end) = (Neighbour::new(bench)?, Event::new(device)?, Event::new(device)?);
        let mut place = Self { bench, neighbour, runs: 1, start, end, marks: Vec::new() };
        let stretch_us = match device.properties().kind {
            DeviceKind::Cuda => STRETCH_US,
            DeviceKind::Cpu => CPU_STRETCH_US,
        };
        let once_us = place.alone()?;
        let [slowest_us] = place.slowest([once_us])?;
        place.runs = (stretch_us / slowest_us).ceil().clamp(1.0, 1e3) as u32;
        Ok(place)
    }

    /// Of the all-reduce alone, beside the neighbour, of the neighbour alone, and beside all-reduces. Collective.
    fn times(&mut self, planned: &Planned, warmup: u32, repeats: u32) -> Result<[Summary; 4]> {
        let [least, most] = OPERATIONS;
        let (once_us, alone_us) = (self.reductions(planned, least)?, self.alone()?);
        let [once_us, alone_us] = self.slowest([once_us, alone_us])?;
        // Half as many more as cover the neighbour where it is not slowed.
        let covering = 1.5 * alone_us * f64::from(self.runs) / once_us;
        let operations = covering.ceil().clamp(f64::from(least), f64::from(most)) as u32;
        let mut beside = operations;
        let mut series_us: [Vec<f32>; 4] = Default::default();
        for repeat in 0..u64::from(warmup) + u64::from(repeats) {
            let neighbour_us = self.alone()?;
            let reduction_us = self.reductions(planned, operations)?;
            let (reduction_beside_us, neighbour_beside_us) = self.overlapped(planned, &mut beside)?;
            if repeat >= u64::from(warmup) {
                let times = [reduction_us, reduction_beside_us, neighbour_us, neighbour_beside_us];
                for (series_us, time) in series_us.iter_mut().zip(times) {
                    series_us.push(time as f32);
                }
            }
        }
        let bootstrap = &**self.bench.communicator().bootstrap();
        let mut summaries = Vec::new();
        for series_us in &series_us {
            summaries.push(Summary::of_ranks(&exchange::series(bootstrap, "comparing times", series_us)?)?);
        }
        summaries.try_into().map_err(|_| Error::invalid("four series give four summaries"))
    }

    /// One run of the neighbour while nothing else runs here, microseconds.
    fn alone(&self) -> Result<f64> {
        self.queue_neighbour()?;
        self.neighbour.stream().synchronize()?;
        Ok(self.end.elapsed_ns_since(&self.start)? as f64 / 1e3 / f64::from(self.runs))
    }

    /// One all-reduce of so many in a row, microseconds. Collective.
    fn reductions(&mut self, planned: &Planned, operations: u32) -> Result<f64> {
        self.begin(planned, operations)?;
        self.go_on(planned, operations)?;
        let marks_ns = self.marks_ns(operations)?;
        Ok(marks_ns[marks_ns.len() - 1] as f64 / 1e3 / f64::from(operations))
    }

    /// One all-reduce and one run of the neighbour while both run, microseconds. Collective. Raises `operations` until they cover the
    /// neighbour on every rank.
    fn overlapped(&mut self, planned: &Planned, operations: &mut u32) -> Result<(f64, f64)> {
        loop {
            self.begin(planned, *operations)?;
            self.wait_for_begin()?;
            self.queue_neighbour()?;
            self.go_on(planned, *operations)?;
            self.neighbour.stream().synchronize()?;
            let marks_ns = self.marks_ns(*operations)?;
            let since_begin = |event: &Event| event.elapsed_ns_since(&self.marks[0]);
            let span = since_begin(&self.start)?..since_begin(&self.end)?;
            let neighbour_us = (span.end - span.start) as f64 / 1e3 / f64::from(self.runs);
            let reduction_us = time_within(&marks_ns, span);
            let bootstrap = &**self.bench.communicator().bootstrap();
            let uncovered =
                exchange::sums(bootstrap, "comparing overlaps", &[u64::from(reduction_us.is_none())])? != [0];
            match reduction_us.filter(|_| !uncovered) {
                Some(reduction_us) => return Ok((reduction_us, neighbour_us)),
                None if *operations == OPERATIONS[1] => {
                    return Err(Error::invalid(format!(
                        "{} runs of the neighbour did not end within {operations} operations of {}: measure larger messages",
                        self.runs, planned.requested
                    )));
                }
                None => *operations = (*operations * 2).min(OPERATIONS[1]),
            }
        }
    }

    /// Queues an operation that is not timed, which brings the ranks into step, and the first that is.
    fn begin(&mut self, planned: &Planned, operations: u32) -> Result<()> {
        let communicator = self.bench.communicator();
        while self.marks.len() <= operations as usize {
            self.marks.push(Event::new(communicator.device())?);
        }
        communicator.bootstrap().barrier("starting a repeat")?;
        for mark in &self.marks[..2] {
            self.bench.issue(planned)?;
            mark.record(self.bench.stream().handle())?;
        }
        Ok(())
    }

    /// Queues the others, and waits for all.
    fn go_on(&self, planned: &Planned, operations: u32) -> Result<()> {
        for mark in &self.marks[2..=operations as usize] {
            self.bench.issue(planned)?;
            mark.record(self.bench.stream().handle())?;
        }
        self.bench.finish()
    }

    /// WHY: not left to the device, where a neighbour that waits for an all-reduce would wait for ever with it.
    fn wait_for_begin(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.marks[0].is_reached()? {
            self.bench.communicator().status()?;
            if begun.elapsed() > PATIENCE {
                return Err(Error::invalid(format!("the first all-reduce did not end in {} s", PATIENCE.as_secs())));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn queue_neighbour(&self) -> Result<()> {
        let stream = self.neighbour.stream().handle();
        self.start.record(stream)?;
        (0..self.runs).try_for_each(|_| self.neighbour.queue())?;
        self.end.record(stream)
    }

    /// When each operation ended, nanoseconds since the first began. All are over.
    fn marks_ns(&self, operations: u32) -> Result<Vec<u64>> {
        self.marks[..=operations as usize].iter().map(|mark| mark.elapsed_ns_since(&self.marks[0])).collect()
    }

    /// The largest of all ranks, of each. Collective.
    fn slowest<const N: usize>(&self, own_us: [f64; N]) -> Result<[f64; N]> {
        let bootstrap = &**self.bench.communicator().bootstrap();
        let ranks = exchange::series(bootstrap, "agreeing on a stretch", &own_us.map(|time| time as f32))?;
        Ok(std::array::from_fn(|index| ranks.iter().map(|times| times[index]).fold(f64::MIN_POSITIVE, f64::max)))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // WHY: first what could wait for ever: memory of the neighbour is given back once the device is at rest.
        self.bench.settle();
        let _ = self.neighbour.stream().synchronize();
    }
}
