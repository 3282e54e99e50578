"""All-reduce of tensors over a group of any backend."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Callable, Optional, Union
from weakref import WeakKeyDictionary, ref

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


class _Place:
    """What a group of another backend has here."""

    def __init__(self) -> None:
        # ORDER: the group's communicator comes up under it, in time that peers decide on; other groups do not wait for that.
        self.connecting = threading.Lock()
        self.issuer: Optional[Issuer] = None


_places: "WeakKeyDictionary[dist.ProcessGroup, _Place]" = WeakKeyDictionary()
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
    with _lock:
        place = _places.get(group)
    issuer = place.issuer if place is not None else None
    return issuer.communicator if issuer is not None else None


def destroy_communicator(group: Optional["dist.ProcessGroup"] = None) -> None:
    """Ends the communicator that a group of another backend has, one that has failed for instance; no step looks at it any more.

    The next :func:`all_reduce` brings up a new one. For all ranks to call: each waits some seconds for the others. Without a
    communicator nothing happens.
    """
    group = _resolved(group)
    if isinstance(group, MyelonProcessGroup):
        raise InvalidArgument("a group of the backend myelon ends with its communicator: use destroy_process_group")
    _destroy_where(lambda known, _: known is group)


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
    place = _place_of(group)
    issuer = place.issuer
    if issuer is None:
        with place.connecting:
            issuer = place.issuer
            if issuer is None:
                # Here, since all ranks come here together.
                _destroy_where(lambda _, other: other.is_left())
                communicator = connect(over_group(group), group.rank(), group.size(), device, _PATIENCE)
                issuer = place.issuer = issuer_on(communicator, device, _whether_left(group))
    return issuer


def _place_of(group: "dist.ProcessGroup") -> _Place:
    with _lock:
        return _places.setdefault(group, _Place())


def _whether_left(group: "dist.ProcessGroup") -> Callable[[], bool]:
    """Asks whether a group has been destroyed since.

    WHY: torch tells nobody, and holds a first default group for ever as a default argument of functions of its own.
    """
    if not _is_registered(group):
        return lambda: False
    known = ref(group)

    def left() -> bool:
        group = known()
        return group is None or not _is_registered(group)

    return left


def _is_registered(group: "dist.ProcessGroup") -> bool:
    return group in dist.distributed_c10d._world.pg_map


def _destroy_where(which: "Callable[[dist.ProcessGroup, Issuer], bool]") -> None:
    with _lock:
        ended = []
        for group, place in list(_places.items()):
            if place.issuer is not None and which(group, place.issuer):
                ended.append(place.issuer)
                place.issuer = None
    for issuer in ended:
        issuer.destroy()


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
