"""Results in the form that ``myelon-perf --json`` writes, for rows of others: ``myelon-perf report`` takes them beside its own.

Needs no torch. What a run of others cannot know of Myelon, NCCL and the links says that it was not found, which lets
``report`` join the file with Myelon's of an equal machine: one of equal GPUs, driver and processor.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence

SCHEMA = 1
NOT_FOUND = "not found"


def summary(samples_us: Sequence[float]) -> Dict[str, float]:
    """What the repeats are summed up as: percentiles are samples that occurred, by nearest rank."""
    ordered = sorted(samples_us)

    def percentile(percent: int) -> float:
        return ordered[max(math.ceil(percent * len(ordered) / 100), 1) - 1]

    return {"p50": percentile(50), "p99": percentile(99), "min": ordered[0]}


def slowest(series_us: Sequence[Sequence[float]]) -> List[float]:
    """Of one series a rank, the slowest rank's time of each repeat."""
    return [max(times) for times in zip(*series_us)]


def row(
    *,
    ranks: int,
    size: int,
    dtype: str,
    requested: str,
    variant: str,
    in_place: bool,
    graph: int,
    samples_us: Sequence[float],
    wrong: int,
) -> Dict[str, Any]:
    """An all-reduce of ``size`` bytes, summed up."""
    time_us = summary(samples_us)
    algbw = size / time_us["p50"] / 1e3
    return {
        "collective": "all_reduce",
        "ranks": ranks,
        "bytes": size,
        "dtype": dtype,
        "op": "sum",
        "requested": requested,
        "variant": variant,
        "lanes": 0,
        "threads": 0,
        "in_place": in_place,
        "graph": graph,
        "time_us": time_us,
        "algbw_gbps": algbw,
        "busbw_gbps": algbw * 2 * (ranks - 1) / ranks,
        "wrong": wrong,
    }


def processor() -> str:
    """The name that Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return NOT_FOUND


def provenance(gpu: str, visible: int, driver: str, peers: Dict[str, str]) -> Dict[str, Any]:
    """Where and with what this process measured; ``driver`` is the CUDA version that the driver is for."""
    listed = Path("/proc/driver/nvidia/gpus")
    unknown = dict.fromkeys(["version", "source_hash", "link", "cuda", "nccl", "nvls"], NOT_FOUND)
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "gpu": gpu,
        "gpus": max(visible, len(list(listed.iterdir())) if listed.is_dir() else 0),
        "driver": driver,
        "cpu": processor(),
        "peers": peers,
        **unknown,
    }


def text(given: Dict[str, Any], rows: Sequence[Dict[str, Any]]) -> str:
    """The file, a line a row."""
    lines = ",\n".join(json.dumps(each) for each in rows)
    return f'{{"schema":{SCHEMA},\n"provenance":{json.dumps(given)},\n"rows":[\n{lines}\n]}}\n'


def write(path: Path, given: Dict[str, Any], rows: Sequence[Dict[str, Any]]) -> None:
    """Replaces the file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text(given, rows))
    part.replace(path)


def sizes(begin: int, end: int, factor: int) -> List[int]:
    """From ``begin`` to ``end`` bytes, each ``factor`` times the one before."""
    found = []
    while begin <= end:
        found.append(begin)
        begin *= factor
    return found


def size_of(words: str) -> int:
    """``64K`` and the like, in bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(words[:-1]) * units[words[-1].upper()] if words[-1:].upper() in units else int(words)
