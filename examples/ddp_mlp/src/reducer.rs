//! Averages gradients over all ranks while the backward pass goes on.
//!
//! Each parameter goes into the forward pass through an identity that candle calls on the way back, once its gradient is complete.
//! There the gradient is copied into its bucket, and a bucket whose last gradient came is queued on the engine's stream, while the
//! backward pass goes on to the layers before. [`Reducer::finish`] waits for what is still under way.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use candle_core::backend::BackendStorage;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Device, InplaceOp1, Layout, Shape, Tensor, Var};
use myelon_ccl::device::{DevicePtr, StreamHandle};

use crate::Result;
use crate::buckets::{Bucket, pack};
use crate::engine::Engine;

/// How gradients travel.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Type in which the model computes: what parameters become in the forward pass.
    pub compute: DType,
    /// Type in which gradients are averaged.
    pub wire: DType,
    /// Most bytes of a bucket; a larger gradient has one of its own.
    pub bucket_bytes: usize,
    /// Whether a bucket starts as soon as it is full, or all of them after the backward pass.
    pub overlap: bool,
}

/// Averages the gradients of some parameters.
pub struct Reducer {
    state: Arc<Mutex<State>>,
    compute: DType,
}

struct State {
    // INVARIANT: declared before the buckets: what still runs has ended when their memory goes.
    engine: Engine,
    /// What candle computes on; none where its calls return when they are done.
    /// INVARIANT: the parameters' device keeps it.
    compute_stream: Option<StreamHandle<'static>>,
    settings: Settings,
    parameters: Vec<Var>,
    /// By parameter: its bucket, and where its gradient begins there.
    places: Vec<(usize, usize)>,
    buckets: Vec<Bucket>,
    /// By bucket: its elements, in [`Settings::wire`].
    memory: Vec<Tensor>,
    /// Parameters in the order in which their gradients came, in this step.
    order: Vec<usize>,
    /// By bucket: how many gradients it has.
    filled: Vec<usize>,
    /// Buckets that were queued: always the first ones, so that all ranks queue them in one order.
    queued: usize,
}

impl Reducer {
    /// For `parameters` in the order of the forward pass, from which follows that their gradients come in the opposite one. All ranks
    /// pass the same shapes and settings; the values become those of rank 0. Collective.
    pub fn new(engine: Engine, parameters: &[Var], settings: Settings) -> Result<Self> {
        let first = parameters.first().ok_or("there is nothing to train: give the model a layer")?;
        let device = first.device();
        let sizes: Vec<usize> = parameters.iter().rev().map(|parameter| parameter.elem_count()).collect();
        let buckets = pack(&sizes, settings.bucket_bytes / settings.wire.size_in_bytes());
        let mut places = vec![(0, 0); parameters.len()];
        for (number, bucket) in buckets.iter().enumerate() {
            let mut offset = 0;
            for member in bucket.members.clone() {
                places[parameters.len() - 1 - member] = (number, offset);
                offset += sizes[member];
            }
        }
        let memory = buckets.iter().map(|bucket| Tensor::zeros(bucket.elements, settings.wire, device));
        // The others wait for this rank below.
        let memory =
            memory.collect::<candle_core::Result<_>>().inspect_err(|error| engine.abort(&error.to_string()))?;
        let state = State {
            compute_stream: compute_stream(device)?,
            parameters: parameters.to_vec(),
            memory,
            filled: vec![0; buckets.len()],
            order: Vec::new(),
            queued: 0,
            engine,
            settings,
            places,
            buckets,
        };
        state.begin_as_rank_0().inspect_err(|error| state.engine.abort(&error.to_string()))?;
        Ok(Self { state: Arc::new(Mutex::new(state)), compute: settings.compute })
    }

    /// What takes the place of a parameter in the forward pass, once: its value in the type that the model computes in.
    pub fn through(&self, number: usize, parameter: &Tensor) -> candle_core::Result<Tensor> {
        parameter.apply_op1(Hook { state: Arc::clone(&self.state), number, compute: self.compute })
    }

