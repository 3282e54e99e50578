//! Tables and plots made of stored results.

use crate::{perf, refused, text};

pub(crate) const RESULTS: &str = r#"{"schema":1,
"provenance":{"date":"2026-11-20T10:00:00Z","version":"0.1.0","source_hash":"1a2b","gpu":"NVIDIA H200","gpus":8,"link":"NV18","driver":"580.159","cuda":"13.0","nccl":"2.28.9","nvls":"off","cpu":"Test"},
"rows":[
{"ranks":8,"bytes":1024,"dtype":"f32","op":"sum","requested":"auto","variant":"ring","lanes":16,"threads":512,"in_place":false,"graph":20,"time_us":{"p50":4.0,"p99":6.0,"min":2.0},"algbw_gbps":0.256,"busbw_gbps":0.448,"wrong":0},
{"ranks":8,"bytes":1024,"dtype":"f32","op":"sum","requested":"nccl","variant":"nccl","lanes":0,"threads":0,"in_place":false,"graph":20,"time_us":{"p50":8.0,"p99":12.0,"min":4.0},"algbw_gbps":0.128,"busbw_gbps":0.224,"wrong":0}
]}
"#;

/// Of `python/bench/run.py`.
pub(crate) const TORCH: &str = r#"{"schema":1,
"provenance":{"date": "2026-11-28T03:27:06Z", "torch": "2.11.0+cu130", "gpu": "NVIDIA H200", "gpus": 2},
"ranks":2,
"medians":{"nccl": {"ddp": 46.8}},
"runs":[
{"engine": "nccl", "ddp": {"ms": 46.8}}
]}
"#;

const README: &str = "# Title\n<!-- results:plot -->\n<!-- /results -->\nprose\n<!-- results:latency-8 -->\nold\n<!-- /results -->\n<!-- results:provenance -->\n<!-- /results -->\nend\n";

#[test]
fn a_report_fills_the_readme_and_then_has_nothing_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    std::fs::create_dir_all(here.join("docs")).unwrap();
    std::fs::write(here.join("run.json"), RESULTS).unwrap();
    std::fs::write(here.join("README.md"), README).unwrap();
    let line = ["report", "run.json", "--readme", "README.md", "--svg", "docs/plot.svg"];
    let check = [&line[..], &["--check"]].concat();

    let stale = perf(here, &check);
    assert_eq!(stale.status.code(), Some(1));
    assert_eq!(text(&stale.stderr).lines().count(), 2, "plot and README: {}", text(&stale.stderr));
    assert_eq!(std::fs::read_to_string(here.join("README.md")).unwrap(), README);

    let written = perf(here, &line);
    assert_eq!((written.status.code(), text(&written.stdout)), (Some(0), ""), "{}", text(&written.stderr));
    let readme = std::fs::read_to_string(here.join("README.md")).unwrap();
    assert!(readme.contains("| 1 KiB | 4.00 | `ring` | 8.00 | 2.00× |"), "{readme}");
    assert!(readme.contains("](<docs/plot.svg>)") && readme.contains("Measured on 2026-11-20"), "{readme}");
    assert!(readme.starts_with("# Title\n") && readme.ends_with("end\n") && !readme.contains("old"), "{readme}");
    assert!(std::fs::read_to_string(here.join("docs/plot.svg")).unwrap().starts_with("<svg"));
    assert_eq!(perf(here, &check).status.code(), Some(0));

    std::fs::write(here.join("other.json"), RESULTS.replace("H200", "B200")).unwrap();
    let both = [&line[..], &["other.json"]].concat();
    assert_eq!(perf(here, &both).status.code(), Some(0));
    let other = std::fs::read_to_string(here.join("docs/plot-2.svg")).unwrap();
    assert!(other.starts_with("<svg"), "{other}");
    assert!(std::fs::read_to_string(here.join("README.md")).unwrap().contains("](<docs/plot-2.svg>)"));

    let printed = perf(here, &["report", "run.json"]);
    assert_eq!(printed.status.code(), Some(0));
    assert!(readme.contains(text(&printed.stdout).trim()), "the README has what is printed");
}

#[test]
fn what_was_measured_of_pytorch_comes_beside_myelon() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let torch = concat!(env!("CARGO_MANIFEST_DIR"), "/python/tests/symm_mem.json");
    std::fs::write(here.join("run.json"), RESULTS).unwrap();
    let printed = perf(here, &["report", "run.json", torch]);
    let tables = text(&printed.stdout);
    assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stderr));
    assert!(tables.contains("| 1 KiB | 4.00 | `ring` | 8.00 | 6.00 | 1.50× |"), "against the faster one: {tables}");
    assert!(tables.contains("| NCCL | PyTorch symmetric memory | ratio |"), "{tables}");
    assert!(tables.contains("; NCCL 2.28.9, NVLS off; PyTorch 2.10.0 symmetric memory, NVLS off."), "{tables}");
    assert!(!tables.contains("in place"), "Myelon was not measured in place: {tables}");
    let alone = perf(here, &["report", "run.json"]);
    assert!(!text(&alone.stdout).contains("PyTorch"), "{}", text(&alone.stdout));
    let page = perf(here, &["report", "run.json", torch, "-o", "report.html", "--svg", "plot.svg"]);
    assert_eq!(page.status.code(), Some(0), "{}", text(&page.stderr));
    assert!(std::fs::read_to_string(here.join("report.html")).unwrap().contains("PyTorch symmetric memory"));
    assert!(std::fs::read_to_string(here.join("plot.svg")).unwrap().contains(".torch_symm_mem.line"));
}

