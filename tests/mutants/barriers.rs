//! `docs/BARRIERS.md`: every ordered and synchronising call of the kernels, and what shows that it is needed.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use myelon_ccl::measure::Provenance;
use serde::Deserialize;

use super::{Plan, plan};

/// Rewrites the document in place of comparing it.
const BLESS_VARIABLE: &str = "MYELON_BLESS";

/// One tag of the sources, as `ci/census.awk` prints it.
struct End {
    file: String,
    /// Function that the tag stands in.
    place: String,
    /// Primitives that the statement below the tag calls; empty for an end that is no call.
    calls: String,
    /// Which of the tags of that function with these calls it is, from 1: each has a bug or an explanation of its own.
    turn: usize,
    ids: Vec<String>,
    category: String,
    why: String,
}

impl End {
    fn parse(line: &str) -> Self {
        let fields: Vec<_> = line.split('\t').collect();
        let [file, place, calls, ids, category, why] = fields[..] else { panic!("not a line of the census: {line}") };
        let ids = ids.split(' ').map(str::to_owned).collect();
        let text = str::to_owned;
        let (place, calls, category) = (text(place), text(calls), text(category));
        Self { file: text(file), place, calls, turn: 1, ids, category, why: text(why) }
    }

    /// What `breaks` of a mutant calls it.
    fn name(&self) -> String {
        let turn = if self.turn > 1 { format!(" ({})", self.turn) } else { String::new() };
        format!("{} {}{turn}", self.place, self.calls)
    }

