"""The last rank is killed while the others wait for it. Nothing behind the wait runs, and they end with an error: at the next call, or by
PyTorch's watchdog, which asks the communicator all the time.

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
# How a rank ends that was told by an exception; the watchdog aborts its process.
TOLD = 3


def rank_main(rank: int, world: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.cuda.set_device(rank)
    # The store of PyTorch is rank 0's, which lives.
    dist.init_process_group("nccl", rank=rank, world_size=world)
    data = torch.ones(1000, device="cuda")
    dist.all_reduce(data)
    torch.cuda.synchronize()
    assert data[0].item() == world
    if rank == world - 1:
        # Once the others wait.
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.all_reduce(data)
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001
        print(f"rank {rank} was told: {str(error).strip().splitlines()[-1]}", flush=True)
        os._exit(TOLD)
    print(f"rank {rank} went on with results that never came", flush=True)
    os._exit(1)


def main() -> int:
    world = torch.cuda.device_count()
    context = mp.get_context("spawn")
    ranks = [context.Process(target=rank_main, args=(rank, world, 29533)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    began = time.monotonic()
    for rank in ranks:
        rank.join(max(1.0, began + 3 * PATIENCE_S - time.monotonic()))
        if rank.is_alive():
            rank.kill()
            rank.join()
    codes = [rank.exitcode for rank in ranks]
    print(f"after {time.monotonic() - began:.1f} s, the start included, all have ended: {codes}")
    return 0 if set(codes[:-1]) <= {TOLD, -signal.SIGABRT} and codes[-1] == -signal.SIGKILL else 1


if __name__ == "__main__":
    sys.exit(main())
