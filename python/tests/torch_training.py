"""What ranks that train run in the tests with torch: in processes of their own, as all of torch_ranks."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, Iterator, List, Optional

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import myelon_ccl
from torch_ranks import DEVICE, ON_CUDA, RANK, SIZE


class Model(torch.nn.Module):
    """Small, with a buffer that DDP broadcasts and layers that make several buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(16, 64),
            torch.nn.BatchNorm1d(64),
            torch.nn.GELU(),
            torch.nn.Linear(64, 64),
            torch.nn.Linear(64, 1),
        )

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.layers(data)


def train(how: str, steps: int = 6, die_at: Optional[int] = None) -> List[float]:
    """Losses of a small model under DDP on the default group: ``plain``, by the ``hook``, or in ``bf16``."""
    torch.manual_seed(7)
    model = Model().to(DEVICE)
    if how == "bf16":
        model = model.to(torch.bfloat16)
    wrapped = DistributedDataParallel(model, device_ids=[RANK] if ON_CUDA else None, bucket_cap_mb=0.01)
    if how == "hook":
        wrapped.register_comm_hook(myelon_ccl.HookState(), myelon_ccl.ddp_hook)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(100 + RANK)
    losses = []
    for step in range(steps):
        data = torch.randn(8, 16, generator=generator).to(DEVICE, next(model.parameters()).dtype)
        if step == die_at and RANK == SIZE - 1:
            os._exit(9)
        loss = (wrapped(data) - data.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total = loss.detach().double().clone()
        dist.all_reduce(total, op=dist.ReduceOp.AVG if ON_CUDA or dist.get_backend() == "myelon" else dist.ReduceOp.SUM)
        losses.append(total.item() if ON_CUDA or dist.get_backend() == "myelon" else total.item() / SIZE)
    return losses


def fsdp(replicas: int) -> List[float]:
    """Losses of a model that FSDP2 shards over the default group, over replicas of it where there are several."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 1)).to(DEVICE)
    if replicas == 1:
        mesh = init_device_mesh(DEVICE.type, (SIZE,))
    else:
        mesh = init_device_mesh(DEVICE.type, (replicas, SIZE // replicas), mesh_dim_names=("replicate", "shard"))
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(100 + RANK)
    losses = []
    for loss in _steps(model, optimizer, 32, generator):
        dist.all_reduce(loss)
        losses.append(loss.item() / SIZE)
    return losses


def tensor_parallel() -> List[float]:
    """Losses of layers whose weights the ranks share: activations and their gradients are functional all-reduces."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Linear(64, 1)).to(DEVICE)
    mesh = init_device_mesh(DEVICE.type, (SIZE,))
    parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, foreach=False)
    generator = torch.Generator().manual_seed(1)
    return [loss.item() for loss in _steps(model, optimizer, 16, generator)]


def _steps(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, width: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Six steps towards the sum of a row of ``width`` numbers: the loss of each."""
    for _ in range(6):
        data = torch.randn(8, width, generator=generator).to(DEVICE)
        loss = (model(data) - data.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.detach().clone()


def _fail(how: str) -> None:
    """What the last rank does in place of its part: once the others wait for it, it is ``killed``, ``late`` or gives up (``abort``)."""
    time.sleep(1)
    if how == "killed":
        os._exit(9)
    if how == "abort":
        dist.group.WORLD.abort()
    else:
        time.sleep(8)


def failing_step(how: str, kind: str, fused: bool = False) -> Dict[str, Any]:
    """Good steps of training and one whose gradients never come: what that one raised, where, and what became of the weights.

    ``kind``: DDP over the ``backend``, DDP by the ``hook``, or a ``plain`` all-reduce. ``fused``: of the optimizer.
    """
    torch.manual_seed(7)
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Linear(16, 300), torch.nn.GELU(), torch.nn.Linear(300, 1))
    model = model.to(DEVICE)
    run = model if kind == "plain" else DistributedDataParallel(model, device_ids=[RANK] if ON_CUDA else None)
    if kind == "hook":
        run.register_comm_hook(myelon_ccl.HookState(), myelon_ccl.ddp_hook)
    optimizer = torch.optim.AdamW(run.parameters(), lr=0.1, fused=fused)
    data = torch.full((8, 16), 1.0 + RANK, device=DEVICE)
    told: Dict[str, Any] = {"reached": "nothing"}

    def step() -> None:
        optimizer.zero_grad()
        run(data).square().mean().backward()
        if kind == "plain":
            gradients = [parameter.grad for parameter in run.parameters()]
            works = [dist.all_reduce(gradient, async_op=True) for gradient in gradients]
            if ON_CUDA:
                # On the CPU device this would hold the host: there only the step is left to notice.
                for work in works:
                    work.wait()
        told["reached"] = "the optimizer"
        optimizer.step()
        told["reached"] = "the end"

    # In the second one DDP broadcasts its buckets, by the other backend.
    for _ in range(2):
        step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    if ON_CUDA:
        torch.cuda.synchronize()
    told["reached"] = "nothing"
    if RANK == SIZE - 1:
        _fail(how)
        return told
    try:
        step()
    except RuntimeError as error:
        told["raised"], told["text"] = type(error).__name__, str(error)
    told["unchanged"] = all(torch.equal(old, new) for old, new in zip(before, model.parameters()))
    return told


def compiled_step() -> None:
    """A step that torch compiles waits as any other does, and so does one of a group that is gone by then: for nothing."""
    weights = torch.nn.Parameter(torch.ones(10, device=DEVICE))
    optimizer = torch.optim.SGD([weights], lr=1.0)
    compiled = torch.compile(optimizer.step, backend="eager")
    for steps in range(1, 4):
        weights.grad = torch.ones_like(weights)
        work = dist.all_reduce(weights.grad, async_op=True)
        if ON_CUDA:
            work.wait()
        compiled()
        assert weights.tolist() == [1.0 - SIZE * steps] * 10
    group = dist.new_group()
    dist.all_reduce(weights.grad, group=group, async_op=True).wait()
    dist.all_reduce(weights.grad, group=group, async_op=True)
    dist.destroy_process_group(group)
    optimizer.step()


def compiled_collectives() -> None:
    """Collectives in functions that torch compiles, on works and groups that it cannot follow."""

    def asynchronous(tensor: torch.Tensor) -> torch.Tensor:
        doubled = tensor * 2
        dist.all_reduce(doubled, async_op=True).wait()
        return doubled + 1

    def others(tensor: torch.Tensor) -> torch.Tensor:
        told = tensor * 2 + RANK
        dist.broadcast(told, SIZE - 1)
        dist.barrier()
        return told + 1

    def direct(tensor: torch.Tensor) -> torch.Tensor:
        doubled = tensor * 2
        myelon_ccl.all_reduce(doubled)
        communicator = myelon_ccl.communicator_of()
        assert communicator is not None
        communicator.status()
        return doubled + 1

    for function, wanted in ((asynchronous, 2.0 * SIZE + 1), (others, SIZE + 2.0), (direct, 2.0 * SIZE + 1)):
        compiled = torch.compile(function, backend="eager")
        for _ in range(2):
            assert compiled(torch.ones(3, device=DEVICE)).tolist() == [wanted] * 3, function.__name__
