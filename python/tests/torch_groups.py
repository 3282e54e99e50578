"""What ranks run in the tests of how groups are used wrongly, end and begin anew: in processes of their own, as all of torch_ranks."""

from __future__ import annotations

import time
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
