"""Tensors in, operations of a communicator out, on the right stream and with the memory kept alive."""

from __future__ import annotations

import threading
from typing import List, Sequence, Set, Tuple, Union

import torch

from ..core import Communicator, Operation
from ..errors import InvalidArgument, Unsupported
from ..types import DType, ReduceOp
from .mapping import dtype_of
from .work import CpuWork, CudaWork


class _Issuer:
    """What issues the all-reduces of one group on this rank's device."""

    def __init__(self, communicator: Communicator, device: torch.device) -> None:
        self.communicator = communicator
        self.device = device
        self._prepared: Set[Tuple[DType, ReduceOp]] = set()

    def _queue(self, tensors: Sequence[torch.Tensor], op: ReduceOp, stream: int) -> List[torch.Tensor]:
        """Queues the all-reduces on ``stream`` and returns the memory that they use beside the tensors' own.

        A tensor with gaps, or in another order than its memory, goes through a copy: that the ranks' tensors are alike in
        shape does not make them alike in strides. The caller has made ``stream`` the current one.
        """
        operations, copies = [], []
        for tensor in tensors:
            memory = tensor.detach()
            if not memory.is_contiguous():
                memory = memory.contiguous()
                copies.append((tensor, memory))
            dtype = self._dtype(tensor)
            self._prepare(dtype, op)
            address = memory.data_ptr()
            operations.append(Operation(address, address, memory.numel(), dtype, op))
        if len(operations) == 1:
            only = operations[0]
            self.communicator.all_reduce(only.input, only.output, only.count, only.dtype, only.op, stream)
        else:
            self.communicator.all_reduce_batch(operations, stream)
        return self._copy_back(copies, stream)

    def _copy_back(self, copies: List[Tuple[torch.Tensor, torch.Tensor]], stream: int) -> List[torch.Tensor]:
        for tensor, memory in copies:
            tensor.detach().copy_(memory)
        return [memory for _, memory in copies]

    def _dtype(self, tensor: torch.Tensor) -> DType:
        if tensor.device != self.device:
            raise InvalidArgument(
                f"a tensor on {tensor.device} in a group whose communicator is on {self.device}: a rank has one device; "
                "set it with torch.cuda.set_device before the first collective"
            )
        dtype = dtype_of(tensor)
        if dtype is None or tensor.layout != torch.strided:
            raise Unsupported(
                f"a {tensor.layout} tensor of {tensor.dtype}: Myelon has no such type; use torch.distributed for it"
            )
        return dtype

    def _prepare(self, dtype: DType, op: ReduceOp) -> None:
        # WHY: for all sizes at once, so that one eager operation makes every later capture of the type possible.
        if (dtype, op) in self._prepared:
            return
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise InvalidArgument(
                f"the first {op.name.lower()} of {dtype.name.lower()} in this group is inside a graph capture, where no kernel can "
                "be compiled: run one before the capture"
            )
        self.communicator.prepare([(dtype, op)])
        self._prepared.add((dtype, op))

    def destroy(self) -> None:
        """Ends the communicator."""
        self.communicator.destroy()


class CudaIssuer(_Issuer):
    """Issues on the current stream, or on a stream of its own where the caller goes on meanwhile."""

    def __init__(self, communicator: Communicator, device: torch.device) -> None:
        super().__init__(communicator, device)
        self._stream = torch.cuda.Stream(device)

    def all_reduce(self, tensors: Sequence[torch.Tensor], op: ReduceOp, asynchronous: bool) -> CudaWork:
        """Reduces tensors in place. Not ``asynchronous``: on the current stream, which needs no wait."""
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            # WHY: inside a capture the communicator cannot order two streams, so everything stays on the capturing one.
            if not asynchronous or torch.cuda.is_current_stream_capturing():
                self._queue(tensors, op, current.cuda_stream)
                return CudaWork(self, tensors, current, None)
            side = self._stream
            side.wait_stream(current)
            with torch.cuda.stream(side):
                self._queue(tensors, op, side.cuda_stream)
                ended = side.record_event()
            for tensor in tensors:
                # The memory is not given to others before the side stream has passed, whatever becomes of the tensor.
                tensor.record_stream(side)
            return CudaWork(self, tensors, side, ended)


class CpuIssuer(_Issuer):
    """Issues on the one stream of the CPU device."""

    def __init__(self, communicator: Communicator, device: torch.device) -> None:
        super().__init__(communicator, device)
        self._lock = threading.Lock()
        self._in_use: List[torch.Tensor] = []

    def all_reduce(self, tensors: Sequence[torch.Tensor], op: ReduceOp, asynchronous: bool) -> CpuWork:
        """Reduces tensors in place. Not ``asynchronous``: the result is there on return."""
        with self._lock:
            # INVARIANT: memory is here from before an operation on it is queued until the stream has passed.
            self._in_use.extend(tensors)
            self._queue(tensors, op, 0)
        work = CpuWork(self, tensors)
        if not asynchronous:
            work.wait()
        return work

    def finish(self) -> None:
        """Waits until everything queued has ended, and raises what went wrong."""
        with self._lock:
            self.communicator.synchronize()
            self._in_use.clear()

    def _copy_back(self, copies: List[Tuple[torch.Tensor, torch.Tensor]], stream: int) -> List[torch.Tensor]:
        # The host copies, so it waits for the result first.
        if copies:
            self.communicator.synchronize(stream)
        return super()._copy_back(copies, stream)


Issuer = Union[CudaIssuer, CpuIssuer]


def issuer_on(communicator: Communicator, device: torch.device) -> Issuer:
    """The kind that the device needs."""
    return CpuIssuer(communicator, device) if device.type == "cpu" else CudaIssuer(communicator, device)
