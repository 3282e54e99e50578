//! One rank of `myelon-perf neighbour`: a kernel alone, and beside an all-reduce of rank 0 that waits for the others.

use std::time::{Duration, Instant};

use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::measure::Summary;
use myelon_ccl::measure::neighbour::{Neighbour, Work};
use myelon_ccl::variant::{Choice, Plan, Request};
use myelon_ccl::{Communicator, Error, Operation, Rank, Result};

use crate::kernel::Kernel;

/// How long the all-reduce waits before the neighbour begins: its hot wait is over by then, so what is measured is the cold one.
const SETTLING: Duration = Duration::from_millis(5);
/// Longest wait for the neighbour: far beyond what it takes, and less than the deadline of the all-reduce.
const PATIENCE: Duration = Duration::from_secs(5);

/// What waits: the same on every rank.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) choice: Choice,
    pub(crate) request: Request,
}

/// Measures on this rank. Collective. Rank 0 returns a row for each of `waiting` and each work.
///
/// Errors: the first on this rank; the other ranks are told, so that nobody waits for it.
pub(crate) fn measure(communicator: &Communicator, waiting: &[Waiting], repeats: u32) -> Result<Vec<Neighbour>> {
    let tell = |error: &Error| communicator.abort(&error.to_string());
    let place = Place::new(communicator, waiting).inspect_err(tell)?;
    // WHY: told before the place goes, which waits for what is queued.
    place.rows(waiting, repeats).inspect_err(tell)
}

/// A rank's operands and stream, and on rank 0 the neighbours.
struct Place<'a> {
    communicator: &'a Communicator,
    neighbours: Vec<Kernel>,
    data: Buffer,
    stream: Stream,
}

impl<'a> Place<'a> {
    fn new(communicator: &'a Communicator, waiting: &[Waiting]) -> Result<Self> {
        let device = communicator.device();
        let bytes = waiting.iter().map(|waiting| waiting.request.bytes()).max().unwrap_or(0);
        let works = if communicator.rank() == Rank(0) { &Work::ALL[..] } else { &[] };
        Ok(Self {
            communicator,
            neighbours: works.iter().map(|&work| Kernel::new(device, work)).collect::<Result<_>>()?,
            data: Buffer::new(device, bytes)?,
            stream: Stream::new(device)?,
        })
    }

    fn rows(&self, waiting: &[Waiting], repeats: u32) -> Result<Vec<Neighbour>> {
        let plan = |waiting: &Waiting| self.communicator.plan(&waiting.choice, &waiting.request);
        let plans: Vec<Plan> = waiting.iter().map(plan).collect::<Result<_>>()?;
        self.communicator.prepare(&plans)?;
        let mut rows = Vec::new();
        for (waiting, plan) in waiting.iter().zip(&plans) {
            for (turn, &work) in Work::ALL.iter().enumerate() {
                let (mut alone_us, mut beside_us) = (Vec::new(), Vec::new());
                for _ in 0..repeats {
                    match self.neighbours.get(turn) {
                        Some(neighbour) => {
                            alone_us.push(neighbour.alone()?);
                            beside_us.push(self.beside(neighbour, waiting)?);
                        }
                        None => self.come_late(waiting)?,
                    }
                }
                if self.communicator.rank() == Rank(0) {
                    rows.push(Neighbour {
                        ranks: self.communicator.world_size(),
                        variant: waiting.choice.variant.name.clone(),
                        wait: plan.kernel.wait,
                        lanes: plan.lanes,
                        threads: plan.kernel.threads,
                        work,
                        alone_us: Summary::of(&alone_us)?.p50,
                        beside_us: Summary::of(&beside_us)?.p50,
                    });
                }
            }
        }
        Ok(rows)
    }

    /// Rank 0: the neighbour's time while this rank's all-reduce waits, microseconds.
    fn beside(&self, neighbour: &Kernel, waiting: &Waiting) -> Result<f64> {
        self.issue(waiting)?;
        std::thread::sleep(SETTLING);
        neighbour.launch()?;
        let begun = Instant::now();
        while !neighbour.is_over()? {
            self.communicator.status()?;
            if begun.elapsed() > PATIENCE {
                return Err(Error::invalid(format!(
                    "the neighbour did not end within {} s beside {}: {} threads on each multiprocessor found no room; use fewer \
                     --lane-threads or --lanes",
                    PATIENCE.as_secs(),
                    waiting.choice,
                    neighbour.threads()
                )));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        if self.communicator.device().stream_is_idle(self.stream.handle())? {
            return Err(Error::invalid(format!("{} did not wait for its peers", waiting.choice)));
        }
        self.release()?;
        self.communicator.synchronize(self.stream.handle())?;
        neighbour.elapsed_us()
    }

    /// Every other rank: joins the all-reduce once rank 0's neighbour has ended.
    fn come_late(&self, waiting: &Waiting) -> Result<()> {
        self.release()?;
        self.issue(waiting)?;
        self.communicator.synchronize(self.stream.handle())
    }

    fn release(&self) -> Result<()> {
        self.communicator.bootstrap().barrier("waiting for the neighbour of rank 0")
    }

    fn issue(&self, waiting: &Waiting) -> Result<()> {
        let (data, stream) = (self.data.address(), self.stream.handle());
        // SAFETY: the buffer has room for the largest request, and lives until `drop` has synchronised the stream.
        unsafe {
            self.communicator.all_reduce_as(&waiting.choice, &Operation::of(&waiting.request, data, data), stream)
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // What went wrong was reported by the call that noticed; after an abort the wait is short.
        let _ = self.communicator.synchronize(self.stream.handle());
    }
}
