//! `myelon-perf report`: stored results as tables and plots, in the README, on the page of patterns, on a page for a
//! browser or on the terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use myelon_ccl::measure::ceiling::LinkRate;
use myelon_ccl::measure::text::counted;
use myelon_ccl::measure::{Baseline, Results, Standing, Stored, markdown, merge, output, page, readme, svg};
use myelon_ccl::table::{Judged, judged_table};
use myelon_ccl::{Error, Result};

use crate::args::ReportArgs;
use crate::stdout::print;
use crate::{exit, patterns};

/// Everything that a report would write, made before anything is written.
pub(crate) struct Report {
    files: Vec<(PathBuf, String)>,
    printed: Option<String>,
}

impl Report {
    /// Reads the results and makes every output.
    ///
    /// Errors: the first input that cannot be used, or output that could not be written.
    pub(crate) fn prepare(args: &ReportArgs) -> Result<Self> {
        goes_with(args)?;
        if let Some(page) = &args.patterns {
            return Self::of_files(args, patterns::files(args, page)?, None);
        }
        let machines = compared(merge::by_machine(runs(args)?));
        let mut files = Vec::new();
        if let Some(path) = &args.output {
            files.push((path.clone(), page::page(&machines, given_rate(args)?.as_ref())?));
        }
        if let Some(path) = &args.svg {
            for (path, machine) in plots(&machines, path) {
                files.push((path, svg::plot(machine)?));
            }
        }
        if let Some(path) = &args.readme {
            let text = std::fs::read_to_string(path).map_err(|error| Error::at_path("cannot read", path, error))?;
            let mut blocks = blocks(&machines, path, args.svg.as_deref())?;
            if !args.judged.is_empty() {
                let judged = args.judged.iter().map(|path| Judged::read(path).map(|judged| judged_table(&judged)));
                blocks.insert("judged".to_owned(), judged.collect::<Result<Vec<_>>>()?.join("\n"));
            }
            files.push((path.clone(), readme::fill(&text, &blocks, &path.display().to_string())?));
        }
        if args.check && files.is_empty() {
            return Err(Error::invalid(
                "--check has nothing to check: name a file with -o, --readme, --svg or --patterns",
            ));
        }
        let printed = (args.markdown || files.is_empty()).then(|| all_tables(&machines));
        Self::of_files(args, files, printed)
    }

    fn of_files(args: &ReportArgs, files: Vec<(PathBuf, String)>, printed: Option<String>) -> Result<Self> {
        let outputs: Vec<_> = files.iter().map(|(path, _)| ("an output", path.as_path())).collect();
        let inputs =
            args.results.iter().chain(&args.judged).chain(&args.neighbours).chain(&args.overlaps).chain(&args.studies);
        let inputs: Vec<_> = inputs.map(|path| ("what is read", path.as_path())).collect();
        output::prove_apart(&outputs, &inputs)?;
        if !args.check {
            for (path, _) in &files {
                output::prove_writable(path)?;
            }
        }
        Ok(Self { files, printed })
    }

    /// Replaces the files that differ and prints what was asked for.
    pub(crate) fn write(self) -> Result<ExitCode> {
        for (path, contents) in self.files.iter().filter(|(path, contents)| !is_current(path, contents)) {
            output::replace(path, contents)?;
        }
        if let Some(text) = self.printed {
            print(&text);
        }
        Ok(ExitCode::from(exit::OK))
    }

    /// Names every file that [`Report::write`] would change.
    pub(crate) fn check(self) -> ExitCode {
        let stale: Vec<_> = self.files.iter().filter(|(path, contents)| !is_current(path, contents)).collect();
        for (path, _) in &stale {
            let _ = writeln!(std::io::stderr(), "stale: {}: run the same command without --check", path.display());
        }
        ExitCode::from(if stale.is_empty() { exit::OK } else { exit::WRONG })
    }
}

/// Refuses an argument without the one that it belongs to.
fn goes_with(args: &ReportArgs) -> Result<()> {
    let (has_page, has_readme, has_patterns) = (args.output.is_some(), args.readme.is_some(), args.patterns.is_some());
    // WHY: clap does not ask for an argument that another one which is there excludes.
    let alone = [
        ("--link-gbps", args.link_gbps.is_some() && !has_page, "-o"),
        ("--judged", !args.judged.is_empty() && !has_readme, "--readme"),
        ("--studies", args.studies.is_some() && !has_patterns, "--patterns"),
        ("--neighbours", !args.neighbours.is_empty() && !has_patterns, "--patterns"),
        ("--overlaps", !args.overlaps.is_empty() && !has_patterns, "--patterns"),
    ];
    match alone.into_iter().find(|&(_, is_alone, _)| is_alone) {
        Some((argument, _, with)) => {
            Err(Error::invalid(format!("{argument} is for {with}: add it, or leave {argument} out")))
        }
        None => Ok(()),
    }
}

