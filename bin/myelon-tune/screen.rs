//! What rank 0 shows.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use myelon_ccl::measure::text::counted;
use myelon_ccl::measure::{Bytes, Provenance};
use myelon_ccl::table::{Buffers, Judgement, LaneTable, Out, Row};

use crate::log::Log;
use crate::machine::{Seat, caution};
use crate::progress::{print, progress};
use crate::request::TuneRequest;
use crate::run::End;
use crate::search::Round;
use crate::sections::{behind, judgements, outs, unjudged};
use crate::space::Space;

/// Between two lines on standard error where that is no terminal, which has the bar.
const TELL_EVERY: Duration = Duration::from_secs(20);

/// The bar is full when the budget is spent, or before.
pub(crate) struct Screen {
    progress: ProgressBar,
    started: Instant,
    budget: Duration,
    /// When a line took the place of the bar last.
    told: Instant,
}

impl Screen {
    /// Prints what is searched.
    pub(crate) fn start(
        request: &TuneRequest,
        provenance: &Provenance,
        seats: &[Seat],
        log: &Log,
        is_registered: bool,
        started: Instant,
    ) -> Self {
        let Space { entrants, sizes, classes, effort, left_out, limits, .. } = &request.space;
        // The message says what is left: an estimate would be none, for rounds differ.
        let style = ProgressStyle::with_template("{bar:20} {msg}").ok();
        let progress = style.into_iter().fold(progress(request.budget.as_secs().max(1)), ProgressBar::with_style);
        let screen = Self { progress, started, budget: request.budget, told: started };
        let of = |buffers| classes.iter().filter(move |class| class.buffers == buffers).map(|class| class.dtype.name());
        let both = Buffers::ALL.iter().map(|&buffers| (buffers, of(buffers).collect::<Vec<_>>()));
        let (buffers, dtypes): (Vec<_>, Vec<_>) = both.filter(|(_, dtypes)| !dtypes.is_empty()).unzip();
        let buffers: Vec<_> = buffers.iter().map(|buffers| buffers.name()).collect();
        let (first, last) = (Bytes(sizes[0]), Bytes(sizes[sizes.len() - 1]));
        let how = if effort.exhaustive { "all measured" } else { "searched" };
        let heap = limits.layout(request.ranks).map_or(0, |(_, bytes)| bytes >> 20);
        let mut text = format!(
            "# myelon-tune {} (sources {}), {}\n# {}; driver {}, CUDA {}, {}\n# {} {} ranks, {}, {} from {first} to {last}: \
             {} candidates, {how}; {} buffers; heap {heap} MiB a rank, budget {} s\n",
            provenance.version,
            provenance.source_hash,
            provenance.date,
            provenance.machine(),
            provenance.driver,
            provenance.cuda,
            provenance.nccl_state(),
            request.ranks,
            request.device,
            dtypes[0].join(" and "),
            counted(sizes.len(), "size"),
            entrants.len(),
            buffers.join(" and "),
            request.budget.as_secs()
        );
        if let Some(caution) = caution(request.device, seats) {
            let _ = writeln!(text, "# {caution}");
        }
        if buffers.contains(&Buffers::Registered.name()) && !is_registered {
            text += "# no sections for registered buffers: the ranks cannot map each other's memory; MYELON_LOG=info says why\n";
        }
        for why in left_out {
            let _ = writeln!(text, "# left out: {why}");
        }
        if log.measured() > 0 {
            let _ = writeln!(text, "# resumed with {} measurements", log.measured());
        }
        print(&screen.progress, &text);
        screen
    }

    /// Shows what is about to be measured, the best so far, and how long it can take.
    pub(crate) fn announce(&mut self, request: &TuneRequest, log: &Log, round: &Round) {
        let spent = self.started.elapsed();
        let left = self.budget.saturating_sub(spent).as_secs();
        let (class, bytes) = round.case;
        let class = request.space.classes[class];
        let best = log.ranking(round.case).next().map_or(String::new(), |(entrant, us)| {
            format!(", best so far {us:.2} us: {}", request.space.entrants[entrant].short())
        });
        let phase = round.phase.name();
        let message = format!("{phase}, {class} {}{best}; at most {left} s left", Bytes(bytes));
        if self.progress.is_hidden() && self.told.elapsed() >= TELL_EVERY {
            say(&message);
            self.told = Instant::now();
        }
        self.progress.set_position(spent.as_secs().min(self.budget.as_secs()));
        self.progress.set_message(message);
    }

