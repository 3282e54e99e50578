"""Trains a small model on every rank's GPU in one of three ways and prints the losses, for one run to be held against another.

    torchrun --nproc-per-node=2 examples/torch/train.py --mode ddp
    LD_PRELOAD=libmyelon_nccl.so torchrun --nproc-per-node=2 examples/torch/train.py --mode ddp
    torchrun --nproc-per-node=2 examples/torch/train.py --backend myelon --mode ddp fsdp tp --dtype float32 bfloat16

ddp: DistributedDataParallel, gradients by all-reduce. fsdp: fully_shard, gradients by reduce-scatter and their norm by all-reduce.
tp: tensor parallel linear layers, activations by all-reduce. Several modes and types run one after the other, a line each. Needs
PyTorch 2.6 or newer, and the package myelon_ccl for its backend. Without a GPU it trains on the CPU, over gloo in NCCL's place.
"""

import argparse
import gc
import json
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

MODES = ["ddp", "fsdp", "tp"]
DTYPES = ["float32", "bfloat16"]


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


def build(mode: str, width: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*[Block(width) for _ in range(4)], nn.Linear(width, 10)).to(device, dtype)
    if mode == "ddp":
        return nn.parallel.DistributedDataParallel(
            model, device_ids=None if device.index is None else [device.index], bucket_cap_mb=1
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    if mode == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for block in model[:4]:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        for block in model[:4]:
            parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def train(mode: str, dtype: torch.dtype, device: torch.device, width: int, steps: int) -> list[float]:
    """Losses, the average over the ranks at each step."""
    model = build(mode, width, dtype, device)
    # One by one: tensor parallel models have plain parameters and distributed ones, which no one call takes together.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, foreach=False)

    # Tensor parallel ranks work on the same batch, the others on parts of their own.
    generator = torch.Generator().manual_seed(1 if mode == "tp" else 1 + dist.get_rank())
    losses = []
    for _ in range(steps):
        batch = torch.randn(64, width, generator=generator).to(device, dtype)
        target = torch.randint(10, (64,), generator=generator).to(device)
        loss = nn.functional.cross_entropy(model(batch).float(), target)
        optimizer.zero_grad()
        loss.backward()
        if mode != "tp":
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shown = loss.detach().clone()
        dist.all_reduce(shown)
        losses.append(shown.item() / dist.get_world_size())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=MODES, nargs="+", default=["ddp"])
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["float32"])
    parser.add_argument("--backend", choices=["nccl", "myelon"], default="nccl")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--bound", action="store_true", help="bind the process group to the GPU when it is made")
    options = parser.parse_args()

    device, backend = torch.device("cpu"), "gloo" if options.backend == "nccl" else options.backend
    if torch.cuda.is_available():
        device, backend = torch.device("cuda", int(os.environ["LOCAL_RANK"])), options.backend
        torch.cuda.set_device(device)
    torch.use_deterministic_algorithms(True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    dist.init_process_group(backend, device_id=device if options.bound else None)
    for mode in options.mode:
        for dtype in options.dtype:
            losses = train(mode, getattr(torch, dtype), device, options.width, options.steps)
            if dist.get_rank() == 0:
                print("losses " + json.dumps({"mode": mode, "dtype": dtype, "losses": losses}), flush=True)
    if backend == "myelon":
        import myelon_ccl

        communicator = myelon_ccl.communicator_of()
        assert communicator is not None, "the group's all-reduces were another backend's: its first one has warned why"
        if dist.get_rank() == 0:
            print(f"carried out by {communicator.engine}", flush=True)
    dist.barrier()
    # Models hold on to their group, and torch ends badly where a group outlives the interpreter.
    gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
