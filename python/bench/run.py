"""Measures torch on NCCL, on NCCL with a library preloaded in its place, and on Myelon: interleaved, medians kept.

    python python/bench/run.py --ranks 2 --results results/2x-h200 --preload target/release/libmyelon_nccl.so

Every engine has processes of its own, a rank each (``torch_bench.py``). They stay, and measure in turns: one engine works, the others
wait without a kernel on the GPU. So what takes long, imports and models, is paid once for many turns, and what drifts meets all
engines alike. ``--starts`` does all of it again in new processes.

Writes ``torch-RANKS.json`` with every run, the medians and the provenance; ``report.py`` makes the table of docs/TORCH.md of it.
What the program cannot know is passed in: ``--commit`` and ``--source-hash`` (that of the kernels, as ``myelon-doctor`` says).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Dict, List, Optional

from engine import Engine

SCHEMA = 1
MEASURES = ("ddp", "decode", "decode_sums")


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
    """Engines compute the same thing: in each turn losses and outputs lie as near each other as the rounding of bf16 lets them."""
    for measure, key, tolerance in (("ddp", "loss", 0.02), ("decode", "mean", 0.02), ("decode_sums", "mean", 0.02)):
        for turn in sorted({(run["start"], run["turn"]) for run in runs}):
            values = [run[measure][key] for run in runs if (run["start"], run["turn"]) == turn]
            # Not the other way round: what is no number compares as false.
            if not max(values) - min(values) <= tolerance * abs(statistics.median(values)):
                raise SystemExit(f"engines disagree on the {key} of {measure}: {values}; nothing was written")


def check_engine(run: Dict[str, Any], preload: Optional[Path]) -> None:
    """Numbers are of the engine that they are stored for."""
    kind, by = run["engine"].split()[0], run["carried_out_by"]
    if kind == "preloaded" and preload is not None:
        is_so = by == preload.resolve().name
    else:
        # Without a GPU torch's own backend is gloo.
        is_so = by in (("nccl", "gloo") if kind == "nccl" else ("myelon",))
    if not is_so:
        raise SystemExit(f"{run['engine']}: its collectives were carried out by {by}; nothing of it was written")


def in_turn(engines: List[Any], turn: int) -> List[Any]:
    """The engines in the order of this turn: each comes first as often as the others."""
    first = turn % len(engines)
    return engines[first:] + engines[:first]


def write(runs: List[Dict[str, Any]], engines: List[str], arguments: argparse.Namespace) -> Path:
    """The file with these runs, in place of the one with fewer: beside that of an earlier measurement, which stays until all are there."""
    check(runs)
    runs = sorted(runs, key=lambda run: (run["start"], run["turn"], engines.index(run["engine"])))
    provenance = {**runs[0]["provenance"], "commit": arguments.commit, "source_hash": arguments.source_hash}
    lines = [json.dumps({key: value for key, value in run.items() if key != "provenance"}) for run in runs]
    arguments.results.mkdir(parents=True, exist_ok=True)
    path: Path = arguments.results / f"torch-{arguments.ranks}.json.part"
    path.write_text(
        f'{{"schema":{SCHEMA},\n"provenance":{json.dumps(provenance)},\n"ranks":{arguments.ranks},\n'
        f'"medians":{json.dumps(medians(runs))},\n"runs":[\n' + ",\n".join(lines) + "\n]}\n"
    )
    return path


def measure(
    start: int, turns: int, runs: List[Dict[str, Any]], names: List[str], arguments: argparse.Namespace
) -> None:
    """All engines in new processes, which take ``turns`` turns; what there is so far is written after each turn."""
    engines: List[Engine] = []
    try:
        for name in names:
            engines.append(Engine(name, arguments.ranks, arguments.preload, arguments.rest, arguments.limit))
        # One after the other: a kernel that waits for its peer should not wait for another engine's as well.
        for engine in engines:
            engine.ask("prepare")
        for turn in range(turns):
            for engine in in_turn(engines, turn):
                run = {"engine": engine.name, "start": start, "turn": turn, **engine.ask("measure")}
                check_engine(run, arguments.preload)
                runs.append(run)
                times = ", ".join(f"{kind} {run[kind]['ms']:.3f} ms" for kind in MEASURES)
                print(f"start {start + 1}, turn {turn + 1}, {engine.name}: {times}", flush=True)
            # An end before the last turn loses one turn at most.
            write(runs, names, arguments)
    finally:
        for engine in engines:
            engine.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of this machine's results")
    parser.add_argument("--preload", type=Path, help="libmyelon_nccl.so, to be loaded in NCCL's place")
    parser.add_argument(
        "--also",
        nargs="+",
        action="append",
        default=[],
        metavar=("ENGINE", "NAME=VALUE"),
        help="an engine once more with variables set, such as: preloaded MYELON_MAX_LANES=64",
    )
    parser.add_argument("--runs", type=int, default=6, help="runs of each engine, taking turns (default 6)")
    parser.add_argument(
        "--starts", type=int, default=2, help="starts of the processes, with as many runs each (default 2)"
    )
    parser.add_argument("--limit", type=float, default=300, help="seconds that one answer may take (default 300)")
    parser.add_argument("--commit", default="not given")
    parser.add_argument("--source-hash", default="not given")
    arguments, arguments.rest = parser.parse_known_args()
    if arguments.preload is not None and not arguments.preload.is_file():
        parser.error(f"--preload {arguments.preload}: no such file; build it with cargo build --release -p myelon-nccl")
    if min(arguments.runs, arguments.starts) < 1:
        parser.error("--runs and --starts: at least 1")

    names = ["nccl", *(["preloaded"] if arguments.preload is not None else []), "myelon"]
    for engine, *settings in arguments.also:
        if engine not in names or not settings or not all(setting.partition("=")[1] for setting in settings):
            parser.error(f"--also {engine} {' '.join(settings)}: takes one of {', '.join(names)}, then NAME=VALUE")
    names += [" ".join(also) for also in arguments.also]
    starts = min(arguments.starts, arguments.runs)
    runs: List[Dict[str, Any]] = []
    for start in range(starts):
        measure(start, (arguments.runs + start) // starts, runs, names, arguments)
    part = write(runs, names, arguments)
    print(f"wrote {part.replace(part.with_suffix(''))}")


if __name__ == "__main__":
    main()
