"""The errors of this package: one class for each kind that a caller acts on differently."""

from __future__ import annotations

import enum
from typing import Any, Optional, Tuple, Type


class Status(enum.IntEnum):
    """What a call of the C library came to, by the codes of its header."""

    SUCCESS = 0
    INVALID_ARGUMENT = 1
    UNSUPPORTED = 2
    STALLED = 3
    PEER_LOST = 4
    PEER_MISMATCH = 5
    ABORTED = 6
    PEER_FAILED = 7
    DEVICE_ERROR = 8
    SYSTEM_ERROR = 9
    INTERNAL_ERROR = 10


class MyelonError(RuntimeError):
    """Something went wrong; the message says what was expected, what was seen, and the fix where there is one.

    ``rank`` is the rank that noticed, ``peer`` the rank that it is about and ``lane`` the lane of a wait that ended
    badly; each is ``None`` where the error has none. ``status`` is the code of the C library, ``None`` where the error
    came up on the Python side.
    """

    def __init__(
        self,
        message: str,
        *,
        status: Optional[Status] = None,
        rank: Optional[int] = None,
        peer: Optional[int] = None,
        lane: Optional[int] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.rank = rank
        self.peer = peer
        self.lane = lane

    def __reduce__(self) -> Tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.status, self.rank, self.peer, self.lane)


def _rebuild(
    cls: Type[MyelonError],
    message: str,
    status: Optional[Status],
    rank: Optional[int],
    peer: Optional[int],
    lane: Optional[int],
) -> MyelonError:
    return cls(message, status=status, rank=rank, peer=peer, lane=lane)


class InvalidArgument(MyelonError, ValueError):
    """The call itself was wrong; nothing was launched and nothing is lost."""


class Unsupported(MyelonError):
    """The request is valid, but this variant, device, build or machine cannot serve it."""


class CommunicatorFailed(MyelonError):
    """The communicator is of no further use and the outputs of what ran are undefined; a new communicator works."""


class Stalled(CommunicatorFailed):
    """A wait inside a kernel passed its deadline."""


class PeerLost(CommunicatorFailed):
    """A peer's process ended or stopped answering, or it left while an operation still waited for it."""


class PeerMismatch(CommunicatorFailed):
    """Two ranks disagree on something that must be equal: an operation, the kernels, the lane table."""


class Aborted(CommunicatorFailed):
    """The communicator was told to stop; the message says by whom and why."""


class PeerFailed(CommunicatorFailed):
    """A step that every rank takes by itself failed on another one."""


class DeviceError(MyelonError):
    """A call into the CUDA driver, the kernel compiler or NCCL failed, or a peer's memory cannot be reached."""


class SystemFailure(MyelonError):
    """A call into the operating system failed, a library is missing, or the ranks did not find each other."""


_CLASSES = {
    Status.INVALID_ARGUMENT: InvalidArgument,
    Status.UNSUPPORTED: Unsupported,
    Status.STALLED: Stalled,
    Status.PEER_LOST: PeerLost,
    Status.PEER_MISMATCH: PeerMismatch,
    Status.ABORTED: Aborted,
    Status.PEER_FAILED: PeerFailed,
    Status.DEVICE_ERROR: DeviceError,
    Status.SYSTEM_ERROR: SystemFailure,
}


def class_of(status: Optional[Status]) -> Type[MyelonError]:
    """The class of errors with this status; the base class where there is none of its own."""
    return _CLASSES.get(status, MyelonError) if status is not None else MyelonError
