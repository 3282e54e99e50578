"""What an all-reduce returns to torch: something to wait for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

import torch
import torch.distributed as dist

from ..errors import MyelonError
from . import settings

if TYPE_CHECKING:
    from .issue import CpuIssuer, CudaIssuer

_NO_TIMEOUT = timedelta(0)


class _MyelonWork(dist.Work):
    """What both kinds have in common. The value of its future is the list of tensors, as torch's own backends have it."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._tensors = list(tensors)
        self._future: "Optional[torch.futures.Future[Any]]" = None

    def result(self) -> List[torch.Tensor]:
        return self._tensors

    def synchronize(self) -> None:
        self.wait()

    def get_future(self) -> "torch.futures.Future[Any]":
        if self._future is None:
            self._future = self.future_of(self._tensors)
        return self._future

    def future_of(self, value: Any) -> "torch.futures.Future[Any]":
        """A future of this operation that has ``value``, which holds the tensors."""
        raise NotImplementedError


class CudaWork(_MyelonWork):
    """An all-reduce that was queued on ``stream``; ``ended`` is behind it, absent where that is the caller's own stream.

    Neither waiting nor a future holds the host: they order streams, and raise what is known to have gone wrong by then.
    """

    def __init__(
        self,
        issuer: "CudaIssuer",
        tensors: Sequence[torch.Tensor],
        stream: torch.cuda.Stream,
        ended: Optional[torch.cuda.Event],
    ) -> None:
        super().__init__(tensors)
        self._issuer = issuer
        self._stream = stream
        self._ended = ended

    def wait(self, timeout: timedelta = _NO_TIMEOUT) -> bool:
        self._issuer.communicator.status()
        current = torch.cuda.current_stream(self._issuer.device)
        if self._ended is not None:
            current.wait_event(self._ended)
        if settings.blocking_wait() and not torch.cuda.is_current_stream_capturing():
            self._issuer.communicator.synchronize(self._stream.cuda_stream)
        return True

    def block_current_stream(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        if self.exception() is not None:
            return True
        return bool(self._stream.query() if self._ended is None else self._ended.query())

    def is_success(self) -> bool:
        return self.exception() is None

    def exception(self) -> Optional[MyelonError]:
        try:
            self._issuer.communicator.status()
        except MyelonError as error:
            return error
        return None

    def future_of(self, value: Any) -> "torch.futures.Future[Any]":
        future: torch.futures.Future[Any] = torch.futures.Future(devices=[self._issuer.device])
        # The future takes the current stream for the one that its value is ready on.
        with torch.cuda.stream(self._stream):
            future.set_result(value)
        return future


class CpuWork(_MyelonWork):
    """An all-reduce on the CPU device. Waiting holds the host until the result is there."""

    def __init__(self, issuer: "CpuIssuer", tensors: Sequence[torch.Tensor]) -> None:
        super().__init__(tensors)
        self._issuer = issuer
        self._done = False

    def wait(self, timeout: timedelta = _NO_TIMEOUT) -> bool:
        if not self._done:
            self._issuer.finish()
            self._done = True
        return True

    def is_completed(self) -> bool:
        return self.exception() is not None or self._done

    def is_success(self) -> bool:
        return self.exception() is None

    def exception(self) -> Optional[MyelonError]:
        try:
            self.wait()
        except MyelonError as error:
            return error
        return None

    def future_of(self, value: Any) -> "torch.futures.Future[Any]":
        future: torch.futures.Future[Any] = torch.futures.Future()
        self.wait()
        future.set_result(value)
        return future
