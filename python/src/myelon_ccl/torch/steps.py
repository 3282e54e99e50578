"""Before every step of an optimizer the host waits until the results that the step may use are known to be good.

WHY: on a GPU the host runs ahead. A failure becomes known when a kernel ends, and a step that was queued by then would work on
undefined gradients. One wait a step costs the lead over the step, and no wait of an all-reduce holds the host.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Dict, Tuple
from weakref import WeakSet

import torch
from torch._compile import _disable_dynamo
from torch.optim.optimizer import register_optimizer_step_pre_hook

from . import settings

if TYPE_CHECKING:
    from .issue import Issuer

_guarded: "WeakSet[Issuer]" = WeakSet()
_lock = threading.Lock()
_handle: Any = None


def guard(issuer: "Issuer") -> None:
    """From now on steps of this process wait for the issuer's operations, unless ``MYELON_TORCH_STEP_CHECK`` says otherwise."""
    global _handle
    if not settings.step_check():
        return
    with _lock:
        _guarded.add(issuer)
        if _handle is None:
            _handle = register_optimizer_step_pre_hook(_before_step)


def release(issuer: "Issuer") -> None:
    """Steps do not wait for this one any more."""
    with _lock:
        _guarded.discard(issuer)


# Not traced: of a compiled step the graph begins behind the wait.
@_disable_dynamo
def _before_step(_optimizer: torch.optim.Optimizer, _args: Tuple[Any, ...], _named: Dict[str, Any]) -> None:
    with _lock:
        issuers = list(_guarded)
    for issuer in issuers:
        issuer.settle()