    /// Waits until all averages are there and puts them into `gradients`, where they are valid until the next backward pass. Returns
    /// how long communication went on when computing had ended.
    ///
    /// Errors: a parameter without a gradient; what went wrong on any rank. `gradients` has then no average, for no optimizer to take.
    pub fn finish(&self, gradients: &mut GradStore) -> Result<Duration> {
        self.lock().finish(gradients)
    }

    /// The average of some numbers over all ranks, which pass equally many. Collective; outside of a step.
    pub fn average(&self, values: &[f32]) -> Result<Vec<f32>> {
        let state = self.lock();
        let tensor = Tensor::from_slice(values, values.len(), state.parameters[0].device())?;
        state.queue(&tensor)?;
        state.engine.wait()?;
        Ok(tensor.to_vec1()?)
    }

    /// Parameters in the order in which their gradients came, in the step that is not finished.
    pub fn order(&self) -> Vec<usize> {
        self.lock().order.clone()
    }

    /// How many buckets were queued in the step that is not finished.
    pub fn queued(&self) -> usize {
        self.lock().queued
    }

    /// Ends what runs, here and on the peers.
    pub fn abort(&self, why: &str) {
        self.lock().engine.abort(why);
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> usize {
        self.lock().buckets.len()
    }

    /// The engine back, after the last step. None while a graph of a forward pass is alive.
    pub fn into_engine(self) -> Option<Engine> {
        let state = Arc::into_inner(self.state)?.into_inner().expect(UNPOISONED);
        Some(state.engine)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }
}

const UNPOISONED: &str = "one thread drives a rank, and it does not go on after a panic";

impl State {
    /// Takes a gradient that is complete.
    fn take(&mut self, number: usize, gradient: &Tensor) -> Result<()> {
        if self.order.contains(&number) {
            return Err(
                format!("parameter {number} is used twice in a forward pass: pass on what `through` returned").into()
            );
        }
        let (bucket, offset) = self.places[number];
        let gradient = gradient.to_dtype(self.settings.wire)?.contiguous()?.flatten_all()?;
        self.memory[bucket].slice_set(&gradient, 0, offset)?;
        self.order.push(number);
        self.filled[bucket] += 1;
        if self.settings.overlap { self.queue_full() } else { Ok(()) }
    }

    fn queue_full(&mut self) -> Result<()> {
        while let Some(bucket) = self.buckets.get(self.queued)
            && self.filled[self.queued] == bucket.members.len()
        {
            self.queue(&self.memory[self.queued])?;
            self.queued += 1;
        }
        Ok(())
    }

    /// Queues the average of a tensor that candle touches no more before the engine's wait.
    fn queue(&self, tensor: &Tensor) -> Result<()> {
        let (address, dtype) = self.ready(tensor)?;
        // SAFETY: all of the tensor's own memory. A bucket is next touched in `finish` after the wait, or freed after the engine is
        // dropped, and averages of the step before, which are views of it, are not used any more, as `finish` says. `average` waits
        // at once, and nothing runs any more when that returns.
        unsafe { self.engine.average(address, tensor.elem_count(), dtype) }
    }

    /// Gives every rank the parameters of rank 0.
    fn begin_as_rank_0(&self) -> Result<()> {
        for parameter in &self.parameters {
            let (address, dtype) = self.ready(parameter)?;
            // SAFETY: all of the parameter's own memory, which is touched only after the wait below.
            unsafe { self.engine.broadcast(address, parameter.elem_count(), dtype)? };
        }
        self.engine.wait()
    }

