"""The C library: where it is found, what its functions take, and how their errors become exceptions."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from pathlib import Path
from typing import Any, List, Optional

from .errors import InvalidArgument, MyelonError, Status, class_of

NAME = "libmyelon_ccl.so"
UNIQUE_ID_BYTES = 128

Handle = ctypes.c_void_p


class UniqueIdStruct(ctypes.Structure):
    """``myelonUniqueId_t``."""

    _fields_ = [("bytes", ctypes.c_ubyte * UNIQUE_ID_BYTES)]


class OperationStruct(ctypes.Structure):
    """``myelonOperation_t``."""

    _fields_ = [
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("dtype", ctypes.c_int),
        ("op", ctypes.c_int),
        ("window", Handle),
    ]


class BucketStruct(ctypes.Structure):
    """``myelonBucket_t``."""

    _fields_ = [("input", ctypes.c_void_p), ("output", ctypes.c_void_p), ("count", ctypes.c_size_t)]


class ErrorInfoStruct(ctypes.Structure):
    """``myelonErrorInfo_t``; -1 where the error has no such number."""

    _fields_ = [("rank", ctypes.c_int), ("peer", ctypes.c_int), ("lane", ctypes.c_int)]


_POINTER, _STREAM, _COUNT, _INT = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int

# What every function takes; all of them return a status.
_TAKES = {
    "myelonGetVersion": [ctypes.POINTER(_INT)],
    "myelonGetUniqueId": [ctypes.POINTER(UniqueIdStruct)],
    "myelonGetUniqueIdWith": [ctypes.POINTER(UniqueIdStruct), Handle],
    "myelonOptionsCreate": [ctypes.POINTER(Handle)],
    "myelonOptionsDestroy": [Handle],
    "myelonOptionsSetTimeout": [Handle, ctypes.c_double],
    "myelonOptionsSetPrepare": [Handle, ctypes.POINTER(_INT), ctypes.POINTER(_INT), ctypes.c_size_t],
    "myelonOptionsSetMaxLanes": [Handle, ctypes.c_uint32],
    "myelonOptionsSetLargeLanes": [Handle, ctypes.c_uint32],
    "myelonOptionsSetMeetingTimeout": [Handle, ctypes.c_double],
    "myelonOptionsSetSilence": [Handle, ctypes.c_double],
    "myelonCommInitRank": [ctypes.POINTER(Handle), _INT, ctypes.POINTER(UniqueIdStruct), _INT, _INT, Handle],
    "myelonCommInitEnv": [ctypes.POINTER(Handle), Handle],
    "myelonCommDestroy": [Handle],
    "myelonCommAbort": [Handle, ctypes.c_char_p],
    "myelonCommStatus": [Handle],
    "myelonCommQueueStatus": [Handle, _POINTER, _STREAM],
    "myelonCommSynchronize": [Handle, _STREAM],
    "myelonCommRank": [Handle, ctypes.POINTER(_INT)],
    "myelonCommWorldSize": [Handle, ctypes.POINTER(_INT)],
    "myelonCommDevice": [Handle, ctypes.POINTER(_INT)],
    "myelonCommEngine": [Handle, ctypes.POINTER(ctypes.c_char_p)],
    "myelonPrepare": [Handle, ctypes.POINTER(_INT), ctypes.POINTER(_INT), ctypes.c_size_t],
    "myelonAllReduce": [Handle, _POINTER, _POINTER, _COUNT, _INT, _INT, _STREAM],
    "myelonAllReduceBatch": [Handle, ctypes.POINTER(OperationStruct), ctypes.c_size_t, _STREAM],
    "myelonAllReduceBuckets": [Handle, ctypes.POINTER(BucketStruct), ctypes.c_size_t, _INT, _INT, _STREAM],
    "myelonPrepareBuckets": [Handle, ctypes.POINTER(_INT), ctypes.POINTER(_INT), ctypes.c_size_t],
    "myelonReduceScatter": [Handle, _POINTER, _POINTER, _COUNT, _INT, _INT, _STREAM],
    "myelonAllGather": [Handle, _POINTER, _POINTER, _COUNT, _INT, _STREAM],
    "myelonBroadcast": [Handle, _POINTER, _POINTER, _COUNT, _INT, _INT, _STREAM],
    "myelonBarrier": [Handle, _STREAM],
    "myelonPrepareCollective": [Handle, _INT, ctypes.POINTER(_INT), ctypes.POINTER(_INT), ctypes.c_size_t],
    "myelonCommSplit": [Handle, _INT, _INT, Handle, ctypes.POINTER(Handle)],
    "myelonRegister": [Handle, _POINTER, _COUNT, ctypes.POINTER(Handle)],
    "myelonDeregister": [Handle],
    "myelonGetLastErrorInfo": [ctypes.POINTER(ErrorInfoStruct)],
}


def candidates() -> List[Path]:
    """Where the library is looked for: what ``MYELON_CCL_LIB`` names and nothing else, or the file inside the package."""
    named = os.environ.get("MYELON_CCL_LIB")
    return [Path(named)] if named else [Path(__file__).resolve().parent / NAME]


_loaded: Optional[ctypes.CDLL] = None
_loading = threading.Lock()


def library() -> ctypes.CDLL:
    """The loaded library. Raises :class:`MyelonError` that says what was tried where there is none."""
    global _loaded
    if _loaded is None:
        with _loading:
            if _loaded is None:
                _loaded = _load()
    return _loaded


def _load() -> ctypes.CDLL:
    failures = []
    for path in candidates():
        try:
            # WHY: CDLL, not PyDLL: calls give up the interpreter lock, and a rank that waits in one stops no other thread.
            found = ctypes.CDLL(str(path))
        except OSError as error:
            failures.append(str(error))
            continue
        for name, takes in _TAKES.items():
            function = _named(found, path, name)
            function.argtypes, function.restype = takes, _INT
        for name, takes in (("myelonGetLastError", []), ("myelonGetErrorString", [_INT])):
            function = _named(found, path, name)
            function.argtypes, function.restype = takes, ctypes.c_char_p
        return found
    raise MyelonError(
        f"{NAME} cannot be loaded ({'; '.join(failures)}): install the wheel, or name a built library in MYELON_CCL_LIB"
    )


def offer_nvrtc() -> None:
    """Opens the run-time compiler of this interpreter's packages, if they have one and the user names no other.

    The library takes what the process has loaded; by itself it would look into the packages of the Python on ``PATH``.
    """
    if os.environ.get("MYELON_NVRTC_LIB"):
        return
    packages = importlib.util.find_spec("nvidia")
    for root in (packages.submodule_search_locations if packages is not None else None) or ():
        for path in sorted(Path(root).glob("*/lib/libnvrtc.so.1[0-9]"), reverse=True):
            try:
                ctypes.CDLL(str(path))
            except OSError:
                continue
            return


def _named(found: ctypes.CDLL, path: Path, name: str) -> Any:
    try:
        return getattr(found, name)
    except AttributeError:
        raise MyelonError(
            f"{path} has no {name}: it is of another release than this package; install both from one tree"
        ) from None


def check(code: int) -> None:
    """Raises what the calling thread's last call went wrong with; nothing where ``code`` says success."""
    if code == Status.SUCCESS:
        return
    loaded = library()
    try:
        status: Optional[Status] = Status(code)
    except ValueError:
        status = None
    text = (loaded.myelonGetLastError() or b"").decode(errors="replace")
    if not text:
        text = (loaded.myelonGetErrorString(code) or b"unknown error").decode(errors="replace")
    info = ErrorInfoStruct(-1, -1, -1)
    loaded.myelonGetLastErrorInfo(ctypes.byref(info))

    def known(number: int) -> Optional[int]:
        return None if number < 0 else number

    raise class_of(status)(text, status=status, rank=known(info.rank), peer=known(info.peer), lane=known(info.lane))


def int_array(values: List[int]) -> "ctypes.Array[ctypes.c_int]":
    """The numbers as a C array of int."""
    return (_INT * len(values))(*values)


def u64(what: str, number: int) -> int:
    """An address, a stream or a count as C takes it."""
    return _in_range(what, number, 0, 2**64)


def c_int(what: str, number: int) -> int:
    """A number as an int of C."""
    return _in_range(what, number, -(2**31), 2**31)


def _in_range(what: str, number: int, low: int, end: int) -> int:
    # WHY: ctypes cuts what does not fit, and the call would be another one.
    if not low <= number < end:
        raise InvalidArgument(f"{what} {number}: it is {low} to {end - 1}")
    return number


def unique_id_struct(data: bytes) -> UniqueIdStruct:
    """The id's bytes as the library takes them."""
    if len(data) != UNIQUE_ID_BYTES:
        raise InvalidArgument(
            f"a unique id of {len(data)} bytes: it has {UNIQUE_ID_BYTES}; pass on the bytes of UniqueId unchanged"
        )
    return UniqueIdStruct((ctypes.c_ubyte * UNIQUE_ID_BYTES)(*data))