/// The runs to report. For a page, which takes whatever lies in a folder of results, stored runs of other kinds are left out, and
/// rows that it has no place for are named.
fn runs(args: &ReportArgs) -> Result<Vec<Results>> {
    let mut runs = Vec::new();
    let mut left_out = Vec::new();
    for path in &args.results {
        match Results::read(path) {
            Ok(run) => {
                let others = run.rows.iter().filter(|row| !page::takes(row)).count();
                if args.output.is_some() && others > 0 {
                    left_out.push(format!("{}: {} of other collectives", path.display(), counted(others, "row")));
                }
                runs.push(run);
            }
            Err(_) if args.output.is_some() && is_of_another_kind(path) => {
                let _ = writeln!(std::io::stderr(), "left out: {}: not a sweep", path.display());
            }
            Err(error) => return Err(error),
        }
    }
    let names = || args.results.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ");
    let mut rows = runs.iter().flat_map(|run| &run.rows).peekable();
    if rows.peek().is_none() {
        return Err(Error::invalid(format!("{}: no rows to show: measure something first", names())));
    }
    if args.output.is_some() && !rows.any(page::takes) {
        return Err(Error::invalid(format!(
            "{}: all rows are of other collectives, and a page is of all-reduces: add a sweep of those, or leave -o out",
            names()
        )));
    }
    for line in left_out {
        let _ = writeln!(std::io::stderr(), "left out: {line}");
    }
    Ok(runs)
}

/// The machines on which Myelon was measured, or all where it was on none: beside nothing, a peer's times compare nothing.
fn compared(machines: Vec<Results>) -> Vec<Results> {
    let has_myelon = |machine: &Results| machine.rows.iter().any(|row| Baseline::of(row).is_none());
    if !machines.iter().any(has_myelon) {
        return machines;
    }
    machines.into_iter().filter(has_myelon).collect()
}

/// Whether a file is JSON, and not of a sweep: a sweep has rows, and each says what was requested.
fn is_of_another_kind(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let is_row_of_sweep = |row: &serde_json::Value| row.get("requested").is_some();
    let is_sweep = value["rows"].as_array().is_some_and(|rows| rows.iter().all(is_row_of_sweep));
    value.is_object() && !is_sweep
}

fn given_rate(args: &ReportArgs) -> Result<Option<LinkRate>> {
    let Some(gbps) = args.link_gbps else { return Ok(None) };
    if !gbps.is_finite() || gbps <= 0.0 {
        return Err(Error::invalid(format!("--link-gbps {gbps}: write a number of GB/s above 0, such as 450")));
    }
    Ok(Some(LinkRate { gbps, source: "Given by --link-gbps".to_owned() }))
}

fn is_current(path: &Path, contents: &str) -> bool {
    std::fs::read(path).is_ok_and(|current| current == contents.as_bytes())
}

/// The files of the plots, one a machine: `svg` for the newest, `STEM-2.EXTENSION` and so on for the others.
fn plots<'a>(machines: &'a [Results], svg: &Path) -> impl Iterator<Item = (PathBuf, &'a Results)> {
    let part = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (svg, stem, extension) = (svg.to_owned(), part(svg.file_stem()), part(svg.extension()));
    machines.iter().enumerate().map(move |(index, machine)| match index {
        0 => (svg.clone(), machine),
        _ => (svg.with_file_name(format!("{stem}-{}.{extension}", index + 1)), machine),
    })
}

