"""Writes the table of docs/TORCH.md from stored runs, or with --check says whether it is that of them.

python python/bench/report.py docs/TORCH.md results/*/torch-*.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Dict, List

BEGIN, END = "<!-- results:torch -->", "<!-- /results -->"
NAMES = {
    "nccl": "NCCL",
    "preloaded": "NCCL's place taken by `libmyelon_nccl.so`",
    "myelon": "backend `myelon`",
}
MEASURES = ("ddp", "decode", "decode_sums")


def name_of(engine: str) -> str:
    """As the table calls an engine."""
    kind, *settings = engine.split()
    return NAMES[kind] + "".join(f", `{setting}`" for setting in settings)


def table(stored: Dict[str, Any]) -> str:
    """One machine's table: a row an engine, with what it takes in parts of NCCL's time."""
    given, ranks, medians = stored["provenance"], stored["ranks"], stored["medians"]
    again = {
        engine: {
            measure: statistics.median(run[measure]["ms"] for run in stored["runs"] if run["engine"] == engine)
            for measure in MEASURES
        }
        for engine in medians
    }
    if again != medians:
        raise SystemExit(f"the medians of {given['date']} are not those of its runs: measure again")
    turns = len(stored["runs"]) // len(medians)
    starts = len({run.get("start", 0) for run in stored["runs"]})
    of_runs = f"Medians of {turns} {'run' if turns == 1 else 'runs'} of each, which took turns"
    if turns > 1:
        of_runs += f" in {starts} {'start' if starts == 1 else 'starts'} of the processes, with the fastest and the slowest run"
    launch = [run["ddp"]["launch_ms"] for run in stored["runs"] if "launch_ms" in run["ddp"]]
    sequences = stored["runs"][0]["ddp"].get("sequences", 4)
    lines = [
        f"Measured on {given['date'][:10]} on {ranks} of {given['gpus']}x {given['gpu']}; torch {given['torch']}, "
        f"NCCL {given['nccl']}, NVLS {given['nvls']}; Myelon at commit `{given['commit']}`, sources `{given['source_hash']}`. "
        f"{of_runs}; in brackets NCCL's time divided by the row's. {sequences} sequences a rank in a training step"
        + (f", whose passes the host queues in {statistics.median(launch):.1f} ms." if launch else "."),
        "",
        "| collectives by | training step, ms | token, ms | its all-reduces alone, ms |",
        "|:---|---:|---:|---:|",
    ]
    for engine, times in medians.items():
        cells = []
        for measure in MEASURES:
            seen = [run[measure]["ms"] for run in stored["runs"] if run["engine"] == engine]
            between = f", {min(seen):.3f} to {max(seen):.3f}" if turns > 1 else ""
            ratio = medians["nccl"][measure] / times[measure]
            cells.append(f"{times[measure]:.3f}{between} ({ratio:.2f}×)")
        lines.append(f"| {name_of(engine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("stored", type=Path, nargs="*")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the page would change")
    arguments = parser.parse_args()
    tables: List[str] = [table(json.loads(path.read_text())) for path in arguments.stored]
    text = arguments.page.read_text()
    if text.count(BEGIN) != 1 or END not in text.partition(BEGIN)[2]:
        raise SystemExit(f"{arguments.page} has not one {BEGIN} with an {END} behind it: put them where the table goes")
    before, _, rest = text.partition(BEGIN)
    body = "\n\n".join(tables) or "Not measured yet."
    written = f"{before}{BEGIN}\n\n{body}\n\n{END}{rest.partition(END)[2]}"
    if arguments.check:
        if written != text:
            raise SystemExit(f"{arguments.page} is not what the stored runs say: run {parser.prog} without --check")
    else:
        arguments.page.write_text(written)


if __name__ == "__main__":
    main()
