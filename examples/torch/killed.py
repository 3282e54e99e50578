"""The last rank is killed while the others wait for it: they hear of it as an error, instead of waiting until a watchdog gives up.

    LD_PRELOAD=libmyelon_nccl.so python3 examples/torch/killed.py

Starts its ranks itself, for torchrun would end them all. Needs PyTorch and nothing else.
"""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE_S = 60


def rank_main(rank: int, world: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCH_NCCL_ASYNC_ERROR_HANDLING="0")
    torch.cuda.set_device(rank)
    # The store of PyTorch is rank 0's, which lives.
    dist.init_process_group("nccl", rank=rank, world_size=world)
    data = torch.ones(1000, device="cuda")
    dist.all_reduce(data)
    torch.cuda.synchronize()
    assert data[0].item() == world
    if rank == world - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    try:
        while time.monotonic() - began < PATIENCE_S:
            dist.all_reduce(data)
            torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001
        print(f"rank {rank} heard after {time.monotonic() - began:.2f} s: {str(error).strip().splitlines()[-1]}", flush=True)
        os._exit(0)
    print(f"rank {rank} heard nothing in {PATIENCE_S} s", flush=True)
    os._exit(1)


def main() -> int:
    world = torch.cuda.device_count()
    context = mp.get_context("spawn")
    ranks = [context.Process(target=rank_main, args=(rank, world, 29533)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(3 * PATIENCE_S)
        if rank.is_alive():
            rank.kill()
    codes = [rank.exitcode for rank in ranks]
    return 0 if codes == [0] * (world - 1) + [-signal.SIGKILL] else 1


if __name__ == "__main__":
    sys.exit(main())
