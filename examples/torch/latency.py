"""Times torch.distributed.all_reduce over sizes, launched one by one and as graphs of 20; a line of JSON a size.

    torchrun --nproc-per-node=2 examples/torch/latency.py
    LD_PRELOAD=libmyelon_nccl.so torchrun --nproc-per-node=2 examples/torch/latency.py

Times are those of the slowest rank, the middle of the repeats, in microseconds an operation.
"""

import json
import os
import statistics

import torch
import torch.distributed as dist

REPEATS = 30
OPERATIONS = 20


def timed(work) -> float:
    """Microseconds an operation: OPERATIONS of them between two events, the slowest rank's, the middle of REPEATS."""
    samples = []
    for _ in range(5 + REPEATS):
        dist.barrier()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        slowest = torch.tensor([begin.elapsed_time(end) * 1000 / OPERATIONS], device="cuda")
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        samples.append(slowest.item())
    return statistics.median(samples[5:])


def main() -> None:
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    for power in range(10, 29, 2):
        data = torch.zeros((1 << power) // 2, dtype=torch.bfloat16, device="cuda")

        def eager() -> None:
            for _ in range(OPERATIONS):
                dist.all_reduce(data)

        eager()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            eager()
        row = {"bytes": 1 << power, "eager_us": round(timed(eager), 2), "graph_us": round(timed(graph.replay), 2)}
        if dist.get_rank() == 0:
            print(json.dumps(row), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
