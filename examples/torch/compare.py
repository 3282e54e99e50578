"""Runs the programs beside this file with plain NCCL, with Myelon's stand-in before it and on the backend myelon, and holds the losses
against each other.

    python3 examples/torch/compare.py PATH/libmyelon_nccl.so [--ranks 2] [checks] [training] [killed]

All three parts by default: 6 runs of every rank for the checks, 5 for the training, 1 that is killed. Ends with 0 where everything
went well: losses agree, all checks pass, and Myelon took all-reduces. Needs PyTorch and two GPUs, and the package myelon_ccl for the
backend: `--without-backend` leaves that out.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TIMEOUT_S = 240
# How far losses may lie apart: more than two ranks add in another order than NCCL does.
BOUNDS = {"float32": 1e-4, "bfloat16": 5e-2}


def run(program: list[str], ranks: int, library: str | None = None, **environment: str) -> str:
    """What all ranks of a program printed. They are started here: torchrun would import torch once more."""
    variables = dict(os.environ, MASTER_ADDR="127.0.0.1", WORLD_SIZE=str(ranks), OMP_NUM_THREADS="1", **environment)
    variables.pop("LD_PRELOAD", None)
    if library:
        variables.update(LD_PRELOAD=library, MYELON_NCCL_LOG="1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        variables["MASTER_PORT"] = str(free.getsockname()[1])
    with tempfile.TemporaryFile("w+") as output:
        started = [
            subprocess.Popen(
                [sys.executable, *program],
                env=dict(variables, RANK=str(rank), LOCAL_RANK=str(rank)),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for rank in range(ranks)
        ]
        began = time.monotonic()
        try:
            # The first that fails ends the others, which may wait for it.
            codes = [rank.poll() for rank in started]
            while None in codes and not any(codes) and time.monotonic() < began + TIMEOUT_S:
                time.sleep(0.05)
                codes = [rank.poll() for rank in started]
        finally:
            for rank in started:
                rank.kill()
                rank.wait()
        output.seek(0)
        text = output.read()
    if any(code != 0 for code in codes):
        ends = ", ".join("still running" if code is None else str(code) for code in codes)
        raise RuntimeError(
            f"{' '.join(program)}: after {time.monotonic() - began:.0f} s ranks ended with {ends}:\n{text[-4000:]}"
        )
    return text


def losses(text: str) -> dict[tuple[str, str], list[float]]:
    """Of each mode and type."""
    told = [json.loads(line) for line in re.findall(r"^losses (.*)$", text, re.MULTILINE)]
    return {(one["mode"], one["dtype"]): one["losses"] for one in told}


def taken(text: str) -> int:
    return sum(int(count) for count in re.findall(r"ncclAllReduce: (\d+) calls, \d+ bytes by Myelon", text))


def apart(expected: list[float], seen: list[float]) -> float:
    """The widest gap; infinite where a loss is missing or no number."""
    gaps = [abs(a - b) for a, b in zip(expected, seen)]
    return max(gaps) if len(expected) == len(seen) and all(gap == gap for gap in gaps) else float("inf")


def training(options: argparse.Namespace) -> list[str]:
    program = [str(HERE / "train.py"), "--mode", "ddp", "fsdp", "tp", "--dtype", *BOUNDS]
    backend = [*program, "--backend", "myelon"]
    others = {
        "preloaded": lambda: run(
            program, options.ranks, options.stand_in, MYELON_NCCL_COLLECTIVES="all_reduce"
        ),
        "preloaded, every collective": lambda: run(
            program, options.ranks, options.stand_in, MYELON_NCCL_COLLECTIVES="all"
        ),
    }
    if options.backend:
        every = "all_reduce,reduce_scatter,all_gather,broadcast"
        others["backend"] = lambda: run(backend, options.ranks, MYELON_TORCH_STRICT="1")
        others["backend, every collective"] = lambda: run(
            backend, options.ranks, MYELON_TORCH_STRICT="1", MYELON_TORCH_COLLECTIVES=every
        )
    try:
        expected = losses(run(program, options.ranks))
    except RuntimeError as error:
        print(f"plain NCCL: {error}", flush=True)
        return ["training with plain NCCL"]
    problems = []
    for name, of_engine in others.items():
        try:
            text = of_engine()
        except RuntimeError as error:
            print(f"{name}: {error}", flush=True)
            problems.append(f"training, {name}")
            continue
        seen = losses(text)
        for case, right in expected.items():
            gap = apart(right, seen.get(case, []))
            print(f"{' '.join(case)}, {name}: apart from NCCL's {len(right)} losses by {gap:.2e} at most", flush=True)
            if gap > BOUNDS[case[1]]:
                problems.append(f"{' '.join(case)}, {name}")
        if name.startswith("preloaded"):
            print(f"{name}: {taken(text)} all-reduces by Myelon", flush=True)
            if taken(text) == 0:
                problems.append(f"{name}: Myelon took no all-reduce")
    return problems


def checks(options: argparse.Namespace) -> list[str]:
    problems = []
    all_checks, by_path = [str(HERE / "collectives.py")], [str(HERE / "by_path.py"), options.stand_in]
    cases = {
        "plain NCCL": (all_checks, None, {}),
        "Myelon": (all_checks, options.stand_in, {}),
        "expandable segments": (all_checks, options.stand_in, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        "every collective": (all_checks, options.stand_in, {"MYELON_NCCL_COLLECTIVES": "all"}),
        "turned off": (all_checks, options.stand_in, {"MYELON_NCCL_DISABLE": "1"}),
        "opened by its path": (by_path, None, {"MYELON_NCCL_LOG": "1"}),
    }
    for name, (program, preloaded, environment) in cases.items():
        try:
            text = run(program, options.ranks, preloaded, **environment)
            print(f"checks, {name}: well, {taken(text)} all-reduces by Myelon", flush=True)
            if (taken(text) > 0) != (name not in ["plain NCCL", "turned off"]):
                problems.append(f"checks, {name}: the wrong one ran all-reduces")
            print("\n".join(line for line in text.splitlines() if " by Myelon" in line or " by NCCL" in line or "ranks: " in line))
        except RuntimeError as error:
            print(f"checks, {name}: {error}", flush=True)
            problems.append(f"checks, {name}")
    return problems


def killed(options: argparse.Namespace) -> list[str]:
    variables = dict(os.environ, LD_PRELOAD=options.stand_in)
    try:
        ended = subprocess.run([sys.executable, str(HERE / "killed.py")], env=variables, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [f"a killed rank: still running after {TIMEOUT_S} s"]
    return ["a killed rank"] if ended.returncode else []


def main() -> int:
    parts = {part.__name__: part for part in [checks, training, killed]}
    parser = argparse.ArgumentParser()
    parser.add_argument("stand_in", metavar="libmyelon_nccl.so")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--without-backend", dest="backend", action="store_false", help="train without the package myelon_ccl")
    parser.add_argument("parts", nargs="*", metavar="checks|training|killed")
    options = parser.parse_intermixed_args()
    if unknown := sorted(set(options.parts) - set(parts)):
        parser.error(f"no such part: {', '.join(unknown)}")
    options.stand_in = str(pathlib.Path(options.stand_in).resolve(strict=True))
    problems = []
    for part in options.parts or parts:
        began = time.monotonic()
        problems += parts[part](options)
        print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
    print("all well" if not problems else f"problems: {', '.join(problems)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