    fn is_partner_of(&self, other: &Self) -> bool {
        let is_alike = self.category == other.category && self.calls == other.calls;
        !is_alike && self.ids.iter().any(|id| other.ids.contains(id))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn census() -> Vec<End> {
    let output = Command::new(root().join("ci/house.sh")).arg("--census").output().unwrap();
    assert!(output.status.success(), "ci/house.sh --census: {}", String::from_utf8_lossy(&output.stderr));
    let mut ends: Vec<End> = Vec::new();
    for mut end in String::from_utf8(output.stdout).unwrap().lines().map(End::parse) {
        let is_like = |before: &&End| before.place == end.place && before.calls == end.calls;
        end.turn += ends.iter().filter(is_like).count();
        ends.push(end);
    }
    ends
}

/// What GitHub makes of a heading.
fn anchor(file: &str) -> String {
    file.chars().filter(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect()
}

/// The words of a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn document(ends: &[End], Plan { mutant: mutants, unseen, .. }: &Plan) -> String {
    let mut text = String::from(INTRODUCTION);
    let calls = ends.iter().filter(|end| !end.calls.is_empty()).count();
    let breaking = mutants.iter().filter(|mutant| !mutant.breaks.is_empty()).count();
    let mut line = |line: String| writeln!(text, "{line}").unwrap();
    line(format!("{calls} places, {breaking} planted bugs that break one of them.\n"));
    let mut file = "";
    for end in ends {
        if end.file != file {
            file = &end.file;
            line(format!("\n## {file}\n\n[Source](../{file})\n"));
            line("| place | call | id, category | partners | why | shown by |\n|---|---|---|---|---|---|".into());
        }
        let mut partners: Vec<_> = ends.iter().filter(|other| other.is_partner_of(end)).collect();
        partners.dedup_by(|a, b| a.place == b.place);
        let partners: Vec<_> =
            partners.iter().map(|end| format!("[`{}`](#{})", end.place, anchor(&end.file))).collect();
        let ids: Vec<_> = end.ids.iter().map(|id| format!("`{id}`")).collect();
        let calls: Vec<_> = end.calls.split_whitespace().map(|call| format!("`{call}`")).collect();
        let mut shown: Vec<_> =
            mutants.iter().filter(|mutant| mutant.breaks.contains(&end.name())).map(|m| m.name.clone()).collect();
        shown.extend(
            unseen
                .iter()
                .filter(|unseen| unseen.breaks.contains(&end.name()))
                .map(|unseen| format!("*not: {}*", unseen.change)),
        );
        line(format!(
            "| `{}` | {} | {} {} | {} | {} | {} |",
            end.place,
            calls.join(" "),
            ids.join(" "),
            end.category,
            partners.join(" "),
            cell(&end.why),
            cell(&shown.join("; "))
        ));
    }
    line("\n## What no run on the CPU device shows\n\n| change | calls | why no test sees it | litmus |\n|---|---|---|---|".into());
    for unseen in unseen {
        let calls: Vec<_> = unseen.breaks.iter().map(|name| format!("`{name}`")).collect();
        line(format!(
            "| {} | {} | {} | {} |",
            cell(&unseen.change),
            calls.join(", "),
            cell(&unseen.why),
            unseen.litmus.join(", ")
        ));
    }
    text.push_str(&litmus());
    text
}

/// What `tests/litmus.rs` counted on GPUs, as far as `results` has it: a line a machine and pattern, over all pairs of ranks.
fn litmus() -> String {
    #[derive(Deserialize)]
    struct Counts {
        pattern: String,
        received: u64,
        halves_apart: u64,
        torn: u64,
        wrong: u64,
        lost: u64,
    }
    #[derive(Deserialize)]
    struct Run {
        provenance: Provenance,
        rows: Vec<Counts>,
    }
    let mut machines: Vec<_> =
        std::fs::read_dir(root().join("results")).into_iter().flatten().collect::<Result<_, _>>().unwrap();
    machines.sort_by_key(std::fs::DirEntry::file_name);
    let files = machines.into_iter().map(|machine| machine.path().join("litmus.json")).filter(|file| file.exists());
    let mut text = String::from(LITMUS);
    for file in files {
        let run: Run = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let mut counts: Vec<Counts> = Vec::new();
        for row in run.rows {
            match counts.iter_mut().find(|sum| sum.pattern == row.pattern) {
                None => counts.push(row),
                Some(sum) => {
                    sum.received += row.received;
                    sum.halves_apart += row.halves_apart;
                    sum.torn += row.torn;
                    sum.wrong += row.wrong;
                    sum.lost += row.lost;
                }
            }
        }
        for Counts { pattern, received, halves_apart, torn, wrong, lost } in counts {
            let (machine, date) = (run.provenance.machine(), &run.provenance.date.to_string()[..10]);
            writeln!(
                text,
                "| {machine}, {date} | {pattern} | {received} | {halves_apart} | {torn} | {wrong} | {lost} |"
            )
            .unwrap();
        }
    }
    text
}

const LITMUS: &str = "
## What the litmus counted

Two GPUs pass messages without a kernel boundary in between: `sentinel` and `ll` as the mailboxes do, `release_acquire` as the slot
ring does. `relaxed` is that with a flag that orders nothing, `flag_first` with the flag ahead of the data: what goes wrong there is
what the order is for. Halves that come apart are allowed, words that are torn are not; a message is wrong if it is not the one
that was due.

| machine | pattern | messages | halves apart | torn | wrong | lost |
|---|---|---:|---:|---:|---:|---:|
";

const INTRODUCTION: &str = "\
# Barriers

Every barrier, fence and ordered access of the kernels. Generated from the `ORDER` tags of the sources and from
`tests/mutants/mutants.toml`; [CONTRIBUTING.md](../CONTRIBUTING.md#comments) explains tags and categories, and `ci/house.sh`
refuses a call without one. To write it again:

```
MYELON_BLESS=1 cargo test --test mutants barriers
```

The partners of an end are the other ends of its id. *Shown by* names the planted bugs that leave the call out or weaken it,
each of which makes a test fail; what follows *not* is a change that no run on the CPU device shows, explained
[at the end](#what-no-run-on-the-cpu-device-shows). *Litmus* are the patterns of `tests/litmus.rs`, which runs on GPUs, that
try what such an end rests on. An end without a call is a plain access that the other ends order, or code of the host.

";

#[test]
fn barriers_every_call_is_broken_by_a_mutant_or_explained() {
    let (ends, Plan { mutant: mutants, unseen, .. }) = (census(), plan());
    let broken: Vec<_> = mutants.iter().flat_map(|m| &m.breaks).chain(unseen.iter().flat_map(|u| &u.breaks)).collect();
    let calls: Vec<_> = ends.iter().filter(|end| !end.calls.is_empty()).map(End::name).collect();
    let mut complaints = Vec::new();
    for name in &calls {
        if !broken.contains(&name) {
            complaints
                .push(format!("`{name}`: no mutant breaks it, and no `unseen` says why: add one to mutants.toml"));
        }
    }
    let stray = broken.iter().filter(|name| !calls.contains(name));
    complaints
        .extend(stray.map(|name| format!("`{name}`: `breaks` names it, the census (ci/house.sh --census) does not")));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn barriers_document_is_up_to_date() {
    let path = root().join("docs/BARRIERS.md");
    let fresh = document(&census(), &plan());
    if std::env::var(BLESS_VARIABLE).is_ok_and(|value| value == "1") {
        std::fs::write(&path, fresh).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let different = fresh.lines().zip(committed.lines()).position(|(fresh, committed)| fresh != committed);
    assert!(
        fresh == committed,
        "docs/BARRIERS.md is not what the sources say, from line {} on: {BLESS_VARIABLE}=1 cargo test --test mutants barriers",
        different.unwrap_or(fresh.lines().count().min(committed.lines().count())) + 1
    );
}
