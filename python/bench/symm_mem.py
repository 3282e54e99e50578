"""PyTorch's all-reduces on symmetric memory, measured as ``myelon-perf`` measures Myelon's: a rank of it, under torchrun.

    torchrun --standalone --nproc-per-node 2 python/bench/symm_mem.py --output results/2x-h200/symm_mem-2.json
    myelon-perf report results/2x-h200/{graph,eager,symm_mem}-2.json

The operators are those of ``torch.ops.symm_mem`` without NVLink multicast, on operands that lie in symmetric memory. What
torch has of them runs: ``one_shot_all_reduce_out`` and ``two_shot_all_reduce_out``, which overwrites its input too, out of
place; ``two_shot_all_reduce_`` in place. All results are verified, eager or captured as they are timed. A time is that of the
slowest rank; operators take turns within each repeat, and each repeat begins together, behind an operation that is not timed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

# Before torch looks: memory is shared without a multicast object, and by CUDA's own allocator.
os.environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"
os.environ["TORCH_SYMMMEM"] = "CUDA"

import stored  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.distributed._symmetric_memory as symm_mem  # noqa: E402

REQUESTED = "torch_symm_mem"
# What the operators add.
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# Of the values that operands repeat: their sums over 8 ranks have a place in bf16.
PERIOD = 13
VERIFIED = 2


class Operands(NamedTuple):
    """Of one rank: ``input`` lies in memory that all ranks map."""

    input: torch.Tensor
    output: torch.Tensor


class Operator(NamedTuple):
    """An all-reduce of torch's, in place or not."""

    name: str
    in_place: bool
    issue: Callable[[Operands], Any]


def operators(group: str) -> List[Operator]:
    """Those that this torch has."""
    ops = torch.ops.symm_mem
    found = []
    if hasattr(ops, "one_shot_all_reduce_out"):
        found.append(
            Operator(
                "one_shot_all_reduce_out",
                False,
                lambda its: ops.one_shot_all_reduce_out(its.input, "sum", group, its.output),
            )
        )
    # Its kernel is there for these numbers of ranks alone.
    if hasattr(ops, "two_shot_all_reduce_out") and dist.get_world_size() in (2, 4, 8):
        found.append(
            Operator(
                "two_shot_all_reduce_out",
                False,
                lambda its: ops.two_shot_all_reduce_out(its.input, "sum", group, its.output),
            )
        )
    if hasattr(ops, "two_shot_all_reduce_"):
        found.append(
            Operator("two_shot_all_reduce_", True, lambda its: ops.two_shot_all_reduce_(its.input, "sum", group))
        )
    if not found:
        raise SystemExit(f"torch {torch.__version__} has no all-reduce on symmetric memory: install 2.6 or newer")
    return found