/// What a README can ask for by name.
fn blocks(machines: &[Results], readme: &Path, svg: Option<&Path>) -> Result<BTreeMap<String, String>> {
    let provenance: Vec<_> = machines.iter().map(|machine| markdown::provenance(&machine.provenance)).collect();
    let mut blocks = BTreeMap::from([
        ("latency".to_owned(), all_tables(machines)),
        ("provenance".to_owned(), provenance.join("\n")),
    ]);
    for machine in machines {
        for standing in Standing::of(&machine.rows) {
            let block = blocks.entry(format!("latency-{}", standing.series.ranks)).or_default();
            if !block.is_empty() {
                block.push('\n');
            }
            block.push_str(&markdown::table(&machine.provenance, &standing));
        }
    }
    if let Some(svg) = svg {
        let mut images = Vec::new();
        for (path, machine) in plots(machines, svg) {
            let link = relative(&path, readme.parent().unwrap_or(Path::new("")))?;
            let ranks: BTreeSet<_> = machine.rows.iter().map(|row| row.ranks).collect();
            let ranks: Vec<_> = ranks.iter().map(ToString::to_string).collect();
            let (machine, ranks) = (machine.provenance.machine(), ranks.join(", "));
            let alt = format!("All-reduce time and bus bandwidth over the message size on {machine}: {ranks} ranks");
            images.push(format!("![{alt}](<{}>)\n", link.display()));
        }
        blocks.insert("plot".to_owned(), images.join("\n"));
    }
    Ok(blocks)
}

/// The tables of every machine; with more than one, each below the sentence that tells them apart.
fn all_tables(machines: &[Results]) -> String {
    let parts: Vec<_> = machines
        .iter()
        .map(|machine| match machines.len() {
            1 => markdown::tables(machine),
            _ => format!("{}\n{}", markdown::provenance(&machine.provenance), markdown::tables(machine)),
        })
        .collect();
    parts.join("\n")
}

/// `file` as a link that is read in `directory`.
fn relative(file: &Path, directory: &Path) -> Result<PathBuf> {
    let absolute = |path: &Path| -> Result<PathBuf> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        path.canonicalize().map_err(|error| Error::at_path("cannot find", path, error))
    };
    let (target, base) = (absolute(file.parent().unwrap_or(Path::new("")))?, absolute(directory)?);
    let shared = target.components().zip(base.components()).take_while(|(a, b)| a == b).count();
    let up = base.components().skip(shared).map(|_| Component::ParentDir);
    let link = up.chain(target.components().skip(shared)).collect::<PathBuf>();
    Ok(link.join(file.file_name().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use myelon_ccl::measure::Provenance;

    use super::*;

    #[test]
    fn a_machine_of_peers_alone_is_left_out_beside_others() {
        let row = |requested: &str| {
            let case =
                r#""collective":"all_reduce","ranks":2,"bytes":64,"dtype":"f32","op":"sum","in_place":false,"graph":0"#;
            let time = r#""time_us":{"p50":1,"p99":1,"min":1},"algbw_gbps":1,"busbw_gbps":1,"wrong":0"#;
            let shape = r#""lanes":1,"threads":64,"chunk":0,"stages":0"#;
            serde_json::from_str(&format!(
                r#"{{{case},{shape},"requested":"{requested}","variant":"{requested}",{time}}}"#
            ))
            .unwrap()
        };
        let of = |requested| Results { rows: vec![row(requested)], ..Results::new(Provenance::of_this_host("0")) };
        let (ours, theirs) = (of("auto"), of("torch_symm_mem"));
        assert_eq!(compared(vec![theirs.clone(), ours.clone()]), [ours]);
        assert_eq!(compared(vec![theirs.clone()]), [theirs]);
    }

    #[test]
    fn every_machine_has_a_plot_of_its_own() {
        let machines = [1, 2].map(|_| Results::new(Provenance::of_this_host("0")));
        let paths: Vec<_> = plots(&machines, Path::new("docs/a.b.svg")).map(|(path, _)| path).collect();
        assert_eq!(paths, [Path::new("docs/a.b.svg"), Path::new("docs/a.b-2.svg")]);
    }

    #[test]
    fn links_are_relative_to_the_readme() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        std::fs::create_dir_all(root.join("docs/plots")).unwrap();
        let plot = root.join("docs/plots/a.svg");
        let link = |directory: &str| relative(&plot, &root.join(directory)).unwrap();
        assert_eq!(link(""), Path::new("docs/plots/a.svg"));
        assert_eq!(link("docs"), Path::new("plots/a.svg"));
        assert_eq!(link("docs/plots"), Path::new("a.svg"));
        std::fs::create_dir(root.join("other")).unwrap();
        assert_eq!(link("other"), Path::new("../docs/plots/a.svg"));
        assert!(relative(&root.join("missing/a.svg"), root).is_err());
    }
}
