"""Trains a small model on every rank's GPU in one of three ways and prints the losses, for one run to be held against another.

    torchrun --nproc-per-node=2 examples/torch/train.py --mode ddp
    LD_PRELOAD=libmyelon_nccl.so torchrun --nproc-per-node=2 examples/torch/train.py --mode ddp

ddp: DistributedDataParallel, gradients by all-reduce. fsdp: fully_shard, gradients by reduce-scatter and their norm by all-reduce.
tp: tensor parallel linear layers, activations by all-reduce. Needs PyTorch 2.6 or newer and nothing else.
"""

import argparse
import json
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


def build(mode: str, width: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*[Block(width) for _ in range(4)], nn.Linear(width, 10)).cuda().to(dtype)
    if mode == "ddp":
        return nn.parallel.DistributedDataParallel(model, device_ids=[torch.cuda.current_device()], bucket_cap_mb=1)
    mesh = init_device_mesh("cuda", (dist.get_world_size(),))
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["ddp", "fsdp", "tp"], default="ddp")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--bound", action="store_true", help="bind the process group to the GPU when it is made")
    options = parser.parse_args()

    device = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(device)
    torch.use_deterministic_algorithms(True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    dist.init_process_group("nccl", device_id=torch.device("cuda", device) if options.bound else None)
    dtype = getattr(torch, options.dtype)
    model = build(options.mode, options.width, dtype)
    # One by one: tensor parallel models have plain parameters and distributed ones, which no one call takes together.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, foreach=False)

    # Tensor parallel ranks work on the same batch, the others on parts of their own.
    generator = torch.Generator().manual_seed(1 if options.mode == "tp" else 1 + dist.get_rank())
    losses = []
    for _ in range(options.steps):
        batch = torch.randn(64, options.width, generator=generator).cuda().to(dtype)
        target = torch.randint(10, (64,), generator=generator).cuda()
        loss = nn.functional.cross_entropy(model(batch).float(), target)
        optimizer.zero_grad()
        loss.backward()
        if options.mode != "tp":
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shown = loss.detach().clone()
        dist.all_reduce(shown, op=dist.ReduceOp.AVG)
        losses.append(shown.item())
    dist.barrier()
    if dist.get_rank() == 0:
        print("losses " + json.dumps(losses), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
