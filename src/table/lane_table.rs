//! [`LaneTable`]: what was measured to win, by world size, class and size; and the look-up.

use std::path::Path;

use super::class::{Buffers, DTypeClass, OperatorClass};
use super::file;
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::measure::{Bytes, Provenance};
use crate::types::{DType, MAX_WORLD_SIZE, ReduceOp, WorldSize};
use crate::variant::{Choice, Shape};

/// A measured lane table. [`LaneTable::choose`] is the same on all ranks that have equal ones.
#[derive(Clone, Debug)]
pub struct LaneTable {
    /// Where it came from, for messages.
    pub(super) name: String,
    /// Kind of the devices that it was measured on.
    pub device: DeviceKind,
    /// Commit of the sources that measured it, or "not found".
    pub commit: String,
    /// Whether the search came to its end; a budget or an interruption may have cut it.
    pub complete: bool,
    /// Where, when and with what it was measured.
    pub provenance: Provenance,
    /// INVARIANT: at most one for each key; found through `index`.
    pub(super) sections: Vec<Section>,
    /// Place in `sections` by [`place_of`]; none where there is no section.
    index: Vec<Option<u16>>,
    source: String,
}

/// The rows of one world size, class of types, class of operators, and kind of buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Ranks.
    pub ranks: WorldSize,
    /// Types that it is for.
    pub dtypes: DTypeClass,
    /// Operators that it is for.
    pub operators: OperatorClass,
    /// Operands that it is for.
    pub buffers: Buffers,
    /// Type that it was measured with.
    pub dtype: DType,
    /// Operator that it was measured with.
    pub op: ReduceOp,
    /// INVARIANT: at least one; `from` grows from 0 on. A row ends where the next begins, the last one never.
    pub rows: Vec<Row>,
}

/// What to take from one size up to the next row's.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Smallest message it is for, in bytes.
    pub from: u64,
    /// What won.
    pub choice: Choice,
    /// The times that say so.
    pub measured: Measured,
}

/// What was measured at one size.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The size: that of `from`, but for the first row of a section.
    pub at: Bytes,
    /// Time of the choice: slowest rank, p50 over the repeats, microseconds.
    pub p50_us: f64,
    /// The fastest of the others, and its time as a multiple of the choice's. Below 1 it was faster and cannot be chosen, as NCCL,
    /// or by so little that the choice of the row before stayed.
    pub runner_up: Option<(String, f64)>,
    /// NCCL's time, where it was measured.
    pub nccl_us: Option<f64>,
}

impl LaneTable {
    /// A table of these sections, its text among them.
    ///
    /// Errors: [`Error::InvalidArgument`] for what [`LaneTable::parse`] would refuse.
    pub fn new(
        device: DeviceKind,
        commit: &str,
        complete: bool,
        provenance: Provenance,
        sections: Vec<Section>,
    ) -> Result<Self> {
        let text = file::text(device, commit, complete, &provenance, &sections)?;
        Self::parse("the new table", &text)
    }

    /// Parts that were checked one by one; `source` is their text.
    ///
    /// Errors: what is wrong with the sections as a whole.
    pub(super) fn assemble(name: &str, head: file::Head, sections: Vec<Section>, source: &str) -> Result<Self, String> {
        let mut index =
            vec![
                None;
                place_of(WorldSize::new(MAX_WORLD_SIZE).expect("in range"), DTypeClass::Integer, Buffers::Registered)
                    + 1
            ];
        for (number, section) in (0u16..).zip(&sections) {
            let place = &mut index[place_of(section.ranks, section.dtypes, section.buffers)];
            if place.replace(number).is_some() {
                let Section { ranks, dtypes, buffers, .. } = section;
                return Err(format!("{dtypes} in {buffers} buffers over {ranks} ranks has two sections: leave one"));
            }
        }
        let file::Head { device, commit, complete, provenance } = head;
        let (name, source) = (name.to_owned(), source.to_owned());
        Ok(Self { name, device, commit, complete, provenance, sections, index, source })
    }

    /// A table from a file.
    ///
    /// Errors: [`Error::Io`] if it cannot be read; those of [`LaneTable::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::at_path("cannot read", path, error))?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// A table from TOML text; `name` is for messages.
    ///
    /// Errors: [`Error::Config`] with file, line and key, and what would be right: an unknown key, variant or parameter, a bad
    /// number, ranges of sizes that overlap or leave something out.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        file::parse(name, text)
    }

    /// Its name: that of its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text; part of what ranks compare.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is of this device kind: times on another say nothing.
    ///
    /// Errors: [`Error::InvalidArgument`] with both kinds.
    pub fn serves(&self, kind: DeviceKind) -> Result<()> {
        if self.device == kind {
            return Ok(());
        }
        let (name, device) = (self.name(), self.device);
        Err(Error::invalid(format!(
            "the lane table {name} is of device kind {device}, and the ranks run on {kind}: name one that myelon-tune --device {kind} \
             wrote, or none"
        )))
    }

    /// Every section.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Whether any section is for this world size.
    pub fn has(&self, ranks: WorldSize) -> bool {
        self.sections.iter().any(|section| section.ranks == ranks)
    }

    /// The shapes of all rows for a world size: what a heap should have room for.
    pub fn shapes(&self, ranks: WorldSize) -> impl Iterator<Item = &Shape> {
        self.rows(ranks).map(|row| &row.choice.shape)
    }

    /// The rows for a world size.
    pub(super) fn rows(&self, ranks: WorldSize) -> impl Iterator<Item = &Row> {
        self.sections.iter().filter(move |section| section.ranks == ranks).flat_map(|section| &section.rows)
    }

    /// The row for a message of `bytes`; none where nothing was measured for the ranks and classes.
    pub fn choose(&self, ranks: WorldSize, dtypes: DTypeClass, buffers: Buffers, bytes: u64) -> Option<&Row> {
        let section = |dtypes, buffers| self.index[place_of(ranks, dtypes, buffers)];
        let section = section(dtypes, buffers)
            .or_else(|| section(dtypes, Buffers::Plain))
            .or_else(|| (dtypes == DTypeClass::Float8).then(|| section(DTypeClass::Float, Buffers::Plain)).flatten())?;
        Some(self.sections[usize::from(section)].row(bytes))
    }
}

