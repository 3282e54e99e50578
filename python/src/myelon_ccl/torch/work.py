"""What an all-reduce returns to torch: something to wait for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, List, NamedTuple, Optional, Sequence

import torch
import torch.distributed as dist

from ..errors import MyelonError
from . import settings
from .ticket import Ticket

if TYPE_CHECKING:
    from .issue import CpuIssuer, CudaIssuer, Issuer

_NO_TIMEOUT = timedelta(0)


class _MyelonWork(dist.Work):
    """What both kinds have in common. The value of its future is the list of tensors, as torch's own backends have it."""

    def __init__(self, issuer: "Issuer", tensors: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._issuer = issuer
        self._tensors = list(tensors)
        self._future: "Optional[torch.futures.Future[Any]]" = None

    def result(self) -> List[torch.Tensor]:
        return self._tensors

    def synchronize(self) -> None:
        self.wait()

    def is_success(self) -> bool:
        return self.exception() is None

    def exception(self) -> Optional[MyelonError]:
        return self._issuer.exception()

    def get_future(self) -> "torch.futures.Future[Any]":
        if self._future is None:
            self._future = self.future_of(self._tensors)
        return self._future

    def future_of(self, value: Any) -> "torch.futures.Future[Any]":
        """A future of this operation that has ``value``, which holds the tensors."""
        raise NotImplementedError


class FinishedWork(dist.Work):
    """Of a group of one rank, whose tensors are their own results."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._tensors = list(tensors)

    def wait(self, timeout: timedelta = _NO_TIMEOUT) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def result(self) -> List[torch.Tensor]:
        return self._tensors

    def get_future(self) -> "torch.futures.Future[Any]":
        future: torch.futures.Future[Any] = torch.futures.Future(devices=[t.device for t in self._tensors if t.is_cuda])
        future.set_result(self._tensors)
        return future


class Ending(NamedTuple):
    """Where an operation has ended: at an event behind it, or where its stream has passed all that it holds."""

    stream: torch.cuda.Stream
    event: Optional[torch.cuda.Event]

    def is_reached(self) -> bool:
        return bool(self.stream.query() if self.event is None else self.event.query())


class CudaWork(_MyelonWork):
    """An all-reduce that was queued on a stream; its ending has an event where that is not the caller's own.

    Neither waiting nor a future holds the host: they order streams, and raise what is known to have gone wrong by then. So a
    timeout of a wait means nothing here.
    """

    def __init__(self, issuer: "CudaIssuer", tensors: Sequence[torch.Tensor], ending: Ending) -> None:
        super().__init__(issuer, tensors)
        self._ending = ending

    def wait(self, timeout: timedelta = _NO_TIMEOUT) -> bool:
        self._issuer.check()
        stream, event = self._ending
        current = torch.cuda.current_stream(self._issuer.device)
        if event is not None:
            current.wait_event(event)
        elif current != stream:
            # It was issued on what was the current stream then, as in a capture.
            current.wait_stream(stream)
        if settings.blocking_wait() and not torch.cuda.is_current_stream_capturing():
            # Its own event: what was queued behind it may wait for what the caller has yet to do.
            (stream if event is None else event).synchronize()
            self._issuer.check()
        return True

    def block_current_stream(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        return self.exception() is not None or self._ending.is_reached()

    def future_of(self, value: Any) -> "torch.futures.Future[Any]":
        future: torch.futures.Future[Any] = torch.futures.Future(devices=[self._issuer.device])
        # The future takes the current stream for the one that its value is ready on.
        with torch.cuda.stream(self._ending.stream):
            future.set_result(value)
        return future


class CpuWork(_MyelonWork):
    """An all-reduce on the CPU device. Waiting holds the host until the result is there."""

    def __init__(self, issuer: "CpuIssuer", tensors: Sequence[torch.Tensor], ticket: Ticket) -> None:
        super().__init__(issuer, tensors)
        self._ticket = ticket
        self._done = False

    def wait(self, timeout: timedelta = _NO_TIMEOUT) -> bool:
        if not self._done:
            self._ticket.wait(timeout)
            self._issuer.check()
            if self._ticket.has_failed():
                raise MyelonError("the operation has ended without its data: make a new group")
            self._done = True
        return True

    def is_completed(self) -> bool:
        return self._ticket.is_passed()

    def future_of(self, value: Any) -> "torch.futures.Future[Any]":
        future: torch.futures.Future[Any] = torch.futures.Future()
        self.wait()
        future.set_result(value)
        return future
