//! Ranks that train together: the loss curve of one rank, and the same parameters on all of them.

mod support;

use ddp_mlp::trainer::{Report, Settings, train};
use support::on_ranks;

/// Of a loss, between two numbers of ranks, in f32. A loss is a mean of 64 terms, and a gradient one of as many products: a changed
/// order of additions moves either by some units in the last place (2^-24), and 66 small steps add such errors up.
const F32_BOUND: f32 = 1e-5;
/// The same with gradients in bf16, each of which is rounded (2^-9 of itself) once or twice a step.
const BF16_BOUND: f32 = 1.0 / 64.0;

fn settings() -> Settings {
    Settings {
        hidden: vec![32, 32],
        batch: 64,
        epochs: 3,
        rate: 0.1,
        seed: 7,
        bf16: false,
        bucket_bytes: 4096,
        overlap: true,
    }
}

fn reports(ranks: u32, settings: &Settings) -> Vec<Report> {
    on_ranks(ranks, |engine| train(engine, &candle_core::Device::Cpu, settings, |_| ()).unwrap())
}

/// The report of rank 0, after a look at the others.
fn report(ranks: u32, settings: &Settings) -> Report {
    let mut reports = reports(ranks, settings);
    let first = reports.swap_remove(0);
    for other in reports {
        assert_eq!(other.digest, first.digest, "the ranks' parameters differ");
        assert_eq!(other.losses, first.losses);
    }
    first
}

fn assert_same_curve(one: &Report, several: &Report, bound: f32) {
    assert_eq!(one.losses.len(), several.losses.len());
    for (step, (expected, seen)) in one.losses.iter().zip(&several.losses).enumerate() {
        let error = (seen - expected).abs() / expected;
        assert!(error <= bound, "step {step}, {} ranks: {seen} is not {expected}", several.ranks);
    }
}

#[test]
fn two_and_four_ranks_have_the_loss_curve_of_one() {
    let settings = settings();
    let one = report(1, &settings);
    assert!(one.buckets > 2, "too few buckets to overlap: {}", one.buckets);
    assert!(one.losses.last().unwrap() < &(one.losses[0] / 2.0), "nothing was learned: {:?}", one.losses);
    for ranks in [2, 4] {
        assert_same_curve(&one, &report(ranks, &settings), F32_BOUND);
    }
}

#[test]
fn so_they_have_in_bf16() {
    let settings = Settings { bf16: true, ..settings() };
    let one = report(1, &settings);
    assert!(one.losses.last().unwrap() < &(one.losses[0] / 2.0), "nothing was learned: {:?}", one.losses);
    for ranks in [2, 4] {
        assert_same_curve(&one, &report(ranks, &settings), BF16_BOUND);
    }
}

#[test]
fn overlap_and_buckets_change_no_bit() {
    let settings = Settings { epochs: 1, ..settings() };
    let expected = report(2, &settings);
    for (bucket_bytes, overlap) in [(4096, false), (1, true), (usize::MAX, true)] {
        let seen = report(2, &Settings { bucket_bytes, overlap, ..settings.clone() });
        assert_eq!(seen.digest, expected.digest, "buckets of {bucket_bytes} bytes, overlap {overlap}");
    }
}

#[test]
fn what_cannot_train_is_an_error_with_its_fix() {
    let cases = [
        (Settings { batch: 63, ..settings() }, "--batch 64"),
        (Settings { batch: 1438, ..settings() }, "smaller --batch"),
        (Settings { epochs: 0, ..settings() }, "--epochs 1"),
        (Settings { rate: 1e9, epochs: 1, ..settings() }, "smaller --rate"),
    ];
    for (settings, fix) in cases {
        let errors =
            on_ranks(2, |engine| train(engine, &candle_core::Device::Cpu, &settings, |_| ()).unwrap_err().to_string());
        assert!(errors.iter().any(|error| error.contains(fix)), "{errors:?}");
    }
}
