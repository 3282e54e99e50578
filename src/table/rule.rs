//! The rule of a kind of device: which variant `auto` takes where nothing was measured, as data.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;

use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::measure::Bytes;
use crate::types::{Collective, WorldSize};
use crate::variant::{Choice, Manifest, Request, Shape};

/// Rows that say which variant serves a request; first fit. A row is for the collective that its variant is one of.
#[derive(Debug)]
pub struct Rule {
    rows: Vec<Row>,
    source: String,
}

#[derive(Debug)]
struct Row {
    choice: Choice,
    ranks: Option<Vec<u32>>,
    floats: Option<bool>,
    up_to: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: u32,
    device: DeviceKind,
    row: Vec<RawRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    variant: String,
    ranks: Option<Vec<u32>>,
    floats: Option<bool>,
    up_to: Option<Bytes>,
    #[serde(flatten)]
    shape: Shape,
}

impl Rule {
    /// That of this build for a kind of device.
    ///
    /// # Panics
    /// If an embedded file is wrong, which a unit test rules out.
    pub fn embedded(kind: DeviceKind) -> Arc<Self> {
        static RULES: [OnceLock<Arc<Rule>>; 2] = [OnceLock::new(), OnceLock::new()];
        let (cell, name, text) = match kind {
            DeviceKind::Cuda => (&RULES[0], "configs/rules/cuda.toml", include_str!("../../configs/rules/cuda.toml")),
            DeviceKind::Cpu => (&RULES[1], "configs/rules/cpu.toml", include_str!("../../configs/rules/cpu.toml")),
        };
        let parse = || Arc::new(Self::parse(name, text, kind).expect("embedded rules are checked by a test"));
        Arc::clone(cell.get_or_init(parse))
    }

    /// A rule from TOML text.
    ///
    /// Errors: [`Error::Config`] with file, key and what would be right.
    pub fn parse(name: &str, text: &str, kind: DeviceKind) -> Result<Self> {
        let wrong = |key: String, detail: String| Error::Config { source_name: name.into(), key, detail };
        let file: File = toml::from_str(text).map_err(|error| wrong("row".into(), error.to_string()))?;
        if file.schema != 1 {
            return Err(wrong("schema".into(), format!("{} is not known, this build reads 1", file.schema)));
        }
        if file.device != kind {
            return Err(wrong("device".into(), format!("the rule is for {}, the device is {kind}", file.device)));
        }
        let mut rows = Vec::with_capacity(file.row.len());
        for (index, raw) in file.row.into_iter().enumerate() {
            let key = |field: &str| format!("row {}: {field}", index + 1);
            let variant =
                Manifest::embedded().get(&raw.variant).map_err(|error| wrong(key("variant"), error.to_string()))?;
            if !variant.enabled {
                return Err(wrong(key("variant"), format!("{} is disabled in the manifest", variant.name)));
            }
            variant.takes_always(&raw.shape).map_err(|error| wrong(key("shape"), error.to_string()))?;
            for &ranks in raw.ranks.iter().flatten() {
                WorldSize::new(ranks).map_err(|error| wrong(key("ranks"), error.to_string()))?;
            }
            let choice = Choice { variant: Arc::clone(variant), shape: raw.shape };
            rows.push(Row { choice, ranks: raw.ranks, floats: raw.floats, up_to: raw.up_to });
        }
        let rule = Self { rows, source: text.into() };
        rule.check_complete().map_err(|detail| wrong("row".into(), detail))?;
        Ok(rule)
    }

    /// Every request has a row: the last one of each collective must fit everything.
    fn check_complete(&self) -> Result<(), String> {
        let fits_all = |row: &Row| row.ranks.is_none() && row.floats.is_none() && row.up_to.is_none();
        let last = |collective| self.rows.iter().rfind(|row: &&Row| row.choice.variant.collective == collective);
        match Collective::ALL.iter().find(|&&collective| !last(collective).is_some_and(fits_all)) {
            None => Ok(()),
            Some(collective) => {
                Err(format!("the last row of {collective} must fit every request: no ranks, floats or up_to"))
            }
        }
    }