#[test]
fn a_page_has_every_sweep_of_a_folder_and_leaves_the_rest_out() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    std::fs::write(here.join("run.json"), RESULTS).unwrap();
    std::fs::write(here.join("soak.json"), "{\"provenance\":{},\"wrong\":0}").unwrap();
    let line = ["report", "run.json", "soak.json", "-o", "report.html"];
    let written = perf(here, &line);
    assert_eq!((written.status.code(), text(&written.stdout)), (Some(0), ""), "{}", text(&written.stderr));
    assert_eq!(text(&written.stderr), "left out: soak.json: not a sweep\n");
    let page = std::fs::read_to_string(here.join("report.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("8x NVIDIA H200, NV18"), "{page}");
    assert!(page.contains("\"gbps\":450.0"), "the data sheet's rate: {page}");
    assert_eq!(perf(here, &[&line[..], &["--check"]].concat()).status.code(), Some(0));
    let other = RESULTS.replace("{\"ranks\"", "{\"collective\":\"all_gather\",\"ranks\"");
    std::fs::write(here.join("gathers.json"), other).unwrap();
    std::fs::write(here.join("torch.json"), TORCH).unwrap();
    let more = perf(here, &["report", "run.json", "gathers.json", "torch.json", "-o", "report.html", "--check"]);
    assert_eq!(more.status.code(), Some(0), "{}", text(&more.stderr));
    let left_out = "left out: torch.json: not a sweep\nleft out: gathers.json: 2 rows of other collectives\n";
    assert_eq!(text(&more.stderr), left_out);
    let parts = ["gathers.json: all rows are of other collectives", "or leave -o out"];
    refused(here, &["report", "gathers.json", "-o", "other.html"], &parts);
    let given = perf(here, &[&line[..], &["--check", "--link-gbps", "300"]].concat());
    assert_eq!(given.status.code(), Some(1), "another rate is another page");
}

#[test]
fn bad_reports_are_refused_in_one_line_and_touch_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let write = |name: &str, contents: &str| std::fs::write(here.join(name), contents).unwrap();
    write("run.json", RESULTS);
    write("new.json", &RESULTS.replace("\"schema\":1", "\"schema\":7"));
    write("empty.json", &format!("{}[]}}\n", &RESULTS[..RESULTS.find('[').unwrap()]));
    write("torch.json", TORCH);
    write("plain.md", "no markers\n");
    write("open.md", "<!-- results:latency -->\n");
    write("typo.md", "<!-- results:latencies -->\n<!-- /results -->\n");
    let cases: [(&[&str], &[&str]); 24] = [
        (&["report"], &["required", "RESULTS"]),
        (&["report", "run.json", "-J"], &["unexpected argument '-J' found"]),
        (&["report", "empty.json"], &["empty.json: no rows to show"]),
        (&["report", "empty.json", "-o", "a.html"], &["empty.json: no rows to show"]),
        (&["report", "--readme", "plain.md"], &["required", "RESULTS"]),
        (
            &["report", "--patterns", "a.md", "--neighbours", "run.json"],
            &["run.json is a results file, not a file of neighbours", "this one is for report FILE or compare FILE"],
        ),
        (&["report", "run.json", "--readme", "plain.md", "--studies", "a.toml"], &["--studies is for --patterns"]),
        (&["report", "run.json", "--readme", "plain.md", "--overlaps", "o.json"], &["--overlaps is for --patterns"]),
        (&["report", "run.json", "--patterns", "a.md", "--judged", "j.json"], &["--judged is for --readme"]),
        (
            &["report", "run.json", "torch.json"],
            &[
                "torch.json is a file of PyTorch's benchmark, not a results file",
                "for python/bench/report.py PAGE FILE",
            ],
        ),
        (&["report", "none.json"], &["cannot read none.json"]),
        (&["report", "new.json"], &["new.json: schema: 7"]),
        (&["report", "plain.md", "-o", "a.html"], &["plain.md: line 1: not a results file"]),
        (&["report", "new.json", "-o", "a.html"], &["new.json: schema: 7"]),
        (&["report", "run.json", "-o", "a.html", "--link-gbps", "0"], &["--link-gbps 0", "above 0"]),
        (&["report", "run.json", "--link-gbps", "300"], &["--output", "required"]),
        (&["report", "run.json", "--check"], &["--check has nothing to check"]),
        (&["report", "run.json", "--svg", "missing/a.svg"], &["cannot write missing/a.svg"]),
        (&["report", "run.json", "--patterns", "a.md"], &["run.json", "a file that --ablate --json wrote"]),
        (&["report", "run.json", "--patterns", "a.md", "--readme", "plain.md"], &["cannot be used with"]),
        (&["report", "run.json", "--studies", "a.toml"], &["--patterns", "required"]),
        (&["report", "run.json", "--readme", "plain.md", "--svg", "a.svg"], &["plain.md has no <!-- results:NAME -->"]),
        (
            &["report", "run.json", "--readme", "open.md", "--svg", "a.svg"],
            &["open.md: line 1: 'latency' is never closed"],
        ),
        (&["report", "run.json", "--readme", "typo.md", "--svg", "a.svg"], &["'latencies'", "latency, latency-8"]),
    ];
    for (arguments, parts) in cases {
        refused(here, arguments, parts);
    }
    assert!(!here.join("a.svg").exists());
    assert_eq!(std::fs::read_to_string(here.join("open.md")).unwrap(), "<!-- results:latency -->\n");
}
