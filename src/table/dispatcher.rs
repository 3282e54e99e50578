//! [`Dispatcher`]: what a communicator asks for the choice of a request.

use std::fmt;
use std::sync::Arc;

use super::class::{Buffers, DTypeClass};
use super::lane_table::{LaneTable, Row};
use super::rule::Rule;
use crate::device::DeviceKind;
use crate::error::Result;
use crate::measure::Bytes;
use crate::types::{Collective, WorldSize};
use crate::variant::{Choice, LARGE_BYTES, Manifest, Request, Shape, Terrain};

/// What decides for the ranks of a communicator: a choice that was forced, else a lane table, else the rule of the device kind.
/// Each is asked only where its variant is one of the collective, has the type and operator, and is trusted on the architecture.
/// Tables are of all-reduces.
#[derive(Debug)]
pub struct Dispatcher {
    forced: Option<Choice>,
    table: Option<Arc<LaneTable>>,
    /// Whether every row of the table is trusted on the architecture, as on the machine that it was measured on.
    trusts_all: bool,
    rule: Arc<Rule>,
    /// Variants with a form for lists of buckets that are trusted on the architecture.
    for_buckets: Vec<Choice>,
    arch: String,
    ranks: WorldSize,
    sentinel: bool,
}

/// A choice, and what made it.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// What runs.
    pub choice: &'a Choice,
    /// Why.
    pub origin: Origin<'a>,
}

/// What made a choice.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// It was forced.
    Forced,
    /// A row of this table.
    Table(&'a LaneTable, &'a Row),
    /// The row at this place of the rule, from 1.
    Rule(usize),
    /// It is the last of the manifest with a form for buckets.
    Manifest,
}

impl Decision<'_> {
    /// What runs on a terrain for a message of so many bytes. A row of a table or of the rule is cut to the room there, for it must run anywhere; what was forced is
    /// refused later where it does not fit.
    pub fn on(&self, terrain: &Terrain<'_>, bytes: u64) -> Choice {
        match self.origin {
            Origin::Forced => self.choice.clone(),
            Origin::Table(..) | Origin::Rule(_) | Origin::Manifest => self.choice.within(terrain, bytes),
        }
    }
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forced => f.write_str("forced"),
            Self::Table(table, row) => write!(f, "{}, the row from {}", table.name(), Bytes(row.from)),
            Self::Rule(place) => write!(f, "row {place} of the rule"),
            Self::Manifest => f.write_str("the last of the manifest with a form for buckets"),
        }
    }
}

impl Dispatcher {
    /// For `ranks` ranks on devices of one kind and architecture. `sentinel` says whether floats use sentinel mailboxes.
    pub fn new(
        forced: Option<Choice>,
        table: Option<Arc<LaneTable>>,
        kind: DeviceKind,
        arch: &str,
        ranks: WorldSize,
        sentinel: bool,
    ) -> Self {
        let trusts = |table: &Arc<LaneTable>| table.rows(ranks).all(|row| row.choice.variant.is_trusted_on(arch));
        let trusts_all = table.iter().all(trusts);
        let manifest = Manifest::embedded();
        let with_buckets = manifest.enabled().filter(|spec| spec.buckets && spec.is_trusted_on(arch));
        let for_buckets = with_buckets.map(Choice::of).collect();
        let (rule, arch) = (Rule::embedded(kind), arch.to_owned());
        Self { forced, table, trusts_all, rule, for_buckets, arch, ranks, sentinel }
    }

