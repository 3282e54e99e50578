"""Tries what programs do with all-reduces under PyTorch and checks every result: types and operators, streams, asynchronous and coalesced
calls, groups of some ranks, CUDA graphs, several threads, mixes with other collectives.

    LD_PRELOAD=libmyelon_nccl.so MYELON_NCCL_LOG=1 torchrun --nproc-per-node=2 examples/torch/collectives.py

Runs under plain NCCL as well. Needs PyTorch and nothing else.
"""

import os
import sys
import threading

import torch
import torch.distributed as dist

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def filled(count: int, dtype: torch.dtype, shift: float = 0) -> torch.Tensor:
    """Small whole numbers that differ by rank and place: sums of them are exact in every type."""
    values = torch.arange(count, device="cuda") % 7 + dist.get_rank() + shift
    return values.to(dtype)


def expected_sum(count: int, dtype: torch.dtype, shift: float = 0) -> torch.Tensor:
    world = dist.get_world_size()
    values = (torch.arange(count, device="cuda") % 7 + shift) * world + world * (world - 1) // 2
    return values.to(dtype)


def same(seen: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    if not torch.equal(seen, expected):
        wrong = (seen != expected).nonzero().flatten()
        place = int(wrong[0])
        raise AssertionError(
            f"rank {dist.get_rank()}: {what}: {len(wrong)} of {seen.numel()} values differ, first at {place}: "
            f"{seen.flatten()[place].item()} instead of {expected.flatten()[place].item()}"
        )


def types_and_operators() -> None:
    world = dist.get_world_size()
    for dtype in FLOATS + [torch.int32, torch.int64, torch.uint8, torch.float64]:
        for count in [1, 3, 1000, 65537, 1 << 20]:
            data = filled(count, dtype)
            dist.all_reduce(data)
            same(data, expected_sum(count, dtype), f"sum of {count} {dtype}")
            data = filled(count, dtype)
            dist.all_reduce(data, op=dist.ReduceOp.MAX)
            same(data, (torch.arange(count, device="cuda") % 7 + world - 1).to(dtype), f"maximum of {count} {dtype}")
    for dtype in FLOATS:
        data = filled(4099, dtype)
        dist.all_reduce(data, op=dist.ReduceOp.AVG)
        exact = (torch.arange(4099, device="cuda") % 7) + (world - 1) / 2
        torch.testing.assert_close(data.float(), exact.float(), rtol=1e-2, atol=1e-2)
    data = filled(1000, torch.float32)
    dist.all_reduce(data, op=dist._make_nccl_premul_sum(2.0))
    same(data, 2 * expected_sum(1000, torch.float32), "an operator that the program made")
    dist.all_reduce(torch.empty(0, device="cuda"))


def streams() -> None:
    side, other = torch.cuda.Stream(), torch.cuda.Stream()
    for step in range(50):
        works, outputs = [], []
        for stream in [side, other, torch.cuda.current_stream()]:
            with torch.cuda.stream(stream):
                data = filled(10_000 + step, torch.float32, shift=step)
                works.append(dist.all_reduce(data, async_op=step % 2 == 0))
                outputs.append(data)
        for work in works:
            if work is not None:
                work.wait()
        torch.cuda.synchronize()
        for data in outputs:
            same(data, expected_sum(10_000 + step, torch.float32, shift=step), f"streams, step {step}")


def mixed() -> None:
    """All-reduces between collectives that NCCL runs, each on what the one before it made."""
    world, rank = dist.get_world_size(), dist.get_rank()
    side = torch.cuda.Stream()
    for step in range(50):
        data = filled(4096 * world, torch.float32, shift=step)
        dist.all_reduce(data)
        with torch.cuda.stream(side):
            side.wait_stream(torch.cuda.default_stream())
            part = torch.empty(4096, device="cuda")
            dist.reduce_scatter_tensor(part, data)
            gathered = torch.empty_like(data)
            dist.all_gather_into_tensor(gathered, part)
        torch.cuda.current_stream().wait_stream(side)
        dist.all_reduce(gathered)
        dist.broadcast(gathered, src=step % world)
        same(gathered, expected_sum(4096 * world, torch.float32, shift=step) * world * world, f"mixed, step {step}")
    if world > 1:
        for _ in range(10):
            sent, received = torch.full((100,), float(rank), device="cuda"), torch.empty(100, device="cuda")
            operations = [
                dist.P2POp(dist.isend, sent, (rank + 1) % world),
                dist.P2POp(dist.irecv, received, (rank - 1) % world),
            ]
            for work in dist.batch_isend_irecv(operations):
                work.wait()
            dist.all_reduce(received)
            same(received, torch.full((100,), world * (world - 1) / 2, device="cuda"), "after sends and receives")


def coalesced() -> None:
    for step in range(10):
        tensors = [filled(count, torch.float32, shift=step) for count in [1, 100, 70_000, 5]]
        with dist._coalescing_manager(device=torch.device("cuda", torch.cuda.current_device()), async_ops=True) as works:
            for tensor in tensors:
                dist.all_reduce(tensor)
        works.wait()
        for tensor in tensors:
            same(tensor, expected_sum(tensor.numel(), torch.float32, shift=step), "coalesced")


def groups() -> None:
    everyone = dist.new_group()
    data = filled(1000, torch.float32)
    dist.all_reduce(data, group=everyone)
    same(data, expected_sum(1000, torch.float32), "a second group")
    for first in range(dist.get_world_size()):
        alone = dist.new_group([first])
        if dist.get_rank() == first:
            data = filled(1000, torch.float32)
            dist.all_reduce(data, group=alone)
            same(data, filled(1000, torch.float32), "a group of one rank")
    objects = [None] * dist.get_world_size()
    dist.all_gather_object(objects, dist.get_rank())
    assert objects == list(range(dist.get_world_size()))
    dist.destroy_process_group(everyone)


def graphs() -> None:
    static = [torch.zeros(count, device="cuda") for count in [1000, 1 << 20]]
    for tensor in static:
        dist.all_reduce(tensor)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for tensor in static:
            tensor.mul_(2)
            dist.all_reduce(tensor)
    for step in range(20):
        for tensor in static:
            tensor.copy_(filled(tensor.numel(), torch.float32, shift=step))
        graph.replay()
        # One that is not captured, between replays.
        eager = filled(500, torch.float32, shift=step)
        dist.all_reduce(eager)
        torch.cuda.synchronize()
        for tensor in static:
            same(tensor, 2 * expected_sum(tensor.numel(), torch.float32, shift=step), f"replay {step}")
        same(eager, expected_sum(500, torch.float32, shift=step), f"beside replay {step}")
    del graph


def threads() -> None:
    """Two groups, each driven by a thread of its own."""
    made, failures = [dist.new_group(), dist.new_group()], []

    def drive(group: dist.ProcessGroup) -> None:
        try:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            with torch.cuda.stream(torch.cuda.Stream()):
                for step in range(50):
                    data = filled(2000, torch.float32, shift=step)
                    dist.all_reduce(data, group=group)
                    torch.cuda.current_stream().synchronize()
                    same(data, expected_sum(2000, torch.float32, shift=step), "threads")
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    running = [threading.Thread(target=drive, args=(group,)) for group in made]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failures:
        raise failures[0]
    for group in made:
        dist.destroy_process_group(group)


def main() -> None:
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    checks = [types_and_operators, streams, mixed, coalesced, groups, graphs, threads]
    wanted = sys.argv[1:] or [check.__name__ for check in checks]
    for check in checks:
        if check.__name__ in wanted:
            check()
            torch.cuda.synchronize()
            dist.barrier()
            if dist.get_rank() == 0:
                print(f"{check.__name__}: well", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
