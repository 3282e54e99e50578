"""A handle of the C library from the call that made it to its end, and what peers are told of why it ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from itertools import count
from typing import Optional, Tuple
from weakref import WeakSet

from ._library import check, library
from .errors import InvalidArgument

# By these loops and generators end as they should.
_NO_FAILURE = (StopIteration, StopAsyncIteration, GeneratorExit)


class Life:
    """Of one communicator. A ``with`` is a call on it, and has the handle.

    INVARIANT: the handle is freed once, behind the last call that has it.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.number = next(_numbers)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._calls = 0
        self.ended = False
        # What was there before the communicator was is no reason for its end.
        self._before = (_mark(sys.exc_info()[1]), _mark(_last_value()))
        _alive.add(self)

    def __enter__(self) -> int:
        with self._lock:
            if self.ended:
                raise InvalidArgument("the communicator was destroyed before this call: make a new one")
            self._calls += 1
        return self._handle

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._calls -= 1
            is_last = self.ended and self._calls == 0
        if is_last:
            self._free()

    def call(self, name: str, *arguments: object) -> None:
        """A function of the library on the handle."""
        with self as handle:
            check(getattr(library(), name)(handle, *arguments))

    def failure(self) -> Optional[str]:
        """The exception that this thread deals with, in words for the peers; ``None`` where the communicator would end as it should."""
        error = sys.exc_info()[1]
        if error is None or _mark(error) == self._before[0] or isinstance(error, _NO_FAILURE):
            return None
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return None
        return _words("the rank ends its communicator on", error)

    def end(self, why: Optional[str] = None) -> None:
        """Frees the handle, behind the calls that have it; with ``why`` operations end at once, here and on the peers."""
        with self._lock:
            if self.ended:
                return
            self.ended = True
            is_last = self._calls == 0
            # WHY: a forked child has the Python object, but not the threads and connections; the parent's are none of its business.
            if why is not None and os.getpid() == self._process:
                library().myelonCommAbort(self._handle, why.encode(errors="replace").replace(b"\0", b""))
        if is_last:
            self._free()

    def end_with_the_process(self) -> None:
        """Peers learn at once of an exception by which the process ends: it would else look like a rank that went away."""
        error = _last_value()
        is_cause = error is not None and _mark(error) != self._before[1] and not hasattr(sys, "ps1")
        self.end(_words("the process ends with", error) if error is not None and is_cause else None)

    def _free(self) -> None:
        if os.getpid() == self._process:
            library().myelonCommDestroy(self._handle)


_alive: "WeakSet[Life]" = WeakSet()
_numbers = count()


@atexit.register
def _end_all() -> None:
    # In the order in which they came up, the same on all ranks: each waits for its peers to leave.
    for life in sorted(_alive, key=lambda life: life.number):
        life.end_with_the_process()


def _last_value() -> Optional[BaseException]:
    """What the interpreter has printed as uncaught last."""
    return getattr(sys, "last_value", None)


def _mark(error: Optional[BaseException]) -> Optional[Tuple[int, int]]:
    """Tells an exception from another without keeping it, its frames and all that they hold."""
    return None if error is None else (id(error), id(error.__traceback__))


def _words(what: str, error: BaseException) -> str:
    return f"{what} {type(error).__name__}: {error}"
