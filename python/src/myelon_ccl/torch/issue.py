"""On which stream operations run, and what keeps their memory alive: on GPUs, and on the CPU device."""

from __future__ import annotations

import threading
from typing import Callable, List, Optional, Sequence, Union

import torch

from ..core import Communicator
from ..errors import Unsupported
from . import settings, steps
from .issuer import BaseIssuer, Queue, Work
from .ticket import Ticket
from .work import CpuWork, CudaWork, Ending

__all__ = ["CpuIssuer", "CudaIssuer", "Issuer", "Work", "issuer_on"]


class CudaIssuer(BaseIssuer):
    """Issues on the current stream, or on a stream of its own where the caller goes on meanwhile."""

    def __init__(self, communicator: Communicator, device: torch.device) -> None:
        super().__init__(communicator, device)
        self._stream = torch.cuda.Stream(device)
        # The last operation, until it is known to have ended well, as all before it have by then: they run in the order of their calls.
        self._last: Optional[Ending] = None
        self._captured = False

    def _run(
        self, queue: Queue, results: Sequence[torch.Tensor], used: Sequence[torch.Tensor], asynchronous: bool
    ) -> CudaWork:
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            capturing = torch.cuda.is_current_stream_capturing()
            self._captured |= capturing
            # WHY: a capture ends badly where a stream that joined it was not waited for, and the caller need not wait.
            if not asynchronous or capturing:
                queue(current.cuda_stream)
                # Only a wait of the host needs more than the stream.
                marked = settings.blocking_wait() and not capturing
                ending = Ending(current, current.record_event() if marked else None)
            else:
                side = self._stream
                side.wait_stream(current)
                with torch.cuda.stream(side):
                    queue(side.cuda_stream)
                    ending = Ending(side, side.record_event())
                for tensor in used:
                    # The memory is not given to others before the side stream has passed, whatever becomes of the tensor.
                    tensor.record_stream(side)
            if not capturing:
                self._last = ending
            return CudaWork(self, results, ending)

    def failed(self) -> Optional[torch.Tensor]:
        with torch.cuda.device(self.device):
            # WHY: inside a capture always: the replays of the step may follow anything.
            if not self._has_news() and not torch.cuda.is_current_stream_capturing():
                return None
            self.communicator.status()
            word = torch.empty((), dtype=torch.int32, device=self.device)
            try:
                self.communicator.queue_status(word.data_ptr(), torch.cuda.current_stream().cuda_stream)
            except Unsupported:
                return None
            return word.to(torch.float32)

    def _has_news(self) -> bool:
        # Replays of a graph are not seen here: once something is captured, any step may follow one.
        return self._last is not None or self._captured

    def settle(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._has_news():
            return
        with torch.cuda.device(self.device):
            if torch.cuda.is_current_stream_capturing():
                return
            last = self._last
            # WHY: the current stream and no other: what the caller uses next was waited for there.
            self.communicator.synchronize(torch.cuda.current_stream().cuda_stream)
            # What the current stream has not waited for stays new: a later step may use it.
            if last is not None and last.is_reached():
                self.communicator.status()
                if self._last is last:
                    self._last = None

    def _has_passed(self) -> bool:
        last = self._last
        try:
            return last is None or last.is_reached()
        except RuntimeError:
            # Of a device that answers nothing any more.
            return False


class CpuIssuer(BaseIssuer):
    """Issues on the one stream of the CPU device."""

    def __init__(self, communicator: Communicator, device: torch.device) -> None:
        super().__init__(communicator, device)
        self._lock = threading.Lock()
        # In the order of the stream. Replaced under the lock, never changed: whoever reads it needs none.
        self._running: List[Ticket] = []
        self._has_news = False

    def _run(
        self, queue: Queue, results: Sequence[torch.Tensor], used: Sequence[torch.Tensor], asynchronous: bool
    ) -> CpuWork:
        ticket = Ticket(used)
        with self._lock:
            # INVARIANT: memory is here from before an operation on it is queued until the stream has passed.
            self._running = [*self._still_running(), ticket]
            self._has_news = True
            try:
                queue(0)
            finally:
                # WHY: behind a call that raised as well: a part of it may be queued.
                ticket.queue(self.communicator)
        work = CpuWork(self, results, ticket)
        if not asynchronous:
            work.wait()
        return work

    def check(self) -> None:
        self._let_go()
        super().check()

    def settle(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._has_news:
            return
        self._has_news = False
        try:
            for ticket in self._running:
                if ticket.is_of(optimizer):
                    ticket.wait()
            self.check()
        except BaseException:
            self._has_news = True
            raise
        self._has_news |= bool(self._running)

    def _let_go(self) -> None:
        # WHY: no wait for a thread that issues, which may wait for other ranks, and they for what this one is to do next.
        if self._lock.acquire(blocking=False):
            try:
                self._running = self._still_running()
            finally:
                self._lock.release()

    def _still_running(self) -> List[Ticket]:
        return [ticket for ticket in self._running if not ticket.is_passed()]

    def _has_passed(self) -> bool:
        return all(ticket.is_passed() for ticket in self._running)

    def _before_copies(self, stream: int) -> None:
        # The host copies, so it waits for the result first.
        self.communicator.synchronize(stream)


Issuer = Union[CudaIssuer, CpuIssuer]


def issuer_on(communicator: Communicator, device: torch.device, is_left: Callable[[], bool] = lambda: False) -> Issuer:
    """The kind that the device needs, whose operations the steps of optimizers wait for until its group is left."""
    issuer: Issuer = CpuIssuer(communicator, device) if device.type == "cpu" else CudaIssuer(communicator, device)
    issuer.is_left = is_left
    steps.guard(issuer)
    return issuer