    /// The choice for a request of all-reduce: [`Dispatcher::choose_of`] that.
    pub fn choose(&self, request: &Request) -> Result<Decision<'_>> {
        self.choose_of(Collective::AllReduce, request)
    }

    /// The choice for a request of any collective: of one rank's part, where there are parts. Allocates nothing.
    ///
    /// Errors: [`crate::Error::Unsupported`] where no variant has the type and operator.
    pub fn choose_of(&self, collective: Collective, request: &Request) -> Result<Decision<'_>> {
        if let Some(choice) = &self.forced
            && choice.variant.collective == collective
            && choice.variant.supports(request.dtype, request.op, self.ranks).is_ok()
        {
            return Ok(Decision { choice, origin: Origin::Forced });
        }
        if let Some(table) = self.table.as_ref().filter(|_| collective == Collective::AllReduce) {
            let class = DTypeClass::of(request.dtype, self.sentinel);
            let buffers = if request.registered { Buffers::Registered } else { Buffers::Plain };
            let row = table.choose(self.ranks, class, buffers, request.bytes());
            let is_trusted = |row: &Row| self.trusts_all || row.choice.variant.is_trusted_on(&self.arch);
            let is_possible = |row: &Row| request.registered || !row.choice.shape.is_direct();
            let serves = |row: &&Row| {
                is_trusted(row)
                    && is_possible(row)
                    && row.choice.variant.supports(request.dtype, request.op, self.ranks).is_ok()
            };
            if let Some(row) = row.filter(serves) {
                return Ok(Decision { choice: &row.choice, origin: Origin::Table(table, row) });
            }
        }
        self.by_rule(collective, request)
    }

    /// What runs on a terrain for a request of any collective, and why: [`Dispatcher::choose_of`], but the rule's choice where a table's
    /// is not worth taking there.
    ///
    /// Errors: as [`Dispatcher::choose_of`].
    pub fn decide(
        &self,
        collective: Collective,
        request: &Request,
        terrain: &Terrain<'_>,
    ) -> Result<(Choice, Origin<'_>)> {
        let mut decision = self.choose_of(collective, request)?;
        if matches!(decision.origin, Origin::Table(..)) && !terrain.suits(decision.choice, request.bytes()) {
            decision = self.by_rule(collective, request)?;
        }
        Ok((decision.on(terrain, request.bytes()), decision.origin))
    }

    fn by_rule(&self, collective: Collective, request: &Request) -> Result<Decision<'_>> {
        let (choice, place) = self.rule.choose(&self.arch, self.ranks, collective, request)?;
        Ok(Decision { choice, origin: Origin::Rule(place) })
    }

    /// The choice for a list of buckets, of which `request` is the whole: what [`Dispatcher::choose`] says where that has a form
    /// for buckets, else what the rule says, else the last variant of the manifest that has one. `None` where there is none.
    ///
    /// Errors: as [`Dispatcher::choose`].
    pub fn choose_for_buckets(&self, request: &Request) -> Result<Option<Decision<'_>>> {
        let decision = self.choose(request)?;
        if decision.choice.variant.buckets {
            return Ok(Some(decision));
        }
        let decision = self.by_rule(Collective::AllReduce, request)?;
        if decision.choice.variant.buckets {
            return Ok(Some(decision));
        }
        let supports = |choice: &&Choice| choice.variant.supports(request.dtype, request.op, self.ranks).is_ok();
        let last = self.for_buckets.iter().rev().find(supports);
        Ok(last.map(|choice| Decision { choice, origin: Origin::Manifest }))
    }

    /// Sizes at which the choice can change, and every power of two to 4 GiB, at which rules and tunings mostly do; and the last one of
    /// every type below [`LARGE_BYTES`], for what begins above half of that is bounded in all others.
    pub fn sizes(&self) -> impl Iterator<Item = u64> {
        let rows = self.table.iter().flat_map(|table| table.rows(self.ranks)).map(|row| row.from.max(1));
        let of_rule = self.rule.odd_limits().flat_map(|limit| [limit, limit + 1]);
        (0..=32).map(|power| 1u64 << power).chain([LARGE_BYTES - 8]).chain(rows).chain(of_rule)
    }

    /// The shapes that it may choose: what a heap should have room for.
    pub fn shapes(&self) -> impl Iterator<Item = &Shape> {
        let of_table = self.table.iter().flat_map(|table| table.shapes(self.ranks));
        self.rule.shapes().chain(of_table).chain(self.forced.iter().map(|choice| &choice.shape))
    }

    /// Table and rule as text: what ranks compare. A forced choice is not in it.
    pub fn sources(&self) -> [&str; 2] {
        [self.rule.source(), self.table.as_ref().map_or("", |table| table.source())]
    }
}

#[cfg(test)]
mod tests;
