"""The calls of a process group that go to the backends registered in it, one by one.

WHY: what a Python subclass does not override, torch's C++ carries out with the interpreter lock held, and a backend's thread that
lets go of a tensor under its own lock needs that: the two would wait for each other. A backend's method gives the lock up.
"""

from __future__ import annotations

from typing import Any, List, Optional, cast

import torch
import torch.distributed as dist


class DelegatingProcessGroup(dist.ProcessGroup):
    """Each collective is the backend's of its tensors' device."""

    def backend_of(self, device: torch.device) -> Any:
        """The backend registered for a device."""
        return self._get_backend(device)

    def allgather(self, outputs: Any, inputs: Any, *rest: Any, **named: Any) -> dist.Work:
        first = inputs if isinstance(inputs, torch.Tensor) else inputs[0]
        if first is inputs:
            outputs, inputs = [outputs], [inputs]
        return _work(self.backend_of(first.device).allgather(outputs, inputs, *rest, **named))

    def allgather_into_tensor_coalesced(
        self, outputs: List[torch.Tensor], inputs: List[torch.Tensor], *rest: Any
    ) -> dist.Work:
        backend = self.backend_of(outputs[0].device)
        calls = [lambda o=o, i=i: backend._allgather_base(o, i, *rest) for o, i in zip(outputs, inputs)]
        return _coalesced(backend, calls)

    def alltoall_base(self, output: torch.Tensor, *rest: Any, **named: Any) -> dist.Work:
        return _work(self.backend_of(output.device).alltoall_base(output, *rest, **named))

    def barrier(self, opts: Any = None, timeout: Any = None) -> dist.Work:
        if not isinstance(opts, dist.BarrierOptions):
            timeout = opts if timeout is None else timeout
            opts = dist.BarrierOptions()
            if timeout is not None:
                opts.timeout = timeout
        device: Optional[torch.device] = getattr(opts, "device", None)
        # Of hosts where nothing else is said: gloo's.
        device = next(iter(sorted(self._device_types, key=lambda known: known.type))) if device is None else device
        return _work(self.backend_of(device).barrier(opts))

    def reduce_scatter(self, outputs: Any, inputs: Any, *rest: Any, **named: Any) -> dist.Work:
        if isinstance(outputs, torch.Tensor):
            outputs, inputs = [outputs], [inputs]
        return _work(self.backend_of(outputs[0].device).reduce_scatter(outputs, inputs, *rest, **named))

    def reduce_scatter_tensor_coalesced(
        self, outputs: List[torch.Tensor], inputs: List[torch.Tensor], *rest: Any
    ) -> dist.Work:
        backend = self.backend_of(outputs[0].device)
        calls = [lambda o=o, i=i: backend._reduce_scatter_base(o, i, *rest) for o, i in zip(outputs, inputs)]
        return _coalesced(backend, calls)

    def reduce(self, tensors: Any, *rest: Any, **named: Any) -> dist.Work:
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        return _work(self.backend_of(tensors[0].device).reduce(tensors, *rest, **named))

    def gather(self, outputs: Any, inputs: List[torch.Tensor], *rest: Any, **named: Any) -> dist.Work:
        return _work(self.backend_of(inputs[0].device).gather(outputs, inputs, *rest, **named))

    def scatter(self, outputs: List[torch.Tensor], *rest: Any, **named: Any) -> dist.Work:
        return _work(self.backend_of(outputs[0].device).scatter(outputs, *rest, **named))

    def alltoall(self, outputs: List[torch.Tensor], *rest: Any, **named: Any) -> dist.Work:
        return _work(self.backend_of(outputs[0].device).alltoall(outputs, *rest, **named))

    # What releases of torch from 2.15 on call the same.
    all_gather_single_coalesced = allgather_into_tensor_coalesced  # type: ignore[assignment]
    reduce_scatter_single_coalesced = reduce_scatter_tensor_coalesced  # type: ignore[assignment]
    all_to_all_single = alltoall_base  # type: ignore[assignment]

    def send(self, tensors: List[torch.Tensor], rank: int, tag: int = 0) -> dist.Work:
        return _work(self.backend_of(tensors[0].device).send(tensors, rank, tag))

    def recv(self, tensors: List[torch.Tensor], rank: int, tag: int = 0) -> dist.Work:
        return _work(self.backend_of(tensors[0].device).recv(tensors, rank, tag))


def _coalesced(backend: Any, calls: List[Any]) -> dist.Work:
    """One work for all of the calls."""
    if backend.supports_coalescing:
        backend._start_coalescing()
        for call in calls:
            call()
        return _work(backend._end_coalescing())
    # Such a backend is one of the CPU, whose works the host waits for anyway.
    works = [call() for call in calls]
    for work in works[:-1]:
        work.wait()
    return _work(works[-1])


def _work(work: Any) -> dist.Work:
    # None from NCCL where nobody asked for async_op: its kernels are in order on the current stream. Torch takes that for an answer.
    assert work is None or isinstance(work, dist.Work), work
    return cast(dist.Work, work)
