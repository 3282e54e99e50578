//! The model: linear layers of candle with ReLU between them.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::Linear;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A perceptron of several layers. Parameters are `f32`, whatever it computes in.
#[derive(Debug)]
pub struct Mlp {
    /// Weight and bias of the first layer, then of the next.
    parameters: Vec<Var>,
}

impl Mlp {
    /// Layers of these widths, the input's first. Equal seeds give equal parameters on every device.
    pub fn new(widths: &[usize], seed: u64, device: &Device) -> Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut parameters = Vec::new();
        for layer in widths.windows(2) {
            let (inputs, outputs) = (layer[0], layer[1]);
            // Uniform with variance 2 / inputs, which keeps the scale of activations through a ReLU (He et al., 2015).
            let bound = (6.0 / inputs as f32).sqrt();
            let weights: Vec<f32> = (0..inputs * outputs).map(|_| random.random_range(-bound..bound)).collect();
            parameters.push(Var::from_vec(weights, (outputs, inputs), device)?);
            parameters.push(Var::zeros(outputs, DType::F32, device)?);
        }
        Ok(Self { parameters })
    }

    /// What is trained, in the order of the forward pass.
    pub fn parameters(&self) -> &[Var] {
        &self.parameters
    }

    /// Scores of every class for every image, in the type of `images`. `through` is asked once for each parameter, by its number,
    /// for what takes its place: in the type of `images`.
    pub fn forward(&self, images: &Tensor, through: impl Fn(usize, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let layers = self.parameters.len() / 2;
        let mut values = images.clone();
        for layer in 0..layers {
            let weight = through(2 * layer, &self.parameters[2 * layer])?;
            let bias = through(2 * layer + 1, &self.parameters[2 * layer + 1])?;
            values = Linear::new(weight, Some(bias)).forward(&values)?;
            if layer + 1 < layers {
                values = values.relu()?;
            }
        }
        Ok(values)
    }
}
