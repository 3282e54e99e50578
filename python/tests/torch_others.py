"""What ranks run in the tests of communicators over groups of another backend: in processes of their own, as all of torch_ranks."""

from __future__ import annotations

import threading
import time
from typing import Any, List

import torch
import torch.distributed as dist

import myelon_ccl
from torch_groups import steps
from torch_ranks import RANK, SIZE


def _fail_over_another_backend() -> None:
    """A communicator comes up, and has failed on all ranks at the end."""
    assert _sums() == [float(SIZE)] * 2
    dist.barrier()
    communicator = myelon_ccl.communicator_of()
    assert communicator is not None
    if RANK == 1:
        communicator.abort("rank 1 gives up")
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            communicator.status()
        raise AssertionError("not heard of")
    except myelon_ccl.Aborted:
        pass


def _sums() -> List[float]:
    tensor = torch.ones(2)
    myelon_ccl.all_reduce(tensor)
    return tensor.tolist()


def begin_anew_over_another_backend(store: str) -> List[Any]:
    """Steps, sums and communicators behind a failure, where the failed group is destroyed while somebody holds it."""
    _fail_over_another_backend()
    held, failed, told = dist.group.WORLD, myelon_ccl.communicator_of(), [steps(2)]
    assert held is not None and failed is not None
    dist.barrier()
    dist.destroy_process_group()
    told.append(steps(2))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=RANK, world_size=SIZE)
    told += [_sums(), steps(2), "destroyed" in repr(failed), myelon_ccl.communicator_of(held)]
    return told


def destroy_a_failed_communicator() -> List[Any]:
    """As above, where the group stays and its communicator goes, twice."""
    _fail_over_another_backend()
    failed, told = myelon_ccl.communicator_of(), [steps(2)]
    try:
        _sums()
    except myelon_ccl.Aborted:
        told.append("no sums")
    dist.barrier()
    for _ in range(2):
        myelon_ccl.destroy_communicator()
    assert failed is not None and myelon_ccl.communicator_of() is None
    told += [steps(2), _sums(), steps(2), "destroyed" in repr(failed)]
    return told


def come_up_in_two_orders() -> List[List[float]]:
    """Two groups, each brought up by a thread of its own; on rank 1 the second begins."""
    groups, tensors = [dist.new_group() for _ in range(2)], [torch.ones(2) for _ in range(2)]
    threads = [
        threading.Thread(target=myelon_ccl.all_reduce, args=(tensor, "sum", group), daemon=True)
        for group, tensor in zip(groups, tensors)
    ]
    for thread in threads if RANK == 0 else reversed(threads):
        thread.start()
        time.sleep(1)
    for thread in threads:
        thread.join(60)
    return [tensor.tolist() for tensor in tensors]


def hook_behind_a_destroyed_communicator() -> List[float]:
    """Gradients that the hook averages, before and behind the end of its communicator."""
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))
    model.register_comm_hook(myelon_ccl.HookState(), myelon_ccl.ddp_hook)
    told = []
    for _ in range(2):
        model.zero_grad()
        model(torch.full((1, 1), RANK + 1.0)).sum().backward()
        told += [parameter.grad.item() for parameter in model.parameters() if parameter.grad is not None]
        dist.barrier()
        myelon_ccl.destroy_communicator()
    return told
