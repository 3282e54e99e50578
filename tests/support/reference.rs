//! What a reduction must give, bit for bit: another implementation of conversions, operators and orders.

use std::sync::{Arc, LazyLock};

use myelon_ccl::variant::{Order, Plan, Request, Rounding, VariantSpec};
use myelon_ccl::{Collective, DType, Rank, ReduceOp};

use super::Random;

/// An element on its way through a reduction.
#[derive(Clone, Copy)]
enum Value {
    F32(f32),
    F64(f64),
    Int(u64),
}

/// A rank's input: ordinary values with a sprinkle of the awkward ones.
pub(crate) fn input(request: &Request, seed: u64, rank: Rank) -> Vec<u8> {
    let mut random = Random(seed ^ (u64::from(rank.0) + 1) << 48);
    let mut bytes = Vec::with_capacity(request.bytes() as usize);
    for _ in 0..request.count {
        let draw = random.next();
        if request.dtype.is_float() && draw & 0xff == 1 {
            // The very pattern that means "not yet" in a mailbox, of every width.
            bytes.resize(bytes.len() + request.dtype.size_bytes(), 0xff);
            continue;
        }
        if request.dtype == DType::F64 && draw & 0xff == 18 {
            // Signalling, and that pattern once arithmetic has made it quiet.
            bytes.extend_from_slice(&0xfff7_ffff_ffff_ffff_u64.to_ne_bytes());
            continue;
        }
        let value = match request.dtype {
            dtype if !dtype.is_float() => Value::Int(draw),
            DType::F64 => Value::F64(awkward(draw)),
            _ => Value::F32(awkward(draw) as f32),
        };
        bytes.extend_from_slice(&encode(request.dtype, value)[..request.dtype.size_bytes()]);
    }
    bytes
}

fn awkward(draw: u64) -> f64 {
    match draw & 0xff {
        0 => f64::NAN,
        2 => f64::INFINITY,
        3 => f64::NEG_INFINITY,
        4..=11 => -0.0,
        12..=15 => 0.0,
        16 => 1e-40,
        17 => 3e38,
        _ => (draw >> 8) as i32 as f64 / f64::from(1 << 29),
    }
}

/// The result for every element; `request` is about a part where there are parts, and the result is all of them.
pub(crate) fn reduced(variant: &Arc<VariantSpec>, request: &Request, inputs: &[Vec<u8>], plan: &Plan) -> Vec<u8> {
    let size = request.dtype.size_bytes();
    let world = inputs.len();
    let mut result = Vec::with_capacity(inputs[0].len());
    for element in 0..inputs[0].len() / size {
        let first = match (variant.order, variant.collective) {
            (Order::Rank, _) => 0,
            // A part ends where it belongs.
            (Order::Rotated, Collective::ReduceScatter) => (element / request.count as usize + 1) % world,
            (Order::Rotated, _) => plan.shard_of(request.count, element as u64) as usize % world,
        };
        let mut total: Option<Value> = None;
        for step in 0..world {
            let input = &inputs[(first + step) % world];
            let next = decode(request.dtype, &input[element * size..][..size]);
            total = Some(match total {
                None => next,
                Some(total) => {
                    let total = combine(request.dtype, request.op, total, next);
                    // The last hop rounds too, but after the average.
                    if variant.rounding == Rounding::PerHop && step + 1 < world {
                        round(request.dtype, total)
                    } else {
                        total
                    }
                }
            });
        }
        let total = finish(request.dtype, request.op, total.expect("a world has ranks"), world);
        result.extend_from_slice(&encode(request.dtype, total)[..size]);
    }
    result
}

/// The first element that differs; any NaN equals any other.
pub(crate) fn first_difference(dtype: DType, seen: &[u8], expected: &[u8]) -> Option<usize> {
    let size = dtype.size_bytes();
    let is_nan = |bytes: &[u8]| match decode(dtype, bytes) {
        Value::F32(value) => value.is_nan(),
        Value::F64(value) => value.is_nan(),
        Value::Int(_) => false,
    };
    let pairs = seen.chunks_exact(size).zip(expected.chunks_exact(size));
    pairs.into_iter().position(|(seen, expected)| seen != expected && !(is_nan(seen) && is_nan(expected)))
}

fn round(dtype: DType, value: Value) -> Value {
    decode(dtype, &encode(dtype, value)[..dtype.size_bytes()])
}

fn combine(dtype: DType, op: ReduceOp, a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::F32(a), Value::F32(b)) => Value::F32(match op {
            ReduceOp::Sum | ReduceOp::Avg => a + b,
            ReduceOp::Prod => a * b,
            ReduceOp::Min => {
                if a.is_nan() || a < b {
                    a
                } else {
                    b
                }
            }
            ReduceOp::Max => {
                if a.is_nan() || a > b {
                    a
                } else {
                    b
                }
            }
        }),
        (Value::F64(a), Value::F64(b)) => Value::F64(match op {
            ReduceOp::Sum | ReduceOp::Avg => a + b,
            ReduceOp::Prod => a * b,
            ReduceOp::Min => {
                if a.is_nan() || a < b {
                    a
                } else {
                    b
                }
            }
            ReduceOp::Max => {
                if a.is_nan() || a > b {
                    a
                } else {
                    b
                }
            }
        }),
        (Value::Int(a), Value::Int(b)) => {
            let (a, b) = (extend(dtype, a), extend(dtype, b));
            Value::Int(match op {
                ReduceOp::Sum | ReduceOp::Avg => a.wrapping_add(b),
                ReduceOp::Prod => a.wrapping_mul(b),
                ReduceOp::Min => a.min(b),
                ReduceOp::Max => a.max(b),
            } as u64)
        }
        _ => unreachable!("both are of one type"),
    }
}