    /// The shapes of all rows: what a heap should have room for.
    pub fn shapes(&self) -> impl Iterator<Item = &Shape> {
        self.rows.iter().map(|row| &row.choice.shape)
    }

    /// Sizes, other than powers of two, up to which rows are for.
    pub fn odd_limits(&self) -> impl Iterator<Item = u64> {
        self.rows.iter().filter_map(|row| row.up_to).map(|limit| limit.0).filter(|limit| !limit.is_power_of_two())
    }

    /// The text the rule was read from; part of what ranks compare.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The choice for a request of a collective: the first row that fits and whose variant has the type and operator and is trusted
    /// on the architecture. With it the row's place, from 1.
    ///
    /// Errors: [`Error::Unsupported`] where there is none.
    pub fn choose(
        &self,
        arch: &str,
        world_size: WorldSize,
        collective: Collective,
        request: &Request,
    ) -> Result<(&Choice, usize)> {
        let bytes = request.bytes();
        let fits = |row: &&Row| {
            row.choice.variant.collective == collective
                && row.ranks.as_ref().is_none_or(|ranks| ranks.contains(&world_size.get()))
                && row.floats.is_none_or(|floats| floats == request.dtype.is_float())
                && row.up_to.is_none_or(|limit| bytes <= limit.0)
                && (!row.choice.shape.is_direct() || request.registered)
        };
        let mut numbered = (1..).zip(&self.rows).filter(|(_, row)| fits(row));
        numbered
            .find(|(_, row)| row.choice.serves(arch, world_size, request))
            .map(|(place, row)| (&row.choice, place))
            .ok_or_else(|| {
                Error::unsupported(format!("no variant of {collective} serves {} {}", request.dtype, request.op))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DType, ReduceOp};
    use crate::variant::Lanes;

    #[test]
    fn embedded_rules_serve_everything() {
        for kind in [DeviceKind::Cuda, DeviceKind::Cpu] {
            for &dtype in DType::ALL {
                for &op in ReduceOp::ALL {
                    for count in [1, 1 << 12, 1 << 30] {
                        let world_size = WorldSize::new(3).unwrap();
                        let request = Request { count, dtype, op, registered: false };
                        for (arch, &collective) in ["sm_90a", "sm_80", "cpu"]
                            .iter()
                            .flat_map(|arch| Collective::ALL.iter().map(move |c| (arch, c)))
                        {
                            let rule = Rule::embedded(kind);
                            let (choice, _) = rule.choose(arch, world_size, collective, &request).unwrap();
                            choice.variant.implements(collective).unwrap();
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn untried_protocols_are_passed_over() {
        let rule = Rule::embedded(DeviceKind::Cuda);
        let request = Request { count: 1, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
        for (collective, push) in [
            (Collective::AllReduce, "one_shot_push"),
            (Collective::ReduceScatter, "push_reduce_scatter"),
            (Collective::AllGather, "push_all_gather"),
        ] {
            let choose = |arch| {
                let (choice, _) = rule.choose(arch, WorldSize::new(4).unwrap(), collective, &request).unwrap();
                choice.variant.name.clone()
            };
            assert_eq!(choose("sm_90a"), push);
            assert_ne!(choose("sm_75"), push);
        }
    }

    #[test]
    fn small_parts_are_pushed_larger_ones_staged_and_the_largest_go_round() {
        for (kind, arch, expected) in [
            (DeviceKind::Cuda, "sm_90a", &["push", "signal", "ring"] as &[_]),
            (DeviceKind::Cpu, "cpu", &["push", "signal"]),
        ] {
            let rule = Rule::embedded(kind);
            for collective in [Collective::ReduceScatter, Collective::AllGather] {
                for (ranks, dtype) in (2..=8).flat_map(|ranks| [DType::Bf16, DType::U8].map(|dtype| (ranks, dtype))) {
                    let family = |bits: u32| {
                        let count = (1 << bits) / dtype.size_bytes() as u64;
                        let request = Request { count, dtype, op: ReduceOp::Sum, registered: false };
                        let world_size = WorldSize::new(ranks).unwrap();
                        let (choice, _) = rule.choose(arch, world_size, collective, &request).unwrap();
                        choice.variant.name.split('_').next().unwrap().to_owned()
                    };
                    let mut families: Vec<_> = (10..=30).map(family).collect();
                    families.dedup();
                    assert_eq!(families, expected, "{collective} of {dtype} over {ranks} ranks on {kind}");
                }
            }
        }
    }

    const START: &str = "schema = 1\ndevice = \"cpu\"\n";

    /// A rule of these rows, and one for each of the other collectives.
    fn parse(rows: &str) -> Result<Rule> {
        let others = ["signal_reduce_scatter", "signal_all_gather", "signal_broadcast"];
        let others = others.map(|name| format!("[[row]]\nvariant = \"{name}\"\n")).concat();
        Rule::parse("t.toml", &format!("{START}{rows}{others}"), DeviceKind::Cpu)
    }

    #[test]
    fn rows_have_shapes() {
        let rule = parse("[[row]]\nvariant = \"ring\"\nlanes = \"by_size\"\nchunk = \"2K\"\nslots = 2\n").unwrap();
        let request = Request { count: 1, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
        let (choice, place) = rule.choose("cpu", WorldSize::new(2).unwrap(), Collective::AllReduce, &request).unwrap();
        let shape = Shape { lanes: Some(Lanes::BySize), chunk: Some(Bytes(2048)), slots: Some(2), ..Shape::default() };
        assert_eq!((choice.shape, place), (shape, 1));
    }

    #[test]
    fn rows_with_direct_outputs_are_for_registered_ones() {
        let rows = "[[row]]\nvariant = \"ring\"\noutput = \"direct\"\nup_to = \"1G\"\n\
                    [[row]]\nvariant = \"one_shot_push\"\n";
        let rule = parse(rows).unwrap();
        let chosen = |registered| {
            let request = Request { count: 1, dtype: DType::F32, op: ReduceOp::Sum, registered };
            let (choice, _) = rule.choose("cpu", WorldSize::new(2).unwrap(), Collective::AllReduce, &request).unwrap();
            choice.variant.name.clone()
        };
        assert_eq!((chosen(true), chosen(false)), ("ring".to_owned(), "one_shot_push".to_owned()));
    }

    #[test]
    fn wrong_rules_name_file_row_and_key() {
        let wrong = |rows: &str| parse(rows).unwrap_err().to_string();
        let error = wrong("[[row]]\nvariant = \"warp_drive\"\n");
        assert!(error.contains("t.toml") && error.contains("row 1: variant"), "{error}");
        let error = wrong("[[row]]\nvariant = \"one_shot_push\"\nup_to = \"12Q\"\n");
        assert!(error.contains("12Q"), "{error}");
        let error = wrong("[[row]]\nvariant = \"ring\"\nslots = 3\n");
        assert!(error.contains("row 1: shape") && error.contains("slots=3"), "{error}");
        let error = wrong("[[row]]\nvariant = \"ring_copy_engine\"\noutput = \"landing\"\n");
        assert!(error.contains("row 1: shape") && error.contains("output=landing"), "{error}");
        let error = wrong("[[row]]\nvariant = \"ring\"\nlane = 3\n");
        assert!(error.contains("lane"), "{error}");
        let error = wrong("[[row]]\nvariant = \"one_shot_push\"\nup_to = \"1K\"\n");
        assert!(error.contains("the last row of all_reduce"), "{error}");
        let of = |text: &str| Rule::parse("t.toml", text, DeviceKind::Cpu).unwrap_err().to_string();
        let error = of(&format!("{START}[[row]]\nvariant = \"ring\"\n"));
        assert!(error.contains("the last row of reduce_scatter"), "{error}");
        let error = of("schema = 2\ndevice = \"cpu\"\nrow = []\n");
        assert!(error.contains("schema"), "{error}");
    }
}
