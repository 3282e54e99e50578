//! `myelon-perf report --patterns`: the page of patterns and its plots, from stored results of studies.

use std::path::{Path, PathBuf};

use myelon_ccl::measure::Stored;
use myelon_ccl::measure::neighbour::Neighbours;
use myelon_ccl::measure::overlap::Overlaps;
use myelon_ccl::study::{self, Ablation, Machine, PLOTS, Study};
use myelon_ccl::{Error, Result};

use crate::args::ReportArgs;
use crate::studies;

/// The page and a plot for each study that was measured. With `check` nothing is made ready for writing.
///
/// Errors: the first input that cannot be used, or a folder that cannot be made.
pub(crate) fn files(args: &ReportArgs, page: &Path) -> Result<Vec<(PathBuf, String)>> {
    let runs = args.results.iter().map(|path| Ablation::read(path)).collect::<Result<Vec<_>>>()?;
    let machines = Machine::of(runs);
    let studies = match &args.studies {
        None => Study::embedded(),
        Some(path) => studies::read(path)?,
    };
    let plots = page.parent().unwrap_or(Path::new("")).join(PLOTS);
    let neighbours = args.neighbours.iter().map(|path| Neighbours::read(path)).collect::<Result<Vec<_>>>()?;
    let overlaps = args.overlaps.iter().map(|path| Overlaps::read(path)).collect::<Result<Vec<_>>>()?;
    let mut files = vec![(page.to_owned(), study::patterns(&studies, &machines, &neighbours, &overlaps))];
    for study in &studies {
        if let Some(svg) = study::plot(study, &machines) {
            files.push((plots.join(format!("{}.svg", study.name)), svg));
        }
    }
    if !args.check {
        std::fs::create_dir_all(&plots).map_err(|error| Error::at_path("cannot create", &plots, error))?;
    }
    Ok(files)
}
