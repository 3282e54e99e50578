"""A communicator on plain addresses: everything the C library does, without torch.

An address is an ``int``: of device memory where the communicator is on a GPU, of memory of the process where it is on the
CPU device. A stream is an ``int`` too, a ``cudaStream_t``; 0 is the default stream. A call queues work on its stream and
returns; the result is there once the stream has passed it, and :meth:`Communicator.synchronize` waits for that. All ranks
issue the same operations in the same order.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import Iterable, List, Optional, Sequence, Tuple, Union

from . import _library
from ._life import Life
from ._library import BucketStruct, Handle, OperationStruct, UniqueIdStruct, c_int, check, int_array, library, u64
from .errors import InvalidArgument
from .types import Collective, DType, ReduceOp

CPU_DEVICE = -1
"""The device number that stands for the CPU device, which runs the same kernels without a GPU, slowly."""

DTypeLike = Union[DType, int, str]
ReduceOpLike = Union[ReduceOp, int, str]


def version() -> int:
    """Version of the library: major * 10000 + minor * 100 + patch."""
    number = ctypes.c_int()
    check(library().myelonGetVersion(ctypes.byref(number)))
    return number.value


@dataclass(frozen=True)
class UniqueId:
    """The name of a group that does not exist yet, to pass from one rank to the others.

    Whoever has these bytes can join the group: pass them over a channel that only its ranks read.
    """

    data: bytes

    @classmethod
    def create(cls, options: Optional["Options"] = None) -> "UniqueId":
        """A new one, for a group with the silence of ``options``.

        The process that makes it is where the others meet, so it joins the group itself.
        """
        struct = UniqueIdStruct()
        with _OptionsHandle(options) as handle:
            check(library().myelonGetUniqueIdWith(ctypes.byref(struct), handle))
        return cls(bytes(struct.bytes))

    def __repr__(self) -> str:
        return "UniqueId(...)"


@dataclass(frozen=True)
class Options:
    """Settings of a communicator, alike on all ranks; what is ``None`` is as the environment says (``MYELON_TIMEOUT``, ...).

    ``timeout``: the longest wait inside a kernel in seconds; 0 waits until aborted. ``prepare``: types and operators whose
    kernels are compiled and loaded at once, a condition for capturing them into a graph. ``max_lanes``: most lanes of an operation, 1 to
    128; each takes an SM from kernels beside it. ``large_lanes``: most lanes of messages of 4 MiB and more. ``meeting_timeout``: the
    longest wait for other ranks on the host in seconds, once they have joined: where kernels are prepared, for one; 30 by default.
    ``silence``: how long a rank's process may stand still before it counts as lost; 5 s by default, and that of
    :meth:`UniqueId.create` holds for all.
    """

    timeout: Optional[float] = None
    prepare: Optional[Sequence[Tuple[DTypeLike, ReduceOpLike]]] = None
    max_lanes: Optional[int] = None
    large_lanes: Optional[int] = None
    meeting_timeout: Optional[float] = None
    silence: Optional[float] = None

    def check(self) -> None:
        """Raises what a communicator with them would, of them or of the environment, before it meets another rank."""
        with _OptionsHandle(self):
            pass


@dataclass(frozen=True)
class Operation:
    """One all-reduce of a batch: ``count`` elements of ``input`` into ``output``, which is ``input`` or does not overlap it."""

    input: int
    output: int
    count: int
    dtype: DTypeLike
    op: ReduceOpLike = ReduceOp.SUM
    window: Optional["Window"] = None


@dataclass(frozen=True)
class Bucket:
    """One buffer of a list that is reduced as one operation; ``output`` is ``input`` or does not overlap any."""

    input: int
    output: int
    count: int


class _OptionsHandle:
    """The C library's options for the length of a ``with``; none where everything is as the environment says."""

    def __init__(self, options: Optional[Options]) -> None:
        self._options = options
        self._handle = Handle()

    def __enter__(self) -> Optional[Handle]:
        options = self._options
        if options is None:
            return None
        loaded = library()
        check(loaded.myelonOptionsCreate(ctypes.byref(self._handle)))
        try:
            if options.timeout is not None:
                check(loaded.myelonOptionsSetTimeout(self._handle, options.timeout))
            if options.prepare is not None:
                dtypes, ops = _pairs(options.prepare)
                check(loaded.myelonOptionsSetPrepare(self._handle, dtypes, ops, len(dtypes)))
            if options.max_lanes is not None:
                check(loaded.myelonOptionsSetMaxLanes(self._handle, options.max_lanes))
            if options.large_lanes is not None:
                check(loaded.myelonOptionsSetLargeLanes(self._handle, options.large_lanes))
            if options.meeting_timeout is not None:
                check(loaded.myelonOptionsSetMeetingTimeout(self._handle, options.meeting_timeout))
            if options.silence is not None:
                check(loaded.myelonOptionsSetSilence(self._handle, options.silence))
        except BaseException:
            self.__exit__()
            raise
        return self._handle

    def __exit__(self, *_: object) -> None:
        if self._handle:
            library().myelonOptionsDestroy(self._handle)
            self._handle = Handle()


