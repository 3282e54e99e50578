//! From what was measured to the sections of a lane table. Pure.

use myelon_ccl::WorldSize;
use myelon_ccl::measure::{Baseline, Bytes};
use myelon_ccl::table::{Buffers, Judgement, Measured, OperatorClass, Out, Row, Section};

use crate::choices::choices;
use crate::log::Log;
use crate::run::End;
use crate::space::{Case, Class, Entrant, OP, Space};

/// A section a class of which anything was measured: a row from each size that was asked for, and from where the choice changes.
/// None of registered buffers before the largest size was measured in them: without one, they take the rows of plain ones.
pub(crate) fn sections(space: &Space, log: &Log, ranks: WorldSize) -> Vec<Section> {
    let section = |(place, class): (usize, &Class)| {
        let mut rows: Vec<Row> = Vec::new();
        for (bytes, entrant) in choices(space, log, place) {
            let row = row(space, log, (place, bytes), entrant, rows.is_empty());
            let says =
                |row: &Row| rows.last().is_none_or(|last| last.choice != row.choice) || space.sizes.contains(&bytes);
            rows.extend(row.filter(says));
        }
        let largest = rows.last().is_some_and(|row| Some(&row.measured.at.0) == space.sizes.last());
        let &Class { dtypes, dtype, buffers } = class;
        let section = Section { ranks, dtypes, operators: OperatorClass::of(OP), buffers, dtype, op: OP, rows };
        let is_due = !section.rows.is_empty() && (largest || space.plain_of(place).is_none());
        is_due.then_some(section)
    };
    space.classes.iter().enumerate().filter_map(section).collect()
}

fn row(space: &Space, log: &Log, case: Case, entrant: usize, is_first: bool) -> Option<Row> {
    let Entrant::Myelon(choice) = &space.entrants[entrant] else { return None };
    let stand_in = space.stand_in(case, entrant)?;
    let p50_us = log.samples(case, stand_in)?.p50_us();
    let others = log.ranking(case).find(|&(other, _)| other != stand_in);
    let runner_up = others.map(|(other, us)| (space.entrants[other].short(), us / p50_us));
    let nccl = space.entrants.iter().position(|entrant| *entrant == Entrant::Rival(Baseline::Nccl));
    let nccl_us = nccl.and_then(|nccl| log.samples(case, nccl)).map(|samples| samples.p50_us());
    let from = if is_first { 0 } else { case.1 };
    let measured = Measured { at: Bytes(case.1), p50_us, runner_up, nccl_us };
    Some(Row { from, choice: choice.clone(), measured })
}

/// A judgement for each case at which the table's choice was measured.
pub(crate) fn judgements(space: &Space, log: &Log) -> Vec<Judgement> {
    let judge = |(&case, &entrant): (&Case, &usize)| {
        let taken = space.stand_in(case, entrant).filter(|&it| log.is_in(case, it))?;
        let taken_us = log.samples(case, taken)?.p50_us();
        let own = || log.own_ranking(space, case);
        let (best, best_us) = own().next()?;
        let Class { dtype, buffers, .. } = space.classes[case.0];
        let [taken, best] = [taken, best].map(|entrant| space.entrants[entrant].short());
        Some(Judgement {
            dtype,
            op: OP,
            buffers,
            bytes: case.1,
            candidates: own().count(),
            taken,
            taken_us,
            best,
            best_us,
        })
    };
    space.judged.iter().filter_map(judge).collect()
}

/// The cases at which the table's choice is out, or cannot run.
pub(crate) fn outs(space: &Space, log: &Log) -> Vec<Out> {
    let judge = |(&case, &entrant): (&Case, &usize)| {
        let Class { dtype, buffers, .. } = space.classes[case.0];
        let why = match space.stand_in(case, entrant) {
            // WHY: where ranks cannot map each other's operands, nothing runs in registered ones: that is not the table's fault.
            Some(taken) if buffers == Buffers::Registered && log.ranking(case).next().is_none() => {
                log.dropped().get(taken)?.to_owned()
            }
            Some(taken) => log.why_out(case, taken)?.to_owned(),
            None => space.refusal(case, entrant)?,
        };
        Some(Out { dtype, op: OP, buffers, bytes: case.1, taken: space.entrants[entrant].short(), why })
    };
    space.judged.iter().filter_map(judge).collect()
}

/// At how many cases a search that was cut did not come to a judgement.
pub(crate) fn unjudged(space: &Space, log: &Log, end: End) -> usize {
    if end == End::Complete {
        return 0;
    }
    // A case is in one of the two at most: by a choice that is in, or out.
    space.judged.len() - judgements(space, log).len() - outs(space, log).len()
}

/// At how many cases a table is too far behind, or out.
pub(crate) fn behind(space: &Space, log: &Log) -> usize {
    judgements(space, log).iter().filter(|it| it.is_behind()).count() + outs(space, log).len()
}
