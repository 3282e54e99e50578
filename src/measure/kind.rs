//! What a stored file is, told by the members that only its kind has: for whoever gave it to something else.

use serde_json::Value;

/// A kind of stored file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// As [`Stored::WHAT`](super::Stored::WHAT).
    pub(crate) what: &'static str,
    /// What takes it: arguments of `myelon-perf`, or a script.
    pub(crate) taken_by: &'static str,
}

/// The kind of a stored file; none for anything else, and for a file without rows that says nothing of its kind.
pub(crate) fn kind_of(text: &str) -> Option<Kind> {
    let file: Value = serde_json::from_str(text).ok()?;
    let row_has = |member: &str| file["rows"][0].get(member).is_some();
    let (what, taken_by) = if file.get("studies").is_some() {
        ("results of studies", "report FILE --patterns PAGE")
    } else if file.get("heap_bytes").is_some() {
        ("a file of overlaps", "report --patterns PAGE --overlaps FILE")
    } else if file.get("table_commit").is_some() {
        ("a judgement of a lane table", "report RESULTS --readme PAGE --judged FILE")
    } else if file.get("medians").is_some() && file.get("runs").is_some() {
        ("a file of PyTorch's benchmark", "python/bench/report.py PAGE FILE")
    } else if row_has("work") {
        ("a file of neighbours", "report --patterns PAGE --neighbours FILE")
    } else if row_has("requested") {
        ("a results file", "report FILE or compare FILE")
    } else {
        return None;
    };
    Some(Kind { what, taken_by })
}
