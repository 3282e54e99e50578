//! Training, seen from one rank.

use std::time::{Duration, Instant};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Optimizer, SGD, loss};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::Result;
use crate::data::{self, CLASSES, PIXELS, Rows};
use crate::engine::Engine;
use crate::model::Mlp;
use crate::reducer::{self, Reducer};

/// What is trained, and how. Equal on all ranks.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Widths of the hidden layers.
    pub hidden: Vec<usize>,
    /// Rows of a step on all ranks together: a multiple of the ranks.
    pub batch: usize,
    /// Times that all rows are gone through. What does not fill a batch is left out.
    pub epochs: usize,
    /// Learning rate of the stochastic gradient descent.
    pub rate: f64,
    /// Seed of the parameters and of the order of rows.
    pub seed: u64,
    /// Whether gradients travel as bf16. On GPUs the model then computes in bf16 as well; on the CPU it computes in f32, for candle has no
    /// product of bf16 matrices there. Parameters are f32 in both cases.
    pub bf16: bool,
    /// Most bytes of a bucket.
    pub bucket_bytes: usize,
    /// Whether buckets are averaged while the backward pass goes on.
    pub overlap: bool,
}

impl Settings {
    /// Whether this many ranks can train on this many rows.
    fn check(&self, ranks: usize, rows: usize) -> Result<()> {
        let Self { batch, epochs, .. } = *self;
        if batch == 0 || !batch.is_multiple_of(ranks) {
            let fix = batch.next_multiple_of(ranks).max(ranks);
            return Err(format!("a batch of {batch} does not divide among {ranks} ranks: use --batch {fix}").into());
        }
        if batch > rows {
            return Err(
                format!("a batch of {batch} is more than the {rows} images there are: use a smaller --batch").into()
            );
        }
        if epochs == 0 {
            return Err("0 epochs train nothing: use --epochs 1 or more".into());
        }
        Ok(())
    }
}

/// What came of a training, on one rank.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Ranks that trained.
    pub ranks: usize,
    /// Parameters of the model.
    pub parameters: usize,
    /// Buckets that their gradients travelled in.
    pub buckets: usize,
    /// Loss of every step: the mean over all ranks' rows.
    pub losses: Vec<f32>,
    /// Share of the test's rows that are told right, 0 to 1.
    pub accuracy: f64,
    /// Rows a second, of all ranks together, from the second epoch on where there is one: the first one compiles and warms up.
    pub samples_per_second: f64,
    /// Share of that time in which computing gradients had ended and averaging them had not.
    pub waited: f64,
    /// Of the bits of all parameters: equal where those are.
    pub digest: u64,
}

/// What an epoch came to.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// Counted from 1.
    pub number: usize,
    /// Mean over its steps and all ranks.
    pub loss: f32,
}

/// Trains a model together with the other ranks, which call it with the same settings. `progress` hears of every epoch.
///
/// Errors: settings that do not fit; what went wrong on any rank, of which the others are then told.
pub fn train(engine: Engine, device: &Device, settings: &Settings, progress: impl Fn(Epoch)) -> Result<Report> {
    let (rank, ranks) = (engine.rank(), engine.ranks());
    let (train, test) = data::load(device)?;
    settings.check(ranks, train.len())?;
    let widths: Vec<usize> = [&[PIXELS], &settings.hidden[..], &[CLASSES]].concat();
    let model = Mlp::new(&widths, settings.seed, device)?;
    let wire = if settings.bf16 { DType::BF16 } else { DType::F32 };
    let compute = if device.is_cuda() { wire } else { DType::F32 };
    let travel = reducer::Settings { compute, wire, bucket_bytes: settings.bucket_bytes, overlap: settings.overlap };
    let reducer = Reducer::new(engine, model.parameters(), travel)?;
    let mut training = Training { model, reducer, compute, rank, ranks, losses: Vec::new() };
    let outcome = training.run(&train, &test, settings, progress);
    if let Err(error) = &outcome {
        training.reducer.abort(&format!("rank {rank}: {error}"));
    }
    let report = outcome?;
    training.reducer.into_engine().ok_or("a forward pass is still alive")?.close()?;
    Ok(report)
}

