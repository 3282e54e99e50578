//! One rank from its place among the others to the table: rounds, until the search is over or cut.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use myelon_ccl::bootstrap::{Bootstrap, agree};
use myelon_ccl::device::Device;
use myelon_ccl::measure::provenance::NOT_FOUND;
use myelon_ccl::measure::{Provenance, Stored, output};
use myelon_ccl::table::{Judged, LaneTable};
use myelon_ccl::{Error, Rank, Result};

use crate::broadcast::broadcast;
use crate::common::interrupt::Interrupt;
use crate::exchange;
use crate::log::{Log, Origin};
use crate::machine;
use crate::request::TuneRequest;
use crate::screen::Screen;
use crate::search::{Round, next};
use crate::sections::{behind, judgements, outs, sections, unjudged};
use crate::site::{Outcome, Site, Verdict};

/// Between two writes of the journal, at least.
const JOURNAL_EVERY: Duration = Duration::from_secs(3);
/// How long a goodbye to the other ranks may take.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    Budget,
    Interrupted,
}

/// Searches on this rank, and writes the table on rank 0. Collective. Returns at how many cases a judged table is too far behind, or out,
/// or was not judged because the search was cut.
///
/// Errors: the first on this rank; the other ranks end with an error too. What was measured by then is in the journal.
pub(crate) fn run(
    device: &Arc<dyn Device>,
    control: &dyn Bootstrap,
    request: &TuneRequest,
    interrupt: &Interrupt,
) -> Result<u64> {
    let started = Instant::now();
    let site = Site::connect(control, device, request)?;
    let seats = machine::seats(site.communicator())?;
    let provenance = machine::provenance(site.communicator())?;
    let is_first = control.rank() == Rank(0);
    let origin = Origin {
        machine: provenance.machine(),
        driver: provenance.driver.clone(),
        cuda: provenance.cuda.clone(),
        nccl: provenance.nccl.clone(),
        nvls: provenance.nvls.clone(),
        ranks: request.ranks.get(),
        source_hash: provenance.source_hash.clone(),
        graph: request.graph,
    };
    let log = if request.resume { resumed(control, request, &origin)? } else { Log::default() };
    let screen = is_first.then(|| Screen::start(request, &provenance, &seats, &log, site.is_registered(), started));
    let mut search = Search { control, device, request, origin, log, screen, started, written: started };
    let ended = search.measure_until_over(site, interrupt).inspect_err(|_| search.keep());
    let end = ended?;
    let failed = (behind(&request.space, &search.log) + unjudged(&request.space, &search.log, end)) as u64;
    let stored = if is_first { search.store(end, provenance).inspect_err(|_| search.keep()) } else { Ok(()) };
    let stored = agree(control, "storing the table", stored);
    control.leave(LEAVE_PATIENCE);
    stored.map(|()| failed)
}

/// What rank 0's journal says, on all ranks.
fn resumed(control: &dyn Bootstrap, request: &TuneRequest, origin: &Origin) -> Result<Log> {
    let path = request.journal();
    let read = || std::fs::read_to_string(&path).map_err(|error| Error::at_path("cannot read", &path, error));
    let own = if control.rank() == Rank(0) { read() } else { Ok(String::new()) };
    let own = agree(control, "reading the journal", own)?;
    let text = broadcast(control, "passing the journal on", &own)?;
    let log = Log::of_journal(&text, &path.display().to_string(), &request.space, origin);
    agree(control, "understanding the journal", log)
}

struct Search<'a> {
    control: &'a dyn Bootstrap,
    device: &'a Arc<dyn Device>,
    request: &'a TuneRequest,
    origin: Origin,
    log: Log,
    /// On rank 0.
    screen: Option<Screen>,
    started: Instant,
    /// When the journal was written last.
    written: Instant,
}

