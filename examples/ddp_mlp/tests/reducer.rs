//! The reducer on its own: the order of gradients, what they become, and what it refuses.

// WHY: each test program uses a part of it.
#[allow(dead_code)]
mod support;

use std::time::Duration;

use candle_core::{DType, Device, Tensor, Var};
use ddp_mlp::engine::Engine;
use ddp_mlp::model::Mlp;
use ddp_mlp::reducer::{Reducer, Settings};
use myelon_ccl::Options;
use support::{on_ranks, on_ranks_with};

const SETTINGS: Settings = Settings { compute: DType::F32, wire: DType::F32, bucket_bytes: 256, overlap: true };

fn model() -> Mlp {
    model_of(3)
}

fn model_of(seed: u64) -> Mlp {
    Mlp::new(&[4, 8, 8, 2], seed, &Device::Cpu).unwrap()
}

/// Of rank `rank`: the ranks have different data.
fn images(rank: usize) -> Tensor {
    let values: Vec<f32> = (0..12).map(|value| (value * (rank + 1)) as f32 / 12.0).collect();
    Tensor::from_vec(values, (3, 4), &Device::Cpu).unwrap()
}

fn loss(model: &Mlp, images: &Tensor, reducer: Option<&Reducer>) -> Tensor {
    let through = |number, parameter: &Tensor| match reducer {
        Some(reducer) => reducer.through(number, parameter),
        None => Ok(parameter.clone()),
    };
    model.forward(images, through).unwrap().sqr().unwrap().mean_all().unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_rank_begins_with_the_parameters_of_rank_0() {
    let all = |model: &Mlp| model.parameters().iter().map(|parameter| values(parameter)).collect::<Vec<_>>();
    assert_ne!(all(&model_of(0)), all(&model_of(1)));
    let seen = on_ranks(3, |engine: Engine| {
        let model = model_of(engine.rank() as u64);
        Reducer::new(engine, model.parameters(), SETTINGS).unwrap();
        all(&model)
    });
    assert!(seen.iter().all(|values| *values == all(&model_of(0))));
}

#[test]
fn gradients_come_in_the_opposite_order_of_the_forward_pass() {
    on_ranks(1, |engine| {
        let model = model();
        let reducer = Reducer::new(engine, model.parameters(), SETTINGS).unwrap();
        for _ in 0..2 {
            let mut gradients = loss(&model, &images(0), Some(&reducer)).backward().unwrap();
            assert_eq!(reducer.order(), [5, 4, 3, 2, 1, 0]);
            reducer.finish(&mut gradients).unwrap();
            assert!(reducer.order().is_empty());
        }
    });
}

#[test]
fn buckets_are_queued_within_the_backward_pass_or_all_after_it() {
    for overlap in [true, false] {
        on_ranks(1, |engine| {
            let model = model();
            let reducer = Reducer::new(engine, model.parameters(), Settings { overlap, ..SETTINGS }).unwrap();
            assert!(reducer.buckets() > 2);
            let mut gradients = loss(&model, &images(0), Some(&reducer)).backward().unwrap();
            assert_eq!(reducer.queued(), if overlap { reducer.buckets() } else { 0 });
            reducer.finish(&mut gradients).unwrap();
            assert_eq!(reducer.queued(), 0);
        });
    }
}

#[test]
fn what_the_optimizer_gets_is_the_mean_of_the_ranks_gradients() {
    let model = model();
    let own: Vec<_> = (0..2).map(|rank| loss(&model, &images(rank), None).backward().unwrap()).collect();
    let averages = on_ranks(2, |engine: Engine| {
        let (model, images) = (self::model(), images(engine.rank()));
        let reducer = Reducer::new(engine, model.parameters(), SETTINGS).unwrap();
        let mut gradients = loss(&model, &images, Some(&reducer)).backward().unwrap();
        reducer.finish(&mut gradients).unwrap();
        model.parameters().iter().map(|parameter| values(gradients.get(parameter).unwrap())).collect::<Vec<_>>()
    });
    assert_eq!(averages[0], averages[1]);
    for (parameter, average) in model.parameters().iter().zip(&averages[0]) {
        let [first, second] = [0, 1].map(|rank: usize| values(own[rank].get(parameter).unwrap()));
        for ((first, second), average) in first.iter().zip(&second).zip(average) {
            // Two f32 have the same mean in any order of additions.
            assert_eq!(*average, (first + second) / 2.0);
        }
    }
}

#[test]
fn a_parameter_that_is_used_twice_or_not_at_all_is_an_error() {
    on_ranks(1, |engine| {
        let model = model();
        let unused = Var::zeros(3, DType::F32, &Device::Cpu).unwrap();
        let parameters = [model.parameters(), &[unused]].concat();
        let reducer = Reducer::new(engine, &parameters, SETTINGS).unwrap();
        let mut gradients = loss(&model, &images(0), Some(&reducer)).backward().unwrap();
        let error = reducer.finish(&mut gradients).unwrap_err().to_string();
        assert!(error.contains("parameter 6 has no gradient"), "{error}");
        let error = loss(&model, &images(0), Some(&reducer)).backward().unwrap_err().to_string();
        assert!(error.contains("parameter 5 is used twice"), "{error}");
    });
}

#[test]
fn gradients_of_a_stalled_step_never_reach_the_optimizer() {
    let options = Options { timeout: Duration::from_secs(3), ..Options::default() };
    let (gave_up, heard) = std::sync::mpsc::channel();
    let heard = std::sync::Mutex::new(heard);
    on_ranks_with(2, options, |engine: Engine| {
        let (model, rank, images) = (model(), engine.rank(), images(engine.rank()));
        let reducer = Reducer::new(engine, model.parameters(), SETTINGS).unwrap();
        let step = || -> ddp_mlp::Result<_> {
            let mut gradients = loss(&model, &images, Some(&reducer)).backward()?;
            let outcome = reducer.finish(&mut gradients);
            Ok((gradients, outcome.map_err(|error| error.to_string())))
        };
        // Everything is compiled then.
        step().unwrap().1.unwrap();
        if rank == 1 {
            heard.lock().unwrap().recv_timeout(Duration::from_secs(60)).expect("rank 0 gives up");
            let error = step().err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.contains("rank 0")), "a step went on after rank 0 had given up");
            return;
        }
        let (gradients, outcome) = step().unwrap();
        let error = outcome.unwrap_err();
        gave_up.send(()).unwrap();
        assert!(error.contains("rank 1"), "{error}");
        assert!(model.parameters().iter().all(|parameter| gradients.get(parameter).is_none()));
    });
}
