"""Tensors in, operations of a communicator out: what is the same on every device."""

from __future__ import annotations

import time
from typing import Callable, Optional, Sequence, Set, Tuple, Union

import torch

from ..core import Bucket, Communicator, Operation
from ..errors import InvalidArgument, MyelonError, Unsupported
from ..types import Collective, DType, ReduceOp
from . import steps
from .mapping import dtype_of
from .work import CpuWork, CudaWork


Queue = Callable[[int], None]
"""Queues an operation on a stream, which is the current one by then."""
Work = Union[CudaWork, CpuWork]
# How long the end of a communicator waits for its last operation, as the library does.
_PATIENCE = 5.0


class BaseIssuer:
    """What issues the collectives of one group on this rank's device."""

    def __init__(self, communicator: Communicator, device: torch.device) -> None:
        self.communicator = communicator
        self.device = device
        self._prepared: Set[Tuple[str, DType, ReduceOp]] = set()
        self._ended_well = False
        self.aborted = False
        # Whether the user has destroyed the group without an end of the communicator.
        self.is_left: Callable[[], bool] = lambda: False

    def all_reduce(self, tensors: Sequence[torch.Tensor], op: ReduceOp, asynchronous: bool) -> Work:
        """Reduces each tensor in place. Not ``asynchronous``: in the order of the current stream, which needs no wait."""
        return self._run(lambda stream: self._queue_all_reduce(tensors, op, stream), tensors, tensors, asynchronous)

    def reduce_scatter(self, output: torch.Tensor, input: torch.Tensor, op: ReduceOp, asynchronous: bool) -> Work:
        """Reduces ``input`` and leaves this rank its part in ``output``."""
        self._check_parts("reduce_scatter", input, output)
        dtype, addresses = self._dtype(output), (_address(input), _address(output))

        def queue(stream: int) -> None:
            self._prepare_collective(Collective.REDUCE_SCATTER, dtype, op)
            self.communicator.reduce_scatter(*addresses, output.numel(), dtype, op, stream)

        return self._run(queue, [output], [input, output], asynchronous)

    def all_gather(self, output: torch.Tensor, input: torch.Tensor, asynchronous: bool) -> Work:
        """Puts every rank's ``input`` into ``output``, one after the other."""
        self._check_parts("all_gather", output, input)
        (dtype, count), addresses = self._plain(input), (_address(input), _address(output))

        def queue(stream: int) -> None:
            self._prepare_collective(Collective.ALL_GATHER, dtype, ReduceOp.SUM)
            self.communicator.all_gather(*addresses, count, dtype, stream)

        return self._run(queue, [output], [input, output], asynchronous)

    def broadcast(self, tensor: torch.Tensor, root: int, asynchronous: bool) -> Work:
        """Puts the root's tensor into every rank's."""
        (dtype, count), address = self._plain(tensor), _address(tensor)

        def queue(stream: int) -> None:
            self._prepare_collective(Collective.BROADCAST, dtype, ReduceOp.SUM)
            self.communicator.broadcast(address, address, count, dtype, root, stream)

        return self._run(queue, [tensor], [tensor], asynchronous)

    def _run(
        self, queue: Queue, results: Sequence[torch.Tensor], used: Sequence[torch.Tensor], asynchronous: bool
    ) -> Work:
        """Runs ``queue`` for the stream that the operation belongs on, and keeps what it uses for as long."""
        raise NotImplementedError

    def _queue_all_reduce(self, tensors: Sequence[torch.Tensor], op: ReduceOp, stream: int) -> None:
        # WHY: a tensor with gaps, or in another order than its memory, goes through a copy: that the ranks' tensors are alike
        # in shape does not make them alike in strides.
        operations, copies = [], []
        for tensor in tensors:
            dtype, memory = self._dtype(tensor), tensor.detach()
            if not memory.is_contiguous():
                memory = memory.contiguous()
                copies.append((tensor, memory))
            address = memory.data_ptr()
            operations.append(Operation(address, address, memory.numel(), dtype, op))
        self._reduce(operations, {DType.of(operation.dtype) for operation in operations}, op, stream)
        if copies:
            self._before_copies(stream)
        for tensor, memory in copies:
            tensor.detach().copy_(memory)

    def _reduce(self, operations: Sequence[Operation], dtypes: Set[DType], op: ReduceOp, stream: int) -> None:
        """One all-reduce, or several of one type as one operation, or a batch of several types."""
        if len(operations) > 1 and len(dtypes) == 1:
            (dtype,) = dtypes
            self._prepare("a list of buckets", dtype, op, lambda: self.communicator.prepare_buckets([(dtype, op)]))
            buckets = [Bucket(given.input, given.output, given.count) for given in operations]
            return self.communicator.all_reduce_buckets(buckets, dtype, op, stream)
        for dtype in sorted(dtypes):
            self._prepare_collective(Collective.ALL_REDUCE, dtype, op)
        if len(operations) > 1:
            return self.communicator.all_reduce_batch(operations, stream)
        only = operations[0]
        self.communicator.all_reduce(only.input, only.output, only.count, only.dtype, only.op, stream)

    def _before_copies(self, stream: int) -> None:
        """Makes torch's next copy on this device see what ``stream`` has queued."""

    def _dtype(self, tensor: torch.Tensor) -> DType:
        self._check_place(tensor)
        dtype = dtype_of(tensor)
        if dtype is None or tensor.layout != torch.strided:
            raise Unsupported(
                f"a {tensor.layout} tensor of {tensor.dtype}: Myelon has no such type; use torch.distributed for it"
            )
        return dtype

    def _plain(self, tensor: torch.Tensor) -> Tuple[DType, int]:
        """Type and count of what is only copied: bytes where Myelon does not have the type."""
        self._check_place(tensor)
        dtype = dtype_of(tensor)
        return (DType.U8, tensor.numel() * tensor.element_size()) if dtype is None else (dtype, tensor.numel())

    def _check_place(self, tensor: torch.Tensor) -> None:
        if tensor.device != self.device:
            raise InvalidArgument(
                f"a tensor on {tensor.device} in a group whose communicator is on {self.device}: a rank has one device; "
                "set it with torch.cuda.set_device before the first collective"
            )

    def _check_parts(self, what: str, whole: torch.Tensor, part: torch.Tensor) -> None:
        """The library is told one count: what it then reads and writes must be these tensors and no memory beyond."""
        for tensor in (whole, part):
            self._check_place(tensor)
        ranks = self.communicator.world_size
        if whole.dtype != part.dtype or whole.numel() != part.numel() * ranks:
            raise InvalidArgument(
                f"{what} of {ranks} ranks between {part.numel()} {part.dtype} and {whole.numel()} {whole.dtype}: "
                f"the types are to be one, and the sizes part and {ranks} times the part"
            )

    def _prepare_collective(self, collective: Collective, dtype: DType, op: ReduceOp) -> None:
        what = collective.name.lower()
        self._prepare(what, dtype, op, lambda: self.communicator.prepare([(dtype, op)], collective))

    def _prepare(self, what: str, dtype: DType, op: ReduceOp, prepare: Callable[[], None]) -> None:
        # WHY: for all sizes at once, so that one eager operation makes every later capture of the type possible.
        if (what, dtype, op) in self._prepared:
            return
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise InvalidArgument(
                f"the first {what} of {dtype.name.lower()} by {op.name.lower()} in this group is inside a "
                "graph capture, where no kernel can be compiled: run one before the capture"
            )
        prepare()
        self._prepared.add((what, dtype, op))

    def settle(self, optimizer: torch.optim.Optimizer) -> None:
        """Waits for what was queued and a step is about to use, and raises what went wrong. Nothing where nothing is new."""
        raise NotImplementedError

    def failed(self) -> Optional[torch.Tensor]:
        """In place of :meth:`settle` and its wait: 1.0 once the current stream has come so far, where an operation has failed, else 0.0.

        ``None`` where that is not to be had, or nothing is new.
        """
        return None

    def check(self) -> None:
        """Raises what is known to have gone wrong. Once the communicator has ended, nothing where all operations had ended well."""
        if not self._ended_well:
            self.communicator.status()

    def _has_passed(self) -> bool:
        """Whether every operation is known to have ended."""
        raise NotImplementedError

    def abort(self, why: str) -> None:
        """Ends every operation. A step hears of it once and no more: the caller has done with the group, which others may still hold."""
        self.aborted = True
        self.communicator.abort(why)

    def destroy(self) -> None:
        """Ends the communicator."""
        steps.release(self)  # type: ignore[arg-type]
        # An exception ends them at once.
        end = time.monotonic() + (_PATIENCE if self.communicator.failure() is None else 0)
        while not self._has_passed() and self.exception() is None and time.monotonic() < end:
            time.sleep(2e-4)
        # ORDER: the state is asked for after the operations: what has ended by then is in it.
        self._ended_well = self._has_passed() and self.exception() is None
        self.communicator.destroy()

    def exception(self) -> Optional[MyelonError]:
        """What :meth:`check` raises."""
        try:
            self.check()
        except MyelonError as error:
            return error
        return None


def _address(tensor: torch.Tensor) -> int:
    if not tensor.is_contiguous():
        raise InvalidArgument(f"a tensor of strides {tensor.stride()}: this collective takes contiguous ones")
    return tensor.data_ptr()
