"""What the environment says to the torch side; the C library reads its own variables."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import FrozenSet, Tuple

import torch

from ..core import Options
from ..errors import InvalidArgument


# As the stand-in for NCCL: Options::LARGE_LANES_OF_TRAINING in src/comm/options.rs, where the measurement is.
_LARGE_LANES = 64
# As the stand-in for NCCL, in seconds: a process that ends is noticed at once, and one that stands still may go on.
_SILENCE = 60.0


def options(patience: timedelta) -> Options:
    """Options of a communicator that torch code uses: no deadline in kernels, and SMs left to a backward pass, unless the user says so.

    ``patience``: the longest wait where ranks meet to prepare kernels.

    WHY: a rank of a training job may be late by minutes, at a checkpoint or in a data loader, and nothing is wrong.
    """
    bounded = any(os.environ.get(name) for name in ("MYELON_MAX_LANES", "MYELON_LARGE_LANES"))
    return Options(
        timeout=None if os.environ.get("MYELON_TIMEOUT") else 0.0,
        prepare=[],
        large_lanes=None if bounded else _LARGE_LANES,
        meeting_timeout=max(patience.total_seconds(), 1.0),
        silence=_SILENCE,
    )


def device_type() -> str:
    """Which tensors run on Myelon: ``MYELON_TORCH_DEVICE``, or those of CUDA where there is a GPU, else those of the CPU."""
    named = os.environ.get("MYELON_TORCH_DEVICE", "")
    if named in ("cuda", "cpu"):
        return named
    if named:
        raise InvalidArgument(f"MYELON_TORCH_DEVICE is {named!r}: it takes cuda or cpu")
    return "cuda" if torch.cuda.is_available() else "cpu"


def blocking_wait() -> bool:
    """Whether ``Work.wait`` holds the host until the result is there and known to be good."""
    return _flag("MYELON_TORCH_BLOCKING_WAIT")


def step_check() -> str:
    """How a step of an optimizer is kept from gradients that never came.

    ``device``: where the optimizer's kernels can look for themselves, they do, and the host goes on; for others, and with ``host``
    for all, the host waits until the results before the step are known to be good. ``0``: not at all.
    """
    return _one_of("MYELON_TORCH_STEP_CHECK", "device", ("0", "host", "device"))


def strict() -> bool:
    """Whether a group that cannot run on Myelon is an error, in place of a warning and the other backend."""
    return _flag("MYELON_TORCH_STRICT")


_OPS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast")


def collectives() -> FrozenSet[str]:
    """Which collectives of a group run on Myelon: those of ``MYELON_TORCH_COLLECTIVES``, else all-reduce alone."""
    named = os.environ.get("MYELON_TORCH_COLLECTIVES") or "all_reduce"
    chosen = frozenset(filter(None, (name.strip() for name in named.split(","))))
    if not chosen <= set(_OPS):
        raise InvalidArgument(f"MYELON_TORCH_COLLECTIVES is {named!r}: it takes {', '.join(_OPS)}, with commas between")
    return chosen


def _flag(name: str) -> bool:
    return _one_of(name, "0", ("0", "1")) == "1"


def _one_of(name: str, default: str, values: Tuple[str, ...]) -> str:
    value = os.environ.get(name) or default
    if value not in values:
        raise InvalidArgument(f"{name} is {value!r}: it takes {' or '.join(values)}")
    return value