    /// Makes the engine follow what candle has queued, and says where a contiguous tensor is and of what type.
    fn ready(&self, tensor: &Tensor) -> Result<(DevicePtr, myelon_ccl::DType)> {
        let dtype = match tensor.dtype() {
            DType::F32 => myelon_ccl::DType::F32,
            DType::BF16 => myelon_ccl::DType::Bf16,
            other => return Err(format!("parameters and gradients travel as f32 or bf16, not as {other:?}").into()),
        };
        if !tensor.is_contiguous() || tensor.layout().start_offset() != 0 {
            return Err(
                format!("a parameter of shape {:?} is a view: make it a variable of its own", tensor.shape()).into()
            );
        }
        if let Some(compute) = self.compute_stream {
            self.engine.follow(compute)?;
        }
        let address = Address(Cell::new(0));
        tensor.inplace_op1(&address)?;
        Ok((DevicePtr(address.0.get()), dtype))
    }

    fn finish(&mut self, gradients: &mut GradStore) -> Result<Duration> {
        if let Some(missing) = (0..self.parameters.len()).find(|number| !self.order.contains(number)) {
            return Err(format!("parameter {missing} has no gradient: the loss does not depend on it").into());
        }
        self.queue_full()?;
        // Bounded: nothing that candle has queued waits for a peer.
        if let Some(compute) = self.compute_stream {
            self.engine.device().synchronize_stream(compute)?;
        }
        let computed = Instant::now();
        self.engine.wait()?;
        let waited = computed.elapsed();
        for (parameter, &(bucket, offset)) in self.parameters.iter().zip(&self.places) {
            let average = self.memory[bucket].narrow(0, offset, parameter.elem_count())?.reshape(parameter.shape())?;
            gradients.insert(parameter, average.to_dtype(parameter.dtype())?);
        }
        self.order.clear();
        self.filled.fill(0);
        self.queued = 0;
        Ok(waited)
    }
}

/// An identity that takes the gradient and passes none on: candle needs none for a variable.
struct Hook {
    state: Arc<Mutex<State>>,
    number: usize,
    compute: DType,
}

impl CustomOp1 for Hook {
    fn name(&self) -> &'static str {
        "reducer-hook"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((storage.to_dtype(layout, self.compute)?, layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((storage.to_dtype(layout, self.compute)?, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let mut state = self.state.lock().expect(UNPOISONED);
        state.take(self.number, gradient).map_err(candle_core::Error::wrap)?;
        Ok(None)
    }
}

/// Finds where a contiguous tensor's memory begins.
///
/// WHY: in place, and anew for every use: the memory is written through the address, which a shared borrow could not give.
struct Address(Cell<u64>);

impl InplaceOp1 for Address {
    fn name(&self) -> &'static str {
        "address"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        self.0.set(match storage {
            CpuStorage::F32(values) => values.as_mut_ptr() as u64,
            CpuStorage::BF16(values) => values.as_mut_ptr() as u64,
            _ => return Err(candle_core::Error::msg("neither f32 nor bf16")),
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> candle_core::Result<()> {
        use candle_core::cuda_backend::cudarc::driver::DevicePtrMut;

        let stream = storage.device().cuda_stream();
        self.0.set(match storage.dtype() {
            DType::F32 => storage.as_cuda_slice_mut::<f32>()?.device_ptr_mut(&stream).0,
            DType::BF16 => storage.as_cuda_slice_mut::<half::bf16>()?.device_ptr_mut(&stream).0,
            _ => return Err(candle_core::Error::msg("neither f32 nor bf16")),
        });
        Ok(())
    }
}

#[cfg(feature = "cuda")]
fn compute_stream(device: &Device) -> Result<Option<StreamHandle<'static>>> {
    match device {
        // SAFETY: the device keeps it, and the reducer's tensors the device.
        Device::Cuda(cuda) => Ok(Some(unsafe { StreamHandle::from_raw(cuda.cuda_stream().cu_stream() as u64) })),
        _ => Ok(None),
    }
}

#[cfg(not(feature = "cuda"))]
fn compute_stream(_: &Device) -> Result<Option<StreamHandle<'static>>> {
    Ok(None)
}
