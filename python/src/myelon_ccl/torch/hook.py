"""A communication hook for DistributedDataParallel: gradients are averaged by Myelon, whatever the model's group is."""

# No deferred annotations here: torch compares those of a hook with the types.
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket

from ..types import ReduceOp
from .direct import default_device, issuer_of
from .issue import Issuer


class HookState:
    """What :func:`ddp_hook` needs: a communicator of the group's ranks. Collective. One may serve several models of a group."""

    def __init__(self, group: Optional[dist.ProcessGroup] = None, device: Optional[torch.device] = None) -> None:
        self._group = dist.group.WORLD if group is None else group
        self._device = default_device() if device is None else torch.device(device)
        self.issuer()

    def issuer(self) -> Optional[Issuer]:
        """What issues the group's all-reduces now: its communicator may have been destroyed, and then comes up again."""
        return issuer_of(self._group, self._device)


def ddp_hook(state: HookState, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Averages a bucket of gradients in one go: ``model.register_comm_hook(myelon_ccl.HookState(), myelon_ccl.ddp_hook)``.

    Raises what is known to have gone wrong by then, so that the step ends with an exception.
    """
    gradients = bucket.buffer()
    issuer = state.issuer()
    if issuer is None:
        future: torch.futures.Future[Any] = torch.futures.Future()
        future.set_result(gradients)
        return future
    return issuer.all_reduce([gradients], ReduceOp.AVG, asynchronous=True).future_of(gradients)