fn finish(dtype: DType, op: ReduceOp, value: Value, world: usize) -> Value {
    if op != ReduceOp::Avg {
        return value;
    }
    match value {
        Value::F32(value) => Value::F32(value / world as f32),
        Value::F64(value) => Value::F64(value / world as f64),
        Value::Int(value) => Value::Int((extend(dtype, value) / world as i128) as u64),
    }
}

/// The integer a bit pattern stands for.
fn extend(dtype: DType, bits: u64) -> i128 {
    match dtype {
        DType::I8 => i128::from(bits as i8),
        DType::U8 => i128::from(bits as u8),
        DType::I32 => i128::from(bits as i32),
        DType::U32 => i128::from(bits as u32),
        DType::I64 => i128::from(bits as i64),
        _ => i128::from(bits),
    }
}

fn decode(dtype: DType, bytes: &[u8]) -> Value {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(wide);
    match dtype {
        DType::F32 => Value::F32(f32::from_bits(bits as u32)),
        DType::F64 => Value::F64(f64::from_bits(bits)),
        DType::F16 => Value::F32(half::f16::from_bits(bits as u16).to_f32()),
        DType::Bf16 => Value::F32(half::bf16::from_bits(bits as u16).to_f32()),
        DType::E4m3 => Value::F32(E4M3.value(bits as u8)),
        DType::E5m2 => Value::F32(E5M2.value(bits as u8)),
        _ => Value::Int(bits),
    }
}

fn encode(dtype: DType, value: Value) -> [u8; 8] {
    let bits = match (dtype, value) {
        (DType::F32, Value::F32(value)) => u64::from(value.to_bits()),
        (DType::F64, Value::F64(value)) => value.to_bits(),
        (DType::F16, Value::F32(value)) => u64::from(half::f16::from_f32(value).to_bits()),
        (DType::Bf16, Value::F32(value)) => u64::from(half::bf16::from_f32(value).to_bits()),
        (DType::E4m3, Value::F32(value)) => u64::from(E4M3.bits(value)),
        (DType::E5m2, Value::F32(value)) => u64::from(E5M2.bits(value)),
        (_, Value::Int(bits)) => bits,
        _ => unreachable!("a value of its own type"),
    };
    bits.to_le_bytes()
}

/// An 8-bit float type, all of its values by their definition.
struct Fp8 {
    values: [f32; 256],
    /// Those from 0 to the largest finite one, each at its own bits.
    finite: Vec<f64>,
}

static E4M3: LazyLock<Fp8> = LazyLock::new(|| Fp8::new(4, 3, true));
static E5M2: LazyLock<Fp8> = LazyLock::new(|| Fp8::new(5, 2, false));

impl Fp8 {
    fn new(exponent_bits: u32, mantissa_bits: u32, finite: bool) -> Self {
        let values = std::array::from_fn(|bits| fp8_value(exponent_bits, mantissa_bits, finite, bits as u8));
        let finite = values[..0x80].iter().filter(|value| value.is_finite()).copied().map(f64::from).collect();
        Self { values, finite }
    }

    fn value(&self, bits: u8) -> f32 {
        self.values[usize::from(bits)]
    }

    /// The nearest one, ties to the even pattern, saturating to the largest finite.
    fn bits(&self, value: f32) -> u8 {
        if value.is_nan() {
            return 0x7f;
        }
        let sign = if value.is_sign_negative() { 0x80 } else { 0 };
        let magnitude = f64::from(value.abs());
        let above = self.finite.partition_point(|&finite| finite < magnitude);
        let nearest = match self.finite.get(above) {
            None => above - 1,
            Some(_) if above == 0 => 0,
            Some(next) => {
                let (down, up) = (magnitude - self.finite[above - 1], next - magnitude);
                if down < up || down == up && above % 2 == 1 { above - 1 } else { above }
            }
        };
        sign | nearest as u8
    }
}

/// An 8-bit float by its definition.
fn fp8_value(exponent_bits: u32, mantissa_bits: u32, finite: bool, bits: u8) -> f32 {
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let magnitude = u32::from(bits & 0x7f);
    let (exponent, mantissa) = (magnitude >> mantissa_bits, magnitude & ((1 << mantissa_bits) - 1));
    let top = (1 << exponent_bits) - 1;
    let bias = (1 << (exponent_bits - 1)) - 1;
    if finite && magnitude == 0x7f || !finite && exponent == top && mantissa != 0 {
        return f32::NAN;
    }
    if !finite && exponent == top {
        return sign * f32::INFINITY;
    }
    let fraction = mantissa as f32 / (1 << mantissa_bits) as f32;
    let (lead, power) = if exponent == 0 { (0.0, 1 - bias) } else { (1.0, exponent as i32 - bias) };
    sign * (lead + fraction) * 2f32.powi(power)
}
