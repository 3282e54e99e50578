"""No step of an optimizer works on gradients that never came.

WHY: on a GPU the host runs ahead. A failure becomes known when a kernel ends, and a step that was queued by then would work on
undefined gradients. An optimizer whose kernels do nothing where they are told that a gradient is infinite is told so where an operation
has failed, by a word on the GPU. Before the step of any other, or of all with ``MYELON_TORCH_STEP_CHECK=host``, the host waits until the
results that the step may use are known to be good: one wait a step costs the lead over the step, and no wait of an all-reduce holds
the host.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Dict, List, Tuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch._compile import _disable_dynamo
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from . import settings

if TYPE_CHECKING:
    from .issue import Issuer

_guarded: "WeakSet[Issuer]" = WeakSet()
_lock = threading.Lock()
_handles: List[Any] = []

# Torch's own optimizers, of which those that are fused pass ``found_inf`` on to their kernels, as for torch.amp.GradScaler. A class
# of somebody else's may ignore it.
_SKIPPING = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
# What the step of an optimizer was told, and what ``found_inf`` was before: a tensor, the 0 of a scaler that met no gradient, or
# ``None`` where there was none. A step that raised leaves its entry.
_told: "WeakKeyDictionary[torch.optim.Optimizer, Tuple[torch.Tensor, Any]]" = WeakKeyDictionary()


def guard(issuer: "Issuer") -> None:
    """From now on steps of this process are kept from what the issuer's operations did not bring (``MYELON_TORCH_STEP_CHECK``)."""
    if settings.step_check() == "0":
        return
    with _lock:
        _guarded.add(issuer)
        if not _handles:
            _handles.append(register_optimizer_step_pre_hook(_before_step))
            _handles.append(register_optimizer_step_post_hook(_after_step))


def release(issuer: "Issuer") -> None:
    """Steps do not look at this one any more."""
    with _lock:
        _guarded.discard(issuer)


# Not traced: of a compiled step the graph begins behind the wait.
@_disable_dynamo
def _before_step(optimizer: torch.optim.Optimizer, _args: Tuple[Any, ...], _named: Dict[str, Any]) -> None:
    _give_back(optimizer)
    on_device = settings.step_check() == "device"
    with _lock:
        issuers = list(_guarded)
    for issuer in issuers:
        if issuer.is_left():
            release(issuer)
            continue
        try:
            failed = issuer.failed() if on_device and _skips(optimizer, issuer.device) else None
            if failed is None:
                issuer.settle(optimizer)
        except BaseException:
            _give_back(optimizer)
            _forget_the_scaler(optimizer)
            if issuer.aborted:
                release(issuer)
            raise
        if failed is not None:
            _tell(optimizer, failed)


@_disable_dynamo
def _after_step(optimizer: torch.optim.Optimizer, _args: Tuple[Any, ...], _named: Dict[str, Any]) -> None:
    _give_back(optimizer)


def _tell(optimizer: torch.optim.Optimizer, failed: torch.Tensor) -> None:
    """Adds to what makes the kernels of the step do nothing."""
    found = getattr(optimizer, "found_inf", None)
    told = torch.maximum(failed, found.view(())) if isinstance(found, torch.Tensor) else failed
    _, before = _told.get(optimizer, (None, found))
    _told[optimizer] = (told, before)
    optimizer.found_inf = told  # type: ignore[attr-defined]


def _give_back(optimizer: torch.optim.Optimizer) -> None:
    """Undoes what a step was told, unless somebody has told the optimizer something else since."""
    told, before = _told.pop(optimizer, (None, None))
    if told is None or getattr(optimizer, "found_inf", None) is not told:
        return
    if before is not None:
        optimizer.found_inf = before  # type: ignore[attr-defined]
    else:
        del optimizer.found_inf  # type: ignore[attr-defined]


def _forget_the_scaler(optimizer: torch.optim.Optimizer) -> None:
    """Undoes what ``torch.amp.GradScaler.step`` told a fused optimizer, as it would behind the step.

    WHY: it does not where the step raises, and multiplies by the ``grad_scale`` that is there the next time.
    """
    told = ("grad_scale", "found_inf")
    if getattr(optimizer, "_step_supports_amp_scaling", False) and all(name in vars(optimizer) for name in told):
        for name in told:
            delattr(optimizer, name)


def _skips(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Whether the kernels of its step do nothing where ``found_inf``, on this device, is 1."""
    plain = (torch.Tensor, torch.nn.Parameter)
    return type(optimizer) in _SKIPPING and all(
        group.get("fused")
        and all(type(each) in plain and each.device == device for each in group["params"])
        and not _begins_momentum(optimizer, group)
        for group in optimizer.param_groups
    )


def _begins_momentum(optimizer: torch.optim.Optimizer, group: Dict[str, Any]) -> bool:
    """Whether the step is the first of some momentum, which is uninitialised memory behind a step of SGD that did nothing."""
    return bool(group.get("momentum")) and any(
        each.grad is not None and optimizer.state.get(each, {}).get("momentum_buffer") is None
        for each in group["params"]
    )