def _pairs(
    types: Iterable[Tuple[DTypeLike, ReduceOpLike]],
) -> "Tuple[ctypes.Array[ctypes.c_int], ctypes.Array[ctypes.c_int]]":
    both: List[Tuple[int, int]] = [(DType.of(dtype), ReduceOp.of(op)) for dtype, op in types]
    return int_array([dtype for dtype, _ in both]), int_array([op for _, op in both])


class Communicator:
    """A group of 1 to 8 ranks of one node that reduce together, seen from one of them.

    May be shared by threads, whose calls take turns. After an error of :class:`~myelon_ccl.errors.CommunicatorFailed` it is of
    no further use; a new one works. It ends by :meth:`destroy`, at the end of a ``with``, when it is collected, or with the process.
    """

    def __init__(self, handle: int) -> None:
        self._life = Life(handle)
        # Not at the end of the process, which is the life's own business.
        weakref.finalize(self, self._life.end).atexit = False
        self._rank = self._number("myelonCommRank")
        self._world_size = self._number("myelonCommWorldSize")
        self._device = self._number("myelonCommDevice")

    @classmethod
    def init_rank(
        cls,
        world_size: int,
        unique_id: UniqueId,
        rank: int,
        device: int = CPU_DEVICE,
        options: Optional[Options] = None,
    ) -> "Communicator":
        """Joins the group of ``unique_id`` as ``rank``; returns once all ranks have. ``device`` is a CUDA ordinal."""
        handle = Handle()
        struct = _library.unique_id_struct(unique_id.data)
        if device != CPU_DEVICE:
            _library.offer_nvrtc()
        with _OptionsHandle(options) as given:
            check(
                library().myelonCommInitRank(
                    ctypes.byref(handle),
                    c_int("world_size", world_size),
                    ctypes.byref(struct),
                    c_int("rank", rank),
                    c_int("device", device),
                    given,
                )
            )
        return cls(_value(handle))

    @classmethod
    def from_env(cls, options: Optional[Options] = None) -> "Communicator":
        """Joins the job of the launcher (torchrun, Open MPI, MPICH, Slurm, or ``MYELON_RANK``) that started this process."""
        handle = Handle()
        _library.offer_nvrtc()
        with _OptionsHandle(options) as given:
            check(library().myelonCommInitEnv(ctypes.byref(handle), given))
        return cls(_value(handle))

    @property
    def rank(self) -> int:
        """This rank."""
        return self._rank

    @property
    def world_size(self) -> int:
        """Ranks in the group."""
        return self._world_size

    @property
    def device(self) -> int:
        """The CUDA ordinal of this rank's device, or :data:`CPU_DEVICE`."""
        return self._device

    @property
    def engine(self) -> str:
        """What runs the operations: ``myelon``, or ``nccl`` after a fallback."""
        text = ctypes.c_char_p()
        self._life.call("myelonCommEngine", ctypes.byref(text))
        return (text.value or b"").decode()

    def all_reduce(
        self,
        input: int,
        output: int,
        count: int,
        dtype: DTypeLike,
        op: ReduceOpLike = ReduceOp.SUM,
        stream: int = 0,
    ) -> None:
        """Reduces ``count`` elements of every rank's ``input`` into every rank's ``output``.

        ``output`` is ``input`` or does not overlap it. Both stay valid until the stream has passed the operation.
        """
        places = u64("input", input), u64("output", output), u64("count", count)
        self._life.call("myelonAllReduce", *places, DType.of(dtype), ReduceOp.of(op), u64("stream", stream))

    def all_reduce_batch(self, operations: Sequence[Operation], stream: int = 0) -> None:
        """Several all-reduces by one call: in order, and all checked before the first is launched."""
        array = (OperationStruct * len(operations))()
        for place, given in zip(array, operations):
            place.input, place.output = u64("input", given.input), u64("output", given.output)
            place.count = u64("count", given.count)
            place.dtype, place.op = DType.of(given.dtype), ReduceOp.of(given.op)
            place.window = given.window._open() if given.window is not None else None
        self._life.call("myelonAllReduceBatch", array, len(operations), u64("stream", stream))

    def all_reduce_buckets(
        self, buckets: Sequence[Bucket], dtype: DTypeLike, op: ReduceOpLike = ReduceOp.SUM, stream: int = 0
    ) -> None:
        """Reduces a list of buffers as one operation and, where they fit, by one launch."""
        array = (BucketStruct * len(buckets))()
        for place, given in zip(array, buckets):
            place.input, place.output = u64("input", given.input), u64("output", given.output)
            place.count = u64("count", given.count)
        kind = DType.of(dtype), ReduceOp.of(op)
        self._life.call("myelonAllReduceBuckets", array, len(buckets), *kind, u64("stream", stream))

    def reduce_scatter(
        self, input: int, output: int, count: int, dtype: DTypeLike, op: ReduceOpLike = ReduceOp.SUM, stream: int = 0
    ) -> None:
        """Reduces ``world_size * count`` elements and leaves rank r the r-th ``count`` of them in its ``output``.

        In place, ``output`` is this rank's part of ``input``; else they do not overlap.
        """
        places = u64("input", input), u64("output", output), u64("count", count)
        self._life.call("myelonReduceScatter", *places, DType.of(dtype), ReduceOp.of(op), u64("stream", stream))

    def all_gather(self, input: int, output: int, count: int, dtype: DTypeLike, stream: int = 0) -> None:
        """Puts every rank's ``count`` elements of ``input`` one after the other into every rank's ``output``.

        In place, ``input`` is this rank's part of ``output``; else they do not overlap.
        """
        places = u64("input", input), u64("output", output), u64("count", count)
        self._life.call("myelonAllGather", *places, DType.of(dtype), u64("stream", stream))

    def broadcast(self, input: int, output: int, count: int, dtype: DTypeLike, root: int, stream: int = 0) -> None:
        """Puts the root's ``input`` into every rank's ``output``; the others' ``input`` is not looked at."""
        places = u64("input", input), u64("output", output), u64("count", count)
        self._life.call("myelonBroadcast", *places, DType.of(dtype), c_int("root", root), u64("stream", stream))

    def barrier(self, stream: int = 0) -> None:
        """Lets ``stream`` go on once the streams of all ranks have come to this barrier. The host does not wait."""
        self._life.call("myelonBarrier", u64("stream", stream))

    def prepare(
        self, types: Iterable[Tuple[DTypeLike, ReduceOpLike]], collective: Collective = Collective.ALL_REDUCE
    ) -> None:
        """Compiles and loads all that a collective of these types and operators may need, at any size. Collective itself.

        Where the collective has no operator, any will do.
        """
        dtypes, ops = _pairs(types)
        self._life.call("myelonPrepareCollective", collective, dtypes, ops, len(dtypes))

    def prepare_buckets(self, types: Iterable[Tuple[DTypeLike, ReduceOpLike]]) -> None:
        """As :meth:`prepare`, for :meth:`all_reduce_buckets`."""
        dtypes, ops = _pairs(types)
        self._life.call("myelonPrepareBuckets", dtypes, ops, len(dtypes))

    def register(self, address: int, bytes: int) -> "Window":
        """Makes memory reachable for all ranks, so that results go there without a copy. Collective."""
        handle = Handle()
        self._life.call("myelonRegister", u64("address", address), u64("bytes", bytes), ctypes.byref(handle))
        return Window(self, _value(handle))

    def split(self, color: Optional[int], key: int = 0, options: Optional[Options] = None) -> Optional["Communicator"]:
        """A communicator of the ranks that give the same ``color``, ordered by (``key``, rank). Collective.

        ``None`` as color takes part without joining a group, and gets ``None``.
        """
        if color is not None and color < 0:
            raise InvalidArgument(f"color {color}: a color is 0 or more, and None takes part without joining a group")
        handle = Handle()
        place = c_int("color", -1 if color is None else color), c_int("key", key)
        with _OptionsHandle(options) as given:
            self._life.call("myelonCommSplit", *place, given, ctypes.byref(handle))
        return Communicator(_value(handle)) if handle else None

    def status(self) -> None:
        """Raises what went wrong so far, without waiting for operations. Two loads where nothing did."""
        self._life.call("myelonCommStatus")

    def queue_status(self, status: int, stream: int = 0) -> None:
        """Copies a word to the 4 bytes of device memory at ``status``, in the order of the stream and behind the last operation.

        It is 1 where an operation has ended without its data, else 0. For work on the GPU that must not use results that never
        came; it can be captured. :class:`Unsupported` where operations run on NCCL.
        """
        self._life.call("myelonCommQueueStatus", u64("status", status), u64("stream", stream))

    def synchronize(self, stream: int = 0) -> None:
        """Waits until ``stream`` has passed everything queued, and raises what went wrong with the operations on it."""
        self._life.call("myelonCommSynchronize", u64("stream", stream))

    def abort(self, why: str = "aborted") -> None:
        """Ends every running and future operation, on this rank at once and on its peers as soon as they hear of it."""
        self._life.call("myelonCommAbort", why.encode(errors="replace").replace(b"\0", b""))

    def failure(self) -> Optional[str]:
        """The exception that :meth:`destroy` would tell the peers of, were it called now."""
        return self._life.failure()

    def destroy(self) -> None:
        """Gives everything back, after a bounded wait for the last operation. Doing it again does nothing.

        While an exception is dealt with that came up in the communicator's time (in a ``finally``, an ``except``, at the end of a
        ``with``), operations end at once and the peers are told which: they would wait for this rank. Calls of other threads
        have the communicator until they return.
        """
        self._life.end(self._life.failure())

    def __enter__(self) -> "Communicator":
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def __repr__(self) -> str:
        state = ", destroyed" if self._life.ended else ""
        return f"Communicator(rank={self._rank}, world_size={self._world_size}, device={self._device}{state})"

    def _number(self, name: str) -> int:
        number = ctypes.c_int()
        self._life.call(name, ctypes.byref(number))
        return number.value


class Window:
    """Memory that all ranks registered, each its own. The communicator outlives it."""

    def __init__(self, communicator: Communicator, handle: int) -> None:
        self._communicator = communicator
        self._handle: Optional[int] = handle

    def deregister(self) -> None:
        """Gives the window back. Collective; operations that name it have ended."""
        with self._communicator._life:
            handle, self._handle = self._open(), None
            check(library().myelonDeregister(handle))

    def _open(self) -> int:
        if self._handle is None:
            raise InvalidArgument("the window was deregistered before this call: register the memory again")
        return self._handle


def _value(handle: ctypes.c_void_p) -> int:
    assert handle.value is not None, "a call that succeeded has set its handle"
    return handle.value
