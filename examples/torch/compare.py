"""Runs the programs beside this file twice, with plain NCCL and with Myelon's stand-in before it, and holds the losses against each other.

    python3 examples/torch/compare.py PATH/libmyelon_nccl.so [--ranks 2] [checks] [training] [killed]

All three parts by default. Ends with 0 where everything went well: losses agree, all checks pass, and the stand-in took all-reduces.
Needs PyTorch and two GPUs.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TIMEOUT_S = 400


def run(program: list[str], ranks: int, library: str | None, **environment: str) -> str:
    variables = dict(os.environ, **environment)
    variables.pop("LD_PRELOAD", None)
    if library:
        variables.update(LD_PRELOAD=library, MYELON_NCCL_LOG="1")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *program]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S)
    text = ended.stdout + ended.stderr
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(program)} ended with {ended.returncode}:\n{text[-4000:]}")
    return text


def losses(text: str) -> list[float]:
    return json.loads(re.search(r"^losses (.*)$", text, re.MULTILINE)[1])


def taken(text: str) -> int:
    return sum(int(count) for count in re.findall(r"ncclAllReduce: (\d+) calls, \d+ bytes by Myelon", text))


def training(library: str, ranks: int) -> list[str]:
    problems = []
    for mode, dtype in [(mode, dtype) for mode in ["ddp", "fsdp", "tp"] for dtype in ["float32", "bfloat16"]]:
        program = [str(HERE / "train.py"), "--mode", mode, "--dtype", dtype]
        try:
            expected = losses(run(program, ranks, None))
            for collectives in ["all_reduce", "all"]:
                text = run(program, ranks, library, MYELON_NCCL_COLLECTIVES=collectives)
                seen = losses(text)
                apart = max(abs(a - b) for a, b in zip(expected, seen, strict=True))
                print(
                    f"{mode} {dtype}, taking {collectives}: last loss {seen[-1]:.6f}, apart from NCCL's by {apart:.2e} at most, "
                    f"{taken(text)} all-reduces by Myelon",
                    flush=True,
                )
                # More than two ranks add in another order than NCCL does.
                if apart > (1e-4 if dtype == "float32" else 5e-2) or taken(text) == 0:
                    problems.append(f"{mode} {dtype}, taking {collectives}")
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{mode} {dtype}: {error}", flush=True)
            problems.append(f"{mode} {dtype}")
    return problems


def checks(library: str, ranks: int) -> list[str]:
    problems = []
    program = [str(HERE / "collectives.py")]
    cases = {
        "plain NCCL": (None, {}),
        "Myelon": (library, {}),
        "expandable segments": (library, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        "every collective": (library, {"MYELON_NCCL_COLLECTIVES": "all"}),
        "turned off": (library, {"MYELON_NCCL_DISABLE": "1"}),
    }
    for name, (preloaded, environment) in cases.items():
        try:
            text = run(program, ranks, preloaded, **environment)
            print(f"checks, {name}: well, {taken(text)} all-reduces by Myelon", flush=True)
            if (taken(text) > 0) != (name not in ["plain NCCL", "turned off"]):
                problems.append(f"checks, {name}: the wrong one ran all-reduces")
            print("\n".join(line for line in text.splitlines() if " by Myelon" in line or " by NCCL" in line or "ranks: " in line))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"checks, {name}: {error}", flush=True)
            problems.append(f"checks, {name}")
    return problems


def killed(library: str, _ranks: int) -> list[str]:
    variables = dict(os.environ, LD_PRELOAD=library)
    ended = subprocess.run([sys.executable, str(HERE / "killed.py")], env=variables, timeout=TIMEOUT_S)
    return ["a killed rank"] if ended.returncode else []


def main() -> int:
    parts = {part.__name__: part for part in [checks, training, killed]}
    parser = argparse.ArgumentParser()
    parser.add_argument("stand_in", metavar="libmyelon_nccl.so")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("parts", nargs="*", metavar="checks|training|killed")
    options = parser.parse_args()
    library = str(pathlib.Path(options.stand_in).resolve())
    problems = []
    for part in options.parts or parts:
        problems += parts[part](library, options.ranks)
    print("all well" if not problems else f"problems: {', '.join(problems)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
