"""What ranks run in the tests of how groups are used wrongly, end and begin anew: in processes of their own, as all of torch_ranks."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from datetime import timedelta
from typing import Any, Dict, List

import torch
import torch.distributed as dist

import myelon_ccl
from torch_ranks import DEVICE, RANK, SIZE


def parts_that_do_not_fit() -> List[str]:
    """Sizes and types that the other backend refuses too; memory behind the tensors stays as it was."""
    memory = torch.zeros(64, device=DEVICE)
    ones = torch.ones(16, device=DEVICE)
    told = []
    for call in (
        lambda: dist.all_gather_into_tensor(memory[:4], ones),
        lambda: dist.all_gather_into_tensor(memory[: 16 * SIZE].to(torch.int32), ones),
        lambda: dist.reduce_scatter_tensor(memory[:16], ones),
        lambda: dist.reduce_scatter_tensor(memory[:8].double(), ones),
    ):
        try:
            call()
        except myelon_ccl.InvalidArgument as error:
            told.append(str(error))
    assert memory.sum().item() == 0
    return told


def waits_end_with_their_operation() -> None:
    """Rank 1 is told what to do next by rank 0, which has a later operation in flight by then."""
    dist.all_reduce(torch.ones(4))
    word = torch.zeros(1)
    if RANK == 0:
        first, second = (dist.all_reduce(torch.ones(4), async_op=True) for _ in range(2))
        first.wait()
        dist.send(word, 1)
        second.wait()
    else:
        dist.all_reduce(torch.ones(4))
        dist.recv(word, 0)
        dist.all_reduce(torch.ones(4))


def steps_do_not_wait_for_what_they_do_not_use() -> None:
    """As above, with a step of an optimizer in place of the wait."""
    dist.all_reduce(torch.ones(4))
    weights, word = torch.nn.Parameter(torch.ones(3)), torch.zeros(1)
    weights.grad = torch.ones(3)
    if RANK == 0:
        metric = dist.all_reduce(torch.ones(4), async_op=True)
        torch.optim.SGD([weights], lr=0.1).step()
        dist.send(word, 1)
        metric.wait()
    else:
        dist.recv(word, 0)
        dist.all_reduce(torch.ones(4))


def a_wait_is_not_for_a_late_type() -> None:
    """As above, where another thread of rank 0 waits for rank 1 to prepare a type."""
    dist.all_reduce(torch.ones(4))
    word, late = torch.zeros(1), torch.ones(4, dtype=torch.int64)
    if RANK == 0:
        work = dist.all_reduce(torch.ones(4), async_op=True)
        other = threading.Thread(target=dist.all_reduce, args=(late, dist.ReduceOp.MIN), daemon=True)
        other.start()
        time.sleep(1)
        work.wait()
        dist.send(word, 1)
        other.join(60)
    else:
        dist.all_reduce(torch.ones(4))
        dist.recv(word, 0)
        dist.all_reduce(late, dist.ReduceOp.MIN)
    assert late.tolist() == [1] * 4


def memory_goes_without_a_wait() -> None:
    """Of what nobody waits for, with the next operation."""
    held = []
    for _ in range(10):
        tensor = torch.ones(4)
        last = dist.all_reduce(tensor, async_op=True)
        held.append(weakref.ref(tensor))
    end = time.monotonic() + 60
    while not last.is_completed():
        assert time.monotonic() < end
        time.sleep(0.01)
    del tensor, last
    work = dist.all_reduce(torch.ones(4), async_op=True)
    assert all(known() is None for known in held)
    work.wait()


def step_on_sparse_gradients() -> None:
    """It waits for all operations, as one whose memory is not known does."""
    table = torch.nn.Embedding(8, 2, sparse=True)
    table.weight.data.fill_(1.0)
    table(torch.tensor([RANK])).sum().backward()
    tensor = torch.ones(4)
    dist.all_reduce(tensor, async_op=True)
    torch.optim.SGD(table.parameters(), lr=1.0).step()
    assert tensor.tolist() == [float(SIZE)] * 4 and table.weight[RANK].tolist() == [0.0] * 2


def asking_does_not_wait() -> Dict[str, Any]:
    """What rank 0 hears of an operation that rank 1 joins once it is told to."""
    dist.all_reduce(torch.ones(4))
    word, told = torch.zeros(1), {}
    if RANK == 0:
        work = dist.all_reduce(torch.ones(4), async_op=True)
        told["completed"], told["exception"] = work.is_completed(), work.exception()
        begin = time.monotonic()
        try:
            work.wait(timedelta(seconds=0.5))
        except myelon_ccl.MyelonError as error:
            told["timeout"] = str(error)
        told["waited"] = time.monotonic() - begin
        dist.send(word, 1)
        assert work.wait(timedelta(seconds=60)) and work.is_completed()
    else:
        dist.recv(word, 0)
        dist.all_reduce(torch.ones(4))
    return told


def be_late_for_a_type() -> float:
    """How long this rank took for the first sum of doubles, for which rank 1 comes 33 s late."""
    dist.all_reduce(torch.ones(4))
    if RANK == 1:
        time.sleep(33)
    begin, tensor = time.monotonic(), torch.ones(4, dtype=torch.float64)
    dist.all_reduce(tensor)
    assert tensor.tolist() == [float(SIZE)] * 4
    return time.monotonic() - begin


def come_up_with_a_wrong_variable() -> float:
    """How long it took until all ranks ran elsewhere, where one has a variable that cannot be used."""
    group, begin, tensor = dist.new_group(), time.monotonic(), torch.ones(4)
    if RANK == 1:
        os.environ["MYELON_MAILBOX"] = "nonsense"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dist.all_reduce(tensor, group=group)
    os.environ.pop("MYELON_MAILBOX", None)
    assert tensor.tolist() == [float(SIZE)] * 4 and myelon_ccl.communicator_of(group) is None
    assert any("MYELON_MAILBOX" in str(warning.message) for warning in told), told
    dist.destroy_process_group(group)
    return time.monotonic() - begin


def abort_before_a_type() -> str:
    """What each rank hears: rank 0 waits for rank 1 to prepare a type when its group is aborted, rank 1 comes afterwards."""
    group, told = dist.new_group(), "nothing"
    dist.all_reduce(torch.ones(4), group=group)
    if RANK == 0:
        threading.Timer(1, group.abort).start()
    else:
        time.sleep(3)
    try:
        dist.all_reduce(torch.ones(4, dtype=torch.float64), group=group)
    except myelon_ccl.MyelonError as error:
        told = f"{type(error).__name__}: {error}"
    dist.destroy_process_group(group)
    return told


def live_twice(path: str) -> None:
    """Two lives of the default group over one store, the second with a late rank 0."""
    store = dist.FileStore(path, SIZE)
    for life in range(2):
        dist.init_process_group("myelon", store=store, rank=RANK, world_size=SIZE)
        if life == 1 and RANK == 0:
            time.sleep(2)
        tensor = torch.ones(4)
        dist.all_reduce(tensor)
        assert tensor.tolist() == [float(SIZE)] * 4 and myelon_ccl.communicator_of() is not None, f"life {life}"
        dist.barrier()
        dist.destroy_process_group()


def try_twice() -> None:
    """A first all-reduce that fails on all ranks, and another one, to which rank 0 is late."""
    os.environ["MYELON_VARIANT"] = "warp_drive"
    try:
        dist.all_reduce(torch.ones(4))
        raise AssertionError("came up")
    except myelon_ccl.MyelonError:
        pass
    del os.environ["MYELON_VARIANT"]
    if RANK == 0:
        time.sleep(2)
    dist.all_reduce(torch.ones(4))


def abort_the_first() -> Dict[str, Any]:
    """Rank 0 aborts while its first all-reduce waits for rank 1, which comes later and hears of it."""
    group = dist.new_group()
    told: Dict[str, Any] = {}

    def first() -> None:
        try:
            dist.all_reduce(torch.ones(4), group=group)
        except myelon_ccl.MyelonError as error:
            told["raised"] = f"{type(error).__name__}: {error}"

    if RANK == 0:
        waits = threading.Thread(target=first, daemon=True)
        waits.start()
        time.sleep(1)
        group.abort()
        waits.join(10)
        dist.destroy_process_group(group)
    else:
        time.sleep(3)
        first()
    return told


def steps_behind_an_abort() -> List[str]:
    """Two steps behind the abort of a group, which somebody still holds."""
    held = dist.new_group()
    dist.all_reduce(torch.ones(4), group=held)
    dist.all_reduce(torch.ones(4))
    held.abort()
    return steps(2)


def steps(count: int) -> List[str]:
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer, told = torch.optim.SGD([weights], lr=0.1), []
    for _ in range(count):
        weights.grad, old = torch.ones(3), weights.detach().clone()
        try:
            optimizer.step()
        except myelon_ccl.MyelonError as error:
            assert torch.equal(weights, old), "a step that raised has changed the weights"
            told.append(type(error).__name__)
        else:
            told.append("stepped")
    return told


def split_as_torch_does() -> None:
    if not hasattr(dist, "split_group"):
        return
    group = dist.split_group(None, [list(range(SIZE))])
    tensor = torch.ones(4)
    dist.all_reduce(tensor, group=group)
    assert tensor.tolist() == [float(SIZE)] * 4 and myelon_ccl.communicator_of(group) is not None
    assert dist.group.WORLD.get_group_store() is not None
    # As torch's C++ sees it, in releases that take a store from a subclass.
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 15):
        assert dist.ProcessGroup.get_group_store(group) is not None
    part = dist.group.WORLD.split_group(list(range(SIZE)), device_types=[torch.device("cpu")])
    assert {device.type for device in part._device_types} == {"cpu"}
    part.shutdown()
    dist.destroy_process_group(group)


def shut_down() -> List[str]:
    """What is said of a group that was shut down, and of works that had ended by then or ended with it."""
    told = []
    group = dist.new_group()
    tensor = torch.ones(4)
    works = [dist.all_reduce(tensor, group=group, async_op=True) for _ in range(2)]
    works[0].wait()
    group.shutdown()
    assert all(work.wait() for work in works) and tensor.tolist() == [float(SIZE**2)] * 4
    for call in (dist.all_reduce, dist.all_reduce, lambda tensor, group: dist.broadcast(tensor, 0, group=group)):
        try:
            call(tensor, group=group)
        except myelon_ccl.InvalidArgument as error:
            told.append(str(error))
    return told


def coalesce_where_it_is_not_possible() -> None:
    tensor = torch.ones(4)
    group = dist.new_group()
    for call in (group._start_coalescing, group._end_coalescing):
        try:
            call(torch.device("cpu"))
            raise AssertionError("gloo does not coalesce")
        except RuntimeError:
            pass
        dist.all_reduce(tensor, group=group)
        assert myelon_ccl.communicator_of(group) is not None


def alone() -> None:
    """Of a group of one rank, a work is finished."""
    group = [dist.new_group([rank]) for rank in range(SIZE)][RANK]
    tensor = torch.ones(3)
    assert myelon_ccl.all_reduce(tensor, group=group) is None
    work = myelon_ccl.all_reduce(tensor, group=group, async_op=True)
    assert work.wait() and work.is_completed() and work.is_success() and work.exception() is None
    assert work.result()[0] is tensor and work.get_future().wait()[0] is tensor
    assert tensor.tolist() == [1.0] * 3