    /// Says who is out.
    pub(crate) fn dropped(&self, request: &TuneRequest, entrant: usize, why: &str) {
        print(&self.progress, &format!("# dropped: {}: {why}\n", request.space.entrants[entrant]));
    }

    /// Says where to go on after a failure.
    pub(crate) fn kept(&self, journal: &Path) {
        self.progress.finish_and_clear();
        say(&format!("what was measured is in {}: --resume goes on from there", journal.display()));
    }

    /// Prints the table, and what it amounts to.
    pub(crate) fn end(&self, request: &TuneRequest, log: &Log, table: &LaneTable, end: End) {
        self.progress.finish_and_clear();
        let mut text = String::new();
        for section in table.sections() {
            let _ = writeln!(
                text,
                "#\n# {} {}, class {}, {} buffers",
                section.dtype, section.op, section.dtypes, section.buffers
            );
            let _ = writeln!(text, "# {:>8}  {:>10}  {:>7}  {:>7}  choice", "from", "p50 (us)", "margin", "NCCL");
            for Row { from, choice, measured } in &section.rows {
                let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
                let margin = ratio(measured.runner_up.as_ref().map(|(_, margin)| *margin));
                let nccl = ratio(measured.nccl_us.map(|nccl_us| nccl_us / measured.p50_us));
                let from = Bytes(*from).to_string();
                let _ = writeln!(text, "  {from:>8}  {:>10.2}  {margin:>7}  {nccl:>7}  {choice}", measured.p50_us);
            }
        }
        text += "#\n";
        let dropped = log.dropped().iter().count();
        if dropped > 0 {
            let _ = writeln!(text, "# dropped: {dropped} of {} candidates", request.space.entrants.len());
        }
        let _ = writeln!(
            text,
            "# measured: {} candidates at their sizes in {} s",
            log.measured(),
            self.started.elapsed().as_secs()
        );
        match end {
            End::Complete => {}
            End::Budget => text += "# cut: the budget is spent; --resume goes on\n",
            End::Interrupted => text += "# cut: interrupted; --resume goes on\n",
        }
        text += &judged(request, log);
        let unjudged = unjudged(&request.space, log, end);
        if unjudged > 0 {
            let _ = writeln!(
                text,
                "# not judged, for the search was cut: {unjudged} of {} cases",
                request.space.judged.len()
            );
        }
        let path = request.output.display();
        let _ = writeln!(text, "# wrote {path}: MYELON_LANE_TABLE={path} takes it; a build takes all of configs/lanes");
        print(&self.progress, &text);
    }
}

/// On standard error. WHY: `eprintln!` panics where it is full.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// How far the judged table is behind the best at each size, and at most.
fn judged(request: &TuneRequest, log: &Log) -> String {
    let Some(table) = &request.judged else { return String::new() };
    let judgements = judgements(&request.space, log);
    let mut text = format!(
        "#\n# {:>8}  {:>10}  {:>10}  {:>8}  judged: taken, best\n",
        "size", "taken (us)", "best (us)", "behind"
    );
    for judgement in &judgements {
        let Judgement { dtype, buffers, bytes, taken, taken_us, best, best_us, candidates, .. } = judgement;
        let size = Bytes(*bytes).to_string();
        let percent = judgement.behind_percent();
        let best = if taken == best { "the same" } else { best };
        let _ = writeln!(
            text,
            "  {size:>8}  {taken_us:>10.2}  {best_us:>10.2}  {percent:>6.1} %  {dtype} {buffers}: {taken}, {best}, of {candidates}"
        );
    }
    let outs = outs(&request.space, log);
    for Out { dtype, buffers, bytes, taken, why, .. } in &outs {
        let size = Bytes(*bytes).to_string();
        let _ =
            writeln!(text, "  {size:>8}  {:>10}  {:>10}  {:>8}  {dtype} {buffers}: {taken}: {why}", "out", "-", "-");
    }
    let worst = judgements.iter().map(Judgement::behind_percent).fold(0.0, f64::max);
    let _ = writeln!(
        text,
        "#\n# judged: {} is more than 3 % behind or out at {} of {} cases, {worst:.1} % at most",
        table.name(),
        behind(&request.space, log),
        judgements.len() + outs.len(),
    );
    text
}