impl Section {
    /// The row for a message of `bytes`.
    pub fn row(&self, bytes: u64) -> &Row {
        // The first row begins at 0, so at least one does not begin later.
        let behind = self.rows.partition_point(|row| row.from <= bytes);
        &self.rows[behind.saturating_sub(1)]
    }
}

/// Operators have one class, which so takes no place.
fn place_of(ranks: WorldSize, dtypes: DTypeClass, buffers: Buffers) -> usize {
    let ranks = ranks.get() as usize - 1;
    (ranks * DTypeClass::ALL.len() + dtypes as usize) * Buffers::ALL.len() + buffers as usize
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measure::provenance::tests::provenance;
    use crate::variant::{Lanes, Manifest};

    pub(in crate::table) fn row(from: u64, variant: &str, lanes: u32) -> Row {
        let shape = Shape { lanes: Some(Lanes::UpTo(lanes)), threads: Some(64), ..Shape::default() };
        let choice = Choice { shape, ..Choice::of(Manifest::embedded().get(variant).unwrap()) };
        let measured = Measured {
            at: Bytes(from.max(64)),
            p50_us: 2.5,
            runner_up: Some(("ring lanes=8".into(), 1.25)),
            nccl_us: None,
        };
        Row { from, choice, measured }
    }

    pub(in crate::table) fn section(ranks: u32, dtypes: DTypeClass, buffers: Buffers, rows: Vec<Row>) -> Section {
        let ranks = WorldSize::new(ranks).unwrap();
        let dtype = match dtypes {
            DTypeClass::Float => DType::F32,
            DTypeClass::Float8 => DType::E4m3,
            DTypeClass::Integer => DType::I32,
        };
        Section { ranks, dtypes, operators: OperatorClass::All, buffers, dtype, op: ReduceOp::Sum, rows }
    }

    pub(in crate::table) fn table(sections: Vec<Section>) -> LaneTable {
        LaneTable::new(DeviceKind::Cuda, "1a2b3c", true, provenance(), sections).unwrap()
    }

    fn lanes(table: &LaneTable, ranks: u32, dtypes: DTypeClass, buffers: Buffers, bytes: u64) -> Option<u32> {
        let row = table.choose(WorldSize::new(ranks).unwrap(), dtypes, buffers, bytes)?;
        row.choice.shape.lanes.map(|lanes| lanes.most(bytes))
    }

    #[test]
    fn a_boundary_belongs_to_the_row_that_begins_there() {
        let rows = vec![row(0, "one_shot_push", 1), row(4096, "one_shot_push", 2), row(1 << 20, "ring", 3)];
        let table = table(vec![section(2, DTypeClass::Float, Buffers::Plain, rows)]);
        let at = |bytes| lanes(&table, 2, DTypeClass::Float, Buffers::Plain, bytes);
        assert_eq!([0, 4095, 4096, (1 << 20) - 1, 1 << 20, u64::MAX].map(at), [1, 1, 2, 2, 3, 3].map(Some));
    }

    #[test]
    fn a_class_without_rows_of_its_own_takes_the_nearest() {
        let (float, float8, integer) = (DTypeClass::Float, DTypeClass::Float8, DTypeClass::Integer);
        let (plain, registered) = (Buffers::Plain, Buffers::Registered);
        let one = |ranks, dtypes, buffers, lanes| section(ranks, dtypes, buffers, vec![row(0, "one_shot_push", lanes)]);
        let table = table(vec![
            one(2, float, plain, 1),
            one(2, float, registered, 2),
            one(4, float8, plain, 3),
            one(4, integer, plain, 4),
        ]);
        let at = |ranks, dtypes, buffers| lanes(&table, ranks, dtypes, buffers, 1);
        assert_eq!([at(2, float, plain), at(2, float, registered)], [Some(1), Some(2)]);
        assert_eq!([at(2, float8, plain), at(2, float8, registered)], [Some(1), Some(1)]);
        assert_eq!([at(2, integer, plain), at(8, float, plain)], [None, None]);
        assert_eq!(
            [at(4, float8, registered), at(4, integer, registered), at(4, float, plain)],
            [Some(3), Some(4), None]
        );
    }

    #[test]
    fn a_table_serves_its_own_device_kind() {
        let table = table(vec![section(2, DTypeClass::Float, Buffers::Plain, vec![row(0, "ring", 1)])]);
        table.serves(DeviceKind::Cuda).unwrap();
        let message = table.serves(DeviceKind::Cpu).unwrap_err().to_string();
        assert!(message.contains("is of device kind cuda, and the ranks run on cpu: name one"), "{message}");
    }

    proptest! {
        #[test]
        fn the_search_finds_what_a_walk_finds(mut from in prop::collection::btree_set(1u64..1 << 40, 0..60), bytes in 0u64..1 << 41) {
            from.insert(0);
            let rows: Vec<_> = from.iter().map(|&from| row(from, "ring", 1)).collect();
            let walked = rows.iter().rev().find(|row| row.from <= bytes).unwrap().from;
            prop_assert_eq!(section(2, DTypeClass::Float, Buffers::Plain, rows).row(bytes).from, walked);
        }
    }
}