def symmetric(elements: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory of every rank that all ranks map, without multicast."""
    memory = symm_mem.empty(elements, dtype=dtype, device=device)
    handle = symm_mem.rendezvous(memory, dist.group.WORLD)
    if getattr(handle, "multicast_ptr", 0):
        raise SystemExit("torch made a multicast object although it was told not to: nothing was measured")
    return memory


def captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of what ``work`` queues, which ran once before."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    dist.barrier()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def wrong(operator: Operator, operands: Operands, graph: int) -> int:
    """Wrong elements on this rank over two operations, captured where they are timed so."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    pattern = torch.arange(operands.input.numel(), device=operands.input.device) % PERIOD
    given = (pattern + rank).to(operands.input.dtype)
    expected = (pattern * ranks + ranks * (ranks - 1) // 2).to(operands.input.dtype)
    del pattern
    count = torch.zeros((), dtype=torch.int64, device=operands.input.device)

    def once() -> None:
        operands.input.copy_(given)
        if not operator.in_place:
            operands.output.fill_(-1)
        operator.issue(operands)
        result = operands.input if operator.in_place else operands.output
        count.add_((result != expected).sum())

    if graph:
        replayed = captured(once)
        count.zero_()
        for _ in range(VERIFIED):
            replayed.replay()
    else:
        for _ in range(VERIFIED):
            once()
    torch.cuda.synchronize()
    return int(count.item())


def timed(found: List[Operator], operands: Operands, graph: int, warm_up: int, repeats: int) -> List[List[float]]:
    """This rank's time of each repeat, microseconds an operation, a series an operator."""
    operands.input.normal_()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    steps: List[Callable[[], Any]] = []
    graphs = []
    for operator in found:
        if graph:

            def work(operator: Operator = operator) -> None:
                for _ in range(graph):
                    operator.issue(operands)

            graphs.append(captured(work))
            steps.append(graphs[-1].replay)
        else:
            steps.append(lambda operator=operator: operator.issue(operands))
    series: List[List[float]] = [[] for _ in found]
    for repeat in range(warm_up + repeats):
        for operator, step, samples in zip(found, steps, series):
            dist.barrier()
            # Hosts leave a barrier at different times, but no rank leaves an all-reduce before all are in it.
            operator.issue(operands)
            start.record()
            step()
            end.record()
            torch.cuda.synchronize()
            if repeat >= warm_up:
                samples.append(start.elapsed_time(end) * 1e3 / max(graph, 1))
    return series


def of_all(values: Any) -> List[Any]:
    """What every rank says, in rank order."""
    said: List[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, values)
    return said


def case(found: List[Operator], operands: Operands, dtype: str, graph: int, given: argparse.Namespace) -> List[Any]:
    """The rows of one size, type and mode."""
    # One after another: a rank must not be verified by operators of which another rank still waits.
    bad = [wrong(operator, operands, graph) for operator in found]
    all_bad = of_all(bad)
    everyones = of_all(timed(found, operands, graph, given.warm_up, given.repeats))
    rows = []
    for place, operator in enumerate(found):
        samples_us = stored.slowest([series[place] for series in everyones])
        rows.append(
            stored.row(
                ranks=dist.get_world_size(),
                size=operands.input.numel() * operands.input.element_size(),
                dtype=dtype,
                requested=REQUESTED,
                variant=operator.name,
                in_place=operator.in_place,
                graph=graph,
                samples_us=samples_us,
                wrong=sum(one[place] for one in all_bad),
            )
        )
    return rows


def provenance(device: torch.device) -> Dict[str, Any]:
    number = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    driver = f"{number.value // 1000}.{number.value % 1000 // 10}"
    peers = {REQUESTED: f"PyTorch {torch.__version__} symmetric memory, NVLS off"}
    return stored.provenance(torch.cuda.get_device_name(device), torch.cuda.device_count(), driver, peers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file that rank 0 writes")
    parser.add_argument("-b", "--begin", type=stored.size_of, default=1 << 10, help="smallest message (default 1K)")
    parser.add_argument("-e", "--end", type=stored.size_of, default=1 << 30, help="largest message (default 1G)")
    parser.add_argument("-f", "--factor", type=int, default=4, help="from size to size (default 4)")
    parser.add_argument("-d", "--dtypes", default="f32", help="of f32 and bf16, with commas (default f32)")
    parser.add_argument("-G", "--graphs", default="20,0", help="operations a graph, 0 for none (default 20,0)")
    parser.add_argument("-n", "--repeats", type=int, default=100, help="timed repeats (default 100)")
    parser.add_argument("-w", "--warm-up", type=int, default=5, help="repeats before (default 5)")
    given = parser.parse_args()
    dtypes = given.dtypes.split(",")
    if given.begin < 16 or given.factor < 2 or given.repeats < 1 or not set(dtypes) <= set(DTYPES):
        parser.error("-b takes 16 bytes or more, -f 2 or more, -n 1 or more, and -d f32 and bf16")

    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    # Ranks meet through gloo: what is measured has no other library on the GPU.
    dist.init_process_group("gloo")
    found = operators(dist.group.WORLD.group_name)
    rows: List[Any] = []
    for dtype in dtypes:
        width = torch.empty((), dtype=DTYPES[dtype]).element_size()
        memory = symmetric(given.end // width, DTYPES[dtype], device)
        output = torch.empty_like(memory)
        for graph in map(int, given.graphs.split(",")):
            for size in stored.sizes(given.begin, given.end, given.factor):
                operands = Operands(memory[: size // width], output[: size // width])
                rows += case(found, operands, dtype, graph, given)
                torch.cuda.empty_cache()
                if dist.get_rank() == 0:
                    mode = f"graph of {graph}" if graph else "eager"
                    for row in rows[-len(found) :]:
                        p50, bad = row["time_us"]["p50"], row["wrong"]
                        print(f"{size:>12} {dtype:>4} {row['variant']:<24} {mode:<12} {p50:>10.2f} us, wrong {bad}")
        del memory, output
    if dist.get_rank() == 0:
        stored.write(given.output, provenance(device), rows)
    dist.barrier()
    dist.destroy_process_group()
    if any(row["wrong"] for row in rows):
        raise SystemExit("wrong results: their times mean nothing")


if __name__ == "__main__":
    main()
