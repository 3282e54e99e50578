//! What is written, what is read, and what is refused.

use proptest::prelude::*;

use super::super::lane_table::tests::{row, section, table};
use super::*;
use crate::variant::Lanes;

/// Two sections; the first row is on line 27 of its text.
fn sample() -> LaneTable {
    let rows = vec![row(0, "one_shot_push", 16), row(4096, "two_shot_push", 64), row(1 << 20, "ring", 128)];
    let float = section(4, DTypeClass::Float, Buffers::Plain, rows);
    table(vec![float, section(4, DTypeClass::Integer, Buffers::Registered, vec![row(0, "low_latency", 8)])])
}

#[test]
fn a_row_is_a_line() {
    let table = sample();
    let line = table.source().lines().find(|line| line.contains("two_shot_push")).unwrap();
    assert_eq!(
        line,
        "  { from = \"4K\", to = \"1M\", variant = \"two_shot_push\", lanes = 64, threads = 64, at = \"4K\", p50_us = 2.500, \
         runner_up = \"ring lanes=8\", margin = 1.250 },"
    );
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_key() {
    let table = sample();
    let text = table.source();
    let line_of = |what: &str| 1 + text.lines().position(|line| line.contains(what)).unwrap();
    let (first, second, third) = (line_of("one_shot_push"), line_of("two_shot_push"), line_of("\"ring\""));
    let head = line_of("[[section]]");
    for (from, to, line, parts) in [
        ("schema = 1", "schema = 9", line_of("schema"), ["schema", "9 is not the one known, 1"]),
        ("complete = true", "completed = true", line_of("complete"), ["completed", "unknown field"]),
        ("gpus = 8", "gpus = -8", line_of("gpus"), ["gpus", "-8"]),
        ("ranks = 4", "ranks = 9", line_of("ranks"), ["ranks", "1 to 8"]),
        ("\"float\"", "\"floats\"", line_of("\"float\""), ["dtypes", "known are float, float8, integer"]),
        ("buffers = \"plain\"", "buffer = \"plain\"", line_of("buffers"), ["buffer", "unknown field"]),
        ("lanes = 64", "lane = 64", second, ["lane:", "no row has such a key"]),
        ("lanes = 64", "lanes = 129", second, ["two_shot_push", "lanes=129"]),
        ("lanes = 64", "lanes = -1", second, ["lanes", "lanes"]),
        ("lanes = 64", "slots = 2, lanes = 64", second, ["two_shot_push", "slots=2"]),
        ("\"ring\", lanes", "\"rign\", lanes", third, ["variant", "unknown variant 'rign'"]),
        (
            "\"ring\", lanes",
            "\"ring_copy_engine\", output = \"landing\", lanes",
            third,
            ["ring_copy_engine", "operations in place"],
        ),
        ("at = \"4K\"", "at = \"4Q\"", second, ["at", "'4Q' is not a size"]),
        ("p50_us = 2.500", "p50_us = nan", first, ["p50_us", "nan is not a positive number"]),
        ("p50_us = 2.500, ", "", first, ["p50_us", "is missing"]),
        ("margin = 1.250", "margin = 0.0", first, ["margin", "positive"]),
        (", margin = 1.250", "", first, ["runner_up", "comes with a margin"]),
        ("from = \"4K\"", "from = \"8K\"", second, ["from", "8K nothing is for the sizes before: it has to be 4K"]),
        ("from = \"4K\"", "from = \"2K\"", second, ["from", "2K overlaps the row before: it has to be 4K"]),
        (", to = \"1M\"", ", to = \"4K\"", second, ["to", "more than from, 4K"]),
        (", to = \"1M\"", "", third, ["from", "no `to`"]),
        ("from = \"1M\", variant", "from = \"1M\", to = \"2M\", variant", head, ["rows", "nothing is for 2M and more"]),
        ("rows = [", "rows = [,", line_of("rows"), ["", ""]),
        ("{ from = \"4K\"", "{ from = \"4K\", from = \"4K\"", second, [" from: ", "duplicate key"]),
        ("dtype = \"f32\"", "dtype = \"i32\"", head, ["dtype:", "i32 is none of float"]),
        ("[provenance]", "[provenence]", line_of("[provenance]"), ["provenence:", "unknown field"]),
        ("device = \"cuda\"\n", "", 1, [" device: ", "missing field"]),
    ] {
        assert!(text.contains(from), "{from}");
        let error = parse("t.toml", &text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("t.toml: line {line}: ")), "{from} -> {to}: {error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{from} -> {to}: {error}");
    }
    let twice = text.replace("\"integer\"", "\"float\"").replace("\"i32\"", "\"f32\"");
    let twice = twice.replace("\"registered\"", "\"plain\"");
    let error = parse("t.toml", &twice).unwrap_err().to_string();
    assert!(error.contains("float in plain buffers over 4 ranks has two sections"), "{error}");
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(
        ends in prop::collection::btree_set(1u64..1 << 40, 0..8),
        times in prop::collection::vec((1u32..1 << 30, prop::option::of(1u32..4000), prop::option::of(1u32..4000)), 9),
        picks in prop::collection::vec(0usize..100, 9),
        ranks in 1u32..=8,
    ) {
        let variants: Vec<_> = Manifest::embedded().enabled().collect();
        let rows: Vec<_> = std::iter::once(0).chain(ends).zip(&times).zip(&picks).map(|((from, time), &pick)| {
            let variant = variants[pick % variants.len()];
            let points: Vec<_> = variant.parameters.points().into_iter().filter(|point| variant.takes_always(point).is_ok()).collect();
            let lanes = if pick % 3 == 0 { Lanes::BySize } else { Lanes::UpTo(1 + pick as u32) };
            let shape = Shape { lanes: Some(lanes), threads: Some(64), ..points[pick % points.len()] };
            let thousandth = |number: u32| f64::from(number) / 1000.0;
            let measured = Measured {
                at: Bytes(from.max(16)),
                p50_us: thousandth(time.0),
                runner_up: time.1.map(|margin| ("say \"x\" y=2".to_owned(), thousandth(margin))),
                nccl_us: time.2.map(thousandth),
            };
            Row { from, choice: Choice { shape, ..Choice::of(variant) }, measured }
        }).collect();
        let written = table(vec![section(ranks, DTypeClass::Float8, Buffers::Plain, rows)]);
        let read = parse("t.toml", written.source()).unwrap();
        prop_assert_eq!(read.sections(), written.sections());
        prop_assert_eq!((&read.provenance, read.device, &read.commit), (&written.provenance, written.device, &written.commit));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[a-z=\\[\\]{}\", 0-9\n]{0,80}", cut in 0usize..2000) {
        let _ = parse("t.toml", &text);
        let whole = sample().source().to_owned();
        let _ = parse("t.toml", whole.get(..cut).unwrap_or(&whole));
    }
}
