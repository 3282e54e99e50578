"""All-reduce of tensors over a group of any backend."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Optional, Union
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from ..core import Communicator
from ..errors import InvalidArgument, Unsupported
from ..types import ReduceOp
from . import settings
from .issue import Issuer, Work, issuer_on
from .mapping import op_of
from .meeting import connect, over_group
from .process_group import MyelonProcessGroup
from .work import FinishedWork

_issuers: "WeakKeyDictionary[dist.ProcessGroup, Issuer]" = WeakKeyDictionary()
_lock = threading.Lock()
# Between the operations of a group of another backend ranks may be as late as they like.
_PATIENCE = timedelta(days=1)


def all_reduce(
    tensor: torch.Tensor,
    op: Union[ReduceOp, str, "dist.ReduceOp.RedOpType"] = ReduceOp.SUM,
    group: Optional["dist.ProcessGroup"] = None,
    async_op: bool = False,
) -> Optional[Union[Work, FinishedWork]]:
    """Reduces ``tensor`` in place over a group of any backend, on Myelon; the first call for a group brings it up.

    Ordered by the current stream. With ``async_op`` the caller's stream goes on and the returned work is waited for. Nothing
    is given to another backend: what Myelon cannot take is an error.
    """
    known = op_of(op) if not isinstance(op, (str, ReduceOp)) else ReduceOp.of(op)
    if known is None:
        raise Unsupported(f"operator {op}: Myelon has {', '.join(name.lower() for name in ReduceOp.__members__)}")
    issuer = issuer_of(group, tensor.device)
    if issuer is None:
        return FinishedWork([tensor]) if async_op else None
    work = issuer.all_reduce([tensor], known, async_op)
    return work if async_op else None


def communicator_of(group: Optional["dist.ProcessGroup"] = None) -> Optional[Communicator]:
    """The communicator that a group has so far; ``None`` where it has none, also because its all-reduces run elsewhere."""
    group = _resolved(group)
    if isinstance(group, MyelonProcessGroup):
        return group.communicator
    issuer = _issuers.get(group)
    return issuer.communicator if issuer is not None else None


def issuer_of(group: Optional["dist.ProcessGroup"], device: torch.device) -> Optional[Issuer]:
    """What issues the all-reduces of a group, brought up where it was not; ``None`` for a group of one. Collective."""
    group = _resolved(group)
    if group.size() == 1:
        return None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if isinstance(group, MyelonProcessGroup):
        issuer = group.issuer(device)
        if issuer is None:
            raise Unsupported("the group's all-reduces are delegated: its first one has warned why")
        return issuer
    with _lock:
        issuer = _issuers.get(group)
        if issuer is None:
            communicator = connect(over_group(group), group.rank(), group.size(), device, _PATIENCE)
            issuer = _issuers[group] = issuer_on(communicator, device)
        return issuer


def default_device() -> torch.device:
    """The device of this rank where no tensor says it."""
    if settings.device_type() == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _resolved(group: Optional["dist.ProcessGroup"]) -> "dist.ProcessGroup":
    group = dist.group.WORLD if group is None else group
    if not isinstance(group, dist.ProcessGroup):
        raise InvalidArgument("this rank is not in the group, or init_process_group was not called")
    return group