impl Search<'_> {
    fn measure_until_over(&mut self, mut site: Site, interrupt: &Interrupt) -> Result<End> {
        let mut verified = BTreeSet::new();
        loop {
            let round = next(&self.request.space, &self.log);
            if let Some(end) = self.is_over(round.as_ref(), interrupt)? {
                site.close()?;
                return Ok(end);
            }
            let Some(round) = round else { continue };
            if let Some(screen) = &mut self.screen {
                screen.announce(self.request, &self.log, &round);
            }
            let Outcome { verdicts, is_lost } = site.measure(self.control, self.request, &round, &mut verified)?;
            for (entrant, verdict) in verdicts {
                match verdict {
                    Verdict::Times(times_us) => self.log.record(round.case, entrant, &times_us),
                    Verdict::Refused(why) => self.log.refuse(round.case, entrant, why),
                    Verdict::Dropped(why) => {
                        if let Some(screen) = &self.screen {
                            screen.dropped(self.request, entrant, &why);
                        }
                        self.log.drop(entrant, why);
                        self.drop_variant_of(entrant);
                    }
                }
            }
            if is_lost {
                // WHY: before the new one: the old heap takes room.
                drop(site);
                site = Site::connect(self.control, self.device, self.request)?;
            }
            if self.screen.is_some() && self.written.elapsed() >= JOURNAL_EVERY {
                self.log.write(&self.request.journal(), &self.request.space, &self.origin)?;
                self.written = Instant::now();
            }
        }
    }

    /// A variant two of whose shapes are out is out as a whole, direct ones apart: each further one would cost a deadline and a new
    /// communicator.
    fn drop_variant_of(&mut self, entrant: usize) {
        let space = &self.request.space;
        let Some(variant) = space.variant(entrant) else { return };
        let is_direct = space.is_direct(entrant);
        let is_of = |&place: &usize| space.variant(place) == Some(variant) && space.is_direct(place) == is_direct;
        if self.log.dropped().iter().filter(|(place, _)| is_of(place)).count() > 1 {
            for place in (0..space.entrants.len()).filter(is_of) {
                self.log.drop(place, format!("two shapes of {variant} are out"));
            }
        }
    }

    /// Whether the search ends here: by rank 0's clock, a signal to any rank, or because there is nothing left. Collective.
    ///
    /// Errors: [`Error::InvalidArgument`] where ranks would measure different things.
    fn is_over(&self, round: Option<&Round>, interrupt: &Interrupt) -> Result<Option<End>> {
        let mut hasher = DefaultHasher::new();
        round.map(|round| (round.case, &round.entrants, round.repeats)).hash(&mut hasher);
        let spent = self.control.rank() == Rank(0) && self.started.elapsed() >= self.request.budget;
        let own = (spent, interrupt.came(), round.is_none(), hasher.finish());
        let all = exchange::words(self.control, "choosing a round", &own)?;
        if let Some(peer) = all.iter().position(|theirs| (theirs.2, theirs.3) != (own.2, own.3)) {
            return Err(Error::invalid(format!(
                "rank {peer} would measure something else than rank {}: give all ranks the same arguments",
                self.control.rank()
            )));
        }
        Ok(if round.is_none() {
            Some(End::Complete)
        } else if all.iter().any(|theirs| theirs.1) {
            Some(End::Interrupted)
        } else {
            all[0].0.then_some(End::Budget)
        })
    }

    /// Keeps what is known after a failure, whose message comes first.
    fn keep(&self) {
        let Some(screen) = &self.screen else { return };
        let path = self.request.journal();
        if self.log.measured() > 0 && self.log.write(&path, &self.request.space, &self.origin).is_ok() {
            screen.kept(&path);
        }
    }

    /// Writes the table and the judgement; the journal stays where the search was cut.
    ///
    /// Errors: what was measured is in the journal then.
    fn store(&self, end: End, provenance: Provenance) -> Result<()> {
        let TuneRequest { space, output: path, commit, device, ranks, .. } = self.request;
        let journal = self.request.journal();
        self.log.write(&journal, space, &self.origin)?;
        let sections = sections(space, &self.log, *ranks);
        if sections.is_empty() {
            let fix = if end == End::Complete { "every candidate is out" } else { "raise --budget" };
            return Err(Error::invalid(format!("nothing was measured: {fix}")));
        }
        let commit = commit.clone().unwrap_or_else(|| commit_here(Path::new(".")));
        let table = LaneTable::new(*device, &commit, end == End::Complete, provenance.clone(), sections)?;
        output::replace(path, table.source())?;
        self.store_judgement(end, &provenance)?;
        // WHY: last: until everything else is written, nothing but the journal has what was measured.
        if end == End::Complete {
            let _ = std::fs::remove_file(&journal);
        }
        if let Some(screen) = &self.screen {
            screen.end(self.request, &self.log, &table, end);
        }
        Ok(())
    }

    fn store_judgement(&self, end: End, provenance: &Provenance) -> Result<()> {
        let TuneRequest { space, judged: Some(table), json: Some(path), ranks, .. } = self.request else {
            return Ok(());
        };
        let judged = Judged {
            schema: Judged::SCHEMA,
            provenance: provenance.clone(),
            table: file_name(table.name()),
            table_commit: table.commit.clone(),
            ranks: *ranks,
            exhaustive: space.effort.exhaustive,
            complete: end == End::Complete,
            rows: judgements(space, &self.log),
            out: outs(space, &self.log),
        };
        judged.write(path)
    }
}

/// The last part of a path: what a file says of another one holds on other machines too.
fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The commit of this checkout of Myelon; "not found" elsewhere.
fn commit_here(directory: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(directory).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let top = git(&["rev-parse", "--show-toplevel"]);
    let commit = top
        .filter(|top| Path::new(top).join("configs/variants.toml").is_file())
        .and_then(|_| git(&["rev-parse", "HEAD"]));
    commit.unwrap_or_else(|| NOT_FOUND.to_owned())
}