struct Training {
    model: Mlp,
    reducer: Reducer,
    compute: DType,
    rank: usize,
    ranks: usize,
    losses: Vec<f32>,
}

impl Training {
    fn run(&mut self, train: &Rows, test: &Rows, settings: &Settings, progress: impl Fn(Epoch)) -> Result<Report> {
        let mut optimizer = SGD::new(self.model.parameters().to_vec(), settings.rate)?;
        let mut random = StdRng::seed_from_u64(settings.seed);
        let mut order: Vec<u32> = (0..train.len() as u32).collect();
        let (mut waited, mut started) = (Duration::ZERO, Instant::now());
        for number in 1..=settings.epochs {
            if number <= 2 {
                (waited, started) = (Duration::ZERO, Instant::now());
            }
            order.shuffle(&mut random);
            let mut losses = Vec::new();
            for batch in order.chunks_exact(settings.batch) {
                let rows = train.pick(&data::share(batch, self.rank, self.ranks))?;
                let (loss, wait) = self.step(&rows, &mut optimizer)?;
                losses.push(loss);
                waited += wait;
            }
            let losses = self.reducer.average(&losses)?;
            let loss = losses.iter().sum::<f32>() / losses.len() as f32;
            progress(Epoch { number, loss });
            if !loss.is_finite() {
                return Err(format!("the loss of epoch {number} is {loss}: use a smaller --rate").into());
            }
            self.losses.extend(losses);
        }
        let elapsed = started.elapsed().as_secs_f64();
        let steps = train.len() / settings.batch * settings.epochs.saturating_sub(1).max(1);
        Ok(Report {
            ranks: self.ranks,
            parameters: self.model.parameters().iter().map(|parameter| parameter.elem_count()).sum(),
            buckets: self.reducer.buckets(),
            losses: std::mem::take(&mut self.losses),
            accuracy: self.accuracy(test)?,
            samples_per_second: (steps * settings.batch) as f64 / elapsed,
            waited: waited.as_secs_f64() / elapsed,
            digest: digest(&self.model)?,
        })
    }

    /// One step: the loss of this rank's rows, and how long communication was waited for.
    fn step(&mut self, rows: &Rows, optimizer: &mut SGD) -> Result<(f32, Duration)> {
        let images = rows.images.to_dtype(self.compute)?;
        let scores = self.model.forward(&images, |number, parameter| self.reducer.through(number, parameter))?;
        let loss = loss::cross_entropy(&scores.to_dtype(DType::F32)?, &rows.digits)?;
        let mut gradients = loss.backward()?;
        // INVARIANT: an error ends the step here, so what a stalled collective left behind never reaches the optimizer.
        let waited = self.reducer.finish(&mut gradients)?;
        optimizer.step(&gradients)?;
        Ok((loss.to_scalar()?, waited))
    }

    /// Share of rows that are told right.
    fn accuracy(&self, test: &Rows) -> Result<f64> {
        let images = test.images.to_dtype(self.compute)?;
        let scores =
            self.model.forward(&images, |_, parameter| parameter.to_dtype(self.compute))?.to_dtype(DType::F32)?;
        let right = scores.argmax(D::Minus1)?.eq(&test.digits)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        Ok(f64::from(right) / test.len() as f64)
    }
}

/// FNV-1a over the bits of all parameters.
fn digest(model: &Mlp) -> Result<u64> {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for parameter in model.parameters() {
        for value in Tensor::flatten_all(parameter)?.to_vec1::<f32>()? {
            digest = (digest ^ u64::from(value.to_bits())).wrapping_mul(0x100_0000_01b3);
        }
    }
    Ok(digest)
}
