"""Measures torch on NCCL, on NCCL with a library preloaded in its place, and on Myelon: interleaved, medians kept.

    python python/bench/run.py --ranks 2 --results results/2x-h200 --preload target/release/libmyelon_nccl.so

Writes ``torch-RANKS.json`` with every run, the medians and the provenance; ``report.py`` makes the table of docs/TORCH.md of it.
What the program cannot know is passed in: ``--commit`` and ``--source-hash`` (that of the kernels, as ``myelon-doctor`` says).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

HERE = Path(__file__).resolve().parent
SCHEMA = 1
MEASURES = ("ddp", "decode", "decode_sums")


def run_once(engine: str, arguments: argparse.Namespace, file: Path) -> Dict[str, Any]:
    """One torchrun of one engine."""
    environment = dict(os.environ)
    # Multicast is off in every row, so that engines differ in nothing else; a user's choice stays.
    environment.setdefault("NCCL_NVLS_ENABLE", "0")
    environment.setdefault("OMP_NUM_THREADS", "1")
    if engine == "preloaded":
        environment["LD_PRELOAD"] = str(arguments.preload.resolve())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(arguments.ranks)]
    command += [str(HERE / "torch_bench.py"), "--engine", engine, "--output", str(file), *arguments.rest]
    subprocess.run(command, env=environment, check=True, timeout=arguments.limit)
    return json.loads(file.read_text())


def medians(runs: List[Dict[str, Any]]) -> Dict[str, Dict[str, float]]:
    """Of each engine and measure the median over its runs, in milliseconds."""
    engines = sorted({run["engine"] for run in runs}, key=[run["engine"] for run in runs].index)
    return {
        engine: {
            measure: statistics.median(run[measure]["ms"] for run in runs if run["engine"] == engine)
            for measure in MEASURES
        }
        for engine in engines
    }


def check(runs: List[Dict[str, Any]]) -> None:
    """Engines compute the same thing: losses and outputs lie as near each other as the rounding of bf16 lets them."""
    for measure, key, tolerance in (("ddp", "loss", 0.02), ("decode", "mean", 0.02), ("decode_sums", "mean", 0.02)):
        values = [run[measure][key] for run in runs]
        if max(values) - min(values) > tolerance * abs(statistics.median(values)):
            raise SystemExit(f"engines disagree on the {key} of {measure}: {values}; nothing was written")


def write(runs: List[Dict[str, Any]], arguments: argparse.Namespace) -> Path:
    """The file with these runs, in place of the one with fewer."""
    check(runs)
    provenance = {**runs[0]["provenance"], "commit": arguments.commit, "source_hash": arguments.source_hash}
    lines = [json.dumps({key: value for key, value in run.items() if key != "provenance"}) for run in runs]
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"torch-{arguments.ranks}.json"
    path.write_text(
        f'{{"schema":{SCHEMA},\n"provenance":{json.dumps(provenance)},\n"ranks":{arguments.ranks},\n'
        f'"medians":{json.dumps(medians(runs))},\n"runs":[\n' + ",\n".join(lines) + "\n]}\n"
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of this machine's results")
    parser.add_argument("--preload", type=Path, help="libmyelon_nccl.so, to be loaded in NCCL's place")
    parser.add_argument("--runs", type=int, default=5, help="runs of each engine, taking turns (default 5)")
    parser.add_argument("--limit", type=float, default=300, help="seconds that one run may take (default 300)")
    parser.add_argument("--commit", default="not given")
    parser.add_argument("--source-hash", default="not given")
    arguments, arguments.rest = parser.parse_known_args()
    if arguments.preload is not None and not arguments.preload.is_file():
        parser.error(f"--preload {arguments.preload}: no such file; build it with cargo build --release -p myelon-nccl")

    engines = ["nccl", *(["preloaded"] if arguments.preload is not None else []), "myelon"]
    runs: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.runs):
            for engine in engines:
                run = run_once(engine, arguments, Path(folder) / "run.json")
                runs.append(run)
                times = ", ".join(f"{measure} {run[measure]['ms']:.3f} ms" for measure in MEASURES)
                print(f"run {turn + 1} of {arguments.runs}, {engine}: {times}", flush=True)
            # After each turn: an end before the last loses one turn at most.
            path = write(runs, arguments)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
