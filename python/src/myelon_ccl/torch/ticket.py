"""What says that the stream of the CPU device has passed an operation: a word in its order. The device has no events."""

from __future__ import annotations

import ctypes
import time
from datetime import timedelta
from typing import Optional, Sequence

import torch

from ..core import Communicator
from ..errors import MyelonError

_QUEUED, _FAILED = 0xFFFF, 1
_PAUSES = (2e-5, 1e-3)


class Ticket:
    """Of one operation: the memory that it uses, and a word that changes once it has ended.

    INVARIANT: the issuer holds it for as long, since the word is written to.
    """

    def __init__(self, used: Sequence[torch.Tensor]) -> None:
        self._used = list(used)
        self._word = ctypes.c_uint32(_QUEUED)

    def queue(self, communicator: Communicator) -> None:
        """Behind the operation."""
        try:
            communicator.queue_status(ctypes.addressof(self._word))
        except MyelonError:
            # Nothing will ever write it.
            self._word.value = _FAILED
            raise

    def is_passed(self) -> bool:
        """Whether the operation has ended, well or not."""
        return bool(self._word.value != _QUEUED)

    def wait(self, timeout: Optional[timedelta] = None) -> None:
        """Until :meth:`is_passed`; an error where that takes longer than ``timeout``, none of which the operation hears."""
        end = time.monotonic() + timeout.total_seconds() if timeout else None
        pause, longest = _PAUSES
        while not self.is_passed():
            if end is not None and time.monotonic() >= end:
                raise MyelonError(f"not ended within the {timeout} of this wait: the operation goes on; wait again")
            time.sleep(pause)
            pause = min(2 * pause, longest)

    def has_failed(self) -> bool:
        """Whether this operation or one before it has ended without its data."""
        return bool(self._word.value == _FAILED)

    def is_of(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether a step may touch its memory."""
        mine = {tensor.untyped_storage().data_ptr() for tensor in self._used}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                for each in (parameter, parameter.grad):
                    if each is not None and (not _is_plain(each) or each.untyped_storage().data_ptr() in mine):
                        return True
        return False


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its memory is known: not that of a tensor around others, nor that of a sparse one."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
