"""Of stored runs: the table of docs/TORCH.md is made of them and nothing else, and others' are in the form of Myelon's."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
PAGE = "# Title\n\n<!-- results:torch -->\n<!-- /results -->\n\nThe end.\n"


def stored() -> Dict[str, Any]:
    def run(engine: str, ms: float) -> Dict[str, Any]:
        return {"engine": engine, "ddp": {"ms": 2 * ms}, "decode": {"ms": ms}, "decode_sums": {"ms": ms / 2}}

    runs = [run(engine, ms) for turn in (0.0, 1.0, 5.0) for engine, ms in (("nccl", 12 + turn), ("myelon", 6 + turn))]
    given = dict.fromkeys(["torch", "nccl", "nvls", "gpu", "commit", "source_hash"], "x")
    return {
        "schema": 1,
        "provenance": {**given, "date": "2026-01-02T03:04:05Z", "gpus": 2},
        "ranks": 2,
        "medians": {
            "nccl": {"ddp": 26.0, "decode": 13.0, "decode_sums": 6.5},
            "myelon": {"ddp": 14.0, "decode": 7.0, "decode_sums": 3.5},
        },
        "runs": runs,
    }


def report(page: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BENCH / "report.py"), str(page), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_table_is_written_and_checked(tmp_path: Path) -> None:
    page, file = tmp_path / "page.md", tmp_path / "torch-2.json"
    page.write_text(PAGE)
    file.write_text(json.dumps(stored()))
    assert report(page, str(file), "--check").returncode != 0
    assert report(page, str(file)).returncode == 0
    text = page.read_text()
    row = "14.000, 12.000 to 22.000 (1.86×) | 7.000, 6.000 to 11.000 (1.86×) | 3.500, 3.000 to 5.500 (1.86×)"
    assert f"| backend `myelon` | {row} |" in text, text
    assert "Medians of 3 runs of each, which took turns in 1 start of the processes" in text, text
    assert text.startswith("# Title\n") and text.endswith("<!-- /results -->\n\nThe end.\n")
    assert report(page, str(file), "--check").returncode == 0
    page.write_text(text.replace("14.000", "13.000"))
    told = report(page, str(file), "--check")
    assert told.returncode != 0 and "not what the stored runs say" in told.stderr
    # Without results the page says so.
    assert report(page).returncode == 0 and "Not measured yet." in page.read_text()


def test_an_engine_with_variables_set_is_a_row_of_its_own(tmp_path: Path) -> None:
    page, file = tmp_path / "page.md", tmp_path / "torch-2.json"
    page.write_text(PAGE)
    file.write_text(json.dumps(stored()).replace('"myelon"', '"preloaded MYELON_MAX_LANES=32 A=b"'))
    assert report(page, str(file)).returncode == 0
    assert "| NCCL's place taken by `libmyelon_nccl.so`, `MYELON_MAX_LANES=32`, `A=b` | 14.000" in page.read_text()


def test_medians_that_are_not_those_of_the_runs_are_refused(tmp_path: Path) -> None:
    page, file = tmp_path / "page.md", tmp_path / "torch-2.json"
    page.write_text(PAGE)
    changed = stored()
    changed["medians"]["myelon"]["ddp"] = 1.0
    file.write_text(json.dumps(changed))
    told = report(page, str(file))
    assert told.returncode != 0 and "not those of its runs" in told.stderr and page.read_text() == PAGE


def test_engines_take_turns_and_are_held_against_each_other_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    import run

    assert [run.in_turn(["a", "b", "c"], turn) for turn in range(3)] == [list("abc"), list("bca"), list("cab")]

    def of(engine: str, turn: int, loss: float) -> Dict[str, Any]:
        means = {"decode": {"ms": 1.0, "mean": 3.0}, "decode_sums": {"ms": 1.0, "mean": 3.0}}
        return {"engine": engine, "start": 0, "turn": turn, "ddp": {"ms": 1.0, "loss": loss}, **means}

    # A model learns from turn to turn.
    run.check([of("nccl", 0, 9.0), of("myelon", 0, 9.01), of("nccl", 1, 4.0), of("myelon", 1, 4.01)])
    for wrong in (4.0, float("nan")):
        with pytest.raises(SystemExit, match="disagree on the loss of ddp"):
            run.check([of("nccl", 0, 9.0), of("myelon", 0, wrong)])


def test_a_page_without_its_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    told = report(page)
    assert told.returncode != 0 and "put them where the table goes" in told.stderr


def form() -> Any:
    """The module that knows the form of results."""
    spec = importlib.util.spec_from_file_location("stored", BENCH / "stored.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_of_others_have_the_form_of_myelons(tmp_path: Path) -> None:
    its = form()
    common = {"ranks": 8, "size": 1024, "dtype": "f32", "requested": "torch_symm_mem", "graph": 20, "wrong": 0}
    one_shot = its.row(variant="one_shot_all_reduce_out", in_place=False, samples_us=[6.0, 5.0, 7.0, 9.0], **common)
    two_shot = its.row(variant="two_shot_all_reduce_", in_place=True, samples_us=[8.0], **common)
    assert one_shot["time_us"] == {"p50": 6.0, "p99": 9.0, "min": 5.0}
    assert its.slowest([[1.0, 5.0], [2.0, 4.0]]) == [2.0, 5.0]
    given = its.provenance("NVIDIA H200", 8, "580.159", {"torch_symm_mem": "PyTorch 2.10.0 symmetric memory, NVLS off"})
    given.update(date="2026-11-21T10:00:00Z", gpus=8, cpu="Test")
    its.write(tmp_path / "new" / "run.json", given, [one_shot, two_shot])
    # `myelon-perf report` reads the same file in a test of its own.
    expected = (Path(__file__).resolve().parent / "symm_mem.json").read_text()
    assert (tmp_path / "new" / "run.json").read_text() == expected


def test_sizes_are_read_as_myelon_perf_reads_them() -> None:
    its = form()
    assert its.sizes(its.size_of("1K"), its.size_of("1m"), 4) == [1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20]
    assert its.size_of("512") == 512


def test_numbers_of_another_engine_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    run = importlib.import_module("run")
    library = Path("/somewhere/libmyelon_nccl.so")
    for engine, by in (("nccl", "nccl"), ("nccl A=b", "gloo"), ("preloaded A=b", library.name), ("myelon", "myelon")):
        run.check_engine({"engine": engine, "carried_out_by": by}, library)
    for engine, by in (("nccl", library.name), ("preloaded", "nccl"), ("myelon", "what the group delegates to")):
        with pytest.raises(SystemExit, match=f"{engine}: its collectives were carried out by {by}"):
            run.check_engine({"engine": engine, "carried_out_by": by}, library)
