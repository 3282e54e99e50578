"""What ranks run in the tests of core: everything here is called in a process of its own, without torch."""

from __future__ import annotations

import array
import atexit
import ctypes
import os
import sys
import threading
import time
from typing import Any, List, Optional, Tuple

import myelon_ccl as myelon

TYPECODES = {
    "f32": "f",
    "f64": "d",
    "i8": "b",
    "u8": "B",
    "i32": "i",
    "u32": "I",
    "i64": "q",
    "u64": "Q",
}

here: Any = None


def create_id(silence: Optional[float] = None) -> bytes:
    return myelon.UniqueId.create(myelon.Options(silence=silence)).data


def join(unique_id: bytes, timeout: Optional[float] = None, meeting_timeout: Optional[float] = None) -> str:
    global here
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    options = myelon.Options(timeout=timeout, prepare=[("f32", "sum")], max_lanes=4, meeting_timeout=meeting_timeout)
    here = myelon.Communicator.init_rank(size, myelon.UniqueId(unique_id), rank, options=options)
    assert (here.rank, here.world_size, here.device) == (rank, size, myelon.CPU_DEVICE)
    assert "torch" not in sys.modules, "core needs no torch"
    return here.engine


def join_on(unique_id: bytes, device: int) -> Tuple[str, float]:
    """What came of it, and after how long."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    options, begin = myelon.Options(prepare=[], meeting_timeout=120.0), time.monotonic()
    try:
        myelon.Communicator.init_rank(size, myelon.UniqueId(unique_id), rank, device, options).destroy()
    except myelon.MyelonError as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - begin
    return "nothing", time.monotonic() - begin


def prepare_alone() -> Tuple[str, float]:
    """What a rank hears that no other joins in preparing a type, and after how long."""
    begin = time.monotonic()
    try:
        here.prepare([("f64", "max")])
    except myelon.MyelonError as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - begin
    return "nothing", time.monotonic() - begin


def address(values: array.array) -> int:
    return values.buffer_info()[0]


def reduce(dtype: str, op: str, values: List[Any], in_place: bool = True) -> List[Any]:
    data = array.array(TYPECODES[dtype], values)
    output = data if in_place else array.array(TYPECODES[dtype], bytes(len(data) * data.itemsize))
    here.all_reduce(address(data), address(output), len(data), dtype, op)
    here.synchronize()
    if not in_place:
        assert list(data) == values, "the input stays as it was"
    return list(output)


def reduce_own(dtype: str, op: str, count: int, in_place: bool) -> List[Any]:
    """Values of rank r: r + 1, r + 2, ..."""
    return reduce(dtype, op, [here.rank + 1 + place for place in range(count)], in_place)


def reduce_batch() -> List[List[float]]:
    pieces = [array.array("f", [here.rank + 1.0] * count) for count in (1, 1000, 17)]
    operations = [myelon.Operation(address(piece), address(piece), len(piece), "f32", "sum") for piece in pieces]
    here.all_reduce_batch(operations)
    here.synchronize()
    return [list(piece) for piece in pieces]


def reduce_buckets() -> List[List[float]]:
    pieces = [array.array("f", [here.rank + 1.0] * count) for count in (1, 1000, 17)]
    here.prepare_buckets([("f32", "avg")])
    here.all_reduce_buckets(
        [myelon.Bucket(address(piece), address(piece), len(piece)) for piece in pieces], "f32", "avg"
    )
    here.synchronize()
    return [list(piece) for piece in pieces]


def queued_status() -> int:
    """What the stream says of the operations before, whether the host has been told of a failure or not."""
    word = array.array("I", [7])
    here.queue_status(address(word))
    try:
        here.synchronize()
    except myelon.CommunicatorFailed:
        pass
    return word[0]


def reduce_window() -> List[float]:
    memory = (ctypes.c_float * 4096)(*([here.rank + 1.0] * 4096))
    start = ctypes.addressof(memory)
    window = here.register(start, 4 * 4096)
    here.all_reduce_batch([myelon.Operation(start, start, 4096, "f32", "sum", window)])
    here.synchronize()
    window.deregister()
    return list(memory[:3])


def others() -> List[Any]:
    """Reduce-scatter, all-gather, broadcast and barrier, and two groups of a split."""
    rank, size = here.rank, here.world_size
    whole = array.array("i", [rank + place for place in range(4 * size)])
    part = array.array("i", [0] * 4)
    here.prepare([("i32", "max")], myelon.Collective.REDUCE_SCATTER)
    here.reduce_scatter(address(whole), address(part), 4, "i32", "max")
    gathered = array.array("i", [0] * (4 * size))
    here.all_gather(address(part), address(gathered), 4, "i32")
    told = array.array("d", [float(rank)] * 3)
    here.broadcast(address(told), address(told), 3, "f64", size - 1)
    here.barrier()
    here.synchronize()
    half = here.split(rank % 2, key=size - rank)
    place = [half.rank, half.world_size]
    number = array.array("i", [rank])
    half.all_reduce(address(number), address(number), 1, "i32")
    half.synchronize()
    half.destroy()
    assert here.split(None) is None
    return [list(part), list(gathered), list(told), place, number[0]]


def wrong_calls() -> List[str]:
    data = array.array("f", [1.0])
    told = []
    for call in (
        lambda: here.all_reduce(address(data) + 1, address(data) + 1, 1, "f32"),
        lambda: here.all_reduce(address(data), address(data), 1, "f31"),
        lambda: here.all_reduce(address(data), address(data), 1, "f32", 9),
    ):
        try:
            call()
        except ValueError as error:
            assert isinstance(error, myelon.InvalidArgument), type(error)
            told.append(str(error))
    reduce("f32", "sum", [1.0])
    return told


def wait_for_peers() -> float:
    """One all-reduce that the peers do not join; returns how long it took to fail."""
    start = time.monotonic()
    try:
        reduce("f32", "sum", [1.0] * 1000)
    except myelon.MyelonError as error:
        error.waited = time.monotonic() - start  # type: ignore[attr-defined]
        raise
    return time.monotonic() - start


def status() -> None:
    here.status()


def abort(why: str) -> None:
    here.abort(why)


def end_with_an_exception() -> None:
    """Ends the process as an exception that nobody caught does."""
    try:
        raise KeyError("a batch without labels")
    except KeyError as error:
        sys.last_value = error
    atexit._run_exitfuncs()
    os._exit(1)


def destroy_on(how: str) -> None:
    """Ends the communicator while an exception is dealt with."""
    try:
        if how == "with":
            with here:
                raise KeyError("a batch without labels")
        if how == "finally":
            try:
                raise KeyError("a batch without labels")
            finally:
                here.destroy()
        raise {"exit": SystemExit(3), "end": SystemExit(0), "last": StopIteration()}[how]
    except (KeyError, SystemExit, StopIteration):
        here.destroy()


def end_long_after_an_exception() -> None:
    """Ends the process as one does that reported an exception before the communicator was."""
    atexit._run_exitfuncs()
    os._exit(0)


def end_without_a_word() -> None:
    """Ends the process as ``sys.exit`` does, whatever its status."""
    atexit._run_exitfuncs()
    os._exit(1)


def report_an_exception() -> None:
    """As a test runner or a debugger does."""
    sys.last_value = AssertionError("an old one")


def destroy_beside_a_call() -> str:
    """A thread waits for the peers while another one gives the communicator up; the wait ends with them."""
    told: List[str] = []
    data = array.array("f", [1.0])
    here.all_reduce(address(data), address(data), 1, "f32", "sum")

    def wait() -> None:
        try:
            here.synchronize()
            told.append("reduced")
        except myelon.MyelonError as error:
            told.append(str(error))

    waits = threading.Thread(target=wait)
    waits.start()
    time.sleep(0.5)
    here.destroy()
    assert waits.is_alive() and "destroyed" in repr(here)
    waits.join()
    return told[0]


def reduce_late() -> List[Any]:
    time.sleep(1.5)
    return reduce("f32", "sum", [1.0])


def numbers_that_do_not_fit() -> List[str]:
    data = array.array("f", [1.0])
    place, told = address(data), []
    for call in (
        lambda: here.all_reduce(place, place, 2**64 + 1, "f32"),
        lambda: here.all_reduce(place, place, -1, "f32"),
        lambda: here.all_reduce_buckets([myelon.Bucket(place, place, 2**64 + 1)], "f32"),
        lambda: here.all_reduce_batch([myelon.Operation(place, place, 2**64 + 1, "f32")]),
        lambda: here.broadcast(place, place, 1, "f32", 2**32),
        lambda: here.split(2**32),
    ):
        try:
            call()
        except myelon.InvalidArgument as error:
            told.append(str(error))
    assert list(data) == [1.0]
    return told


def die() -> None:
    os._exit(9)


def destroy() -> List[str]:
    here.destroy()
    here.destroy()
    try:
        here.status()
    except myelon.InvalidArgument as error:
        return [repr(here), str(error)]
    return []


def fork_and_use() -> List[float]:
    """A forked child that ends leaves the communicator of its parent alone."""
    child = os.fork()
    if child == 0:
        here.destroy()
        os._exit(0)
    _, how = os.waitpid(child, 0)
    assert how == 0
    return reduce("f32", "sum", [1.0])
