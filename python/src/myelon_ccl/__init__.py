"""Myelon: multi-GPU all-reduce over NVLink, for Python and PyTorch.

:mod:`myelon_ccl.core` has a communicator on plain addresses and needs no torch. With torch installed,
``torch.distributed.init_process_group("myelon")`` works without an import of this package, and :func:`all_reduce` and
:func:`ddp_hook` take tensors and models whose process group is another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core import CPU_DEVICE, Bucket, Communicator, Operation, Options, UniqueId, Window, version
from .errors import (
    Aborted,
    CommunicatorFailed,
    DeviceError,
    InvalidArgument,
    MyelonError,
    PeerFailed,
    PeerLost,
    PeerMismatch,
    Stalled,
    Status,
    SystemFailure,
    Unsupported,
)
from .types import Collective, DType, ReduceOp

if TYPE_CHECKING:
    from .torch import HookState as HookState
    from .torch import all_reduce as all_reduce
    from .torch import communicator_of as communicator_of
    from .torch import ddp_hook as ddp_hook
    from .torch import destroy_communicator as destroy_communicator

__version__ = "0.1.0"

_OF_TORCH = ("HookState", "all_reduce", "communicator_of", "ddp_hook", "destroy_communicator")

__all__ = [
    "CPU_DEVICE",
    "Aborted",
    "Bucket",
    "Collective",
    "Communicator",
    "CommunicatorFailed",
    "DType",
    "DeviceError",
    "InvalidArgument",
    "MyelonError",
    "Operation",
    "Options",
    "PeerFailed",
    "PeerLost",
    "PeerMismatch",
    "ReduceOp",
    "Stalled",
    "Status",
    "SystemFailure",
    "UniqueId",
    "Unsupported",
    "Window",
    "version",
]


def __getattr__(name: str) -> Any:
    # What needs torch is imported at its first use: core works without it, and torch takes seconds to import.
    if name in _OF_TORCH:
        from . import torch

        return getattr(torch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
